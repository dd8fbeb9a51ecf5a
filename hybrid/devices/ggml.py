"""What was the installed llama-cpp-python built for, and which devices does its ggml see?"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import msgspec

from hybrid.backends.matmul import Multiplier, who_multiplies
from hybrid.devices.cuda import pci_address
from hybrid.devices.host import METAL, VENDORS, Engine, EngineDevice, Gpu, Vendor
from hybrid.devices.probe import Absent, Asked, read_json, run_tool

CHILD = (sys.executable, "-P", "-m", "hybrid.devices.ggml_child")
BACKEND_VENDORS: dict[str, Vendor] = {
    "CUDA": "nvidia",
    "ROCm": "amd",
    "MTL": "apple",
    "Metal": "apple",
    "SYCL": "intel",
}


class _Told(msgspec.Struct):
    backends: tuple[str, ...]
    devices: tuple[EngineDevice, ...]
    cpu_features: tuple[str, ...]
    version: str | None = None
    commit: str | None = None


def ask_ggml() -> Asked:
    """Ask the installed libraries, in a process of its own.

    Raises: Absent if llama-cpp-python is not installed, Failed if its libraries cannot be loaded.
    """
    folder = library_folder()
    if folder is None:
        raise Absent("llama-cpp-python is not installed (scripts/serve builds it)")
    engine = parse_devices(
        run_tool((*CHILD, str(folder))), version_of("llama-cpp-python"), version_of("torch"), who_multiplies()
    )
    return engine, f"built for {', '.join(engine.backends) or 'nothing'}"


def library_folder() -> Path | None:
    """Where the libraries of llama-cpp-python lie; the package is found, not imported."""
    spec = importlib.util.find_spec("llama_cpp")
    places = [Path(place) / "lib" for place in (spec.submodule_search_locations or ())] if spec else []
    return next((place for place in places if place.is_dir()), None)


def version_of(package: str) -> str | None:
    """The installed version of a package; torch's tells what it was built for, such as `2.9.0+cu128`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def parse_devices(
    text: str,
    package_version: str | None = None,
    torch_version: str | None = None,
    multiplier: Multiplier = "ggml",
) -> Engine:
    """Read what `ggml_child` printed: its last line, for drivers like to greet on stdout.

    Raises: Failed if that is no JSON, or not that of the child.
    """
    lines = text.strip().splitlines()
    told = read_json(lines[-1] if lines else "", _Told, "ggml_child")
    return Engine(
        package_version=package_version,
        ggml_version=told.version,
        ggml_commit=told.commit,
        backends=told.backends,
        devices=tuple(replace(device, pci=pci_address(device.pci or "")) for device in told.devices),
        cpu_features=told.cpu_features,
        multiplier=multiplier,
        torch_version=torch_version,
    )


def gpus_of(engine: Engine) -> tuple[Gpu, ...]:
    """The GPUs among ggml's devices, for machines whose vendors' tools are not installed.

    Built for several backends, ggml lists a GPU once for each: the first that drives an address stands for it.
    """
    listed: dict[str, EngineDevice] = {}
    for number, device in enumerate(engine.devices):
        if device.kind in ("gpu", "igpu"):
            listed.setdefault(device.pci or f"{number}", device)
    makers = [BACKEND_VENDORS.get(device.backend) or vendor_of(device.description) for device in listed.values()]
    return tuple(
        Gpu(
            name=device.description or device.name,
            vendor=vendor,
            source="ggml",
            pci=device.pci,
            memory_total_bytes=device.memory_total_bytes,
            memory_free_bytes=device.memory_free_bytes,
            shares_memory=device.kind == "igpu" or device.backend in METAL,
            # Metal's recommendedMaxWorkingSetSize, two thirds to 84 % of the memory; `iogpu.wired_limit_mb` moves it.
            # On AMD's processors what amdgpu maps for graphics (GTT), half of the memory by default.
            limit_bytes=device.memory_total_bytes if _is_limited(device, vendor) else None,
        )
        for device, vendor in zip(listed.values(), makers, strict=True)
    )


def _is_limited(device: EngineDevice, vendor: Vendor) -> bool:
    return device.backend in METAL or (device.kind == "igpu" and vendor == "amd")


def vendor_of(name: str) -> Vendor:
    """Tell the maker from a device's name, as Vulkan gives it."""
    low = name.lower()
    words: tuple[tuple[str, Vendor], ...] = (
        ("nvidia", "nvidia"), ("geforce", "nvidia"), ("amd", "amd"), ("radeon", "amd"),
        ("apple", "apple"), ("intel", "intel"),
    )  # fmt: skip
    known: set[str] = set(VENDORS.values())
    return next((vendor for word, vendor in words if word in low and vendor in known), "other")
