"""Which AMD GPUs are here? By rocm-smi, and by what the amdgpu driver tells in sysfs without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.devices.cuda import pci_address
from hybrid.devices.host import Gpu
from hybrid.devices.probe import Absent, Asked, read_count, read_json, read_text, run_tool, words_of

ROCM_SMI = (
    "rocm-smi", "--showproductname", "--showbus", "--showmeminfo", "vram", "--showdriverversion", "--json",
)  # fmt: skip
INTEGRATED_MAX_BYTES = 4 << 30
"""An AMD GPU with less memory "of its own" that also tells a GTT many times larger is a part of the processor."""


def ask_rocm_smi() -> Asked:
    """Ask rocm-smi.

    Raises: Absent if it is not installed or lists no GPU.
    """
    gpus = parse_rocm_smi(run_tool(ROCM_SMI), read_text(Path("/opt/rocm/.info/version")))
    if not gpus:
        raise Absent("rocm-smi lists no GPU")
    return gpus, f"{len(gpus)} by rocm-smi"


def parse_rocm_smi(text: str, rocm_version: str | None = None) -> tuple[Gpu, ...]:
    """Read `rocm-smi --json`. Keys changed their case between releases ("Card series", "Card Series").

    A card that is told in no such way is left out, and a fact of it unknown.

    Raises: Failed if it is no JSON; older releases print warnings above it, which are skipped.
    """
    start = text.find("{")
    if start < 0:
        return ()
    told = read_json(text[start:], dict[str, Any], "rocm-smi")
    cards = {
        name: {key.lower(): value for key, value in card.items()}
        for name, card in told.items()
        if isinstance(card, dict)
    }
    driver = words_of(cards.get("system", {}).get("driver version"))
    return tuple(_card(cards[name], driver, rocm_version) for name in sorted(cards) if name.startswith("card"))


def _card(card: Mapping[str, Any], driver: str | None, rocm_version: str | None) -> Gpu:
    total, used = read_count(card.get("vram total memory (b)")), read_count(card.get("vram total used memory (b)"))
    names = (words_of(card.get(key)) for key in ("card series", "card model", "device name"))
    return Gpu(
        name=next((name for name in names if name and name != "N/A" and not name.startswith("0x")), "AMD GPU"),
        vendor="amd",
        source="rocm-smi",
        pci=pci_address(words_of(card.get("pci bus")) or ""),
        memory_total_bytes=total,
        memory_free_bytes=None if total is None or used is None else max(0, total - used),
        driver=driver,
        runtime=None if rocm_version is None else f"ROCm {rocm_version.split('-')[0]}",
        compute=words_of(card.get("gfx version")),
    )


def ask_amdgpu(root: Path = Path("/")) -> Asked:
    """Ask the amdgpu driver through sysfs, which needs no tool.

    Raises: Absent if it drives no GPU.
    """
    gpus = tuple(_sysfs(card) for card in sorted((root / "sys/class/drm").glob("card[0-9]*/device")) if _is_amd(card))
    if not gpus:
        raise Absent("no GPU is driven by amdgpu")
    return gpus, f"{len(gpus)} by amdgpu"


def _is_amd(device: Path) -> bool:
    # Connectors (card0-DP-1) have a device too; it has no memory.
    return read_text(device / "vendor") == "0x1002" and (device / "mem_info_vram_total").exists()


def _sysfs(device: Path) -> Gpu:
    total, used = (read_count(read_text(device / f"mem_info_vram_{what}")) for what in ("total", "used"))
    gtt = read_count(read_text(device / "mem_info_gtt_total"))
    is_part_of_cpu = total is not None and gtt is not None and total <= INTEGRATED_MAX_BYTES and gtt >= 2 * total
    return Gpu(
        name=read_text(device / "product_name") or f"AMD GPU {read_text(device / 'device') or ''}".strip(),
        vendor="amd",
        source="amdgpu",
        pci=pci_address(device.resolve().name),
        memory_total_bytes=None if is_part_of_cpu else total,
        memory_free_bytes=None if is_part_of_cpu or total is None or used is None else max(0, total - used),
        shares_memory=is_part_of_cpu,
    )
