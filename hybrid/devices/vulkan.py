"""Which GPUs does a Vulkan driver offer? By `vulkaninfo --summary`; software renderers do not count."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hybrid.devices.host import VENDORS, Gpu
from hybrid.devices.probe import Absent, Asked, run_tool

SUMMARY = ("vulkaninfo", "--summary")


def ask_vulkan() -> Asked:
    """Ask vulkaninfo.

    Raises: Absent if it is not installed or finds only software renderers.
    """
    gpus = parse_summary(run_tool(SUMMARY))
    if not gpus:
        raise Absent("vulkaninfo lists no GPU")
    return gpus, f"{len(gpus)} by vulkaninfo"


def parse_summary(text: str) -> tuple[Gpu, ...]:
    """Read the `Devices:` part of `vulkaninfo --summary`: blocks named GPU0, GPU1, ... of `key = value` lines."""
    blocks: list[dict[str, str]] = []
    for line in text.partition("Devices:")[2].splitlines():
        if re.match(r"GPU\d+:", line.strip()):
            blocks.append({})
        elif blocks and (found := re.match(r"\s*(\w+)\s*=\s*(.*?)\s*$", line)):
            blocks[-1].setdefault(found[1], found[2])
    return tuple(_gpu(block) for block in blocks if block.get("deviceType", "").endswith("_GPU"))


def _gpu(block: Mapping[str, str]) -> Gpu:
    try:
        vendor = VENDORS.get(int(block.get("vendorID", ""), 16), "other")
    except ValueError:
        vendor = "other"
    driver = " ".join(part for part in (block.get("driverName"), block.get("driverInfo")) if part)
    version = re.search(r"(\d+\.\d+\.\d+)", block.get("apiVersion", ""))
    return Gpu(
        name=block.get("deviceName", "GPU"),
        vendor=vendor,
        source="vulkaninfo",
        shares_memory="INTEGRATED" in block["deviceType"],
        driver=driver or None,
        runtime=f"Vulkan {version[1]}" if version else None,
    )
