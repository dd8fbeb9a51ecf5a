"""What stands in for a model in tests? A byte-level echo with a scripted confidence, behind the real engine.

It repeats the last user message of a ChatML prompt and then ends. Words in that message steer it:
`[doubt]` makes every token uncertain, `[slow]` makes each step take 20 ms, `[endless]` never ends,
`[nan]` gives unusable logits, `[fail]` fails the step. An adapter makes it shout. Its embedding of a text counts the
bytes by value; a text with `[fail]` fails that too. Every other effect of a model is left to real ones.
The model's file, if there is one, is the chat template it speaks by.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import BackendOptions, BatchEntry, EmbedderFacts, Hear, ModelFacts
from hybrid.errors import LocalFailure
from hybrid.native import RowDraw, Sampled, sample_rows

if TYPE_CHECKING:
    from llguidance import LLTokenizer

BYTES = 256
END = 256
VOCAB_TOKENS = 260
SURE_LOGIT, DOUBT_LOGIT = 12.0, 3.0
SLOW_STEP_S = 0.02


class FakeBackend:
    """A backend without a model file; see the module's docstring."""

    facts: ModelFacts

    def __init__(self, options: BackendOptions, *, can_run: bool = False) -> None:
        self.is_hastened = False
        self._slots: dict[int, list[tuple[int, int]]] = {}  # the cell and the token at each position
        self._cells = itertools.count()
        may_use = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = options.threads or may_use or 1
        self.threads = (threads, threads)
        """As last set, for decoding and for prompts."""
        self._adapter: int | None = None
        self._adapters_of: dict[int, int | None] = {}  # what each cell was computed with
        self.facts = ModelFacts(
            name="fake",
            architecture="fake",
            vocab_tokens=VOCAB_TOKENS,
            context_tokens=options.context_tokens,
            trained_context_tokens=options.context_tokens,
            slots=options.slots,
            kv_cells=options.context_tokens * (1 if options.has_one_pool else options.slots),
            has_one_pool=options.has_one_pool,
            can_share_cells=True,
            can_truncate=True,
            sequence_ids=options.slots + (options.idle_sequences if options.has_one_pool else 0),
            batch_tokens=512,
            threads=threads,
            device="cpu",
            file_bytes=0,
            fingerprint="fake",
            chat_template=_template(options.model_path),
            bos_text="",
            eos_text="",
            state_format="fake",
            dimensions=BYTES,
            can_generate=not options.is_embedder,
            can_run=can_run,
        )

    def tokenize(self, text: str) -> list[int]:
        """One token a UTF-8 byte."""
        return list(text.encode("utf-8", "surrogatepass"))

    def tokenize_input(self, text: str) -> list[int]:
        """The same; there are no marks around it."""
        return self.tokenize(text)

    def piece(self, token: int) -> bytes:
        """The byte itself; nothing for control tokens."""
        return bytes([token]) if token < BYTES else b""

    def is_end(self, token: int) -> bool:
        """Say whether this is the end token."""
        return token == END

    def control_name(self, token: int) -> str:
        """`<end>` for the end token."""
        return "<end>" if token == END else ""

    def marker(self, text: str) -> int | None:
        """Give the end token; everything else is bytes here."""
        return END if text == self.control_name(END) else None

    def control_texts(self) -> list[str]:
        """The end token's name."""
        return [self.control_name(END)]

    def grammar_tokenizer(self) -> LLTokenizer:
        """Every byte a token, and the end token."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_ByteVocabulary()), n_vocab=VOCAB_TOKENS)

    def decode(self, entries: Sequence[BatchEntry]) -> NDArray[np.float32]:
        """Echo. Checks what llama.cpp would abort on: positions must continue the slot, cells must suffice."""
        rows: list[NDArray[np.float32]] = []
        is_slow = False
        for entry in entries:
            held = self._slots.setdefault(entry.slot, [])
            if entry.position != len(held):
                raise AssertionError(f"slot {entry.slot} holds {len(held)} tokens, got position {entry.position}")
            new = [(next(self._cells), token) for token in entry.tokens]
            held.extend(new)
            self._adapters_of.update((cell, self._adapter) for cell, _ in new)
            if {self._adapters_of.get(cell) for cell, _ in held} != {self._adapter}:
                raise AssertionError(f"slot {entry.slot} holds cells of another adapter than {self._adapter}")
            text = _text_of(held)
            is_slow = is_slow or b"[slow]" in text
            if b"[fail]" in text:
                raise LocalFailure("the fake was told to fail")
            first, is_shouting = len(held) - entry.logits, self._adapter is not None
            rows += [_next_row(_text_of(held[: end + 1]), is_shouting=is_shouting) for end in range(first, len(held))]
        if self.cells_held() > self.facts.kv_cells:
            raise AssertionError("more tokens are held than there are KV cells")
        if is_slow:
            time.sleep(SLOW_STEP_S)
        return np.stack(rows) if rows else np.empty((0, VOCAB_TOKENS), dtype=np.float32)

    def run(
        self, entries: Sequence[BatchEntry], draws: Sequence[RowDraw], *, steps: int, bundle: int, hear: Hear
    ) -> int:
        """Echo for several steps. Checks that each entry is one token and wants its row.

        It computes one step more before it lets a bundle be heard, as a model would meanwhile.
        """
        if min(steps, bundle) < 1 or any(len(entry.tokens) != 1 or entry.logits != 1 for entry in entries):
            raise AssertionError(f"no run of {steps} steps: {entries}")
        ready: list[list[Sampled | ValueError]] = []
        may_go_on = True
        for done in range(1, steps + 1):
            found = sample_rows(self.decode(entries), draws)
            tokens = [sampled.token for sampled in found if isinstance(sampled, Sampled) and sampled.token != END]
            is_last = done == steps or len(tokens) < len(entries) or self.is_hastened or not may_go_on
            if len(ready) >= bundle and not is_last:
                may_go_on, ready = hear(ready, is_last=False), []
            ready.append(found)
            if is_last:
                break
            entries = [
                msgspec.structs.replace(entry, tokens=[token], position=entry.position + 1)
                for entry, token in zip(entries, tokens, strict=True)
            ]
            draws = [msgspec.structs.replace(draw, position=draw.position + 1) for draw in draws]
        hear(ready, is_last=True)
        return done

    def hasten(self, *, is_wanted: bool = True) -> None:
        """Remember it."""
        self.is_hastened = is_wanted

    def interrupt(self) -> None:
        """Nothing: its steps are short."""

    def truncate(self, slot: int, length: int) -> None:
        """Free the cells of a slot from `length` on. Checks that there are some to free."""
        if not 0 <= length < len(self._slots[slot]):
            raise AssertionError(f"slot {slot} holds {len(self._slots[slot])} tokens, cannot be cut to {length}")
        del self._slots[slot][length:]

    def cells_held(self) -> int:
        """Count the cells that some slot holds."""
        return len({cell for held in self._slots.values() for cell, _ in held})

    def set_threads(self, decode: int, prefill: int) -> None:
        """Remember them. Checks that they are numbers that llama.cpp takes."""
        if not 1 <= min(decode, prefill) <= max(decode, prefill) <= self.facts.threads:
            raise AssertionError(f"{decode} and {prefill} threads, of {self.facts.threads}")
        self.threads = (decode, prefill)

    def use_adapter(self, adapter: int | None) -> None:
        """Shout from now on, or no longer."""
        self._adapter = adapter

    def embedder(self) -> FakeEmbedder:
        """Make what counts bytes."""
        return FakeEmbedder(self.facts.context_tokens)

    def copy(self, source: int, target: int, count: int) -> None:
        """Share or copy cells. Checks that the target is empty and the source holds so many."""
        if self._slots.get(target) or len(self._slots[source]) < count:
            raise AssertionError(f"cannot copy {count} cells from {source} to {target}")
        held = self._slots[source][:count]
        self._slots[target] = held if self.facts.has_one_pool else [(next(self._cells), token) for _, token in held]

    def forget(self, slot: int) -> None:
        """Free a slot."""
        self._slots.pop(slot, None)

    def save(self, slot: int) -> bytearray:
        """Give the tokens of a slot."""
        return bytearray(np.array([token for _, token in self._slots[slot]], dtype="<i4").tobytes())

    def restore(self, slot: int, state: bytes | bytearray, count: int) -> None:
        """Hold the tokens again, in cells of their own."""
        tokens = np.frombuffer(state, dtype="<i4")
        if self._slots.get(slot) or len(tokens) != count:
            raise LocalFailure(f"cannot restore {count} cells of {len(tokens)} into slot {slot}")
        self._slots[slot] = [(next(self._cells), int(token)) for token in tokens]

    def close(self) -> None:
        """Nothing to free."""


class FakeEmbedder:
    """Embeds a text as how often each byte is in it. Checks what llama.cpp would abort on."""

    facts = EmbedderFacts(batch_tokens=64, sequences=4, is_whole=False)

    def __init__(self, context_tokens: int) -> None:
        self._context_tokens = context_tokens
        self._slots: dict[int, list[int]] = {}
        self.cells = 256

    def resize(self, cells: int) -> None:
        """Any size up to the context. Checks that nothing is unfinished."""
        if self._slots or cells > self._context_tokens:
            raise AssertionError(f"cannot resize to {cells} with {len(self._slots)} unfinished inputs")
        self.cells = max(cells, 256)

    def compute(self, pieces: Sequence[BatchEntry]) -> list[NDArray[np.float32] | None]:
        """Count."""
        vectors: list[NDArray[np.float32] | None] = []
        if sum(len(piece.tokens) for piece in pieces) > self.facts.batch_tokens:
            raise AssertionError("the step is too large")
        for piece in pieces:
            held = self._slots.setdefault(piece.slot, [])
            if piece.position != len(held):
                raise AssertionError(f"slot {piece.slot} holds {len(held)} tokens, got position {piece.position}")
            held.extend(piece.tokens)
        if sum(map(len, self._slots.values())) > self.cells:
            raise AssertionError("more tokens are held than there are cells")
        for piece in pieces:
            held = self._slots[piece.slot]
            if b"[slow]" in bytes(held):
                time.sleep(SLOW_STEP_S)
            if b"[fail]" in bytes(held):
                for failed in pieces:
                    self.forget(failed.slot)
                raise LocalFailure("the fake was told to fail")
            vectors.append(_count(held) if piece.logits else None)
            if piece.logits:
                self.forget(piece.slot)
        return vectors

    def forget(self, slot: int) -> None:
        """Free a slot."""
        self._slots.pop(slot, None)

    def close(self) -> None:
        """Nothing to free."""


def _count(tokens: Sequence[int]) -> NDArray[np.float32]:
    return np.bincount(np.asarray(tokens) % BYTES, minlength=BYTES).astype(np.float32)


class _ByteVocabulary:
    """What `TokenizerWrapper` asks of a tokenizer."""

    eos_token_id = END
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(BYTES)), b"\xff<end>")
    special_token_ids = (END,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _template(path: Path) -> str | None:
    """Read the chat template that stands where a model's file would; its messages must be ChatML."""
    return path.read_text() if path.is_file() else None


def _text_of(held: Sequence[tuple[int, int]]) -> bytes:
    return bytes(token for _, token in held if token < BYTES)


def _next_row(text: bytes, *, is_shouting: bool) -> NDArray[np.float32]:
    question, _, answer = text.rpartition(b"<|im_start|>assistant\n")
    wanted = question.rpartition(b"<|im_start|>user\n")[2].partition(b"<|im_end|>")[0]
    row = np.zeros(VOCAB_TOKENS, dtype=np.float32)
    if b"[nan]" in wanted:
        row[:] = np.nan
        return row
    if b"[endless]" in wanted:
        token = wanted[len(answer) % len(wanted)]
    else:
        token = wanted[len(answer)] if len(answer) < len(wanted) else END
    if is_shouting and token < BYTES:
        token = bytes([token]).upper()[0]
    row[token] = DOUBT_LOGIT if b"[doubt]" in wanted else SURE_LOGIT
    return row
