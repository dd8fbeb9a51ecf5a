"""What does NVML say? Runs in a process of its own, `python -m hybrid.devices.nvml_child`, and prints JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

try:
    import pynvml
except ImportError:  # the extra `nvidia` is not installed; nvidia-smi is asked instead
    pynvml = None


def describe(nvml: Any) -> dict[str, Any]:
    """Ask an NVML module about every GPU. What one GPU does not tell is None; the rest is told all the same."""
    if nvml is None:
        return {"absent": "nvidia-ml-py is not installed (pip install nvidia-ml-py)"}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
            return {"absent": f"no NVIDIA driver is loaded ({error})"}
        return {"failed": str(error)}

    def known(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except nvml.NVMLError:
            return None

    gpus = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(index), known))
        except nvml.NVMLError as error:
            return {"failed": f"GPU {index}: {error}"}
    return {
        "driver": known(lambda: _text(nvml.nvmlSystemGetDriverVersion())),
        "cuda_version": known(nvml.nvmlSystemGetCudaDriverVersion_v2),
        "gpus": gpus,
    }


def _gpu(nvml: Any, handle: Any, known: Callable[[Callable[[], Any]], Any]) -> dict[str, Any]:
    memory = known(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    milliwatts = known(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    return {
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "pci": known(lambda: _text(nvml.nvmlDeviceGetPciInfo(handle).busId)),
        "memory_total_bytes": None if memory is None else memory.total,
        "memory_free_bytes": None if memory is None else memory.free,
        "compute": known(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        "power_limit_w": None if milliwatts is None else milliwatts / 1e3,
    }


def _text(value: str | bytes) -> str:
    """Older bindings give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    print(json.dumps(describe(pynvml)))
