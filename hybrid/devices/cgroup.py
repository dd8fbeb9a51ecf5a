"""How much of the machine do control groups leave to this process? Versions 1 and 2, nested groups included.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst, scheduler/sched-bwc.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hybrid.devices.probe import read_text

NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes "no limit" as a number near 2^63; more than an exabyte is none."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The tightest limits on the way from this process's group up. None: there is none."""

    quota_cores: float | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None


def parse_cpu_max(text: str) -> float | None:
    """Read version 2's `cpu.max`, "QUOTA PERIOD" in microseconds; "max" is no quota."""
    quota, _, period = text.partition(" ")
    return _ratio(quota, period or "100000")


def _ratio(quota: str, period: str) -> float | None:
    try:
        quota_us, period_us = int(quota), int(period)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def parse_bytes(text: str | None) -> int | None:
    """Read a limit in bytes; "max", -1 and version 1's huge number are none."""
    try:
        value = int(text or "max")
    except ValueError:
        return None
    return value if 0 <= value < NO_LIMIT_BYTES else None


def parse_stat(text: str | None, key: str) -> int | None:
    """Give one number of a `memory.stat`."""
    for line in (text or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return None


def parse_membership(text: str) -> dict[str, PurePosixPath]:
    """Read /proc/self/cgroup: controller -> group; version 2's single line has the empty controller."""
    groups: dict[str, PurePosixPath] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            groups |= {controller: PurePosixPath(parts[2]) for controller in parts[1].split(",")}
    return groups


def read_limits(root: Path = Path("/")) -> Limits:
    """Look up the limits that hold for this process; inside a container its own group is often mounted as the root."""
    groups = parse_membership(read_text(root / "proc/self/cgroup") or "")
    base = root / "sys/fs/cgroup"
    if (base / "cgroup.controllers").exists():
        return _tightest([_v2(folder) for folder in _upwards(base, groups.get(""))])
    found = [_v1_cpu(folder) for name in ("cpu", "cpu,cpuacct") for folder in _upwards(base / name, groups.get("cpu"))]
    found += [_v1_memory(folder) for folder in _upwards(base / "memory", groups.get("memory"))]
    return _tightest(found)


def _upwards(mount: Path, group: PurePosixPath | None) -> Iterator[Path]:
    """Yield the folders of a group and of those it lies in; the mount itself always."""
    parts = [part for part in (group.parts if group else ()) if part not in ("/", "..")]
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        if folder.is_dir():
            yield folder


def _v2(folder: Path) -> Limits:
    limit = parse_bytes(read_text(folder / "memory.max"))
    soft = parse_bytes(read_text(folder / "memory.high"))
    limit = min((n for n in (limit, soft) if n is not None), default=None)
    used = parse_bytes(read_text(folder / "memory.current"))
    cached = _cached(folder, "inactive_file", "active_file")
    quota = parse_cpu_max(read_text(folder / "cpu.max") or "max")
    return Limits(quota, limit, None if limit is None or used is None else max(0, used - cached))


def _cached(folder: Path, *kinds: str) -> int:
    """Bytes of cached files, which count as used and are given back under pressure, lately read or not.

    Weights that are mapped must not count against themselves: a file that was read twice lies among the active ones.
    The kernel's own MemAvailable of the whole machine counts both kinds too.
    """
    stat = read_text(folder / "memory.stat")
    return sum(parse_stat(stat, kind) or 0 for kind in kinds)


def _v1_cpu(folder: Path) -> Limits:
    quota, period = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
    return Limits(quota_cores=_ratio(quota or "-1", period or "100000"))


def _v1_memory(folder: Path) -> Limits:
    limit = parse_bytes(read_text(folder / "memory.limit_in_bytes"))
    used = parse_bytes(read_text(folder / "memory.usage_in_bytes"))
    cached = _cached(folder, "total_inactive_file", "total_active_file")
    return Limits(None, limit, None if limit is None or used is None else max(0, used - cached))


def _tightest(found: list[Limits]) -> Limits:
    quota = min((limits.quota_cores for limits in found if limits.quota_cores is not None), default=None)
    bounded = [(_left(limits), limits) for limits in found if limits.memory_bytes is not None]
    tight = min(bounded, key=lambda pair: pair[0])[1] if bounded else Limits()
    return Limits(quota, tight.memory_bytes, tight.memory_used_bytes)


def _left(limits: Limits) -> int:
    return (limits.memory_bytes or 0) - (limits.memory_used_bytes or 0)
