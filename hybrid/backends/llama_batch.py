"""How does a step become a `llama_batch`? Arrays that are filled slice by slice, not token by token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid.backends.base import BatchEntry
from hybrid.backends.library import llama


class LlamaBatch:
    """A batch of at most `tokens` tokens, each of one sequence.

    The struct borrows these arrays. They are numpy's, not those of `llama_batch_init`: 512 tokens take 20
    microseconds to write here, and 1.5 ms through ctypes.

    Layout: `struct llama_batch` in llama.cpp's include/llama.h.
    """

    def __init__(self, tokens: int) -> None:
        self._token = np.zeros(tokens, dtype=np.int32)
        self._position = np.zeros(tokens, dtype=np.int32)
        self._slot = np.zeros(tokens, dtype=np.int32)
        self._slots_each = np.ones(tokens, dtype=np.int32)
        self._wants = np.zeros(tokens, dtype=np.int8)
        start, step = self._slot.ctypes.data, self._slot.itemsize
        # The struct wants a pointer to each token's list of sequences; ours are lists of one, side by side.
        self._lists = np.arange(start, start + step * tokens, step, dtype=np.uintp)
        self.native = llama.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, llama.llama_token),
            embd=None,
            pos=_pointer(self._position, llama.llama_pos),
            n_seq_id=_pointer(self._slots_each, ctypes.c_int32),
            seq_id=ctypes.cast(
                ctypes.c_void_p(self._lists.ctypes.data), ctypes.POINTER(ctypes.POINTER(llama.llama_seq_id))
            ),
            logits=_pointer(self._wants, ctypes.c_int8),
        )

    @property
    def tokens(self) -> int:
        """Tokens it holds now."""
        return int(self.native.n_tokens)

    def fill(self, entries: Sequence[BatchEntry]) -> int:
        """Write the entries; return how many rows of logits they ask for.

        Raises: ValueError, before anything native runs, if they are more than the batch takes or ask for rows of
            tokens that are not there.
        """
        count = sum(len(entry.tokens) for entry in entries)
        if not 0 < count <= len(self._token):
            raise ValueError(f"a batch takes 1 to {len(self._token)} tokens; got {count}")
        row = rows = 0
        self._wants[:count] = 0
        for entry in entries:
            size = len(entry.tokens)
            if not 0 <= entry.logits <= size or entry.position < 0 or entry.slot < 0:
                raise ValueError(
                    f"{entry.logits} rows of {size} tokens at {entry.position} of slot {entry.slot} make no sense"
                )
            end = row + size
            self._token[row:end] = entry.tokens
            self._position[row:end] = np.arange(entry.position, entry.position + size) if size > 1 else entry.position
            self._slot[row:end] = entry.slot
            self._wants[end - entry.logits : end] = 1
            row, rows = end, rows + entry.logits
        self.native.n_tokens = count
        return rows


def _pointer(array: Any, kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
