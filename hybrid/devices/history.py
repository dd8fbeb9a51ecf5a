"""What did earlier runs of the bench see here? Their medians widen what the next one states. Pure.

The samples of one run lie within minutes, and some machines change between runs by more than within one: a virtual
machine's neighbours, a laptop's heat. A range of one run's samples alone would promise more than the next run keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias, TypeVar, overload

from msgspec import Struct
from msgspec.structs import replace

from hybrid.devices.machine import Bandwidth, MachineSpeed, Peak
from hybrid.devices.speed import Figure, ModelSpeed, ThreadSpeed

KEPT_RUNS = 5
"""Runs a profile remembers, the last one among them; older ones are forgotten."""
Change: TypeAlias = Callable[[str, Figure], Figure]
Measured = TypeVar("Measured", ModelSpeed, MachineSpeed)


class PastRun(Struct, frozen=True):
    """One run's medians, by the words for what was measured; threads and device are part of these."""

    measured_at: str
    medians: dict[str, float]


def past_run(measured: Measured, measured_at: str) -> PastRun:
    """Keep of a measurement what later ones are compared with."""
    found: dict[str, float] = {}

    def note(name: str, figure: Figure) -> Figure:
        found[name] = figure.median
        return figure

    _each(measured, note)
    return PastRun(measured_at, found)


def remember(runs: Sequence[PastRun], new: Sequence[PastRun]) -> tuple[PastRun, ...]:
    """Join runs in their order; what is known already stays once."""
    known = {run.measured_at for run in runs}
    return (*runs, *(run for run in new if run.measured_at not in known))[-KEPT_RUNS:]


def widened(measured: Measured, runs: Sequence[PastRun]) -> Measured:
    """Give a measurement whose ranges hold the medians of earlier runs as well."""
    return _each(measured, partial(_widen, runs))


def furthest(measured: Measured, runs: Sequence[PastRun]) -> tuple[str, float] | None:
    """Name the figure whose earlier median lies furthest outside this run's own samples, with its distance.

    Returns: the words for it, and the earlier median over this one's, less 1; None where all lie within the samples.
    """
    found: dict[str, float] = {}

    def compare(name: str, figure: Figure) -> Figure:
        for median in _medians(runs, name):
            distance = median / figure.median - 1
            if not figure.low <= median <= figure.high and abs(distance) > abs(found.get(name, 0.0)):
                found[name] = distance
        return figure

    _each(measured, compare)
    return max(found.items(), key=lambda one: abs(one[1]), default=None)


def _medians(runs: Sequence[PastRun], name: str) -> list[float]:
    return [run.medians[name] for run in runs if name in run.medians]


def _widen(runs: Sequence[PastRun], name: str, figure: Figure) -> Figure:
    medians = _medians(runs, name)
    low, high = min([figure.low, *medians]), max([figure.high, *medians])
    return replace(figure, low=low, high=high, runs=1 + len(medians))


@overload
def _each(measured: ModelSpeed, change: Change) -> ModelSpeed: ...
@overload
def _each(measured: MachineSpeed, change: Change) -> MachineSpeed: ...
def _each(measured: ModelSpeed | MachineSpeed, change: Change) -> ModelSpeed | MachineSpeed:
    return _each_of_model(measured, change) if isinstance(measured, ModelSpeed) else _each_of_machine(measured, change)


def _each_of_model(speed: ModelSpeed, change: Change) -> ModelSpeed:
    threads = f"{_threads(speed.threads)} on {speed.device}"

    def by_count(words: str, figures: Mapping[int, Figure]) -> dict[int, Figure]:
        return {count: change(f"{words.format(count)}, {threads}", figure) for count, figure in figures.items()}

    return replace(
        speed,
        prefill_tok_s=by_count("prefill of {} tokens", speed.prefill_tok_s),
        decode_tok_s=by_count("decode of {} together", speed.decode_tok_s),
        ttft_s=None if speed.ttft_s is None else change(f"the first token, {threads}", speed.ttft_s),
        by_threads=tuple(
            ThreadSpeed(
                one.threads,
                change(f"prefill beside other numbers of threads, {_threads(one.threads)}", one.prefill_tok_s),
                change(f"decode beside other numbers of threads, {_threads(one.threads)}", one.decode_tok_s),
            )
            for one in speed.by_threads
        ),
    )


def _each_of_machine(machine: MachineSpeed, change: Change) -> MachineSpeed:
    def bandwidth(one: Bandwidth) -> Bandwidth:
        threads = _threads(one.threads)
        return Bandwidth(
            one.threads,
            change(f"memory read, {threads}", one.read_bytes_s),
            change(f"memory copy, {threads}", one.copy_bytes_s),
            change(f"memory triad, {threads}", one.triad_bytes_s),
        )

    def peak(number: str, one: Peak) -> Peak:
        return Peak(
            one.version,
            change(f"{number} {one.version}, {_threads(1)}", one.one_core_ops_s),
            change(f"{number} {one.version}, {len(machine.cpus)} cores", one.all_cores_ops_s),
        )

    return replace(
        machine,
        bandwidth=tuple(bandwidth(one) for one in machine.bandwidth),
        fp32=tuple(peak("fp32", one) for one in machine.fp32),
        int8=tuple(peak("int8", one) for one in machine.int8),
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
