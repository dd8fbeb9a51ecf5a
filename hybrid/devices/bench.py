"""What does `hybrid bench` find out? The machine's roofs, each model's speeds and its share of them, as one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hybrid.backends.matmul import who_multiplies
from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.history import furthest, past_run, widened
from hybrid.devices.host import Host, Memory
from hybrid.devices.machine import MachineSpeed, allowed_cpus, measure_machine, thread_counts
from hybrid.devices.measure import measure_model
from hybrid.devices.needs import predict
from hybrid.devices.placement import Refusal, Wanted, place
from hybrid.devices.profile import ModelProfile, Profile, Source, current_versions
from hybrid.devices.rates import Measured, cpu_roof, predict_rate
from hybrid.devices.roofline import ModelWork, Roof, decode_roof, model_work, prefill_roof
from hybrid.devices.shape import ModelShape, shape_of_header
from hybrid.devices.snapshot import take_cpu, take_memory, take_snapshot
from hybrid.devices.speed import Figure, ModelSpeed, Progressed, SpeedPlan
from hybrid.errors import HybridError, LocalFailure
from hybrid.gguf import read_header

FORMAT = 1
USUAL_TTFT_S = 1.5
"""The first token's time a model is judged by where policy.ttft_ms is not set."""
OnStage = Callable[[str, Progressed], None]
QUICK_BUDGET_S, FULL_BUDGET_S = 28.0, 300.0
"""Seconds for each model; what does not fit is left out and told."""


class Roofed(Struct, frozen=True):
    """One measured speed under its roof: the bound, what makes it, the share reached, and its place in the plot.

    predicted_tok_s: what placement would have said of it, from this machine's bandwidth and arithmetic alone.
    """

    roof_tok_s: float
    limit: str
    share: float
    ops_per_byte: float
    ops_s: float
    predicted_tok_s: float | None = None


class BenchedModel(Struct, frozen=True, kw_only=True):
    """One model: what was measured, what a token costs, and the roofs; without the latter `roof_note` says why."""

    speed: ModelSpeed
    quantisation: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    ops_per_token: int | None = None
    cell_bytes: int | None = None
    decode_roof: dict[int, Roofed] = {}
    prefill_roof: dict[int, Roofed] = {}
    roof_note: str | None = None


class FailedModel(Struct, frozen=True):
    """A model that could not be measured, and why."""

    name: str
    problem: str


class BenchReport(Struct, frozen=True, kw_only=True):
    """Everything one `hybrid bench` saw. Speeds in tokens, bytes or operations a second; each Figure with its spread.

    ttft_s: the time to the first token that models are judged by; is_ttft_configured: whether policy.ttft_ms set it.
    machine: None where the processor could not be measured; `notes` says why. advice: plain words on what to do next.
    """

    format: int = FORMAT
    measured_at: str
    measured_s: float
    is_quick: bool
    hardware_fingerprint: str
    hardware: dict[str, str]
    versions: dict[str, str]
    ttft_s: float
    is_ttft_configured: bool
    machine: MachineSpeed | None
    models: tuple[BenchedModel, ...]
    failed: tuple[FailedModel, ...]
    notes: tuple[str, ...]
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTask:
    """What to bench. models: files; None is the fake backend, which needs none. environment: of measuring processes."""

    models: Sequence[Path | None]
    is_quick: bool = False
    context_tokens: int = 8192
    threads: int = 0
    ttft_s: float | None = None
    environment: Mapping[str, str] | None = None


def run_bench(task: BenchTask, on_stage: OnStage) -> BenchReport:
    """Measure the machine and then each model; a model that fails is told of, and the next is measured.

    Args:
        on_stage: told of progress: the stage (a model's name, or the machine), and how far it is.
    Raises: KeyboardInterrupt at any moment; nothing is left behind.
    """
    started_s, notes = time.monotonic(), list[str]()
    cpus, facts = allowed_cpus(), hardware_facts()
    machine: MachineSpeed | None = None
    try:
        machine = measure_machine(cpus, is_quick=task.is_quick, on_progress=lambda p: on_stage("this machine", p))
        notes += machine.notes
    except (LocalFailure, MemoryError, ValueError) as failed:
        notes.append(f"the processor was not measured: {failed or 'not enough memory'}")
    models: list[BenchedModel] = []
    failures: list[FailedModel] = []
    for path in task.models:
        name = "fake" if path is None else path.stem
        try:
            if path is not None and (problem := memory_problem(path, task.context_tokens)) is not None:
                raise LocalFailure(problem)
            speed = measure_model(
                plan_for(path, task, cores=len(cpus)),
                on_progress=lambda progress, name=name: on_stage(name, progress),  # type: ignore[misc]
                environment=task.environment,
            )
            models.append(benched(speed, path, machine))
        except HybridError as failed:
            failures.append(FailedModel(name, str(failed)))
        on_stage(name, Progressed(1.0, "done"))
    return BenchReport(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        measured_s=round(time.monotonic() - started_s, 1),
        is_quick=task.is_quick,
        hardware_fingerprint=hardware_fingerprint(facts),
        hardware=dict(facts),
        versions=current_versions(),
        ttft_s=USUAL_TTFT_S if task.ttft_s is None else task.ttft_s,
        is_ttft_configured=task.ttft_s is not None,
        machine=machine,
        models=tuple(models),
        failed=tuple(failures),
        notes=tuple(notes),
    )


def memory_problem(
    path: Path,
    context_tokens: int,
    *,
    memory: Memory | None = None,
    look: Callable[[], Host] = take_snapshot,
) -> str | None:
    """Say why a model does not fit into memory now; None if it does, or nobody knows how much is free.

    Measured all the same it would swap, or be ended with whatever else the system picks. Only a model that main memory
    cannot hold is worth a look for GPUs, which takes seconds.

    Raises: ModelFileError if the file is no sound GGUF.
    """
    shape = shape_of_header(read_header(path))
    usable = (take_memory() if memory is None else memory).usable_bytes
    needed = predict(shape, context_tokens=context_tokens, isa=take_cpu().isa).host.needed_bytes
    if usable is None or needed <= usable:
        return None
    decided = place(look(), shape, Wanted(context_tokens=context_tokens))
    return decided.message if isinstance(decided, Refusal) else None


def plan_for(path: Path | None, task: BenchTask, *, cores: int) -> SpeedPlan:
    """Choose what is measured of a model: all of it, or what fits into half a minute."""
    common = SpeedPlan(
        model_path=str(path or ""),
        backend="fake" if path is None else "llama_cpp",
        context_tokens=task.context_tokens,
        threads=task.threads,
        thread_counts=thread_counts(cores, is_quick=task.is_quick),
    )
    if task.is_quick:
        return msgspec.structs.replace(
            common, prefill_tokens=(32, 128, 512), depth_tokens=32, decode_steps=8, budget_s=QUICK_BUDGET_S
        )
    return msgspec.structs.replace(common, rounds=5, budget_s=FULL_BUDGET_S)


def benched(speed: ModelSpeed, path: Path | None, machine: MachineSpeed | None) -> BenchedModel:
    """Put a model's speeds under the machine's roofs."""
    if path is None:
        return BenchedModel(speed=speed, roof_note="the fake backend computes nothing")
    header = read_header(path)
    work = model_work(header)
    found = BenchedModel(
        speed=speed,
        quantisation=header.quantisation,
        parameters=header.parameters,
        weight_bytes=work.weight_bytes,
        ops_per_token=work.ops,
        cell_bytes=work.cell_bytes,
    )
    if speed.device != "cpu":
        return msgspec.structs.replace(
            found, roof_note="it runs on a GPU, whose memory and arithmetic are not measured; only the CPU's are"
        )
    if machine is None:
        return msgspec.structs.replace(found, roof_note="the processor was not measured")
    return _under_roofs(found, work, machine, shape_of_header(header))


def _under_roofs(model: BenchedModel, work: ModelWork, machine: MachineSpeed, shape: ModelShape) -> BenchedModel:
    speed, ops_s = model.speed, machine.int8_ops_s if work.is_quantised else machine.fp32_ops_s
    known = Measured(cpu_read_bytes_s=machine.read_bytes_s, cpu_int8_ops_s=machine.int8_ops_s)
    sustained = cpu_roof(take_cpu(), speed.threads, None, shape, known, who_multiplies())

    def under(measured: Figure, roof: Roof, tokens: int, logits: int, cells: float) -> Roofed:
        predicted, _ = predict_rate(shape, [(1.0, sustained)], tokens=tokens, logits=logits, cells=cells)
        return Roofed(
            predicted_tok_s=_rounded(predicted),
            roof_tok_s=_rounded(roof.tok_s),
            limit=roof.limit,
            share=_rounded(measured.median / roof.tok_s),
            ops_per_byte=_rounded(roof.ops_per_byte),
            ops_s=_rounded(measured.median * work.ops),
        )

    def decode(count: int, measured: Figure) -> Roofed:
        depth = speed.depth_tokens
        roof = decode_roof(work, sequences=count, depth_tokens=depth, bytes_s=machine.read_bytes_s, ops_s=ops_s)
        return under(measured, roof, count, count, count * depth)

    def prefill(count: int, measured: Figure) -> Roofed:
        batch = speed.batch_tokens
        roof = prefill_roof(work, prompt_tokens=count, batch_tokens=batch, bytes_s=machine.read_bytes_s, ops_s=ops_s)
        return under(measured, roof, min(count, batch), 1, count / 2)

    return msgspec.structs.replace(
        model,
        decode_roof={count: decode(count, measured) for count, measured in speed.decode_tok_s.items()},
        prefill_roof={count: prefill(count, measured) for count, measured in speed.prefill_tok_s.items()},
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def model_profile(speed: ModelSpeed, measured_at: str, source: Source = "bench") -> ModelProfile:
    """Keep of a measurement what predictions need."""
    return ModelProfile(
        model_fingerprint=speed.fingerprint,
        model_name=speed.name,
        measured_at=measured_at,
        threads=speed.threads,
        prefill_tok_s={count: one.median for count, one in speed.prefill_tok_s.items()},
        decode_tok_s={count: one.median for count, one in speed.decode_tok_s.items()},
        ttft_s=None if speed.ttft_s is None else speed.ttft_s.median,
        load_s=speed.load_s,
        rss_bytes=speed.rss_bytes,
        best_threads=speed.best_threads,
        context_tokens=speed.context_tokens,
        others_cores=speed.others_cores,
        prefill_tok_j=speed.prefill_tok_j,
        decode_tok_j=speed.decode_tok_j,
        source=source,
        runs=(past_run(speed, measured_at),),
    )


def to_profile(report: BenchReport) -> Profile:
    """Keep of a report what the latency policy and placement read; of roofs only those of memory."""
    machine = report.machine if report.machine is not None and report.machine.is_beyond_cache else None
    source: Source = "quick bench" if report.is_quick else "bench"
    models = (model_profile(model.speed, report.measured_at, source) for model in report.models)
    return Profile(
        hardware_fingerprint=report.hardware_fingerprint,
        hardware=report.hardware,
        versions=report.versions,
        measured_at=report.measured_at,
        read_bytes_s=None if machine is None else machine.read_bytes_s,
        fp32_ops_s=None if machine is None else machine.fp32_ops_s,
        int8_ops_s=None if machine is None else machine.int8_ops_s,
        cache_bytes=() if machine is None else machine.cache_bytes,
        roofs_source=source,
        runs=() if machine is None else (past_run(machine, report.measured_at),),
        models={model.model_fingerprint: model for model in models},
    )


def beside_earlier(report: BenchReport, known: Profile | None) -> BenchReport:
    """Widen a report's ranges by what earlier runs saw, and say so, and where this run differs from them.

    Args:
        known: what this machine's profile held before this run; None where there is none that holds.
    """
    if known is None:
        return report
    runs = {fingerprint: model.runs for fingerprint, model in known.models.items()}
    machine, notes, most = report.machine, list(report.notes), 0
    if machine is not None and machine.is_beyond_cache and known.runs:
        notes += _differs("this machine", furthest(machine, known.runs))
        machine, most = widened(machine, known.runs), len(known.runs)
    models = []
    for model in report.models:
        earlier = runs.get(model.speed.fingerprint, ())
        notes += _differs(model.speed.name, furthest(model.speed, earlier))
        models.append(msgspec.structs.replace(model, speed=widened(model.speed, earlier)))
        most = max(most, len(earlier))
    if most:
        count = "one earlier run" if most == 1 else f"up to {most} earlier runs"
        notes.append(f"ranges hold this run's samples and the medians of {count}")
    return msgspec.structs.replace(report, machine=machine, models=tuple(models), notes=tuple(notes))


def _differs(name: str, far: tuple[str, float] | None) -> list[str]:
    if far is None:
        return []
    what, distance = far
    return [
        f"{name} was not the same in an earlier run: {what} differed by {100 * distance:+.0f} %, more than the samples "
        "of this run do among themselves"
    ]


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema of a report."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(BenchReport)}
