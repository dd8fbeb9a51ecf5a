"""How fast are memory and arithmetic here? The micro-benchmarks in order, within bounds of time and memory."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil
from msgspec import Struct

from hybrid.devices.others import OthersWatch
from hybrid.devices.snapshot import take_memory
from hybrid.devices.speed import Figure, Progressed, figure
from hybrid.native import machine as native

MIB = 1 << 20
CPU_FOLDER = Path("/sys/devices/system/cpu")
CACHE_MULTIPLE = 4
"""Arrays so many times as large as the last cache: what of it is left from the last pass is then no help."""
BEYOND_CACHE = 2
"""Smaller multiples of it may lie in the cache."""
USUAL_CACHE_BYTES = 64 * MIB
"""Where the system does not tell the size of the last cache."""
SMALLEST_ARRAY_BYTES, LARGEST_ARRAY_BYTES = 8 * MIB, 2048 * MIB
MEMORY_SHARE = 0.25
"""Share of the memory that is free now which the arrays may take together."""
TRIAD_ARRAYS = 3
LATENCY_FROM_BYTES = 4096
OnProgress = Callable[[Progressed], None]


class Bandwidth(Struct, frozen=True):
    """Bytes a second that `threads` move together, as the program counts them."""

    threads: int
    read_bytes_s: Figure
    copy_bytes_s: Figure
    triad_bytes_s: Figure


class Peak(Struct, frozen=True):
    """Operations a second with one instruction set: of one core, and of all that may be used."""

    version: str
    one_core_ops_s: Figure
    all_cores_ops_s: Figure


class LatencyPoint(Struct, frozen=True):
    """Nanoseconds of a load that waits for the one before, in a working set of this size."""

    working_set_bytes: int
    latency_ns: float


class MachineSpeed(Struct, frozen=True, kw_only=True):
    """What the micro-benchmarks saw.

    cpus: the cores used. array_bytes: of one array of the bandwidth measurement. cache_bytes: where latency rises, so
    what one core gets of each cache, the smallest first; estimates. notes: what was measured otherwise than meant.
    is_beyond_cache: whether the arrays were so large that it was memory's bandwidth, and not the last cache's.
    """

    cpus: tuple[int, ...]
    array_bytes: int
    bandwidth: tuple[Bandwidth, ...]
    fp32: tuple[Peak, ...]
    int8: tuple[Peak, ...]
    latency: tuple[LatencyPoint, ...]
    cache_bytes: tuple[int, ...]
    notes: tuple[str, ...]
    others_cores: float
    measured_s: float
    is_beyond_cache: bool = True

    @property
    def read_bytes_s(self) -> float:
        """The most that any number of threads reads: the roof under which decode lies."""
        return max(one.read_bytes_s.median for one in self.bandwidth)

    @property
    def fp32_ops_s(self) -> float | None:
        """The fastest instruction set with all cores."""
        return max((peak.all_cores_ops_s.median for peak in self.fp32), default=None)

    @property
    def int8_ops_s(self) -> float | None:
        """The fastest instruction set with all cores."""
        return max((peak.all_cores_ops_s.median for peak in self.int8), default=None)


def measure_machine(
    cpus: Sequence[int],
    *,
    is_quick: bool = False,
    on_progress: OnProgress = lambda _: None,
    available_bytes: int | None = None,
    cache_bytes: int | None = None,
) -> MachineSpeed:
    """Measure memory bandwidth, arithmetic peaks and latency on the given cores; Ctrl-C ends it at any moment.

    Args:
        is_quick: fewer repeats, sizes and thread counts.
        available_bytes: memory that may be used; None asks the system.
        cache_bytes: of the last cache; None asks the system.
    Raises: ValueError without a core or with one that may not be used; LocalFailure without the C++ extension.
    """
    if not cpus:
        raise ValueError("no core to measure on")
    started_s, watch = time.perf_counter(), OthersWatch()
    cpus = tuple(cpus)
    cache_bytes = cache_bytes or last_cache_bytes(cpus[0]) or USUAL_CACHE_BYTES
    if available_bytes is None:
        usable = take_memory().usable_bytes  # within a control group's limit
        available_bytes = int(psutil.virtual_memory().available) if usable is None else usable
    array_bytes, notes = array_size(available_bytes, cache_bytes)
    repeats = 3 if is_quick else 7
    counts = thread_counts(len(cpus), is_quick=is_quick)
    sizes = working_sets(array_bytes, steps_per_octave=1 if is_quick else 2)
    steps = _Steps(on_progress, len(counts) * 3 + len(sizes) + 2)
    bandwidth = tuple(_bandwidth(cpus[:count], array_bytes, repeats, steps) for count in counts)
    fp32, int8 = (_peaks(number, cpus, repeats, steps) for number in ("fp32", "int8"))
    latency = tuple(_latency(cpus[0], size, repeats, steps) for size in sizes)
    return MachineSpeed(
        cpus=cpus,
        array_bytes=array_bytes,
        bandwidth=bandwidth,
        fp32=fp32,
        int8=int8,
        latency=latency,
        cache_bytes=cache_edges(latency),
        notes=notes,
        others_cores=round(watch.cores(), 2),
        measured_s=round(time.perf_counter() - started_s, 1),
        is_beyond_cache=array_bytes >= BEYOND_CACHE * cache_bytes,
    )


def array_size(available_bytes: int, cache_bytes: int) -> tuple[int, tuple[str, ...]]:
    """Choose the size of one of three arrays: beyond the last cache, but no more than a share of the free memory.

    Returns: bytes, and what must be said of them.
    """
    wanted_bytes = max(min(CACHE_MULTIPLE * cache_bytes, LARGEST_ARRAY_BYTES), SMALLEST_ARRAY_BYTES)
    allowed_bytes = int(available_bytes * MEMORY_SHARE) // TRIAD_ARRAYS
    if wanted_bytes <= allowed_bytes:
        return wanted_bytes, ()
    array_bytes = max(allowed_bytes // MIB * MIB, MIB)
    note = f"only {available_bytes // MIB} MiB are free, so arrays have {array_bytes // MIB} MiB"
    if array_bytes < BEYOND_CACHE * cache_bytes:
        note += f": they may lie in the last cache ({cache_bytes // MIB} MiB), and memory be slower than it seems"
    return array_bytes, (note,)


def thread_counts(cores: int, *, is_quick: bool = False) -> tuple[int, ...]:
    """1, 2, 4, ... and the number of cores; only the ends where it must be quick."""
    if is_quick:
        return tuple(sorted({1, cores}))
    return tuple(sorted({*(1 << n for n in range(cores.bit_length()) if 1 << n <= cores), cores}))


def working_sets(largest_bytes: int, *, steps_per_octave: int) -> tuple[int, ...]:
    """Sizes from 4 KiB to `largest_bytes`, evenly on a logarithmic scale, in whole cache lines."""
    steps = int(math.log2(largest_bytes / LATENCY_FROM_BYTES) * steps_per_octave)
    sizes = (LATENCY_FROM_BYTES * 2 ** (step / steps_per_octave) for step in range(steps + 1))
    return tuple(int(size) // native.LINE_BYTES * native.LINE_BYTES for size in sizes)


def last_cache_bytes(cpu: int, folder: Path = CPU_FOLDER) -> int | None:
    """The size of a core's last cache as Linux tells it; None where it does not."""
    found: list[tuple[int, int]] = []
    for cache in folder.glob(f"cpu{cpu}/cache/index*"):
        with suppress(OSError, ValueError):
            size = (cache / "size").read_text().strip()
            units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
            size_bytes = int(size[:-1]) * units[size[-1]] if size[-1:] in units else int(size)
            found.append((int((cache / "level").read_text()), size_bytes))
    return max(found)[1] if found else None


def allowed_cpus() -> tuple[int, ...]:
    """The cores this process may run on; where the system does not pin threads, all of them."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


FLAT_RATIO, SAME_LEVEL_RATIO = 1.2, 1.3


def cache_edges(points: Sequence[LatencyPoint]) -> tuple[int, ...]:
    """Estimate the sizes at which latency climbs from one level to the next, the smallest first.

    A level is two or more neighbouring sizes of much the same latency. The edge between two levels is where the curve
    crosses their geometric mean, for near its full size a cache already misses now and then.
    """
    levels: list[list[LatencyPoint]] = []
    for point in points:
        if levels and point.latency_ns < FLAT_RATIO * levels[-1][-1].latency_ns:
            levels[-1].append(point)
        else:
            levels.append([point])
    heights: list[float] = []
    for height in (statistics.median(one.latency_ns for one in level) for level in levels if len(level) > 1):
        if not heights or height > SAME_LEVEL_RATIO * heights[-1]:
            heights.append(height)
    return tuple(_crossing(points, math.sqrt(low * high)) for low, high in itertools.pairwise(heights))


def _crossing(points: Sequence[LatencyPoint], height_ns: float) -> int:
    """The size where the curve first rises above a height, interpolated on logarithmic scales."""
    for before, after in itertools.pairwise(points):
        if after.latency_ns > height_ns:
            rise = math.log(after.latency_ns / before.latency_ns)
            share = math.log(height_ns / before.latency_ns) / rise if rise > 0 else 0.0
            size = before.working_set_bytes * (after.working_set_bytes / before.working_set_bytes) ** max(share, 0.0)
            return int(size) // 1024 * 1024
    return points[-1].working_set_bytes


class _Steps:
    """Counts the measurements for the progress bar."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self._on_progress, self._total, self._done = on_progress, total, 0

    def next(self, what: str) -> None:
        self._on_progress(Progressed(min(1.0, self._done / self._total), what))
        self._done += 1


def _bandwidth(cpus: Sequence[int], array_bytes: int, repeats: int, steps: _Steps) -> Bandwidth:
    def of(kind: Literal["read", "copy", "triad"]) -> Figure:
        steps.next(f"memory: {kind}, {len(cpus)} thread{'s' if len(cpus) > 1 else ''}")
        return figure(native.bandwidth(kind, cpus=cpus, array_bytes=array_bytes, repeats=repeats))

    return Bandwidth(len(cpus), of("read"), of("copy"), of("triad"))


def _peaks(number: Literal["fp32", "int8"], cpus: Sequence[int], repeats: int, steps: _Steps) -> tuple[Peak, ...]:
    steps.next(f"arithmetic: {number}")
    return tuple(
        Peak(
            version,
            figure(native.peak(number, version, cpus=cpus[:1], repeats=repeats)),
            figure(native.peak(number, version, cpus=cpus, repeats=repeats)),
        )
        for version in native.versions(number)
    )


def _latency(cpu: int, working_set_bytes: int, repeats: int, steps: _Steps) -> LatencyPoint:
    steps.next(f"latency in {working_set_bytes / 1024:,.0f} KiB")
    samples_ns = native.latency(cpu=cpu, working_set_bytes=working_set_bytes, repeats=repeats)
    # The least, not the median: whatever else ran can only have made a load slower.
    return LatencyPoint(working_set_bytes, round(min(samples_ns), 3))
