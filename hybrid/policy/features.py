"""What does a draft tell about itself? Named numbers from its tokens, its options, and how far its samples agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hybrid.policy.model import Draft
from hybrid.types import FinishReason

FEATURE_VERSION = 1
"""Raised when a feature of the same name is computed in another way: what was fitted on the old ones is void then."""

TOKEN_FEATURES = (
    "mean_logprob",
    "min_logprob",
    "median_logprob",
    "q10_logprob",
    "q25_logprob",
    "weak_quarter_logprob",
    "mean_entropy",
    "max_entropy",
    "mean_margin",
    "q10_margin",
    "log_tokens",
    "is_cut",
)
OPTION_FEATURES = ("option_margin", "option_top", "option_entropy", "option_mass")
PRIOR_FEATURES = ("fair_top", "fair_margin")
SAMPLE_FEATURES = ("agreement", "is_majority")
VOTE_FEATURES = ("vote_top", "vote_margin", "vote_share")


def features(draft: Draft) -> dict[str, float]:
    """Give every feature the draft has: those of its options or samples are missing where it has none.

    Raises: ValueError for a draft without tokens, or with a number that is not finite.
    Source: quantiles beside means: Gupta et al., ICLR 2024, arXiv:2404.10136; the set for free text: Dekoninck et
    al., ICML 2025, arXiv:2410.10347; agreement of samples: Wang et al., ICLR 2023, arXiv:2203.11171.
    """
    for name in ("logprobs", "entropies", "margins"):
        if not all(map(math.isfinite, getattr(draft, name))):
            raise ValueError(f"the draft's {name} are not all finite numbers")
    found = _of_tokens(draft)
    if draft.options:
        found.update(option_features(draft.options))
    if draft.agreement is not None:
        found["agreement"] = draft.agreement.share
        found["is_majority"] = float(draft.agreement.is_majority)
    return found


def _of_tokens(draft: Draft) -> dict[str, float]:
    if not draft.logprobs:
        raise ValueError("a draft without tokens has no features")
    count = len(draft.logprobs)
    ordered = sorted(draft.logprobs)
    weakest = ordered[: max(1, math.ceil(0.25 * count))]
    found = {
        "mean_logprob": math.fsum(ordered) / count,
        "min_logprob": ordered[0],
        "median_logprob": quantile(ordered, 0.5),
        "q10_logprob": quantile(ordered, 0.1),
        "q25_logprob": quantile(ordered, 0.25),
        "weak_quarter_logprob": math.fsum(weakest) / len(weakest),
        "log_tokens": math.log(count),
        "is_cut": float(draft.finish_reason is FinishReason.LENGTH),
    }
    if draft.entropies:
        found["mean_entropy"] = math.fsum(draft.entropies) / len(draft.entropies)
        found["max_entropy"] = max(draft.entropies)
    if draft.margins:
        found["mean_margin"] = math.fsum(draft.margins) / len(draft.margins)
        found["q10_margin"] = quantile(sorted(draft.margins), 0.1)
    return found


def option_features(logprobs: Sequence[float]) -> dict[str, float]:
    """Describe the distribution over a question's options.

    Args:
        logprobs: natural log-probability of each option's letter as the first token, shape (n_options,), n >= 2.
    Returns: the margin and the top of the options' shares among themselves, their entropy in nats over log n, and
    the log of the probability that any of them is said at all.
    Raises: ValueError with fewer than two options, or where none of them can be said.
    """
    if len(logprobs) < 2 or not math.isfinite(max(logprobs)) or any(map(math.isnan, logprobs)):
        raise ValueError(f"need two options of which one can be said; got {len(logprobs)}")
    shares = option_shares(logprobs)
    ordered = sorted(shares, reverse=True)
    peak = max(logprobs)
    return {
        "option_margin": ordered[0] - ordered[1],
        "option_top": ordered[0],
        "option_entropy": -math.fsum(share * math.log(share) for share in shares if share > 0) / math.log(len(shares)),
        "option_mass": peak + math.log(math.fsum(math.exp(logprob - peak) for logprob in logprobs)),
    }


def prior_features(logprobs: Sequence[float], prior: Sequence[float]) -> dict[str, float]:
    """Describe the options against the model's habit of preferring some letters whatever is asked.

    Args:
        logprobs: as for `option_features`. prior: mean log-share of each option over many questions, same shape.
    Returns: of the option the model would say, its share once the habit is taken off, and how far that is above the
    best of the others; below 0 where only the habit has chosen it.
    Source: taking off the prior of option labels: Zheng et al., ICLR 2024, arXiv:2309.03882.
    """
    said = max(range(len(logprobs)), key=lambda place: logprobs[place])
    shares = option_shares([logprob - habit for logprob, habit in zip(logprobs, prior, strict=True)])
    others = max(share for place, share in enumerate(shares) if place != said)
    return {"fair_top": shares[said], "fair_margin": shares[said] - others}


def option_shares(logprobs: Sequence[float]) -> list[float]:
    """Give each option's share of the probability that all of them have together; they sum to 1."""
    peak = max(logprobs)
    weights = [math.exp(logprob - peak) for logprob in logprobs]
    whole = math.fsum(weights)
    return [weight / whole for weight in weights]


def quantile(ordered: Sequence[float], share: float) -> float:
    """Give the value below which `share` of sorted values lie, interpolated between the two nearest."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
