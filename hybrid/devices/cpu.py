"""Which processors may this process use, and what can they do? Parsers of /proc/cpuinfo, sysfs and sysctl."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from hybrid.devices.host import Cache, Cpu
from hybrid.devices.probe import read_text

X86_FLAGS: Mapping[str, str] = {
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
}
ARM_FLAGS: Mapping[str, str] = {
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
APPLE_FEATURES: Mapping[str, str] = {
    "hw.optional.neon": "neon",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.avx512f": "avx512",
}
ARM_PARTS: Mapping[tuple[int, int], str] = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0xC0, 0xAC3): "Ampere-1",
}
"""(implementer, part) -> the core's name, from Arm's MIDR_EL1 numbers as util-linux's lscpu lists them."""

CPU_DIR = Path("sys/devices/system/cpu")
SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_cpuinfo(text: str) -> Cpu:
    """Read /proc/cpuinfo of x86 or Arm: model, instruction sets, logical cores."""
    fields: dict[str, str] = {}
    count = 0
    for line in text.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if colon:
            count += key == "processor" and value.isdigit()
            fields.setdefault(key, value)
    flags = set(fields.get("flags", "").split()) | set(fields.get("Features", "").split())
    table = X86_FLAGS if "flags" in fields else ARM_FLAGS
    return Cpu(
        model=fields.get("model name") or _arm_name(fields),
        isa=_isa(table, flags),
        logical_cores=count or None,
    )


def _isa(table: Mapping[str, str], flags: set[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for flag, name in table.items() if flag in flags))


def _arm_name(fields: Mapping[str, str]) -> str | None:
    try:
        numbers = int(fields["CPU implementer"], 16), int(fields["CPU part"], 16)
    except (KeyError, ValueError):
        return fields.get("Hardware")
    return ARM_PARTS.get(numbers)


def parse_cpu_list(text: str) -> frozenset[int]:
    """Read the kernel's lists of processors, such as `0-3,8`; what is no number is left out."""
    numbers: set[int] = set()
    for part in text.split(","):
        if found := re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part):
            first = int(found[1])
            numbers |= set(range(first, min(int(found[2] or first), first + 65_536) + 1))
    return frozenset(numbers)


def parse_size(text: str) -> int | None:
    """Read a cache's size, such as `32K`."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text.strip())
    return int(found[1]) * SIZES[found[2]] if found else None


def physical_cores(usable: frozenset[int], siblings: Mapping[int, frozenset[int]]) -> int:
    """Count the cores that the usable processors belong to; one whose siblings are not told is a core of its own."""
    return len({min(siblings.get(number) or {number}) for number in usable})


def fast_cores(usable: frozenset[int], capacities: Mapping[int, int]) -> int | None:
    """Count the usable cores of at least half the largest capacity; None where the kernel tells none or all are alike.

    A step ends when its slowest thread does, so small cores beside big ones hold them up.
    """
    known = [capacities[number] for number in usable if number in capacities]
    if len(known) < len(usable) or len(set(known)) < 2:
        return None
    return sum(capacity >= max(known) / 2 for capacity in known)


def read_cpu(quota_cores: float | None, root: Path = Path("/"), usable: frozenset[int] | None = None) -> Cpu:
    """Read this Linux machine's processors."""
    seen = parse_cpuinfo(read_text(root / "proc/cpuinfo") or "")
    usable = usable or _affinity()
    siblings, capacities = {}, {}
    for number in usable:
        topology = root / CPU_DIR / f"cpu{number}"
        listed = read_text(topology / "topology/core_cpus_list") or read_text(
            topology / "topology/thread_siblings_list"
        )
        siblings[number] = parse_cpu_list(listed or "")
        if (capacity := read_text(topology / "cpu_capacity")) and capacity.isdigit():
            capacities[number] = int(capacity)
    khz = [read_text(root / CPU_DIR / f"cpu{number}/cpufreq/cpuinfo_max_freq") for number in usable]
    mhz = [int(value) / 1e3 for value in khz if value and value.isdigit()]
    return Cpu(
        model=seen.model,
        architecture=platform.machine() or None,
        isa=seen.isa,
        logical_cores=seen.logical_cores,
        usable_logical=len(usable) or None,
        usable_physical=physical_cores(usable, siblings) if usable else None,
        performance_cores=fast_cores(usable, capacities),
        quota_cores=quota_cores,
        caches=_read_caches(root, usable),
        max_mhz=max(mhz, default=None) or _told_mhz(root),
    )


def _told_mhz(root: Path) -> float | None:
    """Where there is no cpufreq, as in virtual machines, x86 tells the clock it runs at."""
    clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return max((float(clock) for clock in clocks), default=None)


def _affinity() -> frozenset[int]:
    try:
        return frozenset(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS has no affinity
        return frozenset(range(os.cpu_count() or 1))


def _read_caches(root: Path, usable: frozenset[int]) -> tuple[Cache, ...]:
    """Count each cache that a usable processor sees once, by the processors that share it."""
    instances: dict[int, dict[frozenset[int], int]] = {}
    for number in usable:
        for folder in sorted((root / CPU_DIR / f"cpu{number}/cache").glob("index*")):
            level, size = read_text(folder / "level"), parse_size(read_text(folder / "size") or "")
            shared = parse_cpu_list(read_text(folder / "shared_cpu_list") or str(number))
            if read_text(folder / "type") != "Instruction" and level and level.isdigit() and size:
                instances.setdefault(int(level), {})[shared] = size
    return tuple(
        Cache(level=level, instance_bytes=max(sizes.values()), instances=len(sizes))
        for level, sizes in sorted(instances.items())
    )


def parse_sysctl(text: str) -> Cpu:
    """Read `sysctl hw machdep.cpu` of macOS, Apple silicon or Intel."""
    facts = {key: value.strip() for key, colon, value in (line.partition(":") for line in text.splitlines()) if colon}

    def count(key: str) -> int | None:
        value = facts.get(key, "")
        return int(value) if value.isdigit() and int(value) > 0 else None

    fast = count("hw.perflevel0.physicalcpu")
    keys = ((1, "l1dcachesize"), (2, "l2cachesize"), (3, "l3cachesize"))
    caches = [(level, count(f"hw.perflevel0.{key}") or count(f"hw.{key}")) for level, key in keys]
    hertz = count("hw.cpufrequency_max")
    return Cpu(
        model=facts.get("machdep.cpu.brand_string"),
        architecture=facts.get("hw.machine"),
        isa=_isa(APPLE_FEATURES, {key for key in APPLE_FEATURES if facts.get(key) == "1"}),
        logical_cores=count("hw.logicalcpu"),
        usable_logical=count("hw.logicalcpu"),
        usable_physical=count("hw.physicalcpu"),
        performance_cores=fast if fast != count("hw.physicalcpu") else None,
        caches=tuple(Cache(level=n, instance_bytes=size, instances=1) for n, size in caches if size),
        max_mhz=None if hertz is None else hertz / 1e6,
    )
