"""Which GPU does this Mac have, and how much memory is free on it? system_profiler, sysctl and vm_stat."""

from __future__ import annotations

import platform
import re
from typing import Any

import msgspec

from hybrid.devices.host import Gpu
from hybrid.devices.probe import Absent, Asked, Failed, run_tool

PROFILER = ("system_profiler", "SPDisplaysDataType", "-json")


def ask_profiler() -> Asked:
    """Ask macOS.

    Raises: Absent on other systems, or without a GPU.
    """
    if platform.system() != "Darwin":
        raise Absent("not macOS")
    gpus = parse_profiler(run_tool(PROFILER))
    if not gpus:
        raise Absent("system_profiler lists no GPU")
    return gpus, f"{len(gpus)} by system_profiler"


def parse_profiler(text: str) -> tuple[Gpu, ...]:
    """Read `system_profiler SPDisplaysDataType -json`.

    Raises: Failed if it is no JSON.
    """
    try:
        told: dict[str, Any] = msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        raise Failed(f"system_profiler printed no JSON: {exc}") from exc
    gpus = []
    for card in told.get("SPDisplaysDataType", []):
        vendor = str(card.get("spdisplays_vendor", "")).lower()  # sppci_vendor_Apple, sppci_vendor_amd, Intel
        is_apple = "apple" in vendor
        metal = re.sub(r"^spdisplays_(metal)?", "", str(card.get("spdisplays_mtlgpufamilysupport", "")))
        vram = re.match(r"(\d+) (GB|MB)", str(card.get("spdisplays_vram", "")))
        gpus.append(
            Gpu(
                name=card.get("sppci_model") or card.get("_name") or "GPU",
                vendor="apple" if is_apple else "amd" if "amd" in vendor else "intel" if "intel" in vendor else "other",
                source="system_profiler",
                shares_memory=is_apple or vram is None,
                memory_total_bytes=int(vram[1]) << (30 if vram[2] == "GB" else 20) if vram else None,
                runtime=f"Metal {metal}" if metal else None,
                compute=f"{card['sppci_cores']} cores" if str(card.get("sppci_cores", "")).isdigit() else None,
            )
        )
    return tuple(gpus)


def gpu_cores(gpu: Gpu) -> int | None:
    """How many cores an Apple GPU has."""
    found = re.fullmatch(r"(\d+) cores", gpu.compute or "")
    return int(found[1]) if found else None
