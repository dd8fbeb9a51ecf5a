"""What does `hybrid devices` print? What was found, what will be used and why, and how to mend what is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from hybrid.devices.host import Cpu, Engine, Gpu, Host, Memory
from hybrid.devices.mending import Verdict, judge
from hybrid.devices.placement import choose_gpus
from hybrid.devices.snapshot import as_facts, take_snapshot

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

VERSION = 1
"""Of the JSON's form: keys are added without a new number, none is renamed or removed."""


@app.command()
def devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,  # noqa: FBT002
) -> None:
    """Say what this machine has, what will be used of it, and why."""
    host = take_snapshot()
    verdicts = judge(host)
    if as_json:
        facts = {"version": VERSION, **as_facts(host), "use": use_facts(host, verdicts)}
        print(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())
    else:
        print("\n".join(lines(host, verdicts)))
    for warning in warnings(host, verdicts):
        print(f"WARNING: {warning}", file=sys.stderr)


def use_facts(host: Host, verdicts: tuple[Verdict, ...]) -> dict[str, object]:
    """Say what a model would be computed on: the device, threads, each GPU's verdict, and what is to be mended."""
    device, gpus = choose_gpus(verdicts)
    return {
        "device": device,
        "threads": host.cpu.threads,
        "gpus": [
            {
                "name": verdict.gpu.name,
                "pci": verdict.gpu.pci,
                "device": verdict.device,
                "is_used": verdict.gpu in gpus,
                "problem": verdict.problem,
                "remedy": verdict.remedy,
            }
            for verdict in verdicts
        ],
        "warnings": warnings(host, verdicts),
    }


def warnings(host: Host, verdicts: tuple[Verdict, ...]) -> list[str]:
    """List what the user should mend, the GPUs that lie idle first."""
    told = [
        f"{verdict.gpu.name} will NOT be used: {verdict.problem}. To mend it: {verdict.remedy}"
        for verdict in verdicts
        if verdict.problem is not None
    ]
    if not host.engine.is_known:
        failed = next((probe.detail for probe in host.probes if probe.name == "ggml"), "it was not asked")
        told.append(f"llama-cpp-python cannot be used: {failed}")
    missing = [isa for isa in ("avx2", "avx512", "amx_int8", "i8mm", "sve") if _is_unused(isa, host)]
    if missing:
        told.append(
            f"llama-cpp-python was built without {', '.join(missing).upper()}, which this CPU has; "
            "rebuild it here: rm -r .venv, then scripts/serve"
        )
    if host.cpu.quota_cores is not None and host.cpu.quota_cores < 1:
        told.append(f"the control group grants {host.cpu.quota_cores:g} of a core: a model will be very slow")
    usable = host.memory.usable_bytes
    if usable is None:
        told.append("free memory is not known; nothing can be checked against it")
    elif usable < 200_000_000:
        told.append(f"only {usable / 1e6:.0f} MB of memory are free: no model fits, not even the starter")
    return told


FEATURES = {"avx2": "AVX2", "avx512": "AVX512", "amx_int8": "AMX_INT8", "i8mm": "MATMUL_INT8", "sve": "SVE"}


def _is_unused(isa: str, host: Host) -> bool:
    """Whether the CPU has it and ggml's kernels were built without."""
    return bool(host.engine.cpu_features) and isa in host.cpu.isa and FEATURES[isa] not in host.engine.cpu_features


def lines(host: Host, verdicts: tuple[Verdict, ...]) -> Iterator[str]:
    """Write the report, one subject a line."""
    device, gpus = choose_gpus(verdicts)
    if host.board:
        yield f"board    {host.board}"
    yield f"cpu      {_cpu_line(host.cpu)}"
    yield f"         {_isa_line(host.cpu)}"
    yield f"memory   {_memory_line(host.memory)}"
    for verdict in verdicts:
        yield f"gpu      {_gpu_line(verdict.gpu)}"
        yield f"         {_verdict_line(verdict, is_chosen=verdict.gpu in gpus)}"
    if not verdicts:
        yield "gpu      none was found"
    yield f"engine   {_engine_line(host.engine)}"
    if device == "cpu":
        why = "no GPU was found" if not verdicts else "no GPU that was found can be used"
        yield f"use      cpu with {host.cpu.threads} threads: {why}"
    else:
        names = ", ".join(gpu.name for gpu in gpus)
        yield f"use      {device} on {names}; layers that do not fit there on {host.cpu.threads} CPU threads"
    yield "asked    " + ", ".join(f"{probe.name} {probe.outcome}" for probe in host.probes)
    for probe in host.probes:
        if probe.outcome == "failed":
            yield f"         {probe.name}: {probe.detail}"


def _cpu_line(cpu: Cpu) -> str:
    cores = f"{_or_unknown(cpu.usable_physical)} physical cores to use ({_or_unknown(cpu.logical_cores)} logical here)"
    quota = "" if cpu.quota_cores is None else f", limited by a control group to {cpu.quota_cores:g}"
    return f"{cpu.model or 'unknown model'}: {cores}{quota}"


def _isa_line(cpu: Cpu) -> str:
    caches = ", ".join(f"L{c.level} {c.instances} x {c.instance_bytes // 1024} KiB" for c in cpu.caches)
    return f"{' '.join(cpu.isa) or 'instruction sets unknown'}; caches {caches or 'unknown'}"


def _memory_line(memory: Memory) -> str:
    limit = "" if memory.limit_bytes is None else f", limited by a control group to {_gb(memory.limit_bytes)}"
    swap = "" if not memory.swap_total_bytes else f", swap {_gb(memory.swap_total_bytes)}"
    return f"{_gb(memory.total_bytes)}, {_gb(memory.usable_bytes)} to use now{limit}{swap}"


def _gpu_line(gpu: Gpu) -> str:
    if gpu.shares_memory:
        memory = "shares main memory"
    else:
        memory = f"{_gb(gpu.memory_total_bytes)}, {_gb(gpu.memory_free_bytes)} free"
    more = [part for part in (gpu.compute, gpu.driver and f"driver {gpu.driver}", gpu.runtime, gpu.pci) if part]
    return f"{gpu.name}: {memory}" + (f" ({', '.join(more)})" if more else "")


def _verdict_line(verdict: Verdict, *, is_chosen: bool) -> str:
    if verdict.problem is not None:
        return f"NOT USED: {verdict.problem}. To mend it: {verdict.remedy}"
    if is_chosen:
        return f"used through {verdict.device}"
    return f"could be used through {verdict.device}; others are preferred, and layers are not shared between kinds"


def _engine_line(engine: Engine) -> str:
    if not engine.is_known:
        return "llama-cpp-python cannot be asked"
    parts = [
        f"llama-cpp-python {engine.package_version or 'of unknown version'}",
        f"ggml {engine.ggml_version or 'of unknown version'} built for {', '.join(engine.backends)}",
    ]
    if engine.torch_version:
        parts.append(f"torch {engine.torch_version}")
    parts.append("our own matrix multiplication" if engine.multiplier == "hybrid" else "ggml's matrix multiplication")
    return ", ".join(parts)


def _gb(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"


def _or_unknown(count: int | None) -> str:
    return "an unknown number of" if count is None else str(count)
