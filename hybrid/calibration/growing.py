"""When can a growing draft be given up? Models of its beginning, with lines that few good drafts fall below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid.calibration.fit import fit, matrix
from hybrid.calibration.table import Table
from hybrid.errors import CommandError
from hybrid.policy.bounds import most_errors
from hybrid.policy.features import TOKEN_FEATURES
from hybrid.policy.model import beginning
from hybrid.policy.promise import Look, draft_features

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
