"""What is known of a machine? Values only; what could not be found out is None, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Vendor: TypeAlias = Literal["nvidia", "amd", "apple", "intel", "other"]
Outcome: TypeAlias = Literal["found", "absent", "failed"]
Multiplier: TypeAlias = Literal["hybrid", "ggml"]
"""Who multiplies quantised weights with several columns at once, as `backends.matmul` knows it."""

VENDORS: Mapping[int, Vendor] = {0x10DE: "nvidia", 0x1002: "amd", 0x106B: "apple", 0x8086: "intel"}
"""PCI vendor numbers of those who make GPUs one computes with."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How one look at the machine ended: found something, nothing there to ask, or failed and why."""

    name: str
    outcome: Outcome
    detail: str
    took_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """One level of cache, with the bytes of one instance and how many there are. Instruction caches are left out."""

    level: int
    instance_bytes: int
    instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processors, as far as this process may use them.

    isa: what the kernels care for, such as `avx2`; logical_cores: in the machine; usable_logical: in our affinity mask.
    usable_physical: cores of those, SMT siblings counted once. quota_cores: the cgroup's share, None without one.
    performance_cores: the fast ones where cores differ. max_mhz: the highest clock the system tells.
    """

    model: str | None = None
    architecture: str | None = None
    isa: tuple[str, ...] = ()
    logical_cores: int | None = None
    usable_logical: int | None = None
    usable_physical: int | None = None
    performance_cores: int | None = None
    quota_cores: float | None = None
    caches: tuple[Cache, ...] = ()
    max_mhz: float | None = None

    @property
    def threads(self) -> int:
        """Threads to compute with: fast physical cores we may use, not more than the quota, at least one."""
        counts = [n for n in (self.usable_physical or self.usable_logical, self.performance_cores) if n]
        cores = min(counts, default=1)
        return max(1, cores if self.quota_cores is None else min(cores, int(self.quota_cores)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Main memory. `limit_bytes`: the cgroup's, with what it has used of it that cannot be given back.

    pressure_stalled: share of the last 10 s in which something waited for memory, where the kernel tells.
    """

    total_bytes: int | None = None
    available_bytes: int | None = None
    limit_bytes: int | None = None
    limit_used_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    pressure_stalled: float | None = None

    @property
    def usable_bytes(self) -> int | None:
        """What a new process may take: free memory, within what the cgroup still allows."""
        left = None if self.limit_bytes is None else max(0, self.limit_bytes - (self.limit_used_bytes or 0))
        known = [n for n in (self.available_bytes, left) if n is not None]
        return min(known, default=None)

    @property
    def most_bytes(self) -> int | None:
        """What a process could take if nothing else ran."""
        return min((n for n in (self.total_bytes, self.limit_bytes) if n is not None), default=None)


METAL = ("MTL", "Metal")
"""What ggml calls the backend of Apple's GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, by whichever tool told of it.

    pci: its address, such as `0000:01:00.0`. shares_memory: it has none of its own, so a free byte is counted once.
    limit_bytes: the most of the main memory that it may take, where it shares that and the system sets a limit.
    runtime: the compute library's version the driver offers (CUDA, ROCm). compute: the vendor's name of its generation,
    such as `8.9` or `gfx1100`. problem: why it cannot be used.
    """

    name: str
    vendor: Vendor
    source: str
    pci: str | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    shares_memory: bool = False
    limit_bytes: int | None = None
    driver: str | None = None
    runtime: str | None = None
    compute: str | None = None
    power_limit_w: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDevice:
    """One device of the installed ggml: `kind` is cpu, gpu, igpu, accel or meta; `backend` such as CUDA or CPU."""

    name: str
    description: str
    backend: str
    kind: str
    memory_free_bytes: int | None
    memory_total_bytes: int | None
    pci: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What the installed llama-cpp-python was built for. `backends`: ggml's, such as CPU, CUDA, ROCm, MTL, Vulkan.

    multiplier: who multiplies quantised weights on the CPU where nothing is configured.
    """

    package_version: str | None = None
    ggml_version: str | None = None
    ggml_commit: str | None = None
    backends: tuple[str, ...] = ()
    devices: tuple[EngineDevice, ...] = ()
    cpu_features: tuple[str, ...] = ()
    multiplier: Multiplier = "ggml"
    torch_version: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether it could be asked at all."""
        return bool(self.backends)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The whole machine at one moment."""

    system: str = "Linux"
    machine: str = "x86_64"
    board: str | None = None
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    gpus: tuple[Gpu, ...] = ()
    engine: Engine = Engine()
    probes: tuple[Probe, ...] = ()
