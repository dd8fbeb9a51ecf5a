"""What is one generation in progress? Its tokens, how many the KV cache holds, and how it draws the next."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.logprobs import LogprobQueue
from hybrid.engine.speculation import PRIOR_ACCEPTANCE, Repeats
from hybrid.native import SampleParams

if TYPE_CHECKING:
    from hybrid.engine.constraint import Constraint

_order = itertools.count()


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One generation.

    prompt: token ids, shape (n_prompt,). output: ids drawn so far.
    computed: how many of prompt + output the KV cache holds; 0 again after a preemption.
    slot: llama.cpp's sequence id while running, None while waiting.
    submitted_s, first_token_s: when it came and when its first token was drawn, by the engine's clock; None before.
    due_s: when its answer is wanted, by the worker's clock; the earliest is served first.
    isolation: only sequences of the same key may share cells. cached_tokens: of the prompt, found in the cache.
    choice: which of the answers to one request it is; they share its id, its prompt and one prefill.
    bias: token ids and what is added to their logits. constraint: the grammar the output follows, and where it is.
    logprobs: the tokens to tell of, where the request asks for them. shown: control tokens that are text here.
    acceptance: the share of drafted tokens it would have drawn itself, lately. repeats: where its text repeats.
    adapter: the LoRA it runs with, by its place among the worker's; its name is part of `isolation`.
    options: for each option of a question, the tokens its answer may begin with; see `options.py`.
    """

    id: str
    prompt: NDArray[np.int32]
    params: SampleParams
    seed: int
    max_output_tokens: int
    detokenizer: Detokenizer
    output: list[int] = field(default_factory=list)
    computed: int = 0
    slot: int | None = None
    choice: int = 0
    isolation: str = ""
    cached_tokens: int = 0
    due_s: float = 0.0
    submitted_s: float | None = None
    first_token_s: float | None = None
    bias: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
    constraint: Constraint | None = None
    logprobs: LogprobQueue | None = None
    shown: Mapping[int, bytes] = field(default_factory=dict)
    acceptance: float = PRIOR_ACCEPTANCE
    repeats: Repeats = field(default_factory=Repeats)
    adapter: int | None = None
    options: tuple[tuple[int, ...], ...] = ()
    order: int = field(default_factory=lambda: next(_order))

    @property
    def urgency(self) -> tuple[float, int]:
        """What orders the queue, the smallest first: when it is due, then arrival. Preemption changes neither."""
        return self.due_s, self.order

    @property
    def can_draft(self) -> bool:
        """Whether guessed tokens may be tried: a grammar's state would have to follow each guess."""
        return self.constraint is None

    @property
    def length(self) -> int:
        """Prompt and output tokens together."""
        return len(self.prompt) + len(self.output)

    @property
    def pending(self) -> int:
        """Tokens the next steps must compute before another can be drawn: 1 in decode, more in prefill."""
        return self.length - self.computed

    def repeat(self, limit: int) -> list[int]:
        """Guess the next tokens, up to `limit`, from what followed when its last words came before."""
        if not len(self.repeats):
            self.repeats.extend(self.prompt.tolist())
        self.follow_repeats()
        return self.repeats.find(limit)

    def follow_repeats(self) -> None:
        """Take the newest tokens into the index of repeats, where it was asked for: `repeat` is sooner then."""
        if len(self.repeats):
            self.repeats.extend(self.output[len(self.repeats) - len(self.prompt) :])

    def all_tokens(self) -> NDArray[np.int32]:
        """Prompt and output as one array."""
        if not self.output:
            return self.prompt
        return np.concatenate([self.prompt, np.asarray(self.output, dtype=np.int32)])

    def tokens_at(self, start: int, count: int) -> list[int]:
        """Give `count` token ids from position `start`, across the seam of prompt and output."""
        n_prompt = len(self.prompt)
        if start >= n_prompt:
            return self.output[start - n_prompt : start - n_prompt + count]
        head: list[int] = self.prompt[start : min(start + count, n_prompt)].tolist()
        return head + self.output[: max(start + count - n_prompt, 0)]
