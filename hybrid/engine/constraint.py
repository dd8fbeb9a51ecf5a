"""What may one sequence say next? The mask of tokens its grammar allows, advanced by each token that is drawn."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import numpy as np

from hybrid.engine.matcher import compile_matcher
from hybrid.errors import LocalFailure

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from hybrid.backends.base import Backend
    from hybrid.engine.frames import Grammar
    from hybrid.native.reference import Bitmask

MAX_CACHED_GRAMMARS = 16
MAX_CACHED_CHARS = 256 << 10
"""Compiled grammars kept for the next request with the same one, and the length of their sources together: 100,000
characters of schema can take tens of megabytes once compiled."""


class Constraint:
    """Where one sequence stands in its grammar. Its state follows the sequence's output and survives a preemption."""

    def __init__(self, matcher: LLMatcher, vocab_tokens: int) -> None:
        self._matcher = matcher
        self._mask: Bitmask = np.zeros((vocab_tokens + 31) // 32, dtype=np.uint32)
        self._forced: deque[int] = deque()
        self._is_fresh = False
        self._failure: str | None = None

    def prepare(self) -> None:
        """Compute the mask of the next token, if that was not done. Needs no logits, so the model may run meanwhile."""
        if self._is_fresh:
            return
        if not self._forced:
            # llguidance finds the whole forced run each time it is asked for a mask. Taking the run at once
            # keeps a constant of n characters from costing n times n.
            self._forced.extend(self._matcher.compute_ff_tokens())
        if self._forced:
            self._mask[:] = 0
            self._mask[self._forced[0] >> 5] = np.uint32(1 << (self._forced[0] & 31))
        else:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            # The mask now allows the end of the text, which must not pass for an answer.
            why = self._matcher.get_error().partition("\n")[0]
            self._failure = f"the answer's grammar cannot be followed any further: {why}"
        elif not self._mask.any():
            self._failure = "the answer's grammar leaves the model nothing to say"
        self._is_fresh = True

    @property
    def allowed(self) -> Bitmask:
        """Bit `t % 32` of word `t // 32` allows token t, as `native.sample_row` takes it.

        Raises: LocalFailure if the grammar broke a limit or leaves nothing to say.
        """
        self.prepare()
        if self._failure is not None:
            raise LocalFailure(self._failure)
        return self._mask

    @property
    def forced_run(self) -> tuple[int, ...]:
        """The tokens that come next because nothing else may, as far as that is known without a mask."""
        return () if self._failure is not None else tuple(self._forced)

    def advance(self, token: int, *, is_end: bool) -> None:
        """Take the token that was drawn; `is_end` if it ends the generation.

        Raises: LocalFailure if the grammar does not allow it.
        """
        self._is_fresh = False
        if is_end:
            # A grammar may spell out the end token as its last one; then it accepts only after it.
            if not self._matcher.is_accepting() and not self._accepts_after(token):
                raise LocalFailure("the model ended before the answer's grammar allows it")
            return
        if not self._matcher.consume_token(token):
            why = self._matcher.get_error().partition("\n")[0]
            raise LocalFailure(f"the answer left its grammar: {why}")
        if self._forced:
            self._forced.popleft()

    def _accepts_after(self, token: int) -> bool:
        return self._matcher.consume_token(token) and self._matcher.is_accepting()

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow any more but the end, so that no step need be spent on drawing it."""
        return not self._forced and self._matcher.is_stopped() and self._matcher.is_accepting()


class Grammars:
    """Compiles grammars for one model. For one thread, which is not the one that owns the model."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def constraint(self, grammar: Grammar) -> Constraint:
        """Compile `grammar`, or take it from the last ones, and give a sequence's own state at its start.

        Raises: InvalidRequest if it cannot be compiled.
        """
        matcher = self._compiled.get(grammar)
        if matcher is None:
            if self._tokenizer is None:
                # A second of work for 150,000 tokens, so only where a request needs it.
                self._tokenizer = self._backend.grammar_tokenizer()
            matcher = self._compiled[grammar] = compile_matcher(self._tokenizer, grammar)
        self._compiled.move_to_end(grammar)
        while len(self._compiled) > MAX_CACHED_GRAMMARS or (
            len(self._compiled) > 1 and sum(len(kept.source) for kept in self._compiled) > MAX_CACHED_CHARS
        ):
            self._compiled.popitem(last=False)
        return Constraint(matcher.deep_copy(), self._backend.facts.vocab_tokens)
