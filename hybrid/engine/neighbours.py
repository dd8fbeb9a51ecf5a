"""What else wants this machine, and what does the engine do about it? It looks between steps, and sets its threads."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from hybrid.backends.base import Backend
from hybrid.engine.pace import Pace
from hybrid.engine.pressure import Pressure, Reading, between
from hybrid.engine.threads import Bounds, Choice, Tick, decide, expected_slowdown, is_undisturbed, rest
from hybrid.engine.work import NO_WORK, Kind, Sum, Undisturbed, Work

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
READING_COSTS_AT_MOST = 0.001
"""A reading that takes long, as /proc/stat does on machines with many devices, is made so much more rarely."""
LOOK_AT_LEAST_EVERY_S = 2.0
RETOLD_CHANGE = 0.1
"""While nothing runs, a slowdown that changed by this much is told to the gateway."""


def no_reading() -> Reading:
    """Know nothing but the time: what there is where nobody may look."""
    return Reading(at_s=time.perf_counter())


class Neighbours:
    """Watches the engine's steps and the machine, and adapts the backend's threads. Owned by the model's thread.

    read: gives the kernel's counters. is_adaptive: whether threads may be changed; speeds are watched in any case.
    """

    def __init__(
        self,
        backend: Backend,
        pace: Pace,
        *,
        read: Callable[[], Reading] = no_reading,
        is_adaptive: bool = True,
        cores: int | None = None,
    ) -> None:
        self._backend = backend
        self._pace = pace
        self._read = read
        self._is_adaptive = is_adaptive
        most = backend.facts.threads
        self._bounds = Bounds(most=most, cores=max(cores or os.cpu_count() or 1, most))
        self._choice = Choice(threads=most)
        self._undisturbed = Undisturbed()
        self._sums: dict[Kind, tuple[int, int, float]] = {}
        self._reading: Reading | None = None
        self._next_look_s = 0.0
        self._told_slowdown: float | None = None
        self.slowdown: float | None = None
        self.others_cores: float | None = None

    @property
    def threads(self) -> int:
        """Threads that compute now."""
        return self._choice.threads

    def observe(self, now_s: float, *, step_s: float, prefill_tokens: int, decode_tokens: int, steps: int = 1) -> None:
        """Learn of a finished step, or a run of them; every quarter of a second, look at the machine and decide."""
        kind = (prefill_tokens > 0, decode_tokens)
        before, units, seconds = self._sums.get(kind, (0, 0, 0.0))
        self._sums[kind] = (before + steps, units + (prefill_tokens or steps), seconds + step_s * steps)
        if now_s >= self._next_look_s:
            self._look(now_s)

    def look_idly(self, now_s: float) -> bool:
        """Look at the machine while nothing runs; say whether what a request must expect has changed notably.

        A request is routed by the speeds that were told last. Without this the first one after a pause would be
        judged by how busy the machine was then, and sent to a cloud, or kept from it, for no reason.
        """
        if now_s < self._next_look_s:
            return False
        pressure = self._pressure(now_s, computing_s=0.0)
        self._sums.clear()
        if pressure is None:
            return False
        self._apply(rest(self._choice, Tick(at_s=now_s, work=NO_WORK, pressure=pressure), self._bounds))
        slowdown = expected_slowdown(pressure, self._bounds)
        if slowdown is None:
            return False
        self._follow(slowdown, NO_WORK)
        told = self._told_slowdown
        if told is not None and abs(slowdown / told - 1) < RETOLD_CHANGE:
            return False
        self._told_slowdown = slowdown
        return True

    def _look(self, now_s: float) -> None:
        work = Work({kind: Sum(*sums) for kind, sums in self._sums.items()})
        self._sums.clear()
        pressure = self._pressure(now_s, computing_s=work.seconds)
        if pressure is None:
            return
        if self.threads == self._bounds.most and is_undisturbed(pressure):
            self._undisturbed.learn(work)
        slowdown = self._undisturbed.slowdown(work)
        # Where no quiet moment was ever seen, a guess is told; decisions take none.
        told = slowdown if slowdown is not None else expected_slowdown(pressure, self._bounds)
        if told is not None:
            self._follow(told, work)
            self._told_slowdown = told
        tick = Tick(at_s=now_s, work=work, pressure=pressure, slowdown=slowdown)
        self._apply(decide(self._choice, tick, self._bounds))

    def _follow(self, slowdown: float, work: Work) -> None:
        self.slowdown = slowdown
        self._pace.follow(slowdown, prefill=work.has(prefill=True), decode=work.has(prefill=False))

    def _pressure(self, now_s: float, *, computing_s: float) -> Pressure | None:
        """Read the counters; None the first time, when there is nothing to compare them with."""
        # The thread's own time: by the clock, one that others push off while it reads would look dear, and look away
        # just when there is something to see.
        started_s = time.thread_time()
        reading = self._read()
        cost_s = time.thread_time() - started_s
        before, self._reading = self._reading, reading
        pause_s = max(LOOK_EVERY_S, cost_s / READING_COSTS_AT_MOST)
        self._next_look_s = now_s + min(pause_s, LOOK_AT_LEAST_EVERY_S)
        if before is None:
            return None
        pressure = between(before, reading, threads=self.threads, computing_s=computing_s)
        self.others_cores = pressure.others_cores
        return pressure

    def _apply(self, choice: Choice) -> None:
        if not self._is_adaptive:
            return
        before, self._choice = self._choice, choice
        if choice.threads != before.threads:
            self._backend.set_threads(choice.threads, choice.threads)
        settled = before.trial.back_to if before.trial is not None else before.threads
        if choice.trial is None and choice.threads != settled:
            log.info("%d of %d threads compute from now on", choice.threads, self._bounds.most)
