"""What must a local backend give the engine? Tokens in, rows of logits out, and the facts of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from hybrid.backends.matmul import Matmul, Multiplier

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLTokenizer
    from numpy.typing import NDArray

    from hybrid.native import RowDraw, Sampled


class Hear(Protocol):
    """Who is told what a run of steps draws, while it goes on."""

    def __call__(self, steps: Sequence[Sequence[Sampled | ValueError]], *, is_last: bool) -> bool:
        """Take what the rows of some steps gave, and whether those are the last; say whether the run may go on."""


class Interrupted(Exception):
    """A step was ended early, as asked; the cache holds what it held before it."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA file, and how strongly it is applied: 1 as it was trained, 0 not at all."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """How to load a model.

    context_tokens: the longest sequence to serve, prompt and answer together; lowered to what the model was trained on.
    slots: sequences decoded together. idle_sequences: finished ones that may stay in the cache beside them.
    threads: 0 takes every core this process may use.
    has_one_pool: whether all sequences take their KV cells from one pool and may hold the same ones; else each slot has
    a cache of its own of `context_tokens`, and a shared beginning is copied. Attention looks through the whole pool.
    is_embedder: the model only embeds: no memory is set aside for generating.
    adapters: LoRA files that requests may choose from, by their place here.
    batch_tokens: the most tokens one `decode` takes; also what the matrix kernels compute at once. Raised to
        the number of sequences, running and idle, where it is less.
    flash_attention: None leaves the choice to the library. key_cache, value_cache: ggml's names of the formats the KV
        cache is kept in, such as f16, bf16, q8_0; a quantised value cache needs flash attention.
    gpu_layers: blocks on the GPU, one more for the output layer; None puts all there where the library can.
    matmul: who multiplies the weights of quantised models with several columns at once: hybrid, ggml, or auto.
    """

    model_path: Path
    context_tokens: int = 8192
    slots: int = 8
    idle_sequences: int = 32
    threads: int = 0
    has_one_pool: bool = True
    is_embedder: bool = False
    adapters: tuple[Adapter, ...] = ()
    batch_tokens: int = 512
    flash_attention: bool | None = None
    key_cache: str = "f16"
    value_cache: str = "f16"
    gpu_layers: int | None = None
    matmul: Matmul = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a loaded model.

    kv_cells: tokens of all sequences together that the KV cache holds.
    sequence_ids: how many sequences, running and idle, the cache tells apart.
    has_one_pool: as in `BackendOptions`.
    can_share_cells: whether a sequence may begin with another's cells, or a copy of them where there is no common pool;
    not with recurrent state or sliding windows.
    can_truncate: whether the last cells of a sequence can be given back alone; as above.
    batch_tokens: the most tokens one `decode` takes.
    state_format: what saved cells depend on beside the file and its context, such as versions; None: not to be saved.
    fingerprint: SHA-256 over the file's size, its header, blocks of its weights, and the KV cache's formats if not
        16-bit: names what computes the logits without reading a gigabyte.
    can_interrupt: whether `interrupt` does anything. can_run: whether `run` does.
    dimensions: numbers in an embedding. can_generate: whether it writes text; an encoder only embeds.
    multiplier: who multiplies the weights with several columns at once.
    """

    name: str
    architecture: str
    vocab_tokens: int
    context_tokens: int
    trained_context_tokens: int
    slots: int
    kv_cells: int
    has_one_pool: bool
    can_share_cells: bool
    can_truncate: bool
    sequence_ids: int
    batch_tokens: int
    threads: int
    device: str
    file_bytes: int
    fingerprint: str
    chat_template: str | None
    bos_text: str
    eos_text: str
    state_format: str | None = None
    can_interrupt: bool = False
    can_run: bool = False
    dimensions: int
    can_generate: bool
    multiplier: Multiplier = "ggml"


class BatchEntry(msgspec.Struct, frozen=True):
    """Consecutive tokens of one sequence for one step; `position` is that of the first token.

    logits: for how many of the tokens, counted from the last, rows of logits are made.
    """

    slot: int
    tokens: Sequence[int]
    position: int
    logits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderFacts:
    """How a model embeds.

    batch_tokens: the most tokens one `compute` takes. sequences: inputs it may tell apart at once.
    is_whole: an input must be computed in one piece, for its tokens look at those behind them as well.
    """

    batch_tokens: int
    sequences: int
    is_whole: bool


class Embedder(Protocol):
    """The part of a loaded model that embeds, with a context of its own beside the one that generates."""

    facts: EmbedderFacts
    cells: int
    """Tokens that unfinished inputs may have together now."""

    def resize(self, cells: int) -> None:
        """Make room for an input of `cells` tokens, or give back what is not needed. No input may be unfinished.

        Raises: LocalFailure if there is not enough memory.
        """

    def compute(self, pieces: Sequence[BatchEntry]) -> list[NDArray[np.float32] | None]:
        """Run one step. One item per piece: where it has `logits`, which ends its input, that input's vector; or None.

        A slot is empty again after its vector. Vectors have shape (dimensions,) and any length.
        Raises: LocalFailure if the step failed; what was computed of its inputs is lost.
        """

    def forget(self, slot: int) -> None:
        """Forget an unfinished input."""

    def close(self) -> None:
        """Free its memory."""


class Backend(Protocol):
    """One loaded model. Not thread-safe, except what only reads the vocabulary: `tokenize` to `grammar_tokenizer`."""

    facts: ModelFacts

    def tokenize(self, text: str) -> list[int]:
        """Turn rendered template text into token ids; control tokens written in it are recognised."""

    def tokenize_input(self, text: str) -> list[int]:
        """Turn a text to embed into token ids: with the marks its model puts around it, none read from the text."""

    def piece(self, token: int) -> bytes:
        """Give the bytes a token stands for; empty for control tokens. May be part of a UTF-8 character."""

    def is_end(self, token: int) -> bool:
        """Say whether the token ends a generation."""

    def control_name(self, token: int) -> str:
        """Give the name of a control token, such as `<|im_end|>`; empty for one that stands for bytes."""

    def marker(self, text: str) -> int | None:
        """Give the control token that is written as `text`, such as `<tool_call>`; None where it is plain text."""

    def control_texts(self) -> list[str]:
        """Give what every control token is written as. Takes about 0.1 s for 150,000 tokens."""

    def grammar_tokenizer(self) -> LLTokenizer:
        """Describe the vocabulary to llguidance. Takes about a second for 150,000 tokens."""

    def decode(self, entries: Sequence[BatchEntry]) -> NDArray[np.float32]:
        """Run one step. Gives the rows of logits that were asked for, in order, shape (n_rows, vocab_tokens).

        A view that the next `decode` overwrites.
        Raises: LocalFailure if the step failed, Interrupted if it was ended; the cache then holds what it held before.
        """

    def run(
        self, entries: Sequence[BatchEntry], draws: Sequence[RowDraw], *, steps: int, bundle: int, hear: Hear
    ) -> int:
        """Run up to `steps` steps in a row, each entry one token, each draw the next step's token. Only with `can_run`.

        Gives how many were computed, at least one. The last is the one after which `hasten` or `hear` was heeded, or
        that drew an end or nothing usable. The cache holds what went into these steps.

        Args:
            draws: of the first step; their positions count up with the steps.
            bundle: for so many steps, or what there is at the end, `hear` is called: in another thread, while the
                next ones are computed. It may use what only reads the vocabulary, and `set_threads`; after `run` it
                is not called any more.
        Raises: as `decode`, if the first step was not computed; what `hear` raises.
        """

    def hasten(self, *, is_wanted: bool = True) -> None:
        """Let every run end after the step it is in, or let them go on again. Any thread may ask."""

    def interrupt(self) -> None:
        """Let the `decode` that runs in another thread end soon, or the next one if none does. Any thread may ask."""

    def truncate(self, slot: int, length: int) -> None:
        """Free the KV cells of a slot from position `length` on. Only with `can_truncate`."""

    def set_threads(self, decode: int, prefill: int) -> None:
        """Let so many threads compute from the next step on: in steps that only decode, and in those with prompts.

        Changes nothing of what is computed. Where a run of steps computes now: from its end on.
        """

    def use_adapter(self, adapter: int | None) -> None:
        """Let the next `decode` calls run with one of the loaded adapters, or with none."""

    def embedder(self) -> Embedder:
        """Make what embeds. It takes memory of its own.

        Raises: UnsupportedCapability if the model gives no embeddings, LocalFailure if there is no memory.
        """

    def copy(self, source: int, target: int, count: int) -> None:
        """Let the empty slot `target` begin with `count` KV cells of `source`. Only with `can_share_cells`."""

    def forget(self, slot: int) -> None:
        """Free every KV cell of a slot that no other slot shares."""

    def save(self, slot: int) -> bytearray:
        """Give the KV cells of a slot as bytes. Only with a `state_format`."""

    def restore(self, slot: int, state: bytes | bytearray, count: int) -> None:
        """Fill the empty slot with `count` saved cells, which a backend of the same `state_format` has given.

        Raises: LocalFailure if they are not taken; the slot is empty then.
        """

    def close(self) -> None:
        """Free the model. Nothing may be called afterwards."""
