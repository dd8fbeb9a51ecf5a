"""Which threshold may promise "regret is at most so much"? Fixed-sequence tests with exact binomial bounds.

Regret is the share of all requests that are answered locally where local is wrong and the cloud right. Thresholds are
tested from escalating everything downwards, each by the hypothesis "its regret is above the limit", and the last one
before the first that cannot be rejected is certified. The chance that its true regret is above the limit is at most
delta, for any number of rows, as long as these and the requests to come are drawn alike.

The looser threshold answers all that the stricter one does, so regret only grows along the sequence. Let t be the
strictest threshold whose true regret is above the limit. A certified threshold breaks the promise only if it is no
stricter than t, and then t itself was seen with no more errors than a pass allows, which has a chance of at most
delta. That argument names one threshold only, fixed by the distribution. So neither the number of thresholds nor
taking them from the rows themselves costs anything; a grid is needed only where a threshold is to be a round number.

Sources: Angelopoulos et al., Learn then Test, arXiv:2110.01052 (fixed sequences); Bates et al., arXiv:2101.02703
(monotone risks); Jung et al., Trust or Escalate, arXiv:2407.18370 (escalation by it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.artefact import Counts
from hybrid.policy import promise
from hybrid.policy.bounds import most_errors, most_errors_for_batch, trials_needed, upper_bound

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

LEAST_LOCAL_SHARE = 0.02
"""A promise kept by answering less than this locally is kept by not being there, and is called infeasible."""
SPLITS = 200
MOST_COUNTS = 512
"""Thresholds that an artefact keeps; of more, evenly many rows lie between two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What may be promised of one threshold, or why nothing may.

    is_feasible: whether anything may be answered locally under the promise.
    threshold: local answers are those with score >= threshold; None if infeasible, or where each look has its own.
    errors: rows answered locally, local wrong, cloud right (or, with gold labels only, local wrong), out of n.
    regret, bound: their share, and its upper bound at confidence 1 - delta; both 0 where nothing is answered locally.
    labels: `cloud` compares with the cloud; `gold` takes the cloud to be right always, so regret is overstated.
    least_escalation: the least share of escalated requests at which the bound holds on these rows, for this score.
    plug_in_escalation: the same without any confidence: where the observed regret just keeps to the limit.
    oracle_escalation: mu - limit, which even a score that knows all labels must escalate; mu is always-local's regret.
    selective_escalation: (mu - limit) / (1 - limit), necessary where the limit is on wrong ones among those answered.
    why: one sentence for people.
    """

    is_feasible: bool
    threshold: float | None
    n: int
    errors: int
    regret: float
    bound: float
    local_share: float
    max_regret: float
    delta: float
    labels: Literal["cloud", "gold"]
    least_escalation: float
    plug_in_escalation: float
    oracle_escalation: float
    selective_escalation: float
    why: str


@dataclass(frozen=True, slots=True)
class Trace:
    """Rows in the order in which thresholds let them stay local: one entry for each threshold, strictest first.

    thresholds: descending. kept: rows answered locally at each. errors: regretted ones among them. All of shape (k,).
    """

    thresholds: Floats
    kept: NDArray[np.intp]
    errors: NDArray[np.intp]
    n: int
    total_errors: int

    def loosest(self, allowed: int) -> int | None:
        """The last threshold of the sequence before the first one with more than `allowed` errors; None: not one."""
        passing = int(np.searchsorted(self.errors, allowed, side="right"))
        return passing - 1 if passing else None

    def escalation(self, at: int | None) -> float:
        """The share of requests that threshold sends to the cloud; everything with none."""
        return 1.0 if at is None else 1 - int(self.kept[at]) / self.n


def probability_grid(steps: int = 200) -> tuple[float, ...]:
    """Round thresholds for scores that are probabilities: 1 downwards to 0 in equal steps."""
    return tuple((steps - step) / steps for step in range(steps + 1))


def regrets(local_correct: ArrayLike, cloud_correct: ArrayLike | None) -> Bools:
    """Which rows would be regretted if answered locally; without the cloud's labels, all that local has wrong."""
    local = np.asarray(local_correct)
    cloud = np.ones_like(local) if cloud_correct is None else np.asarray(cloud_correct)
    are_marks = all(marks.dtype == np.bool_ or np.isin(marks, (0, 1)).all() for marks in (local, cloud))
    if local.shape != cloud.shape or not are_marks:
        raise ValueError(f"need one true or false a row for local and cloud; got shapes {local.shape}, {cloud.shape}")
    return ~local.astype(np.bool_) & cloud.astype(np.bool_)


def trace(score: ArrayLike, regretted: Bools, grid: Sequence[float] | None = None) -> Trace:
    """Count what each threshold keeps and regrets. Without a grid every score that occurs is a threshold.

    Raises: ValueError if there are no rows, the shapes differ, or a score or threshold is NaN.
    """
    values = np.asarray(score, dtype=np.float64)
    if values.ndim != 1 or not len(values) or values.shape != regretted.shape:
        raise ValueError(f"need one score a row and at least one row; got shapes {values.shape}, {regretted.shape}")
    if broken := int(np.isnan(values).sum()):
        raise ValueError(f"{broken} of {len(values)} scores are NaN; give what has no score minus infinity")
    order = np.argsort(-values, kind="stable")
    # What has minus infinity stays local at no threshold.
    thresholds = np.unique(values[values > -np.inf] if grid is None else np.asarray(grid, dtype=np.float64))[::-1]
    if np.isnan(thresholds).any():
        raise ValueError("a threshold is NaN")
    kept = np.searchsorted(-values[order], -thresholds, side="right")
    errors = np.concatenate([[0], np.cumsum(regretted[order])])[kept]
    return Trace(thresholds, kept, errors, len(values), int(regretted.sum()))


def counts_of(score: NDArray[np.float64], regretted: NDArray[np.bool_]) -> Counts:
    """Count what each threshold would keep and regret."""
    found = trace(score, regretted)
    places = np.arange(len(found.thresholds))
    if len(places) > MOST_COUNTS:
        places = np.unique(np.linspace(0, len(places) - 1, MOST_COUNTS).round().astype(int))
    return Counts(
        thresholds=tuple(found.thresholds[places].tolist()),
        kept=tuple(found.kept[places].tolist()),
        regretted=tuple(found.errors[places].tolist()),
        n=found.n,
    )


def certify(
    score: ArrayLike,
    local_correct: ArrayLike,
    cloud_correct: ArrayLike | None,
    max_regret: float,
    delta: float,
    grid: Sequence[float] | None = None,
    least_local_share: float = LEAST_LOCAL_SHARE,
    batch: int | None = None,
) -> Certificate:
    """Certify the loosest threshold at which P(regret > max_regret) <= delta.

    Args:
        score: the higher, the rather local, shape (n,). It must not come from a model fitted on these very rows:
            out-of-fold predictions, or rows kept apart.
        cloud_correct: shape (n,); None where only gold labels are known.
        grid: thresholds to choose from; without one, any score that occurs.
        least_local_share: thresholds that keep less than this local do not count as feasible.
        batch: promise also that the regret observed in so many requests to come keeps to the limit, with the same
            confidence. A little stricter than the promise about the true regret; it is what a held-out set shows.
    Raises: ValueError for shapes, NaN, or limits out of (0, 1).
    """
    _check_limits(max_regret, delta)
    found = trace(score, regrets(local_correct, cloud_correct), grid)
    allowed = most_errors(found.n, max_regret, delta)
    if batch is not None:
        allowed = min(allowed, most_errors_for_batch(found.n, batch, max_regret, delta))
    at = found.loosest(allowed)
    return certificate(found, at, max_regret, delta, is_gold=cloud_correct is None, least_local_share=least_local_share)


def certificate(
    found: Trace,
    at: int | None,
    max_regret: float,
    delta: float,
    *,
    is_gold: bool,
    least_local_share: float,
    bound: float | None = None,
) -> Certificate:
    """Write down what the sequence ended at. bound: where it is not that of the errors alone."""
    least = found.escalation(at)
    chosen = at if at is not None and 1 - least >= least_local_share and found.kept[at] else None
    errors = 0 if chosen is None else int(found.errors[chosen])
    if chosen is None:
        bound = 0.0
    elif bound is None:
        bound = upper_bound(errors, found.n, delta)
    mu = found.total_errors / found.n
    return Certificate(
        is_feasible=chosen is not None,
        threshold=None if chosen is None else float(found.thresholds[chosen]),
        n=found.n,
        errors=errors,
        regret=errors / found.n,
        bound=bound,
        local_share=0.0 if chosen is None else 1 - least,
        max_regret=max_regret,
        delta=delta,
        labels="gold" if is_gold else "cloud",
        least_escalation=least,
        plug_in_escalation=found.escalation(plug_in(found, max_regret)),
        oracle_escalation=max(0.0, mu - max_regret),
        selective_escalation=max(0.0, (mu - max_regret) / (1 - max_regret)),
        why=_why(found, chosen, least, max_regret, delta, bound),
    )


def plug_in(found: Trace, max_regret: float) -> int | None:
    """The usual threshold, for comparison: the loosest whose observed regret keeps to the limit. No promise."""
    # A product may round below the integer it stands for: 0.29 * 100 is 28.999...96.
    return found.loosest(math.floor(max_regret * found.n + 1e-9))


def _why(found: Trace, chosen: int | None, least: float, max_regret: float, delta: float, bound: float) -> str:
    promise = f"regret <= {max_regret:.3g} with confidence {1 - delta:.3g}"
    if chosen is not None:
        return (
            f"{promise}: {int(found.errors[chosen])} of {found.n} rows are regretted at this threshold, "
            f"which bounds the true share by {bound:.4f}"
        )
    needed = trials_needed(max_regret, delta)
    if found.n < needed:
        return f"{promise} needs at least {needed} labelled rows even if none errs; there are {found.n}"
    return (
        f"{promise} is infeasible with this score: it holds only where {least:.1%} or more of the requests are "
        f"escalated (always-local regrets {found.total_errors / found.n:.1%})"
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of splits broken and refused, and the mean share of requests escalated."""

    broken: float
    escalation: float
    refused: float


@dataclass(frozen=True, slots=True)
class Violations:
    """How often a promise breaks when some rows certify and the others are served.

    deployed: by what `hybrid calibrate` counts and `policy.promise.certify` makes of it. true_regret: with the promise
    about the true regret alone. plug_in: no promise.
    """

    splits: int
    n_certify: int
    n_served: int
    deployed: Outcome
    true_regret: Outcome
    plug_in: Outcome


def violations(
    score: ArrayLike,
    local_correct: ArrayLike,
    cloud_correct: ArrayLike | None,
    max_regret: float,
    delta: float,
    splits: int = SPLITS,
    seed: int = 0,
    *,
    given_up: ArrayLike | None = None,
    is_at_chance: bool = False,
    certify_share: float = 0.5,
) -> Violations:
    """Try the promise on random splits, half of the rows certifying and half being served.

    What is counted is the observed regret of the other half, which has noise of its own: a threshold whose true
    regret is just at the limit is counted as broken about every second time, though it breaks no promise. And halves of
    one sample are no independent draws: where few errors fell into the first half, more are left for the other. So
    `true_regret` may be counted as broken in more than delta of the splits (12 to 14 % of halves at delta 10 %);
    `deployed` promises what is counted as well, and keeps to delta.

    Args:
        given_up: rows whose drafts are given up as they grow, and so are never served, shape (n,).
        is_at_chance: as it was found at the calibration.
    Raises: ValueError as `certify`, if a part has no row, or without a split.
    """
    _check_limits(max_regret, delta)
    values, regretted = np.asarray(score, dtype=np.float64), regrets(local_correct, cloud_correct)
    n = round(len(values) * certify_share)
    if not 0 < n < len(values) or splits < 1:
        raise ValueError(f"need rows on both sides and a split; got {n} of {len(values)} rows, {splits} splits")
    is_held = np.ones(len(values), dtype=np.bool_) if given_up is None else ~np.asarray(given_up, dtype=np.bool_)
    rng, allowed = np.random.default_rng(seed), most_errors(n, max_regret, delta)
    outcomes = []
    for _ in range(splits):
        order = rng.permutation(len(values))
        first, other = order[:n], order[n:]
        found = trace(values[first], regretted[first])
        counted = counts_of(values[first], regretted[first]).counted()
        deployed = promise.certify(counted, max_regret, delta, is_at_chance=is_at_chance).threshold
        thresholds = (
            deployed,
            _threshold(found, found.loosest(allowed)),
            _threshold(found, plug_in(found, max_regret)),
        )
        kept = [(values[other] >= threshold) & is_held[other] for threshold in thresholds]
        outcomes.append([_told(regretted[other], stays, max_regret) for stays in kept])
    means = np.mean(np.array(outcomes, dtype=np.float64), axis=0).tolist()
    return Violations(splits, n, len(values) - n, *(Outcome(*row) for row in means))


def _told(regretted: Bools, stays: Bools, max_regret: float) -> tuple[float, float, float]:
    """Of one split: whether the promise broke, the share that was escalated, whether nothing stayed."""
    return float((regretted & stays).mean() > max_regret + 1e-12), 1 - float(stays.mean()), float(not stays.any())


def _threshold(found: Trace, at: int | None) -> float:
    return math.inf if at is None else float(found.thresholds[at])


def _check_limits(max_regret: float, delta: float) -> None:
    if not 0 < max_regret < 1 or not 0 < delta < 1:
        raise ValueError(f"max_regret and delta lie in (0, 1); got {max_regret:g} and {delta:g}")
