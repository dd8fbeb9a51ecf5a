"""How do a question's words tell whether the cloud is right? A logistic model on hashed words, by its own record.

The cloud's marks need no answer of the local model, so all questions with a record teach it, also those that a
calibration leaves out. What is said of a row of the calibration comes from models that never saw it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import LogisticRegression

from hybrid.calibration.reliability import log_loss
from hybrid.calibration.training import folds_of
from hybrid.policy.calibrated import logistic
from hybrid.policy.wording import Wording, buckets_of

BUCKETS = 1 << 14
"""Of words and pairs; an exam's 7,000 questions have some 150,000 different ones, most of them once."""
STRENGTHS = (0.1, 0.3, 1.0, 3.0)
"""Inverse strengths of the penalty that are tried."""
LEAST_MISTAKES = 50
"""Of the cloud, and right answers: fewer cannot teach thousands of weights anything."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Worded:
    """wording: fitted on all that was given. out_of_fold: logits of the rows, by models that did not see them."""

    wording: Wording
    out_of_fold: Floats


def fit_wording(
    texts: Sequence[str], right: Bools, more: Sequence[str] = (), more_right: Bools | None = None, *, seed: int = 0
) -> Worded | None:
    """Fit it. The strength of the penalty is the one of the least log loss on the rows, out of fold.

    Args:
        texts, right: of the calibration's rows: what was asked, and whether the cloud was right, shape (n,).
        more, more_right: of questions beside them, which teach all folds.
    Returns: None where the cloud was wrong, or right, too rarely to learn from.
    """
    every = right if more_right is None else np.concatenate([right, more_right])
    if min(int(every.sum()), int((~every).sum())) < LEAST_MISTAKES or min(right.sum(), (~right).sum()) < 2:
        return None
    rows, beside = _matrix(texts), _matrix(more) if len(more) else None
    found: list[tuple[float, float, Floats]] = []
    for strength in STRENGTHS:
        logits = np.empty(len(right))
        for taught, held_out in folds_of(right, seed):
            model = _fit(rows[taught], right[taught], beside, more_right, strength)
            logits[held_out] = model.decision_function(rows[held_out])
        found.append((log_loss([logistic(one) for one in logits], right), strength, logits))
    _, strength, logits = min(found, key=lambda one: one[0])
    model = _fit(rows, right, beside, more_right, strength)
    # As they are kept, in sixteen bits.
    weights = model.coef_[0].astype(np.float16).astype(np.float64)
    return Worded(Wording(tuple(weights.tolist()), float(model.intercept_[0])), logits)


def _fit(
    rows: csr_matrix, right: Bools, beside: csr_matrix | None, more_right: Bools | None, strength: float
) -> LogisticRegression:
    table = rows if beside is None else vstack([rows, beside], format="csr")
    marks = right if more_right is None else np.concatenate([right, more_right])
    return LogisticRegression(C=strength, max_iter=1000).fit(table, marks)


def _matrix(texts: Sequence[str]) -> csr_matrix:
    """A row a text: its buckets, each weighing the same, of length 1 together."""
    found = [sorted(buckets_of(text, BUCKETS)) for text in texts]
    ends = np.cumsum([0, *(len(one) for one in found)])
    values = np.concatenate([np.full(len(one), 1 / np.sqrt(max(1, len(one)))) for one in found])
    return csr_matrix((values, np.concatenate(found).astype(np.int32), ends), shape=(len(texts), BUCKETS))
