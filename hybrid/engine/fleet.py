"""Which local models are in memory? Loaded when asked for, unloaded when idle or when another needs the room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hybrid.engine.process import FallBack, SupervisorOptions
from hybrid.engine.supervisor import Supervisor, WorkerState
from hybrid.errors import ModelNotReady

log = logging.getLogger(__name__)

LOAD_LIMIT_S = 120.0
"""How long a request without a deadline waits for a model to load."""
IDLE_CHECKS = 4
"""How often within `keep_alive_s` idle models are looked for."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """How to load a model, and the memory it will take: weights and KV cache, estimated from its header.

    fall_back: as `Supervisor` takes it.
    """

    options: SupervisorOptions
    needed_bytes: int
    fall_back: FallBack | None = None


@dataclass(slots=True)
class _Loaded:
    """A model in memory. waiting: requests that wait until it is ready."""

    supervisor: Supervisor
    used_s: float = field(default_factory=time.monotonic)
    waiting: int = 0

    @property
    def is_wanted(self) -> bool:
        return self.waiting > 0 or self.supervisor.is_busy

    async def settle(self) -> None:
        """Wait until it is ready or has failed. Nobody takes it away meanwhile."""
        self.waiting += 1
        try:
            await self.supervisor.wait_settled()
        finally:
            self.waiting -= 1
            self.used_s = time.monotonic()


class Fleet:
    """The local models by name. Each has a worker process of its own, so unloading frees its memory for certain.

    Args:
        default: the name of the model that `local` means; None: there is no local model.
        first: that model's supervisor where it was spawned already.
        others: gives the names of the other models that may be asked for.
        plan: says how to load a name. Raises HybridError if it cannot be.
        available_bytes: memory that is free now.
        keep_alive_s: an idle model is unloaded after this long; 0 keeps it.
    """

    def __init__(
        self,
        *,
        default: str | None,
        first: Supervisor | None = None,
        others: Callable[[], tuple[str, ...]] = tuple,
        plan: Callable[[str], ModelPlan],
        available_bytes: Callable[[], int],
        keep_alive_s: float,
    ) -> None:
        self.default = default
        self._others = others
        self._plan = plan
        self._available_bytes = available_bytes
        self._keep_alive_s = keep_alive_s
        self._loaded: dict[str, _Loaded] = {}
        self._loading = asyncio.Lock()
        self._janitor: asyncio.Task[None] | None = None
        if first is not None and default is not None:
            self._loaded[default] = _Loaded(first)

    def start(self) -> None:
        """Watch the worker that was spawned before the event loop ran, and unload what is idle from now on."""
        for loaded in self._loaded.values():
            loaded.supervisor.start()
        if self._keep_alive_s > 0:
            self._janitor = asyncio.get_running_loop().create_task(self._unload_idle(), name="model-keep-alive")

    @property
    def names(self) -> tuple[str, ...]:
        """Every model that may be asked for, the default first."""
        first = () if self.default is None else (self.default,)
        return (*first, *(name for name in self._others() if name != self.default))

    def peek(self, name: str | None = None) -> Supervisor | None:
        """Give a model's supervisor if it is loaded or loading. Changes nothing."""
        loaded = self._loaded.get(name or self.default or "")
        return None if loaded is None else loaded.supervisor

    async def acquire(self, name: str | None = None, *, wait_s: float | None = None) -> Supervisor:
        """Give a ready model, loading it first if need be and waiting for that up to `wait_s`.

        Raises: ModelNotReady saying why it is not, HybridError if it cannot be loaded.
        """
        wanted = name or self.default
        if wanted is None:
            raise ModelNotReady("no local model is configured")
        limit_s = LOAD_LIMIT_S if wait_s is None else min(wait_s, LOAD_LIMIT_S)
        try:
            async with asyncio.timeout(limit_s):
                loaded = self._loaded.get(wanted)
                if loaded is None or loaded.supervisor.state is WorkerState.FAILED:
                    loaded = await self._load(wanted)
                loaded.used_s = time.monotonic()
                if loaded.supervisor.state is WorkerState.LOADING:
                    await loaded.settle()
        except TimeoutError as late:
            raise ModelNotReady(f"{wanted} is still loading after {limit_s:.0f} s; it goes on, ask again") from late
        state, problem = loaded.supervisor.state, loaded.supervisor.problem
        if state is not WorkerState.READY:
            raise ModelNotReady(f"{wanted} is {state.value}" + (f": {problem}" if problem else ""))
        return loaded.supervisor

    async def stop(self) -> None:
        """End every worker."""
        if self._janitor is not None:
            self._janitor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._janitor
        for name in list(self._loaded):
            await self._unload(name)

    async def _load(self, name: str) -> _Loaded:
        """Find the loaded model or start loading it; one decision about memory at a time."""
        async with self._loading:
            loaded = self._loaded.get(name)
            if loaded is not None and loaded.supervisor.state is WorkerState.FAILED:
                # Asked for again: its file may have been mended meanwhile.
                await self._unload(name)
                loaded = None
            if loaded is None:
                plan = await asyncio.to_thread(self._plan, name)
                await self._make_room(name, plan.needed_bytes)
                log.info("loading %s", name)
                loaded = self._loaded[name] = _Loaded(Supervisor(plan.options, plan.fall_back))
                loaded.supervisor.start()
            return loaded

    async def _make_room(self, name: str, needed_bytes: int) -> None:
        """Unload idle models, the longest unused first, until a new one fits.

        What is loading has not taken its memory yet, so how much is free shows only after it.
        """
        for loaded in list(self._loaded.values()):
            if loaded.supervisor.state is WorkerState.LOADING:
                await loaded.supervisor.wait_settled()
        while (available := self._available_bytes()) < needed_bytes:
            idle = [(loaded.used_s, other) for other, loaded in self._loaded.items() if not loaded.is_wanted]
            if not idle:
                busy = ", ".join(self._loaded) or "nothing of ours"
                raise ModelNotReady(
                    f"{name} needs about {needed_bytes / 1e9:.1f} GB and {available / 1e9:.1f} GB are free "
                    f"(in use: {busy}); try later, or take a smaller model or local.context_tokens"
                )
            await self._unload(min(idle)[1])

    async def _unload(self, name: str) -> None:
        log.info("unloading %s", name)
        await self._loaded.pop(name).supervisor.stop()

    async def _unload_idle(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive_s / IDLE_CHECKS)
            async with self._loading:
                now_s = time.monotonic()
                for name, loaded in list(self._loaded.items()):
                    if loaded.is_wanted or loaded.supervisor.state is WorkerState.LOADING:
                        loaded.used_s = now_s
                    elif now_s - loaded.used_s >= self._keep_alive_s:
                        await self._unload(name)
