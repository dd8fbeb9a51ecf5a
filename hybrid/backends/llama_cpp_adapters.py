"""How does llama.cpp run a model with a LoRA adapter? Loaded once beside the model, applied to a whole context."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.backends.base import Adapter
from hybrid.backends.library import llama
from hybrid.errors import LocalFailure, ModelFileError


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter in memory, and its strength."""

    pointer: Any
    scale: float


def load_adapters(model: Any, adapters: Sequence[Adapter]) -> list[LoadedAdapter]:
    """Load every adapter for a model.

    Raises: ModelFileError if llama.cpp cannot apply one of them to it.
    """
    loaded = []
    for adapter in adapters:
        pointer = llama.llama_adapter_lora_init(model, str(adapter.path).encode())
        if not pointer:
            raise ModelFileError(
                f"{adapter.path.name} has a sound header, but llama.cpp cannot apply it to this model: it was made "
                "for another one, or its format is newer than the installed llama-cpp-python"
            )
        loaded.append(LoadedAdapter(pointer, adapter.scale))
    return loaded


def set_adapter(ctx: Any, adapter: LoadedAdapter | None) -> None:
    """Apply one adapter, or none, to all that the context computes from now on."""
    if adapter is None:
        status = llama.llama_set_adapters_lora(ctx, None, 0, None)
    else:
        pointers = (llama.llama_adapter_lora_p_ctypes * 1)(adapter.pointer)
        status = llama.llama_set_adapters_lora(ctx, pointers, 1, (ctypes.c_float * 1)(adapter.scale))
    if status != 0:
        raise LocalFailure(f"llama.cpp did not apply the adapter: status {status}")
