"""When can a growing draft be given up? Models of its beginning, with lines that few good drafts fall below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid.calibration.fit import fit, matrix
from hybrid.calibration.looks import certify_abort
from hybrid.calibration.table import Table
from hybrid.errors import CommandError
from hybrid.policy.calibrated import LinearModel
from hybrid.policy.features import TOKEN_FEATURES
from hybrid.policy.model import Draft, beginning
from hybrid.policy.promise import Look, draft_features, given_up_at

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

    The lines of all looks are one level of that chance, moved together and tested as one rule (`certify_abort`): the
    highest at which the accepted drafts that fall below it at any look, counted out of fold, prove that at most
    `MOST_LOST` of them are lost. Giving up too soon costs money, never quality.

    Args:
        is_accepted: which drafts the calibrated threshold accepts at their end, shape (n,).
    """
    fitted: list[tuple[int, LinearModel]] = []
    columns: list[NDArray[np.float64]] = []
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
        column = np.full(len(table.rows), np.nan)
        column[long] = found.out_of_fold
        columns.append(column)
        fitted.append((tokens, found.model))
    scores = np.column_stack([*columns, is_accepted.astype(np.float64)])
    found_lines = certify_abort(scores, (*(None for _ in fitted), 0.5), MOST_LOST, LOST_DELTA).thresholds
    return tuple(
        Look(tokens=tokens, threshold=line, model=model)
        for (tokens, model), line in zip(fitted, found_lines, strict=True)
        if line is not None and math.isfinite(line)
    )


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What giving growing drafts up comes to. Shares of none are 0.

    share: of all drafts, those given up. saved_share: of the tokens of drafts that are not accepted in the end, those
    never drawn. lost_share: of the drafts that would have been accepted, those given up; the cloud answers them.
    """

    share: float
    saved_share: float
    lost_share: float


def given_up(drafts: Sequence[Draft], looks: Sequence[Look], option_prior: Sequence[float]) -> Marks:
    """Which drafts are ended at a look, shape (n,)."""
    return np.array([given_up_at(draft, looks, option_prior) is not None for draft in drafts], dtype=np.bool_)


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
    tokens = given_up_at(draft, looks, option_prior)
    return len(draft.logprobs) if tokens is None else tokens
