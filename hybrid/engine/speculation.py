"""Which tokens are worth guessing ahead, and how many? Pure: repeats in a text, and time against what it may gain.

A draft is a guess of the next tokens that is computed in one step with the token before it. Since each draw depends on
its row, the seed and the position alone, a sequence takes the drafted tokens that it draws itself and no others: what
comes out is what would have come out without, but for the rounding of another batch shape.
Source: prompt lookup after A. Saxena, 2023; accepting what the target draws itself after Leviathan et al., ICML 2023,
arXiv:2211.17192, for deterministic drafts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MIN_MATCH_TOKENS = 3
"""A shorter repeat is mostly chance: articles and commas come again without what followed them."""
MAX_DRAFT_TOKENS = 24
LONG_MATCH_TOKENS = 8
PRIOR_ACCEPTANCE = 0.6
LONG_PRIOR_ACCEPTANCE = 0.9
"""Where the text has been repeating itself for so long already, it mostly goes on."""
LEARNING = 0.25
"""Weight of the newest verdict on a draft."""
FORGETTING = 0.02
"""How much of the way back to the prior a sequence goes each time it could have drafted and did not."""
LEAST_GAIN = 0.02
"""A drafted token less likely to be kept than this is never worth its place in a batch."""
WORTH_GAIN_EACH = 0.05
"""And so much more for each further sequence: on CPUs a batch uses all there is, and all of it lose what is lost."""
LONGEST_FOR_OTHERS = 2.0
LEAST_STEP_S = 1e-9
FIRST_GAIN, MOST_GAIN, GAIN_LEARNING = 1.2, 3.0, 0.1
FIRST_REST_STEPS, LONGEST_REST_STEPS = 30, 960
LONGEST_GLANCE_STEPS = 32
LONGEST_GLANCE_ALONE_STEPS = 16
"""One sequence alone gains most, and loses most by a repeat that is seen late."""
WORTH_GAIN = 1.05
"""Drafting is done where it promises this much more a second: the estimates are no better than that."""


class Repeats:
    """Where in a growing text did its last words come before? A look costs two dictionary look-ups, however long it is.

    Of the places where the last `LONG_MATCH_TOKENS` came before the latest counts, else of those where the last
    `MIN_MATCH_TOKENS` did: what agrees further back goes on alike more often.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self.is_long = False
        """Whether the guess found last agrees with the text for `LONG_MATCH_TOKENS`."""

    def extend(self, tokens: Iterable[int]) -> None:
        """Add what came since."""
        for token in tokens:
            # An entry is made when the next token is known: before, a repeat would only find itself.
            size = len(self._tokens)
            for length in (LONG_MATCH_TOKENS, MIN_MATCH_TOKENS):
                if size >= length:
                    self._ends[tuple(self._tokens[size - length :])] = size
            self._tokens.append(token)

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, limit: int) -> list[int]:
        """Guess what follows, up to `limit` tokens: what followed there. Empty where the last words are new."""
        size, self.is_long = len(self._tokens), False
        for length in (LONG_MATCH_TOKENS, MIN_MATCH_TOKENS):
            end = self._ends.get(tuple(self._tokens[size - length :])) if size >= length else None
            if end is not None:
                self.is_long = length == LONG_MATCH_TOKENS
                return self._tokens[end : end + limit]
        return []


def draft_lengths(
    acceptances: Sequence[float],
    available: Sequence[int],
    step_s: Callable[[int], float],
    *,
    most_tokens: int,
    others: int = 0,
    round_s: float = 0.0,
) -> list[int]:
    """Choose how many drafted tokens each decoding sequence takes along, so that most tokens a second come out.

    Args:
        acceptances: for each sequence the chance that it draws a drafted token, given those before it, in [0, 1).
        available: how many drafted tokens there are for each.
        step_s: seconds of a step of so many tokens, those of the others among them.
        others: sequences that decode in the same step and have no drafts. They gain nothing and wait for the step's
            end, which therefore takes at most `LONGEST_FOR_OTHERS` times as long as it would without.
        most_tokens: how many drafted tokens all may take together.
        round_s: seconds to make one more drafted token for every sequence; 0 where they are only looked up.
    Returns: a length for each, all 0 where nothing promises `WORTH_GAIN`.
    """
    lengths = [0] * len(acceptances)
    best, best_rate, longest_s = lengths[:], 0.0, math.inf
    plain = len(acceptances) + others
    if acceptances:
        plain_s = max(step_s(plain), LEAST_STEP_S)
        best_rate = plain / plain_s * (WORTH_GAIN + WORTH_GAIN_EACH * (plain - 1))
        longest_s = LONGEST_FOR_OTHERS * plain_s if others else math.inf
    expected = float(plain)
    gains = [
        (gain, -place, number)
        for number, acceptance in enumerate(acceptances)
        for place, gain in enumerate(_gains(acceptance, available[number]))
    ]
    # A longer batch may cost nothing more up to some size, so every prefix of the likeliest tokens is tried.
    for drafted, (gain, _, number) in enumerate(sorted(gains, reverse=True)[: max(0, most_tokens)], start=1):
        lengths[number] += 1
        expected += gain
        seconds = max(step_s(plain + drafted) + round_s * max(lengths), LEAST_STEP_S)
        rate = expected / seconds
        if rate > best_rate and seconds <= longest_s:
            best, best_rate = lengths[:], rate
    return best


@dataclass(slots=True)
class Worth:
    """Does drafting pay beside so many sequences? Believed until steps with drafts show that it does not, then rested.

    gain: tokens a second with drafts against without, a running average. rest_steps: steps until it is tried again.
    """

    gain: float = FIRST_GAIN
    rest_steps: int = 0
    next_rest_steps: int = FIRST_REST_STEPS

    def may_draft(self) -> bool:
        """Whether this step may draft; counts the steps of a rest."""
        if self.rest_steps:
            self.rest_steps -= 1
        return not self.rest_steps

    def skip(self, steps: int) -> None:
        """Count steps of a rest that passed without asking."""
        self.rest_steps = max(0, self.rest_steps - steps)

    def learn(self, gain: float) -> None:
        """Take what one step gained."""
        self.gain += GAIN_LEARNING * (min(gain, MOST_GAIN) - self.gain)
        if self.gain < 1.0:
            self.rest_steps, self.gain = self.next_rest_steps, FIRST_GAIN
            self.next_rest_steps = min(2 * self.next_rest_steps, LONGEST_REST_STEPS)
        elif self.gain > FIRST_GAIN:
            self.next_rest_steps = FIRST_REST_STEPS


@dataclass(slots=True)
class Glances:
    """When is it worth looking for drafts at all? Where a batch has no use for them, looking costs each step 3 %.

    After a look in vain the next ones wait, up to `LONGEST_GLANCE_STEPS`. One sequence alone always looks: it gains
    the most and a look costs the least; only a run of steps, in which nobody can look, may be the longer the more
    looks were in vain.
    """

    _wait_steps: int = 0
    _next_wait_steps: int = 1
    _vain_looks: int = 0

    @property
    def quiet_steps(self) -> int:
        """For how many steps, the next one among them, nobody needs to look."""
        alone = min(2**self._vain_looks, LONGEST_GLANCE_ALONE_STEPS)
        return max(self._wait_steps, alone if self._next_wait_steps == 1 else 1)

    def skip(self, steps: int) -> None:
        """Count steps that passed without asking whether to look."""
        self._wait_steps = max(0, self._wait_steps - steps)

    def is_due(self) -> bool:
        """Whether to look in this step; counts the steps that do not."""
        self._wait_steps = max(0, self._wait_steps - 1)
        return not self._wait_steps

    def saw(self, *, has_found: bool, beside_others: bool) -> None:
        """Note what a look found."""
        self._vain_looks = 0 if has_found else min(self._vain_looks + 1, LONGEST_GLANCE_STEPS)
        if has_found or not beside_others:
            self._wait_steps, self._next_wait_steps = 0, 1
        else:
            self._next_wait_steps = min(2 * self._next_wait_steps, LONGEST_GLANCE_STEPS)
            self._wait_steps = self._next_wait_steps


def _gains(acceptance: float, count: int) -> Iterable[float]:
    """The chance of each drafted token to be kept, as long as it is worth a thought."""
    chances = itertools.accumulate(itertools.repeat(acceptance, count), lambda chance, each: chance * each)
    return itertools.takewhile(LEAST_GAIN.__lt__, chances)


def learned(acceptance: float, *, drafted: int, accepted: int) -> float:
    """Judge a sequence's drafts anew after one verdict: `accepted` of `drafted` tokens, in order, were its own.

    Each accepted token counts once, and so does the first that was not.
    """
    judged = accepted + (accepted < drafted)
    if judged == 0:
        return forgotten(acceptance, looks=1)
    weight = 1.0 - (1.0 - LEARNING) ** judged
    return acceptance + weight * (accepted / judged - acceptance)


def forgotten(acceptance: float, *, looks: int) -> float:
    """Judge a sequence's drafts after so many looks at which it could have drafted and did not."""
    return PRIOR_ACCEPTANCE + (1.0 - FORGETTING) ** looks * (acceptance - PRIOR_ACCEPTANCE)
