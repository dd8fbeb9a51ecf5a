"""Which NVIDIA GPUs are here? Through NVML in a process of its own, or by what nvidia-smi prints."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Annotated, TypeAlias

import msgspec

from hybrid.devices.host import Gpu
from hybrid.devices.probe import Absent, Asked, Failed, read_count, read_json, run_tool

MIB = 1 << 20
_Bytes: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
SMI_FIELDS = "name,pci.bus_id,memory.total,memory.free,driver_version,compute_cap,power.limit"
SMI = ("nvidia-smi", f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits")
OLD_SMI = ("nvidia-smi", f"--query-gpu={SMI_FIELDS.replace(',compute_cap', '')}", "--format=csv,noheader,nounits")
NVML = (sys.executable, "-P", "-m", "hybrid.devices.nvml_child")
INTEGRATED = re.compile(r"\b(Orin|Xavier|Tegra|Thor|GB10)\b|\bnvgpu\b", re.IGNORECASE)
"""Names of NVIDIA GPUs that share main memory; their tools tell no memory of the GPU's own."""


class _NvmlGpu(msgspec.Struct):
    name: str | None = None
    pci: str | None = None
    memory_total_bytes: _Bytes | None = None
    memory_free_bytes: _Bytes | None = None
    compute: tuple[int, int] | None = None
    power_limit_w: float | None = None


class _Told(msgspec.Struct):
    absent: str | None = None
    failed: str | None = None
    driver: str | None = None
    cuda_version: int | None = None
    gpus: tuple[_NvmlGpu, ...] = ()


def ask_nvml() -> Asked:
    """Ask NVML, in a process of its own: a driver that hangs then hangs that one.

    Raises: Absent without nvidia-ml-py or a driver, Failed saying what NVML said.
    """
    gpus = parse_nvml(run_tool(NVML))
    return gpus, f"{len(gpus)} by NVML"


def parse_nvml(text: str) -> tuple[Gpu, ...]:
    """Read what `nvml_child` printed.

    Raises: Absent, Failed.
    """
    told = read_json(text, _Told, "nvml_child")
    if told.absent:
        raise Absent(told.absent)
    if told.failed:
        raise Failed(f"NVML: {told.failed}")
    return tuple(_from_nvml(gpu, told) for gpu in told.gpus)


def _from_nvml(gpu: _NvmlGpu, told: _Told) -> Gpu:
    version, compute = told.cuda_version, gpu.compute
    return _integrated(
        Gpu(
            name=gpu.name or "NVIDIA GPU",
            vendor="nvidia",
            source="nvml",
            pci=pci_address(gpu.pci or ""),
            memory_total_bytes=gpu.memory_total_bytes,
            memory_free_bytes=gpu.memory_free_bytes,
            driver=told.driver,
            runtime=None if version is None else f"CUDA {version // 1000}.{version % 1000 // 10}",
            compute=None if compute is None else f"{compute[0]}.{compute[1]}",
            power_limit_w=gpu.power_limit_w,
        )
    )


def ask_smi() -> Asked:
    """Ask nvidia-smi, for machines without nvidia-ml-py."""
    try:
        table = run_tool(SMI)
    except Failed as failed:
        if "not a valid field" not in str(failed):
            raise
        table = run_tool(OLD_SMI)  # drivers before 510 know no compute_cap
    header = run_tool(("nvidia-smi",)) if table.strip() else ""
    gpus = parse_smi(table, header)
    if not gpus:
        raise Absent("nvidia-smi lists no GPU")
    return gpus, f"{len(gpus)} by nvidia-smi"


def parse_smi(table: str, header: str = "") -> tuple[Gpu, ...]:
    """Read the comma-separated query and, for CUDA's version, the plain table's head."""
    found = re.search(r"CUDA Version:\s*([\d.]+)", header)
    runtime = f"CUDA {found[1]}" if found else None
    gpus = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) not in (6, 7):
            continue  # "No devices were found", or a warning printed above the table
        compute = cells[5] if len(cells) == 7 and re.fullmatch(r"\d+\.\d+", cells[5]) else None
        gpus.append(
            _integrated(
                Gpu(
                    name=cells[0] or "NVIDIA GPU",
                    vendor="nvidia",
                    source="nvidia-smi",
                    pci=pci_address(cells[1]),
                    memory_total_bytes=_mib(cells[2]),
                    memory_free_bytes=_mib(cells[3]),
                    driver=cells[4] if re.match(r"\d", cells[4]) else None,
                    runtime=runtime,
                    compute=compute,
                    power_limit_w=_watts(cells[-1]),
                )
            )
        )
    return tuple(gpus)


def _integrated(gpu: Gpu) -> Gpu:
    if not INTEGRATED.search(gpu.name):
        return gpu
    return replace(gpu, shares_memory=True, memory_total_bytes=None, memory_free_bytes=None)


def _mib(cell: str) -> int | None:
    """Read a cell in MiB; `[N/A]`, `[Not Supported]` and `[Insufficient Permissions]` are unknown."""
    count = read_count(cell)
    return None if count is None else count * MIB


def _watts(cell: str) -> float | None:
    return float(cell) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", cell) else None


def pci_address(text: str) -> str | None:
    """Write a PCI address as Linux does, `0000:01:00.0`; NVIDIA's tools write the domain with eight digits."""
    found = re.fullmatch(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", text.strip().lower())
    if not found:
        return None
    return f"{int(found[1] or '0', 16):04x}:{found[2]}:{found[3]}.{found[4]}"
