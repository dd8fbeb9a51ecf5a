"""Which GPUs are in the slots, and may this user open them? Seen without any driver or tool of their vendor's."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hybrid.devices.cuda import pci_address
from hybrid.devices.host import VENDORS, Gpu, Vendor
from hybrid.devices.probe import Absent, Asked, Failed, read_text, run_tool

LSPCI = ("lspci", "-Dmmnn")
DISPLAY, ACCELERATOR = 0x03, 0x12
NODES: dict[Vendor, tuple[str, ...]] = {
    "nvidia": ("dev/nvidiactl", "dev/nvidia[0-9]*"),
    "amd": ("dev/kfd", "dev/dri/renderD*"),
    "intel": ("dev/dri/renderD*",),
}
"""Device nodes that must be read and written to compute on a vendor's GPU."""


def ask_pci(root: Path = Path("/")) -> Asked:
    """List the GPUs of known vendors on the PCI bus, with their names where lspci can tell them.

    Raises: Absent if there is none.
    """
    gpus = read_sysfs(root)
    if not gpus:
        raise Absent("no GPU of NVIDIA, AMD or Intel on the PCI bus")
    with suppress(Absent, Failed):
        names = {gpu.pci: gpu for gpu in parse_lspci(run_tool(LSPCI))}
        gpus = tuple(names.get(gpu.pci, gpu) for gpu in gpus)
    return gpus, f"{len(gpus)} on the PCI bus"


def read_sysfs(root: Path) -> tuple[Gpu, ...]:
    """Read class and vendor of every PCI device. A mainboard's service processor and virtual cards are no GPUs."""
    gpus = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        kind, maker = _hex(read_text(device / "class")), _hex(read_text(device / "vendor"))
        if kind is None or maker is None or maker not in VENDORS or kind >> 16 not in (DISPLAY, ACCELERATOR):
            continue
        number = read_text(device / "device") or ""
        name = f"{VENDORS[maker].upper()} GPU {number}".strip()
        gpus.append(Gpu(name=name, vendor=VENDORS[maker], source="pci", pci=pci_address(device.name)))
    return tuple(gpus)


def _hex(text: str | None) -> int | None:
    try:
        return int(text or "", 16)
    except ValueError:
        return None


def parse_lspci(text: str) -> tuple[Gpu, ...]:
    """Read `lspci -Dmmnn`: quoted fields, slot, class, vendor, device, each with its number in brackets."""
    gpus = []
    for line in text.splitlines():
        try:
            slot, kind, vendor, device = shlex.split(line)[:4]
        except ValueError:
            continue
        numbers = [re.search(r"\[([0-9a-f]{4})\]$", field) for field in (kind, vendor)]
        if None in numbers:
            continue
        kind_number, vendor_number = (int(found[1], 16) for found in numbers if found)
        if kind_number >> 8 in (DISPLAY, ACCELERATOR) and vendor_number in VENDORS:
            name = re.sub(r" \[[0-9a-f]{4}\]$", "", device)
            gpus.append(Gpu(name=name, vendor=VENDORS[vendor_number], source="lspci", pci=pci_address(slot)))
    return tuple(gpus)


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def node_problem(vendor: Vendor, root: Path = Path("/"), may_use: Callable[[Path], bool] = _may_use) -> str | None:
    """Say why a vendor's device nodes cannot be used by this user; None where they can, or need none.

    Missing nodes are no problem of permission: then the driver is not loaded, or the container was given no GPU.
    """
    for pattern in NODES.get(vendor, ()):
        found = sorted(root.glob(pattern))
        if not found:
            return f"/{pattern.replace('[0-9]*', '0').replace('*', '128')} is missing"
        if not any(may_use(path) for path in found):
            return f"no permission to read and write /{found[0].relative_to(root)}"
    return None
