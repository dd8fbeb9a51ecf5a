"""Does the engine use the threads that were decided, and tell what it sees?"""

import itertools
from pathlib import Path

import numpy as np
import pytest

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.engine import Engine
from hybrid.engine.pressure import Reading
from hybrid.engine.sequence import Sequence
from hybrid.native import SampleParams

STEP_S = {(0, 2): 0.01, (0, 1): 0.02, (1, 2): 0.06, (1, 1): 0.02}
"""Seconds a step by (competitors, threads): two threads beside a competitor are the slowest."""
CORES = 2


class Machine:
    """A clock and kernel counters that go on with the backend's steps, and a competitor that can be switched on."""

    def __init__(self, *, is_adaptive: bool = True) -> None:
        options = BackendOptions(model_path=Path("unused"), context_tokens=4096, slots=2, threads=2)
        self.backend = FakeBackend(options)
        self.competitors = 0
        self.readings = 0
        self._at_s = self._waited_s = self._own_s = self._busy_s = 0.0
        self._decode = self.backend.decode
        self.backend.decode = self._timed
        self.engine = Engine(self.backend, clock=self._clock, read_pressure=self._read, is_adaptive=is_adaptive)
        self._names = itertools.count()

    def _clock(self) -> float:
        return self._at_s

    def _timed(self, entries):
        """Time passes while the backend computes."""
        self.pass_time(STEP_S[self.competitors, self.backend.threads[0]], threads=self.backend.threads[0])
        return self._decode(entries)

    def pass_time(self, seconds: float, *, threads: int = 0) -> float:
        """Let time pass, with so many threads computing; give the time."""
        self._at_s += seconds
        crowd = threads + self.competitors
        share = min(1.0, CORES / crowd) if crowd else 0.0
        self._waited_s += threads * (1 - share) * seconds
        self._own_s += threads * share * seconds
        self._busy_s += crowd * share * seconds
        return self._at_s

    def _read(self) -> Reading:
        self.readings += 1
        return Reading(at_s=self._at_s, waited_s=self._waited_s, waiters=2, own_s=self._own_s, busy_s=self._busy_s)

    def run(self, seconds: float) -> set[int]:
        """Decode for so long; give every number of threads that was in use."""
        until_s, used = self._at_s + seconds, set()
        while self._at_s < until_s:
            if not self.engine.has_work:
                self.engine.submit(_sequence(str(next(self._names))))
            self.engine.step()
            assert self.backend.threads == (self.engine.neighbours.threads,) * 2
            used.add(self.engine.neighbours.threads)
        return used


def _sequence(name: str) -> Sequence:
    prompt = b"<|im_start|>user\n[endless]<|im_end|>\n<|im_start|>assistant\n"
    return Sequence(
        id=name,
        prompt=np.frombuffer(prompt, dtype=np.uint8).astype(np.int32),
        params=SampleParams(temperature=0.0),
        seed=1,
        max_output_tokens=500,
        detokenizer=Detokenizer(),
    )


def test_threads_are_really_set_and_restored():
    """Beside a competitor the backend computes with one thread; when it is gone, with both again."""
    machine = Machine()
    assert {2} == machine.run(5)
    machine.competitors = 1
    machine.run(1.5)
    assert (1, 1) == machine.backend.threads
    machine.competitors = 0
    machine.run(2)
    assert {2} == machine.run(5)


def test_threads_stay_where_adapting_is_off():
    """With adapting off the threads stay, and the slowdown is told all the same."""
    machine = Machine(is_adaptive=False)
    machine.run(3)
    machine.competitors = 1
    assert {2} == machine.run(10)
    assert 6.0 == pytest.approx(machine.engine.neighbours.slowdown, rel=0.1)


def test_what_is_told_follows_the_machine():
    """Slowdown, what others use and the time of a step are right 1.5 s after a competitor came or went."""
    machine = Machine()
    told = []
    for competitors in (0, 1, 0):
        machine.competitors = competitors
        machine.run(1.5)
        neighbours, pace = machine.engine.neighbours, machine.engine.pace
        told.append((neighbours.slowdown, neighbours.others_cores, pace.decode_step_s))
    expected = [(1.0, 0.0, 0.01), (2.0, 1.0, 0.02), (1.0, 0.0, 0.01)]
    assert expected == [pytest.approx(facts, rel=0.25, abs=0.001) for facts in told]


def test_without_a_quiet_moment_a_guess_is_told():
    """Where others were there from the beginning no reference exists; what they use says what to expect."""
    machine = Machine(is_adaptive=False)
    machine.competitors = 1
    machine.run(2)
    assert 4 / 3 == pytest.approx(machine.engine.neighbours.slowdown, rel=0.2)


def test_counters_are_read_four_times_a_second():
    """A second of a hundred steps costs four readings."""
    machine = Machine()
    machine.run(1)
    before = machine.readings
    machine.run(10)
    assert 40 == pytest.approx(machine.readings - before, abs=2)


def test_an_idle_engine_tells_what_to_expect():
    """A competitor that comes while nothing runs is known to the next request, and so is that it left; once each."""
    machine = Machine()
    machine.run(2)
    neighbours, pace = machine.engine.neighbours, machine.engine.pace
    told, steps_s = [], []
    for competitors in (0, 0, 1, 1, 0, 0):
        machine.competitors = competitors
        told.append(neighbours.look_idly(machine.pass_time(1.0)))
        steps_s.append(pace.decode_step_s)
    assert [False, False, True, False, True, False] == told
    assert [pytest.approx(step_s, rel=0.1) for step_s in (0.01, 0.01, 0.02, 0.02, 0.01, 0.01)] == steps_s


def test_idle_threads_come_back():
    """One thread from a busy time does not greet the next request on an idle machine."""
    machine = Machine()
    machine.run(2)
    machine.competitors = 1
    machine.run(2)
    machine.competitors = 0
    machine.engine.neighbours.look_idly(machine.pass_time(1.0))
    assert (2, 2) == machine.backend.threads


def test_an_engine_that_may_not_look_knows_nothing():
    """Without counters and with one thread nothing is adapted, and what is not known is None."""
    engine = Engine(FakeBackend(BackendOptions(model_path=Path("unused"), threads=1)))
    engine.submit(_sequence("a"))
    for _ in range(20):
        engine.step()
    assert (1, None) == (engine.neighbours.threads, engine.neighbours.others_cores)
    assert not engine.neighbours.look_idly(1e9)
