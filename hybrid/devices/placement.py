"""Where should a model run on this machine, how much memory will that take, and how fast will it be?

Pure: facts in, a decision with its reasons out. Only `hybrid serve` and the catalogue's commands act on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from hybrid.devices.host import Gpu, Host
from hybrid.devices.mending import Device, Verdict, judge
from hybrid.devices.needs import Needs, layout_isa, predict
from hybrid.devices.rates import Measured, Prediction, Roof, cpu_roof, gpu_roof, predict_speed
from hybrid.devices.shape import ModelShape

Backend: TypeAlias = Literal["llama_cpp", "torch"]

DEFAULT_CONTEXT_TOKENS = 8192
CPU_SLOTS, GPU_SLOTS = 8, 16
"""On CPUs the gain per added sequence fades at about 8, on GPUs later; the cache is shared, so slots cost no memory."""
GPU_RESERVE_BYTES = 300_000_000
"""Left free on each GPU: its screen, other programs, and what a prediction misses."""
SHORTEST_CONTEXT_TOKENS = 512
SEPARATE_SHARE = 0.10
"""A cache for each slot is taken where all of them take no more than this share of the memory that is free."""
NO_MEASUREMENT = Measured()
NO_TORCH = "a Hugging Face folder needs torch, which is not installed"
SMALLER = "take a smaller model: `hybrid models recommend` names those that fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user or the configuration asks for; 0 and None leave it to us."""

    context_tokens: int = 0
    slots: int = 0
    threads: int = 0
    gpu_layers: int | None = None
    kv_type: str = "f16"


DEFAULTS = Wanted()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How a model is to be loaded, what that takes and gives, and why.

    gpu_layers: blocks on the GPUs, one more than the model has for its output layer as well. warnings: what the user
    should mend or know, to be said loudly. prediction: None where a device's speed is not known at all.
    """

    backend: Backend
    device: Device
    gpus: tuple[Gpu, ...]
    gpu_layers: int
    context_tokens: int
    slots: int
    threads: int
    kv_type: str
    needs: Needs
    prediction: Prediction | None
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def host_bytes(self) -> int:
        """Main memory that must be free, with what lies on GPUs that share it."""
        return host_bytes(self.gpus, self.needs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A model that does not fit, in one sentence. largest_context_tokens: with which it would; None: with none.

    is_for_good: not even an otherwise idle machine could hold it.
    """

    message: str
    needed_bytes: int
    usable_bytes: int
    largest_context_tokens: int | None
    is_for_good: bool


def is_worth_separating(separate_bytes: int, usable_bytes: int | None, *, has_gpu: bool) -> bool:
    """Say whether each slot should get a cache of its own, which takes `separate_bytes` for all.

    Attention looks through every used cell of a common pool: with finished conversations kept in it, sixteen sequences
    of a 135M model decoded 1.6 times slower than in caches of their own (hybrid/engine/README.md). The price is memory.
    """
    return not has_gpu and usable_bytes is not None and separate_bytes <= SEPARATE_SHARE * usable_bytes


def place(
    host: Host, shape: ModelShape, wanted: Wanted = DEFAULTS, measured: Measured = NO_MEASUREMENT
) -> Placement | Refusal:
    """Decide how to load a model on a machine."""
    verdicts = judge(host)
    is_torch = shape.format == "huggingface"
    device, gpus = choose_gpus(torch_verdicts(host) if is_torch else verdicts)
    context, context_why = _context(shape, wanted)
    layers, layers_why = _Case(host, shape, wanted, gpus).layers(context)
    if layers == 0:
        device, gpus = "cpu", ()
    case = _Case(host, shape, wanted, gpus)
    refusal = case.refusal(layers, context)
    if refusal is not None:
        return refusal
    needs = case.needs(layers, context)
    placement = Placement(
        backend="torch" if is_torch else "llama_cpp",
        device=device,
        gpus=gpus,
        gpu_layers=layers,
        context_tokens=context,
        slots=wanted.slots or (GPU_SLOTS if layers > shape.block_count else CPU_SLOTS),
        threads=wanted.threads or host.cpu.threads,
        kv_type=wanted.kv_type,
        needs=needs,
        prediction=None,
        reasons=(context_why, layers_why, _threads_why(host, wanted)),
        warnings=_warnings(host, () if is_torch else verdicts, gpus, needs)
        + ((NO_TORCH,) if is_torch and host.engine.torch_version is None else ()),
    )
    return replace(placement, prediction=_prediction(host, shape, placement, measured))


def host_bytes(gpus: tuple[Gpu, ...], needs: Needs) -> int:
    """Give the main memory that must be free; a GPU without memory of its own takes its part from there too."""
    is_shared = bool(gpus) and all(gpu.shares_memory for gpu in gpus)
    return needs.host.needed_bytes + (needs.gpu.total_bytes if is_shared else 0)


def torch_verdicts(host: Host) -> tuple[Verdict, ...]:
    """Judge each GPU for torch, which brings its own libraries: it needs the driver, and a build for the vendor."""
    version = host.engine.torch_version or ""
    devices: dict[str, Device] = {"apple": "metal"}
    if "+cpu" not in version:
        devices |= {"amd": "rocm"} if "+rocm" in version else {"nvidia": "cuda"}
    return tuple(
        Verdict(gpu, devices.get(gpu.vendor) if version and gpu.problem is None else None) for gpu in host.gpus
    )


def choose_gpus(verdicts: tuple[Verdict, ...]) -> tuple[Device, tuple[Gpu, ...]]:
    """Take GPUs of one kind: cards before what shares main memory, a vendor's own backend before Vulkan."""
    groups: dict[tuple[bool, bool, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.device is not None:
            key = (not verdict.gpu.shares_memory, verdict.device != "vulkan", verdict.device)
            groups.setdefault(key, []).append(verdict)
    if not groups:
        return "cpu", ()
    best = max(groups, key=lambda key: (*key[:2], sum(v.gpu.memory_free_bytes or 0 for v in groups[key])))
    chosen = groups[best]
    return chosen[0].device or "cpu", tuple(verdict.gpu for verdict in chosen)


def _context(shape: ModelShape, wanted: Wanted) -> tuple[int, str]:
    asked = wanted.context_tokens or DEFAULT_CONTEXT_TOKENS
    trained = shape.trained_context_tokens
    if trained is not None and trained < asked:
        return trained, f"context {trained}: the model was trained for no more"
    return asked, f"context {asked}: " + ("as configured" if wanted.context_tokens else "the default")


def _has_repack(host: Host) -> bool:
    """Whether the installed kernels were built with repacking; assumed where they could not be asked."""
    return not host.engine.cpu_features or "REPACK" in host.engine.cpu_features


def gpu_room_bytes(host: Host, gpus: tuple[Gpu, ...]) -> int | None:
    """What may be put on these GPUs together; those that share main memory count it once. None: nobody tells."""
    if not gpus:
        return 0
    if all(gpu.shares_memory for gpu in gpus):
        most = [limit for gpu in gpus if (limit := gpu.limit_bytes) is not None]
        most += [] if (usable := host.memory.usable_bytes) is None else [usable - GPU_RESERVE_BYTES]
        return max(0, min(most)) if most else None
    free = [gpu.memory_free_bytes for gpu in gpus if gpu.memory_free_bytes is not None]
    return sum(max(0, one - GPU_RESERVE_BYTES) for one in free) if len(free) == len(gpus) else None


def _raising(host: Host, gpus: tuple[Gpu, ...]) -> str:
    """How a limit of the system, and not what is free, could be moved; empty where it is not what binds."""
    room, usable = gpu_room_bytes(host, gpus), host.memory.usable_bytes
    is_limited = any(gpu.limit_bytes is not None and gpu.limit_bytes == room for gpu in gpus)
    if not is_limited or usable is None:
        return ""
    if gpus[0].vendor != "apple":
        return " (the driver sets that limit: amdgpu's GTT, which ttm.pages_limit on the kernel's command line moves)"
    most_mib = (usable - GPU_RESERVE_BYTES) >> 20
    return f" (macOS sets that limit; `sudo sysctl iogpu.wired_limit_mb={most_mib}` raises it until the next start)"


def _threads_why(host: Host, wanted: Wanted) -> str:
    cpu = host.cpu
    if wanted.threads:
        return f"{wanted.threads} threads: as configured"
    if cpu.quota_cores is not None and cpu.threads < (cpu.usable_physical or cpu.threads + 1):
        return f"{cpu.threads} threads: the control group grants {cpu.quota_cores:g} cores"
    if cpu.performance_cores is not None and cpu.performance_cores == cpu.threads:
        return f"{cpu.threads} threads: one a fast core, for the slow ones would hold them up"
    return f"{cpu.threads} threads: one a physical core that this process may use"


@dataclass(frozen=True, slots=True)
class _Case:
    """One model on one machine with the GPUs that were chosen: what each way to load it would take."""

    host: Host
    shape: ModelShape
    wanted: Wanted
    gpus: tuple[Gpu, ...]

    def needs(self, layers: int, context_tokens: int) -> Needs:
        isa = layout_isa(self.shape, self.host.cpu.isa, self.host.engine.multiplier)
        return predict(
            self.shape,
            context_tokens=context_tokens,
            isa=isa if _has_repack(self.host) else (),
            gpu_layers=layers,
            gpus=max(len(self.gpus), 1),
            kv_type=self.wanted.kv_type,
        )

    def host_bytes(self, layers: int, context_tokens: int) -> int:
        """Main memory it would take."""
        return host_bytes(self.gpus, self.needs(layers, context_tokens))

    def layers(self, context_tokens: int) -> tuple[int, str]:
        """Put as many blocks on the GPUs as fit with their share of the cache."""
        every = self.shape.block_count + 1
        if not self.gpus:
            why = "no GPU was found" if not self.host.gpus else "no GPU that was found can be used"
            return 0, f"on the CPU: {why}"
        names = ", ".join(sorted({gpu.name for gpu in self.gpus}))
        asked = self.wanted.gpu_layers
        if asked is not None:
            return min(asked, every), f"{min(asked, every)} of {every} layers on {names}: as configured"
        room = gpu_room_bytes(self.host, self.gpus)
        if room is None:
            return every, f"every layer on {names}, which do not tell what is free: llama.cpp will say whether it fits"
        for layers in range(every, 0, -1):
            if self._fits(layers, context_tokens, room):
                how = "every layer" if layers == every else f"{layers} of {every} layers"
                raising = "" if layers == every else _raising(self.host, self.gpus)
                return layers, f"{how} on {names}, where {room / 1e9:.1f} GB may be used{raising}"
        return 0, f"on the CPU: not one layer fits into the {room / 1e9:.1f} GB that may be used on {names}"

    def _fits(self, layers: int, context_tokens: int, room_bytes: int) -> bool:
        """Whether so many layers fit; a GPU that shares main memory must leave the rest of the model its part of it."""
        needs = self.needs(layers, context_tokens)
        usable = self.host.memory.usable_bytes
        is_shared = all(gpu.shares_memory for gpu in self.gpus)
        is_rest_left = not is_shared or usable is None or host_bytes(self.gpus, needs) <= usable
        return needs.gpu.total_bytes <= room_bytes and is_rest_left

    def refusal(self, layers: int, context_tokens: int) -> Refusal | None:
        """Say no where main memory is too small."""
        memory = self.host.memory
        usable, most = memory.usable_bytes, memory.most_bytes
        needed = self.host_bytes(layers, context_tokens)
        if usable is None or needed <= usable:
            return None
        is_for_good = most is not None and needed > most
        largest = self.largest_context(layers, context_tokens, usable)
        there = f"this machine has {most / 1e9:.1f} GB" if is_for_good and most else f"{usable / 1e9:.1f} GB are free"
        is_limited = memory.limit_bytes is not None and most == memory.limit_bytes
        way_out = SMALLER if is_for_good else f"close other programs, or {SMALLER}"
        message = (
            f"{self.shape.name} needs about {needed / 1e9:.1f} GB with a context of {context_tokens}, and {there}"
            + (" (a control group's limit)" if is_limited else "")
            + (f"; it fits with local.context_tokens = {largest}" if largest else f"; {way_out}")
        )
        return Refusal(
            message=message,
            needed_bytes=needed,
            usable_bytes=usable,
            largest_context_tokens=largest,
            is_for_good=is_for_good,
        )

    def largest_context(self, layers: int, context_tokens: int, usable_bytes: int) -> int | None:
        """Halve the context until it fits; None where it never does."""
        context = context_tokens // 2
        while context >= SHORTEST_CONTEXT_TOKENS:
            if self.host_bytes(layers, context) <= usable_bytes:
                return context
            context //= 2
        return None


def _warnings(host: Host, verdicts: tuple[Verdict, ...], gpus: tuple[Gpu, ...], needs: Needs) -> tuple[str, ...]:
    warnings = [
        f"{verdict.gpu.name} is not used: {verdict.problem}; {verdict.remedy}"
        for verdict in verdicts
        if verdict.problem is not None
    ]
    memory, cpu = host.memory, host.cpu
    if memory.usable_bytes is None:
        warnings.append("free memory is not known, so nothing was checked against it")
    elif host_bytes(gpus, needs) > 0.9 * memory.usable_bytes:
        warnings.append(
            "it will take more than nine tenths of the free memory; other programs may be swapped out or ended"
        )
    if memory.pressure_stalled is not None and memory.pressure_stalled > 0.1:
        warnings.append(f"programs wait for memory {memory.pressure_stalled:.0%} of the time already")
    if cpu.quota_cores is not None and cpu.quota_cores < 1 and not gpus:
        warnings.append(
            f"the control group grants {cpu.quota_cores:g} of a core, so the model will stall between slices"
        )
    return tuple(warnings)


def _prediction(host: Host, shape: ModelShape, placement: Placement, measured: Measured) -> Prediction | None:
    every = shape.block_count + 1
    share = placement.gpu_layers / every
    shares: list[tuple[float, Roof]] = []
    if share > 0:
        roof = gpu_roof(placement.gpus, measured)
        if roof is None:
            return None
        shares.append((share, roof))
    if share < 1:
        multiplier = host.engine.multiplier
        shares.append((1 - share, cpu_roof(host.cpu, placement.threads, host.board, shape, measured, multiplier)))
    return predict_speed(
        shape, shares, slots=placement.slots, context_tokens=placement.context_tokens, kv_type=placement.kv_type
    )
