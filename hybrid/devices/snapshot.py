"""What is this machine, right now? Asks every source at once, joins what they tell, and keeps how each ended."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hybrid.devices import ggml
from hybrid.devices.cgroup import Limits, read_limits
from hybrid.devices.cpu import parse_sysctl, read_cpu
from hybrid.devices.cuda import ask_nvml, ask_smi
from hybrid.devices.host import Cpu, Engine, Gpu, Host, Memory
from hybrid.devices.memory import read_memory
from hybrid.devices.metal import ask_profiler
from hybrid.devices.pci import ask_pci, node_problem
from hybrid.devices.probe import Absent, Asked, Failed, ask_all, read_text, run_tool
from hybrid.devices.rocm import ask_amdgpu, ask_rocm_smi
from hybrid.devices.vulkan import ask_vulkan

LIMIT_S = 6.0
"""Longest wait for everything: somewhat more than one tool may take."""
GPU_SOURCES = ("nvml", "nvidia-smi", "rocm-smi", "amdgpu", "metal", "ggml", "pci", "vulkan")
"""Who tells of GPUs, the best informed first."""


def take_snapshot(*, limit_s: float = LIMIT_S) -> Host:
    """Look at this machine. Never fails: what cannot be found out is None, and `probes` says why."""
    found, probes = ask_all(
        {
            "cpu": _ask_cpu,
            "memory": _ask_memory,
            "ggml": ggml.ask_ggml,
            "nvml": ask_nvml,
            "nvidia-smi": ask_smi,
            "rocm-smi": ask_rocm_smi,
            "amdgpu": ask_amdgpu,
            "metal": ask_profiler,
            "pci": ask_pci,
            "vulkan": ask_vulkan,
        },
        limit_s=limit_s,
    )
    engine: Engine = found.get("ggml") or Engine()
    listed = {**found, "ggml": ggml.gpus_of(engine)}
    gpus = merge_gpus(listed.get(source, ()) for source in GPU_SOURCES)
    return Host(
        system=platform.system(),
        machine=platform.machine(),
        board=read_text(Path("/proc/device-tree/model")),
        cpu=found.get("cpu") or Cpu(),
        memory=found.get("memory") or Memory(),
        gpus=tuple(with_problem(gpu) for gpu in gpus) if platform.system() == "Linux" else gpus,
        engine=engine,
        probes=probes,
    )


def take_memory() -> Memory:
    """Look at the memory alone, which changes from one moment to the next."""
    return read_memory(read_limits())


def take_cpu() -> Cpu:
    """Look at the processors alone: files only, no tool on Linux."""
    if platform.system() == "Darwin":
        return parse_sysctl(run_tool(("sysctl", "hw", "machdep.cpu")))
    return read_cpu(read_limits().quota_cores)


def usable_threads() -> int:
    """Threads a model runs with where nobody says otherwise: what is measured with others is no help to `serve`."""
    try:
        return take_cpu().threads
    except (Absent, Failed):
        return Cpu().threads


def _ask_cpu() -> Asked:
    cpu = take_cpu()
    return cpu, cpu.model or "of unknown model"


def _ask_memory() -> Asked:
    limits = read_limits() if platform.system() == "Linux" else Limits()
    memory = read_memory(limits)
    return memory, "limited by a cgroup" if memory.limit_bytes is not None else "no cgroup limit"


def merge_gpus(lists: Iterable[Iterable[Gpu]]) -> tuple[Gpu, ...]:
    """Join what several sources tell of the same GPUs; the earlier source's facts hold, the later fill its gaps.

    The same PCI address is the same GPU. A source without addresses tells of the vendor's GPUs in their order.
    """
    joined: list[Gpu] = []
    for source in lists:
        taken: set[int] = set()
        for gpu in source:
            at = _same(joined, gpu, taken)
            if at is None:
                taken.add(len(joined))
                joined.append(gpu)
            else:
                taken.add(at)
                joined[at] = fill(joined[at], gpu)
    return tuple(joined)


def _same(joined: list[Gpu], gpu: Gpu, taken: set[int]) -> int | None:
    free = [(i, other) for i, other in enumerate(joined) if i not in taken and other.vendor == gpu.vendor]
    if gpu.pci is not None:
        exact = next((i for i, other in free if other.pci == gpu.pci), None)
        if exact is not None:
            return exact
    return next((i for i, other in free if gpu.pci is None or other.pci is None), None)


SLICE_SHARE = 0.9
"""ggml sees a few per cent less than the driver tells; less than this is a part of a GPU, as MIG cuts them."""


def fill(first: Gpu, second: Gpu) -> Gpu:
    """Take the second's facts where the first has none, and ggml's memory where that is only a slice of the GPU's."""
    if _is_slice(first, second):
        first = replace(first, memory_total_bytes=second.memory_total_bytes, memory_free_bytes=second.memory_free_bytes)
    if second.source == "ggml" and first.vendor == "amd":
        first = _as_driven(first, second)
    ours, theirs = asdict(first), asdict(second)
    gaps = {key: value for key, value in theirs.items() if ours[key] is None and value is not None}
    if first.shares_memory:
        gaps = {key: value for key, value in gaps.items() if not key.startswith("memory_")}
    else:
        gaps.pop("limit_bytes", None)  # a limit on main memory
    return replace(first, **gaps)


def _as_driven(told: Gpu, driven: Gpu) -> Gpu:
    """Correct what an AMD tool tells by what ggml's backend was told by the driver.

    A part of the processor has a carve-out, which rocm-smi gives as a card's memory. Where ggml may take more, it is
    the main memory's (GTT; ROCm does so from Linux 6.10 on). Where it may not, the carve-out is all there is. And a
    small card beside much main memory looks by its sizes like such a part.
    """
    own, whole = told.memory_total_bytes, driven.memory_total_bytes
    if driven.shares_memory and own is not None and whole is not None and own < SLICE_SHARE * whole:
        return replace(
            told, shares_memory=True, memory_total_bytes=None, memory_free_bytes=None, limit_bytes=driven.limit_bytes
        )
    return replace(told, shares_memory=False) if told.shares_memory and not driven.shares_memory else told


def _is_slice(whole: Gpu, part: Gpu) -> bool:
    total, seen = whole.memory_total_bytes, part.memory_total_bytes
    is_same = part.source == "ggml" and part.pci is not None and part.pci == whole.pci
    return is_same and total is not None and seen is not None and seen < SLICE_SHARE * total


def with_problem(gpu: Gpu) -> Gpu:
    """Add what stands in the way of using it, as far as the system's device nodes tell."""
    if gpu.problem is not None or (gpu.shares_memory and gpu.vendor == "nvidia"):
        return gpu  # Tegra's nodes have other names
    return replace(gpu, problem=node_problem(gpu.vendor))


def as_facts(host: Host) -> Mapping[str, Any]:
    """Give the snapshot as plain values with stable keys, for `--json` and records."""
    facts = asdict(host)
    facts["cpu"]["threads"] = host.cpu.threads
    facts["memory"] |= {"usable_bytes": host.memory.usable_bytes, "most_bytes": host.memory.most_bytes}
    return facts
