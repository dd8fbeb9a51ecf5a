"""When may a growing draft be released, or given up, after a few looks at it? The promise for all looks together.

A draft is looked at on a fixed schedule, such as after 16, 32 and 64 tokens and at its end, and released at the first
look whose score reaches that look's threshold. Each look is one more chance to let a wrong draft pass, so thresholds
that are right for one look break the promise for several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.calibration.certify import LEAST_LOCAL_SHARE, Certificate, certificate, certify, plug_in, regrets, trace
from hybrid.policy.bounds import most_errors, upper_bound

Floats: TypeAlias = NDArray[np.float64]
Spending: TypeAlias = Literal["joint", "split"]
Thresholds: TypeAlias = tuple[float | None, ...]
"""One a look; None: nothing happens at that look."""

NEVER = -1


@dataclass(frozen=True, slots=True)
class LooksCertificate:
    """Thresholds for each look, certified together.

    certificate: of "released at any look"; its threshold is the common level of `joint`, and None for `split`.
    released: share of all rows released first at each look.
    """

    thresholds: Thresholds
    certificate: Certificate
    released: tuple[float, ...]
    spending: Spending


@dataclass(frozen=True, slots=True)
class AbortCertificate:
    """Thresholds below which a draft is given up, one for each look but the last.

    lost, bound: share of the drafts that would have been released and are given up, and its upper bound.
    n_released: rows that would have been released, from which both are told.
    caught: share of the drafts that would have been escalated in the end and are now given up earlier.
    saved_tokens, wasted_tokens: of the latter drafts, tokens no longer decoded, and all they had; None without lengths.
    """

    thresholds: Thresholds
    n_released: int
    lost: float
    bound: float
    max_lost: float
    delta: float
    caught: float
    saved_tokens: int | None
    wasted_tokens: int | None


def first_reached(scores: ArrayLike, thresholds: Thresholds) -> NDArray[np.intp]:
    """The look at which each row's score first reaches its threshold, or `NEVER`; shape (n,). NaN reaches nothing."""
    reached = _table(scores, len(thresholds)) >= np.array([math.inf if t is None else t for t in thresholds])
    return np.where(reached.any(axis=1), reached.argmax(axis=1), NEVER)


def certify_looks(
    scores: ArrayLike,
    local_correct: ArrayLike,
    cloud_correct: ArrayLike | None,
    max_regret: float,
    delta: float,
    *,
    spending: Spending = "joint",
    offsets: Sequence[float] | None = None,
    shares: Sequence[float] | None = None,
    least_local_share: float = LEAST_LOCAL_SHARE,
    batch: int | None = None,
) -> LooksCertificate:
    """Certify thresholds so that P(regret of all that is released at any look > max_regret) <= delta.

    `joint` moves the thresholds of all looks together, one level plus a fixed offset each. What one level releases at
    any look, a lower one releases too, so the whole schedule is one sequence of nested rules: its regret is tested as
    it is, and looking often costs only what it really lets pass. `split` divides the limit and delta among the looks
    (alpha spending; Bonferroni with equal shares) and certifies each by itself: looks may then go their own ways, at
    the price of counting a draft that passes several looks several times.

    Args:
        scores: shape (n, looks); the last column is the whole draft. NaN: the draft had ended before that look.
        offsets: of `joint`, a look's own addition to the common level, declared beforehand or found on other rows.
        shares: of `split`, each look's part of the limit and of delta; positive, at most 1 in sum.
        batch: as for `certify`.
    Raises: ValueError for shapes or parts that do not fit.
    """
    table = _table(scores, None)
    if spending == "split":
        return _split(table, local_correct, cloud_correct, max_regret, delta, shares, least_local_share, batch)
    added = _offsets(offsets, table.shape[1])
    level = np.where(np.isnan(table), -np.inf, table - added).max(axis=1)
    single = certify(
        level, local_correct, cloud_correct, max_regret, delta, least_local_share=least_local_share, batch=batch
    )
    thresholds: Thresholds = (None,) * table.shape[1]
    if single.threshold is not None:
        found = [_least_passing(table[:, at], added[at], single.threshold) for at in range(table.shape[1])]
        thresholds = tuple(None if limit == np.inf else limit for limit in found)
    return LooksCertificate(thresholds, single, _released(table, thresholds), "joint")


def _split(
    table: Floats,
    local_correct: ArrayLike,
    cloud_correct: ArrayLike | None,
    max_regret: float,
    delta: float,
    shares: Sequence[float] | None,
    least_local_share: float,
    batch: int | None,
) -> LooksCertificate:
    looks = table.shape[1]
    parts = [1 / looks] * looks if shares is None else list(shares)
    if len(parts) != looks or min(parts) <= 0 or sum(parts) > 1 + 1e-9:
        raise ValueError(f"need a positive share for each of {looks} looks, at most 1 in sum; got {parts}")
    scores = np.where(np.isnan(table), -np.inf, table)
    each = [
        certify(scores[:, at], local_correct, cloud_correct, max_regret * part, delta * part, None, 0.0, batch)
        for at, part in enumerate(parts)
    ]
    thresholds = tuple(one.threshold for one in each)
    together = certificate(
        trace(first_reached(table, thresholds), regrets(local_correct, cloud_correct), (0.0,)),
        0,
        max_regret,
        delta,
        is_gold=cloud_correct is None,
        least_local_share=least_local_share,
        bound=sum(one.bound for one in each),
    )
    if not together.is_feasible:
        thresholds = (None,) * looks
    # That trace has one threshold only; what no confidence would cost is told of all levels of the best look.
    free = trace(scores.max(axis=1), regrets(local_correct, cloud_correct))
    together = replace(together, threshold=None, plug_in_escalation=free.escalation(plug_in(free, max_regret)))
    return LooksCertificate(thresholds, together, _released(table, thresholds), "split")


def certify_abort(
    scores: ArrayLike,
    thresholds: Thresholds,
    max_lost: float,
    delta: float,
    *,
    offsets: Sequence[float] | None = None,
    tokens: ArrayLike | None = None,
    look_tokens: Sequence[int] | None = None,
) -> AbortCertificate:
    """Find the thresholds below which drafting stops, losing at most `max_lost` of the drafts that would be released.

    P(lost share > max_lost) <= delta, by the same test as for regret, on the rows that are released without aborting.
    At each look a draft is first tried for release and then for abort. A lost draft goes to the cloud, which costs
    money but no quality. The confidence is exact for release thresholds that were fixed before these rows were seen.

    Args:
        scores: shape (n, looks) as for `certify_looks`; nothing is aborted at the last look.
        thresholds: of release, one a look.
        offsets: one for each look but the last.
        tokens, look_tokens: for the saving, the length of each draft, shape (n,), and the tokens drafted by each look
            but the last.
    """
    table = _table(scores, len(thresholds))
    release = first_reached(table, thresholds)
    early = table.shape[1] - 1
    added = _offsets(offsets, early)
    is_open = (release[:, None] == NEVER) | (np.arange(early) < release[:, None])
    adjusted = np.where(is_open & ~np.isnan(table[:, :early]), table[:, :early] - added, np.inf)
    level = adjusted.min(axis=1, initial=np.inf)
    kept = np.sort(level[release != NEVER])
    allowed = most_errors(len(kept), max_lost, delta) if len(kept) else -1
    if allowed < 0:
        return _aborted(table, release, np.full(early, -np.inf), (max_lost, delta), tokens, look_tokens)
    # Where all may be lost anything may be aborted; a draft without an early look never is.
    cut = kept[allowed] if allowed < len(kept) else np.inf
    limits = np.array([_least_passing(table[:, at], added[at], cut) for at in range(early)])
    return _aborted(table, release, limits, (max_lost, delta), tokens, look_tokens)


def _aborted(
    table: Floats,
    release: NDArray[np.intp],
    limits: Floats,
    promise: tuple[float, float],
    tokens: ArrayLike | None,
    look_tokens: Sequence[int] | None,
) -> AbortCertificate:
    early = len(limits)
    below = (table[:, :early] < limits) & ((release[:, None] == NEVER) | (np.arange(early) < release[:, None]))
    is_aborted, is_released = below.any(axis=1), release != NEVER
    n, lost = int(is_released.sum()), int((is_aborted & is_released).sum())
    doomed = ~is_released
    saved = wasted = None
    if tokens is not None and look_tokens is not None:
        lengths, by_look = np.asarray(tokens, dtype=np.int64), np.asarray(look_tokens, dtype=np.int64)
        if lengths.shape != (len(table),) or by_look.shape != (early,):
            raise ValueError(f"need {len(table)} lengths and {early} looks; got {lengths.shape}, {by_look.shape}")
        caught = is_aborted & doomed
        saved = int(np.maximum(0, lengths[caught] - by_look[below[caught].argmax(axis=1)]).sum()) if early else 0
        wasted = int(lengths[doomed].sum())
    max_lost, delta = promise
    return AbortCertificate(
        thresholds=tuple(None if limit == -np.inf else float(limit) for limit in limits),
        n_released=n,
        lost=lost / n if n else 0.0,
        bound=upper_bound(lost, n, delta) if n and lost < n else 1.0,
        max_lost=max_lost,
        delta=delta,
        caught=float(is_aborted[doomed].mean()) if doomed.any() else 0.0,
        saved_tokens=saved,
        wasted_tokens=wasted,
    )


def _least_passing(column: Floats, offset: float, level: float) -> float:
    """The threshold on a column's own scores that parts its rows as `score - offset >= level` does.

    Adding the offset to the level could round, and let one row more pass.
    """
    if offset == 0:
        return float(level)
    passing = column[column - offset >= level]
    return float(passing.min()) if len(passing) else math.inf


def _released(table: Floats, thresholds: Thresholds) -> tuple[float, ...]:
    at = first_reached(table, thresholds)
    return tuple(float((at == look).mean()) for look in range(table.shape[1]))


def _offsets(offsets: Sequence[float] | None, looks: int) -> Floats:
    added = np.zeros(looks) if offsets is None else np.asarray(offsets, dtype=np.float64)
    if added.shape != (looks,) or not np.isfinite(added).all():
        raise ValueError(f"need a finite offset for each of {looks} looks; got {offsets}")
    return added


def _table(scores: ArrayLike, looks: int | None) -> Floats:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size or looks not in (None, table.shape[1]):
        raise ValueError(f"need scores of shape (rows, {looks or 'looks'}); got {table.shape}")
    return table
