"""How hard do other programs press on this machine? Counters of the kernel, and what two readings of them say.

Unknown is None: macOS has no /proc, a container may hide parts of it, and a kernel may keep no such counter.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
COMPUTE_THREADS = 16
"""So many threads, those that computed most, stand for all: each costs a microsecond a reading."""
LIST_EVERY = 64
"""Readings after which the threads are listed anew, in case that others compute by now; sooner at the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The counters at one moment; all only grow.

    waited_s: time that compute threads stood ready while no core was free for them, summed.
    waiters: compute threads in that sum. own_s: CPU time of this process. busy_s: of the machine, stolen time included.
    stalled_s: time in which some task of the machine waited for a core. preempted: times a core was taken from us.
    """

    at_s: float
    waited_s: float | None = None
    waiters: int = 0
    own_s: float | None = None
    busy_s: float | None = None
    stalled_s: float | None = None
    preempted: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """What happened between two readings.

    waiting: share of the time inside steps that a computing thread waited for a core, on average; may pass 1.
    others_cores: cores that other processes kept busy. stalled: share of the time in which somebody waited.
    preempted_per_s: times a second inside steps that a core was taken from a thread.
    """

    seconds: float
    waiting: float | None = None
    others_cores: float | None = None
    stalled: float | None = None
    preempted_per_s: float | None = None


def between(before: Reading, after: Reading, *, threads: int, computing_s: float) -> Pressure:
    """Tell the pressure between two readings, in which `threads` computed for `computing_s`."""
    seconds = max(after.at_s - before.at_s, 1e-6)
    waited = _grown(before.waited_s, after.waited_s)
    busy, own = _grown(before.busy_s, after.busy_s), _grown(before.own_s, after.own_s)
    stalled = _grown(before.stalled_s, after.stalled_s)
    preempted = _grown(before.preempted, after.preempted)
    counted = max(1, min(threads, after.waiters))
    return Pressure(
        seconds=seconds,
        waiting=None if waited is None or computing_s <= 0 else waited / computing_s / counted,
        others_cores=None if busy is None or own is None else max(0.0, busy - own) / seconds,
        stalled=None if stalled is None else stalled / seconds,
        preempted_per_s=None if preempted is None or computing_s <= 0 else preempted / computing_s / threads,
    )


def _grown(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)


def schedstat_ns(text: str) -> tuple[int, int] | None:
    """Read /proc/PID/task/TID/schedstat: nanoseconds on a core, and ready but waiting for one.

    Source: Linux, Documentation/scheduler/sched-stats.rst.
    """
    fields = text.split()
    if len(fields) < 3 or not all(field.isdigit() for field in fields[:2]):
        return None
    return int(fields[0]), int(fields[1])


def busy_s(text: str, *, ticks_per_s: int) -> float | None:
    """Read the first line of /proc/stat: CPU time of all cores that was not idle. What a hypervisor stole is busy.

    Source: proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    """
    name, *fields = text.partition("\n")[0].split() or [""]
    if name != "cpu" or len(fields) < 8 or not all(field.isdigit() for field in fields[:8]):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / ticks_per_s


def stalled_s(text: str) -> float | None:
    """Read /proc/pressure/cpu: time in which some task waited for a core.

    Source: Linux, Documentation/accounting/psi.rst: `total` is in microseconds.
    """
    kind, *fields = text.partition("\n")[0].split() or [""]
    total = dict(field.partition("=")[::2] for field in fields).get("total", "")
    return int(total) / 1e6 if kind == "some" and total.isdigit() else None


class PressureReader:
    """Reads the counters. Files stay open: some 20 us a reading on a small machine.

    The thread that reads first is the one that computes; who hears of a run of steps reads as well, and does not.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._tasks = proc / "self" / "task"
        self._stat, self._pressure = _open(proc / "stat"), _open(proc / "pressure" / "cpu")
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._files: dict[str, int] = {}
        self._waited_ns: dict[str, int] = {}
        self._sum_ns = 0
        self._list_every, self._until_list = 1, 0
        self._computing_thread: int | None = None

    def read(self) -> Reading:
        """Read every counter there is."""
        if self._computing_thread is None:
            self._computing_thread = threading.get_native_id()
        if self._until_list <= 0:
            self._list_threads()
        self._until_list -= 1
        self._add_waits()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        stat, pressure = _read(self._stat), _read(self._pressure)
        return Reading(
            at_s=time.perf_counter(),
            waited_s=self._sum_ns / 1e9 if self._files else None,
            waiters=len(self._files),
            own_s=usage.ru_utime + usage.ru_stime,
            busy_s=None if stat is None else busy_s(stat, ticks_per_s=self._ticks_per_s),
            stalled_s=None if pressure is None else stalled_s(pressure),
            preempted=usage.ru_nivcsw,
        )

    def close(self) -> None:
        """Close the files."""
        for file in (self._stat, self._pressure, *self._files.values()):
            if file is not None:
                os.close(file)
        self._stat = self._pressure = None
        self._files.clear()

    def _add_waits(self) -> None:
        """Add what each thread waited since the last reading: those that came or went must not look like waits."""
        for name, file in list(self._files.items()):
            text = _read(file)
            counters = None if text is None else schedstat_ns(text)
            if counters is None:
                os.close(self._files.pop(name))
                self._list_every, self._until_list = 1, 0
                continue
            self._sum_ns += max(0, counters[1] - self._waited_ns.get(name, counters[1]))
            self._waited_ns[name] = counters[1]

    def _list_threads(self) -> None:
        """Find the threads that compute: ours, and those Python knows nothing of, the most used ones first."""
        self._until_list, self._list_every = self._list_every, min(2 * self._list_every, LIST_EVERY)
        ours = {str(thread.native_id) for thread in threading.enumerate()} - {str(self._computing_thread)}
        try:
            names = [name for name in os.listdir(self._tasks) if name not in ours]  # noqa: PTH208 - twice as fast
        except OSError:
            return
        found: list[tuple[int, str, int]] = []
        for name in names:
            file = self._files.pop(name, None)
            file = _open(self._tasks / name / "schedstat") if file is None else file
            text = _read(file)
            counters = None if text is None else schedstat_ns(text)
            if file is not None and counters is not None:
                found.append((counters[0], name, file))
            elif file is not None:
                os.close(file)
        for gone in self._files.values():
            os.close(gone)
        found.sort(reverse=True)
        self._files = {name: file for _, name, file in found[:COMPUTE_THREADS]}
        self._waited_ns = {name: ns for name, ns in self._waited_ns.items() if name in self._files}
        for _, _, file in found[COMPUTE_THREADS:]:
            os.close(file)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _read(file: int | None) -> str | None:
    """Read a file of /proc from its beginning; None where there is none, or its thread is gone."""
    if file is None:
        return None
    with contextlib.suppress(OSError):
        return os.pread(file, 4096, 0).decode("ascii", "replace")
    return None
