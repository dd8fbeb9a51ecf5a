"""How does llama.cpp turn texts into vectors? In a context of its own, pooled as the model's file says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import BatchEntry, EmbedderFacts
from hybrid.backends.library import llama
from hybrid.backends.llama_batch import LlamaBatch
from hybrid.errors import LocalFailure, UnsupportedCapability
from hybrid.gguf import GgufHeader

FIRST_CELLS = 1024
"""Tokens of the context at first; it grows for a longer input and shrinks when all is done."""
PIECE_TOKENS = 128
"""Most tokens of a step of a causal model: llama.cpp makes a row of logits for each, nobody wants them, and a row of
152,000 takes 0.6 MB."""
SEQUENCES = 16

Vector = NDArray[np.float32]


def is_causal(header: GgufHeader) -> bool:
    """Say whether the model's tokens look only at those before them. Encoders declare that theirs look both ways."""
    return header.metadata.get(f"{header.architecture}.attention.causal", True) is not False


def can_generate(model: Any, header: GgufHeader) -> bool:
    """Say whether this engine can write text with the model: it decodes, and needs no encoder for it."""
    return is_causal(header) and bool(llama.llama_model_has_decoder(model)) and not llama.llama_model_has_encoder(model)


@dataclass(slots=True)
class _Pooled:
    """What is known of an unfinished input of a causal model: the sum of its hidden states, and how many they are."""

    total: NDArray[np.float64]
    count: int
    first: Vector


class LlamaCppEmbedder:
    """A second context over the weights of a loaded model.

    A causal model computes an input piece by piece, like a prompt; its hidden states are pooled here. Another must
    see an input whole, in one micro-batch (llama.cpp aborts otherwise), and pools by itself.
    """

    facts: EmbedderFacts

    def __init__(self, model: Any, header: GgufHeader, *, context_tokens: int, threads: int) -> None:
        """Raises: UnsupportedCapability if the model ranks texts instead, LocalFailure if there is no memory."""
        self._model = model
        self._context_tokens = context_tokens
        self._threads = threads
        self._dimensions = int(llama.llama_model_n_embd_out(model))
        self._is_causal = is_causal(header)
        self._pooling = _pooling(header)
        is_recurrent = llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
        self._sequences = 1 if is_recurrent else SEQUENCES
        self._pooled: dict[int, _Pooled] = {}
        self._ctx: Any = None
        self.cells = 0
        self.resize(1)

    def resize(self, cells: int) -> None:
        """Make the context anew where another size is wanted: powers of two from `FIRST_CELLS` to the longest input."""
        assert not self._pooled
        wanted = min(max(FIRST_CELLS, 1 << (cells - 1).bit_length()), max(self._context_tokens, cells))
        if wanted == self.cells:
            return
        self.close()
        params = llama.llama_context_default_params()
        params.n_ctx = wanted
        params.n_batch = params.n_ubatch = min(PIECE_TOKENS, wanted) if self._is_causal else wanted
        params.n_seq_max = self._sequences
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = True
        params.embeddings = True
        params.pooling_type = llama.LLAMA_POOLING_TYPE_NONE if self._is_causal else self._pooling
        self._ctx = llama.llama_init_from_model(self._model, params)
        if not self._ctx:
            raise LocalFailure(f"there is no memory for an embedding context of {wanted} tokens beside the model")
        self.cells = wanted
        self._memory = llama.llama_get_memory(self._ctx)
        self._batch = LlamaBatch(int(params.n_batch))
        self.facts = EmbedderFacts(
            batch_tokens=int(params.n_batch), sequences=self._sequences, is_whole=not self._is_causal
        )

    def compute(self, pieces: Sequence[BatchEntry]) -> list[Vector | None]:
        """Run one `llama_decode` over all pieces."""
        # Every place is wanted: its hidden state is part of the mean, or of what llama.cpp pools.
        self._batch.fill([msgspec.structs.replace(piece, logits=len(piece.tokens)) for piece in pieces])
        status = int(llama.llama_decode(self._ctx, self._batch.native))
        if status != 0:
            for piece in pieces:
                self.forget(piece.slot)
            raise LocalFailure(f"llama_decode failed on {self._batch.tokens} tokens to embed: status {status}")
        return self._pool(pieces) if self._is_causal else [self._native(piece) for piece in pieces]

    def forget(self, slot: int) -> None:
        """Free the cells of an input."""
        self._pooled.pop(slot, None)
        if self._memory:
            llama.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def _native(self, piece: BatchEntry) -> Vector | None:
        pointer = llama.llama_get_embeddings_seq(self._ctx, piece.slot)
        if not pointer:
            raise LocalFailure("llama.cpp pooled no embedding for an input")
        vector = np.ctypeslib.as_array(pointer, shape=(self._dimensions,)).copy()
        self.forget(piece.slot)
        return vector

    def _pool(self, pieces: Sequence[BatchEntry]) -> list[Vector | None]:
        pointer = llama.llama_get_embeddings(self._ctx)
        if not pointer:
            raise LocalFailure("llama.cpp gave no hidden states")
        states = np.ctypeslib.as_array(pointer, shape=(self._batch.tokens, self._dimensions))
        vectors: list[Vector | None] = []
        row = 0
        for piece in pieces:
            own = states[row : row + len(piece.tokens)]
            row += len(piece.tokens)
            pooled = self._pooled.get(piece.slot)
            if pooled is None:
                pooled = self._pooled[piece.slot] = _Pooled(np.zeros(self._dimensions), 0, own[0].copy())
            pooled.total += own.sum(axis=0, dtype=np.float64)
            pooled.count += len(own)
            vectors.append(self._end(piece.slot, pooled, own[-1]) if piece.logits else None)
        return vectors

    def _end(self, slot: int, pooled: _Pooled, last: Vector) -> Vector:
        self.forget(slot)
        if self._pooling == llama.LLAMA_POOLING_TYPE_LAST:
            return last.copy()
        if self._pooling == llama.LLAMA_POOLING_TYPE_CLS:
            return pooled.first
        return (pooled.total / pooled.count).astype(np.float32)

    def close(self) -> None:
        """Free the context; the model's weights stay."""
        if self._ctx:
            llama.llama_free(self._ctx)
        self._ctx, self.cells = None, 0


def _pooling(header: GgufHeader) -> int:
    """Give what the file declares; the mean where it declares nothing, as a model that generates does."""
    declared = header.metadata.get(f"{header.architecture}.pooling_type")
    if declared == llama.LLAMA_POOLING_TYPE_RANK:
        raise UnsupportedCapability(["embeddings"], where=f"{header.path.stem}, which ranks texts,")
    known = (llama.LLAMA_POOLING_TYPE_MEAN, llama.LLAMA_POOLING_TYPE_CLS, llama.LLAMA_POOLING_TYPE_LAST)
    return int(declared) if isinstance(declared, int) and declared in known else int(llama.LLAMA_POOLING_TYPE_MEAN)
