"""Which GPU does this Mac have, and how much memory is free on it? system_profiler, sysctl and vm_stat."""

from __future__ import annotations

import platform
import re
from typing import Any

import msgspec

from hybrid.devices.host import Gpu
from hybrid.devices.probe import Absent, Asked, read_json, run_tool, words_of

PROFILER = ("system_profiler", "SPDisplaysDataType", "-json")


class _Told(msgspec.Struct):
    cards: list[dict[str, Any]] = msgspec.field(name="SPDisplaysDataType", default_factory=list)


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

    Raises: Failed if it is no JSON, or lists no cards as it should.
    """
    gpus = []
    for card in read_json(text, _Told, "system_profiler").cards:
        vendor = str(card.get("spdisplays_vendor", "")).lower()  # sppci_vendor_Apple, sppci_vendor_amd, Intel
        is_apple = "apple" in vendor
        metal = re.sub(r"^spdisplays_(metal)?", "", str(card.get("spdisplays_mtlgpufamilysupport", "")))
        vram = re.match(r"([0-9]{1,9}) (GB|MB)", str(card.get("spdisplays_vram", "")))
        gpus.append(
            Gpu(
                name=words_of(card.get("sppci_model")) or words_of(card.get("_name")) or "GPU",
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
