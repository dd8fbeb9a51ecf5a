"""When can a growing draft be given up? Models of its beginning, with lines that few good drafts fall below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid.calibration.fit import fit, matrix
from hybrid.calibration.table import Table
from hybrid.errors import CommandError
from hybrid.policy.bounds import most_errors
from hybrid.policy.calibrated import probability
from hybrid.policy.features import TOKEN_FEATURES
from hybrid.policy.model import Draft, beginning
from hybrid.policy.promise import Look, draft_features

Marks: TypeAlias = NDArray[np.bool_]

LOOKS_TOKENS = (16, 32, 64, 128)
"""After how many tokens a draft is looked at; fixed beforehand, so that looking again and again costs no promise."""
MOST_LOST = 0.10
"""Of the drafts that would be accepted at their end, the most that all looks together may give up."""
LOST_DELTA = 0.10
LEAST_ROWS = 60
"""Drafts of a look's length, and of each fate, below which there is no look."""


def fit_looks(
    table: Table, option_prior: Sequence[float], is_accepted: NDArray[np.bool_], seed: int = 0
) -> tuple[Look, ...]:
    """Fit, for each length, the chance that the whole draft will be accepted, and the line below which it is given up.

    Each look may lose an equal part of `MOST_LOST`, with an equal part of `LOST_DELTA`; its line is the highest at
    which the accepted drafts below it, counted out of fold, prove that. Giving up too soon costs money, never quality.

    Args:
        is_accepted: which drafts the calibrated threshold accepts at their end, shape (n,).
    """
    looks = []
    share = 1 / len(LOOKS_TOKENS)
    for tokens in LOOKS_TOKENS:
        long = np.array([len(row.draft.logprobs) > tokens for row in table.rows])
        fate = is_accepted[long]
        if min(int(fate.sum()), int((~fate).sum())) < LEAST_ROWS:
            continue
        rows = [
            draft_features(beginning(row.draft, tokens), option_prior)
            for row, is_long in zip(table.rows, long, strict=True)
            if is_long
        ]
        names = [name for name in TOKEN_FEATURES if name in rows[0] and name not in ("log_tokens", "is_cut")]
        try:
            found = fit(names, matrix(rows, names), fate, seed=seed)
        except CommandError:
            continue
        line = _line(found.out_of_fold, fate, int(is_accepted.sum()), MOST_LOST * share, LOST_DELTA * share)
        if line is not None:
            looks.append(Look(tokens=tokens, threshold=line, model=found.model))
    return tuple(looks)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What giving growing drafts up comes to. Shares of none are 0.

    share: of all drafts, those given up. saved_share: of the tokens of drafts that are not accepted in the end, those
    never drawn. lost_share: of the drafts that would have been accepted, those given up; the cloud answers them.
    """

    share: float
    saved_share: float
    lost_share: float


def give_up(drafts: Sequence[Draft], looks: Sequence[Look], option_prior: Sequence[float], stays: Marks) -> GivenUp:
    """Follow each draft as it grew, and end it at the first look that finds it below its line.

    Args:
        stays: which drafts are accepted at their end, shape (n,).
    """
    tokens = np.array([len(draft.logprobs) for draft in drafts])
    drawn = np.array([_drawn(draft, looks, option_prior) for draft in drafts])
    is_given_up = drawn < tokens
    wasted, lost = int(tokens[~stays].sum()), int((is_given_up & stays).sum())
    return GivenUp(
        share=float(is_given_up.mean()),
        saved_share=float((tokens - drawn)[~stays].sum() / max(wasted, 1)),
        lost_share=lost / max(int(stays.sum()), 1),
    )


def _drawn(draft: Draft, looks: Sequence[Look], option_prior: Sequence[float]) -> int:
    for look in looks:
        if len(draft.logprobs) > look.tokens:
            chance = probability(look.model, draft_features(beginning(draft, look.tokens), option_prior))
            if chance is not None and chance < look.threshold:
                return look.tokens
    return len(draft.logprobs)


def _line(
    score: NDArray[np.float64], fate: NDArray[np.bool_], accepted: int, most_lost: float, delta: float
) -> float | None:
    """The highest line below which at most `most_lost` of all accepted drafts lie, proven; None if none is."""
    allowed = most_errors(accepted, most_lost, delta)
    kept = np.sort(score[fate & ~np.isnan(score)])
    if allowed < 0 or allowed >= len(kept):
        return None
    line = float(kept[allowed])
    caught = (score < line) & ~fate
    return line if caught.any() else None
