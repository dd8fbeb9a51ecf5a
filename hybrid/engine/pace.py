"""How long is a step, and how much prompt fits into one? Speeds measured from the steps themselves."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

SMOOTHING = 0.2
"""Weight of the newest step in a running average: about the last five steps count."""
SMOOTHING_S = 0.5
"""Steps that take long weigh more, so that an average follows a change within a second, not within five long steps."""
MIN_CHUNK_TOKENS = 16
"""Below this llama.cpp's matrix kernels lose most of their speed to per-step overhead."""
LEAST_CHUNK_TOKENS, DEAR_CHUNK = 4, 2.0
"""Deep in a long prompt attention makes each token dear: 16 of them at 4,000 tokens of context took eight usual steps
of four streams (135M, 2 cores). Where they would take so many times what a step may, fewer are taken."""
FIRST_CHUNK_TOKENS = 64
IDLE_STEP_S = 0.25
"""Usual step while nobody decodes: a cancelled request leaves at the next step, and should within 500 ms."""
MIN_IDLE_CHUNK_TOKENS = 64
"""However slow the model: with nobody decoding, smaller chunks would only make its prompts slower still. A billion
weights are read as often as there are steps, and each step is measured, so that small ones led to smaller ones."""
MIN_BUSY_STEP_S = 0.06
MAX_USUAL_STEP_S = 0.15
LONGEST_BUSY_STEP_S = 0.25


MAX_KNOWN_SIZES = 64
"""Step sizes whose time is kept apart; larger decode steps are taken for the nearest."""
LEAST_STEP_S = 1e-9
"""A clock may stand still between two readings; nothing here divides by nothing."""
DRIFT = 0.1
"""Weight of the newest step in how fast the machine is now against when the other sizes were seen."""
MOST_DRAFT_COST = 8.0
COST_FORGETTING = 0.001
"""How much of the way back to 1 the cost of drafts beside other sequences goes with each step without any: a batch
that was too dear may be another one later."""


@dataclass(slots=True)
class Pace:
    """Running averages of step times; None until the first step of the kind.

    decode_step_s: a step that only decodes. decode_token_s: what one sequence waits for one more token of its own.
    """

    prefill_token_s: float | None = None
    decode_step_s: float | None = None
    decode_token_s: float | None = None
    _step_s: dict[int, float] = field(default_factory=dict)
    _sizes: list[int] = field(default_factory=list)
    _prefill_slowdown: float | None = None
    _decode_slowdown: float | None = None
    _draft_cost: float = 1.0
    _is_dear: bool = False

    def prefill_budget_tokens(self, *, decoding: int, prefilling: int = 1, batch_tokens: int) -> int:
        """Give the prompt tokens the next step may take.

        With streams running the step may last about twice their usual one, so a long prompt slows them
        by no more than that; without, up to `IDLE_STEP_S`. Where more prompts wait than streams run, it may last as
        many times longer: they would all wait for a few, and a full batch decodes cheaper than a small one.
        """
        if self.prefill_token_s is None:
            return min(FIRST_CHUNK_TOKENS, batch_tokens)
        target_s, least_tokens, self._is_dear = IDLE_STEP_S, MIN_IDLE_CHUNK_TOKENS, False
        if decoding:
            least_tokens = MIN_CHUNK_TOKENS
            # A step with drafts takes longer and gives more: the promise is about the step that gives each its token.
            plain_s = self.decode_s(decoding) or self.decode_step_s or MIN_BUSY_STEP_S
            usual_s = min(max(plain_s, MIN_BUSY_STEP_S), MAX_USUAL_STEP_S)
            target_s = min(usual_s * max(1.0, prefilling / decoding), LONGEST_BUSY_STEP_S)
            self._is_dear = least_tokens * self.prefill_token_s > DEAR_CHUNK * max(target_s, plain_s)
            if self._is_dear:
                least_tokens = LEAST_CHUNK_TOKENS
        return min(batch_tokens, max(least_tokens, int(target_s / self.prefill_token_s)))

    def observe(
        self, *, step_s: float, prefill_tokens: int, sequences: int, drafted: int = 0, drawn: float = 0
    ) -> None:
        """Learn from one finished step.

        Args:
            step_s: its seconds. sequences: how many decoded. drafted: guessed tokens computed along.
            drawn: tokens that came out for the decoding sequences; of a run of steps the mean.
        """
        step_s = max(step_s, LEAST_STEP_S)
        if sequences and not prefill_tokens:
            self.decode_step_s = _smooth(self.decode_step_s, step_s, step_s)
            self.decode_token_s = _smooth(self.decode_token_s, step_s * sequences / max(drawn, 1), step_s)
            if sequences == 1 or not drafted:
                self._note_size(sequences + drafted, step_s)
            self._note_draft_cost(step_s, sequences, drafted)
        elif prefill_tokens >= (LEAST_CHUNK_TOKENS if self._is_dear and sequences else MIN_CHUNK_TOKENS):
            share_s = max(step_s - (self.decode_step_s or 0.0) * bool(sequences), step_s * 0.25)
            self.prefill_token_s = _smooth(self.prefill_token_s, share_s / prefill_tokens, step_s)

    def follow(self, slowdown: float, *, prefill: bool, decode: bool) -> None:
        """Learn that steps now take `slowdown` times the undisturbed time, as seen at prefill, decode or neither.

        Speeds of a kind that was not seen are taken to have changed by as much; else a prompt that comes after a long
        stretch of mere decoding, or of nothing, is promised what the machine gave before others came or went.
        """
        if prefill or self._prefill_slowdown is None:
            self._prefill_slowdown = slowdown
        elif self.prefill_token_s is not None:
            self.prefill_token_s *= slowdown / self._prefill_slowdown
            self._prefill_slowdown = slowdown
        if decode or self._decode_slowdown is None:
            self._decode_slowdown = slowdown
        elif self.decode_step_s is not None and self.decode_token_s is not None:
            change, self._decode_slowdown = slowdown / self._decode_slowdown, slowdown
            self.decode_step_s *= change
            self.decode_token_s *= change
            self._step_s = {size: seconds * change for size, seconds in self._step_s.items()}

    def decode_s(self, tokens: int) -> float | None:
        """Predict a step that decodes so many tokens, drafted ones among them; None while none was measured.

        Between sizes that were seen on a straight line; beyond them each token costs what a prompt's does.
        """
        seen = self._step_s.get(tokens)
        if seen is not None or not self._step_s:
            return seen
        place = bisect.bisect_left(self._sizes, tokens)
        below = self._sizes[place - 1] if place else None
        above = self._sizes[place] if place < len(self._sizes) else None
        if below is None:
            return self._step_s[above] if above is not None else None
        if above is None:
            return self._step_s[below] + (tokens - below) * (self.prefill_token_s or self._step_s[below] / below)
        share = (tokens - below) / (above - below)
        return self._step_s[below] + share * (self._step_s[above] - self._step_s[below])

    def drafting_s(self, sequences: int, drafted: int) -> float | None:
        """Predict a step of so many sequences with so many drafted tokens in all; None while none was measured.

        Of one sequence they are computed in one pass. Beside others they may cost more than that many sequences
        more would: where each has a cache of its own, llama.cpp makes a pass of its own for each length of draft.
        """
        plain_s, whole_s = self.decode_s(sequences), self.decode_s(sequences + drafted)
        if plain_s is None or whole_s is None or sequences == 1:
            return whole_s
        return plain_s + max(whole_s - plain_s, 0.0) * self._draft_cost

    def _note_draft_cost(self, step_s: float, sequences: int, drafted: int) -> None:
        """Learn how many times dearer drafts beside other sequences are than their number says."""
        if not drafted:
            self._draft_cost += COST_FORGETTING * (1.0 - self._draft_cost)
            return
        plain_s, whole_s = self.decode_s(sequences), self.decode_s(sequences + drafted)
        if sequences > 1 and plain_s is not None and whole_s is not None and whole_s > plain_s:
            cost = min(max((step_s - plain_s) / (whole_s - plain_s), 0.0), MOST_DRAFT_COST)
            self._draft_cost = _smooth(self._draft_cost, cost, step_s)

    def _note_size(self, tokens: int, step_s: float) -> None:
        tokens = min(tokens, MAX_KNOWN_SIZES)
        if tokens not in self._step_s:
            bisect.insort(self._sizes, tokens)
        expected_s = self._step_s.get(tokens)
        if expected_s is not None:
            # A machine that became slower or faster did so for every size, also for those not seen since.
            drift = 1.0 + DRIFT * (min(max(step_s / expected_s, 0.5), 2.0) - 1.0)
            self._step_s = {size: seconds * drift for size, seconds in self._step_s.items()}
        self._step_s[tokens] = _smooth(self._step_s.get(tokens), step_s, step_s)

    @property
    def prefill_tok_s(self) -> float | None:
        """Prompt tokens a second."""
        return None if self.prefill_token_s is None else 1.0 / self.prefill_token_s

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens a second that ONE sequence gets in the batches seen lately."""
        return None if self.decode_token_s is None else 1.0 / self.decode_token_s


def _smooth(average: float | None, value: float, step_s: float) -> float:
    weight = max(SMOOTHING, 1 - math.exp(-step_s / SMOOTHING_S))
    return value if average is None else average + weight * (value - average)
