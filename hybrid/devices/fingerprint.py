"""Is this still the machine that was measured? A fingerprint of what decides its speed, read from files in a moment."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

_DISPLAY_CLASS = "0x03"
_GIB = 1 << 30


def hardware_facts(root: Path = Path("/")) -> Mapping[str, str]:
    """Name processor, cores that may be used, memory and graphics devices. What cannot be read is left out."""
    facts = {"machine": platform.machine(), "memory_gib": str(round(psutil.virtual_memory().total / _GIB))}
    facts["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    if model := _cpu_model(root / "proc/cpuinfo"):
        facts["cpu"] = model
    if quota := _read(root / "sys/fs/cgroup/cpu.max"):
        facts["cpu_quota"] = quota
    if devices := _display_devices(root / "sys/bus/pci/devices"):
        facts["graphics"] = ", ".join(devices)
    return facts


def hardware_fingerprint(facts: Mapping[str, str]) -> str:
    """Give 16 hexadecimal digits that change when any of the facts does."""
    text = "\n".join(f"{key}={facts[key]}" for key in sorted(facts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cpu_model(cpuinfo: Path) -> str | None:
    """The first processor's name; on ARM, where there is none, its part number."""
    lines = [line.partition(":") for line in _read(cpuinfo).splitlines()]
    found = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    name = found.get("model name") or " ".join(found[key] for key in ("CPU implementer", "CPU part") if key in found)
    return name or platform.processor() or None


def _display_devices(folder: Path) -> list[str]:
    found = []
    for device in sorted(folder.glob("*")):
        if _read(device / "class").startswith(_DISPLAY_CLASS):
            found.append(f"{_read(device / 'vendor')}:{_read(device / 'device')}")
    return found


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""
