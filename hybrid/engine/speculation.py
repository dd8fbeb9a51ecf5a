"""Which tokens are worth guessing ahead, and how many? Pure: repeats in a text, and time against what it may gain.

A draft is a guess of the next tokens that is computed in one step with the token before it. Since each draw depends on
its row, the seed and the position alone, a sequence takes the drafted tokens that it draws itself and no others: what
comes out is what would have come out without, but for the rounding of another batch shape.
Source: prompt lookup after A. Saxena, 2023; accepting what the target draws itself after Leviathan et al., ICML 2023,
arXiv:2211.17192, for deterministic drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

MIN_MATCH_TOKENS = 3
"""A shorter repeat is mostly chance: articles and commas come again without what followed them."""
MAX_DRAFT_TOKENS = 24
LOOK_BACK_TOKENS = 32
"""How far back two places are compared to find the better of them."""
PRIOR_ACCEPTANCE = 0.6
LEARNING = 0.25
"""Weight of the newest verdict on a draft."""
FORGETTING = 0.02
"""How much of the way back to the prior a sequence goes each time it could have drafted and did not."""
WORTH_GAIN = 1.05
"""Drafting is done where it promises this much more a second: the estimates are no better than that."""


def find_repeat(tokens: NDArray[np.int32], limit: int) -> list[int]:
    """Guess what follows the end of `tokens`, up to `limit`: what followed there when the same words came before.

    Of several places the one that agrees furthest back is taken, the latest of equals. Empty where the last
    `MIN_MATCH_TOKENS` never came before.
    """
    size = len(tokens)
    if limit < 1 or size <= MIN_MATCH_TOKENS:
        return []
    # Places just behind an earlier copy of the last tokens.
    ends = np.flatnonzero(tokens[MIN_MATCH_TOKENS - 1 : size - 1] == tokens[-1]) + MIN_MATCH_TOKENS
    for back in range(2, MIN_MATCH_TOKENS + 1):
        ends = ends[tokens[ends - back] == tokens[-back]]
    if not ends.size:
        return []
    back = MIN_MATCH_TOKENS + 1
    while len(ends) > 1 and back <= LOOK_BACK_TOKENS:
        further = ends[ends >= back]
        further = further[tokens[further - back] == tokens[-back]]
        if not further.size:
            break
        ends, back = further, back + 1
    start = int(ends[-1])
    return [int(token) for token in tokens[start : start + limit]]


def draft_lengths(
    acceptances: Sequence[float],
    available: Sequence[int],
    step_s: Callable[[int], float],
    *,
    most_tokens: int,
    round_s: float = 0.0,
) -> list[int]:
    """Choose how many drafted tokens each decoding sequence takes along, so that most tokens a second come out.

    Args:
        acceptances: for each sequence the chance that it draws a drafted token, given those before it, in [0, 1).
        available: how many drafted tokens there are for each.
        step_s: seconds of a step of so many tokens.
        most_tokens: how many drafted tokens all may take together.
        round_s: seconds to make one more drafted token for every sequence; 0 where they are only looked up.
    Returns: a length for each, all 0 where nothing promises `WORTH_GAIN`.
    """
    lengths = [0] * len(acceptances)
    best, best_rate = lengths[:], 0.0
    if acceptances:
        best_rate = len(acceptances) / step_s(len(acceptances)) * WORTH_GAIN
    expected = float(len(acceptances))
    gains = [
        (acceptance ** (place + 1), -place, number)
        for number, acceptance in enumerate(acceptances)
        for place in range(available[number])
    ]
    # A longer batch may cost nothing more up to some size, so every prefix of the likeliest tokens is tried.
    for drafted, (gain, _, number) in enumerate(sorted(gains, reverse=True)[: max(0, most_tokens)], start=1):
        lengths[number] += 1
        expected += gain
        rate = expected / (step_s(len(acceptances) + drafted) + round_s * max(lengths))
        if rate > best_rate:
            best, best_rate = lengths[:], rate
    return best


def learned(acceptance: float, *, drafted: int, accepted: int) -> float:
    """Judge a sequence's drafts anew after one verdict: `accepted` of `drafted` tokens, in order, were its own.

    Each accepted token counts once, and so does the first that was not.
    """
    judged = accepted + (accepted < drafted)
    if judged == 0:
        return acceptance + FORGETTING * (PRIOR_ACCEPTANCE - acceptance)
    weight = 1.0 - (1.0 - LEARNING) ** judged
    return acceptance + weight * (accepted / judged - acceptance)
