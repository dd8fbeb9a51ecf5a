"""How sure was the model of its draft? One score in [0, 1] from per-token statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid.policy.model import Draft

WEAK_SHARE = 0.25
"""The share of tokens the score looks at. Filler is easy for any model; what decides is the hard quarter."""


def weak_quarter_logprob(logprobs: Sequence[float]) -> float:
    """Mean log-probability of the least likely quarter of the tokens (at least one).

    The mean over all tokens lets a long run of confident filler hide a guess, the raw sum only measures
    length, a single quantile jumps with one token. The mean of the lower tail moves smoothly with all of it.

    Args:
        logprobs: natural log-probability of each sampled token, shape (n_tokens,), each <= 0.
    Returns: nats, in (-inf, 0]; 0 is certainty.
    Raises: ValueError if the draft is empty.
    Source: lower quantiles instead of sums and means: Gupta et al., ICLR 2024, arXiv:2404.10136.
    """
    if not logprobs:
        raise ValueError("a draft without tokens has no confidence")
    weakest = sorted(logprobs)[: max(1, math.ceil(WEAK_SHARE * len(logprobs)))]
    return sum(weakest) / len(weakest)


def score(draft: Draft) -> float | None:
    """Score a draft in [0, 1]: the geometric mean probability of its weak quarter; None without tokens.

    It ranks drafts of one model; it is NOT the probability that the answer is right until a calibration
    for that model says so, and every place that shows it says which of the two it is.
    """
    if not draft.logprobs:
        return None
    return math.exp(weak_quarter_logprob(draft.logprobs))
