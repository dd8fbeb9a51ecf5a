"""Which GPUs can the installed llama-cpp-python compute on, and what must be done about the others? Pure, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hybrid.devices.host import METAL, Engine, EngineDevice, Gpu, Host, Vendor

Device: TypeAlias = Literal["cpu", "cuda", "rocm", "metal", "vulkan", "sycl"]

OWN_BACKENDS: Mapping[Vendor, tuple[tuple[str, ...], Device]] = {
    "nvidia": (("CUDA",), "cuda"),
    "amd": (("ROCm", "HIP"), "rocm"),
    "apple": (METAL, "metal"),
    "intel": (("SYCL",), "sycl"),
}
"""Vendor -> ggml's names of the backend made for it, and ours."""
FLAGS: Mapping[Vendor, str] = {
    "nvidia": "-DGGML_CUDA=on",
    "amd": "-DGGML_HIP=on",
    "apple": "-DGGML_METAL=on",
    "intel": "-DGGML_VULKAN=on",
    "other": "-DGGML_VULKAN=on",
}
TOOLKITS: Mapping[Vendor, str] = {
    "nvidia": "the CUDA toolkit (nvcc)",
    "amd": "ROCm (hipcc)",
    "apple": "Xcode's command line tools",
    "intel": "the Vulkan headers and glslc",
    "other": "the Vulkan headers and glslc",
}
DRIVERS: Mapping[Vendor, str] = {
    "nvidia": "install NVIDIA's driver and load it (`nvidia-smi` must list the GPU); in a container, start it with "
    "`--gpus all` and the NVIDIA container toolkit",
    "amd": "load the amdgpu driver and install ROCm; in a container, pass --device /dev/kfd --device /dev/dri",
    "intel": "load the i915 or xe driver; in a container, pass --device /dev/dri",
}
BY_DRIVER = "look at its driver"
UNSEEN: Mapping[Device, str] = {
    "cuda": "if CUDA_VISIBLE_DEVICES is to leave it out, all is well; else unset that and start again",
    "rocm": "if HIP_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES is to leave it out, all is well; else unset that",
    "vulkan": "if GGML_VK_VISIBLE_DEVICES is to leave it out, all is well; else unset that and start again",
}
GROUPS: Mapping[Vendor, str] = {"nvidia": "video", "amd": "render,video", "intel": "render"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one GPU is computed on. device: through what; problem and remedy: where it is not."""

    gpu: Gpu
    device: Device | None
    problem: str | None = None
    remedy: str | None = None


def judge(host: Host) -> tuple[Verdict, ...]:
    """Judge each GPU. Where one is driven by its own backend, those that only Vulkan could drive are left aside."""
    return tuple(_judge(gpu, host.engine) for gpu in host.gpus)


def _judge(gpu: Gpu, engine: Engine) -> Verdict:
    backend = backend_for(gpu, engine)
    seen = () if backend is None else seen_by(gpu, engine)
    if backend is not None and _is_among(gpu, seen):
        return Verdict(gpu, backend)
    if gpu.problem is not None:
        return Verdict(gpu, None, gpu.problem, _access_remedy(gpu))
    if not engine.is_known:
        return Verdict(gpu, None, "llama-cpp-python cannot be loaded", "run scripts/serve, which builds it")
    if backend is not None and seen:
        return Verdict(gpu, None, f"llama-cpp-python does not see it through {backend}", UNSEEN.get(backend, BY_DRIVER))
    if backend is not None:
        problem = f"llama-cpp-python is built for {backend}, but finds no device"
        return Verdict(gpu, None, problem, DRIVERS.get(gpu.vendor, BY_DRIVER))
    return Verdict(gpu, None, f"llama-cpp-python is built for {', '.join(engine.backends)} only", _rebuild(gpu))


def backend_for(gpu: Gpu, engine: Engine) -> Device | None:
    """Which of the built backends drives a GPU: its vendor's own, else Vulkan."""
    if any(name in engine.backends for name in _own_names(gpu)):
        return OWN_BACKENDS[gpu.vendor][1]
    return "vulkan" if "Vulkan" in engine.backends else None


def _own_names(gpu: Gpu) -> tuple[str, ...]:
    return OWN_BACKENDS[gpu.vendor][0] if gpu.vendor in OWN_BACKENDS else ()


def seen_by(gpu: Gpu, engine: Engine) -> tuple[EngineDevice, ...]:
    """The devices that ggml lists of the backend which would drive a GPU."""
    own = [name for name in _own_names(gpu) if name in engine.backends]
    names = own or ["Vulkan"]
    return tuple(device for device in engine.devices if device.kind in ("gpu", "igpu") and device.backend in names)


def _is_among(gpu: Gpu, seen: tuple[EngineDevice, ...]) -> bool:
    """Whether ggml sees it. A driver may be told to leave GPUs out, and then nothing can be put on them."""
    addresses = {device.pci for device in seen}
    return bool(seen) and (gpu.pci is None or None in addresses or gpu.pci in addresses)


def _access_remedy(gpu: Gpu) -> str:
    if "permission" in (gpu.problem or ""):
        groups = GROUPS.get(gpu.vendor, "render")
        return f"join its group and log in again: sudo usermod -aG {groups} $USER"
    return DRIVERS.get(gpu.vendor, BY_DRIVER)


def _rebuild(gpu: Gpu) -> str:
    flag = FLAGS[gpu.vendor]
    return f"install {TOOLKITS[gpu.vendor]}, then rebuild it: HYBRID_CMAKE_ARGS={flag} scripts/serve"
