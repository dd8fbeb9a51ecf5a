"""How do steps follow each other without Python between them? The extension calls llama.cpp by addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp as llama

from hybrid.backends.llama_batch import LlamaBatch
from hybrid.native import IS_NATIVE, RowDraw, Sampled


class LlamaRun:
    """Runs of steps in one context. flag: what ends a run after the step it is in, while it is up."""

    def __init__(self, context: Any, vocabulary: Any, batch: LlamaBatch) -> None:
        self._batch = batch
        self._context, self._vocabulary = int(context), int(vocabulary)
        self.flag = ctypes.c_bool(False)
        self.is_there = _can_call(batch)

    def steps(
        self, draws: Sequence[RowDraw], *, vocab_tokens: int, steps: int, threads: int
    ) -> tuple[int, list[list[Sampled | ValueError]]]:
        """Compute what the batch holds, then what was drawn, and so on; give llama.cpp's last status and the draws.

        Each token of the batch must be another sequence's and want its row.
        """
        from hybrid.native._native import run_draws

        decode, logits_at, is_end = addresses()
        return run_draws(
            decode=decode,
            logits_at=logits_at,
            is_end=is_end,
            context=self._context,
            vocabulary=self._vocabulary,
            batch=ctypes.addressof(self._batch.native),
            flag=ctypes.addressof(self.flag),
            draws=draws,
            n_vocab=vocab_tokens,
            steps=steps,
            threads=threads,
        )


def addresses() -> tuple[int, int, int]:
    """Where llama.cpp's functions are that a run calls: decode, the row of a token, whether a token ends a text."""
    functions = (llama.llama_decode, llama.llama_get_logits_ith, llama.llama_vocab_is_eog)
    decode, logits_at, is_end = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    return decode, logits_at, is_end


def _can_call(batch: LlamaBatch) -> bool:
    """See that the extension is there and knows the batch as this library lays it out."""
    if not IS_NATIVE:
        return False
    from hybrid.native._native import batch_bytes

    return batch_bytes() == ctypes.sizeof(batch.native) and all(addresses())
