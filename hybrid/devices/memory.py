"""How much memory does the machine have, and how much is free? Parsers of the kernel's files, and psutil elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from hybrid.devices.cgroup import Limits
from hybrid.devices.host import Memory
from hybrid.devices.probe import read_text

KIB = 1024


def parse_meminfo(text: str) -> dict[str, int]:
    """Read /proc/meminfo: name -> bytes. Lines without a unit (huge page counts) are left out."""
    return {name: int(kib) * KIB for name, kib in re.findall(r"^(\w+(?:\(\w+\))?):\s+(\d+) kB$", text, re.MULTILINE)}


def parse_pressure(text: str) -> float | None:
    """Read /proc/pressure/memory: the share of the last 10 s in which some task waited for memory."""
    found = re.search(r"^some avg10=([\d.]+)", text, re.MULTILINE)
    return float(found[1]) / 100 if found else None


def memory_of(meminfo: str, pressure: str | None, limits: Limits) -> Memory:
    """Put the kernel's files together. A kernel before 3.14 does not tell what is available: free and cached, then."""
    facts = parse_meminfo(meminfo)
    available = facts.get("MemAvailable")
    if available is None and "MemFree" in facts:
        available = facts["MemFree"] + facts.get("Buffers", 0) + facts.get("Cached", 0)
    return Memory(
        total_bytes=facts.get("MemTotal"),
        available_bytes=available,
        limit_bytes=limits.memory_bytes,
        limit_used_bytes=limits.memory_used_bytes,
        swap_total_bytes=facts.get("SwapTotal"),
        swap_free_bytes=facts.get("SwapFree"),
        pressure_stalled=parse_pressure(pressure or ""),
    )


def read_memory(limits: Limits, root: Path = Path("/")) -> Memory:
    """Read this machine's memory."""
    meminfo = read_text(root / "proc/meminfo")
    if meminfo is not None:
        return memory_of(meminfo, read_text(root / "proc/pressure/memory"), limits)
    seen, swap = psutil.virtual_memory(), psutil.swap_memory()
    return Memory(
        total_bytes=int(seen.total),
        available_bytes=int(seen.available),
        swap_total_bytes=int(swap.total),
        swap_free_bytes=int(swap.free),
    )
