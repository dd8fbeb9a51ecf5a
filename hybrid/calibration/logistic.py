"""What weights make the labels likeliest under a penalty? Logistic regression for thousands of small tables.

Newton's method step by step as scikit-learn takes it, to the same end, but for its looks at the arguments, which on a
table of a few hundred rows take ten times as long as the steps. Where these do not settle, scikit-learn is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

MAX_STEPS = 200
MAX_HALVINGS = 20
SETTLED = 1e-7
"""The largest part of the gradient, and half the Newton decrement, at which the weights are taken."""
LEAST_GAIN = 2.0**-11
"""The share of what a straight line would gain that a step must (Armijo)."""


@dataclass(frozen=True, slots=True, eq=False)
class Logistic:
    """coefficients: shape (features,). intercept: in logits."""

    coefficients: Floats
    intercept: float

    def logits(self, columns: Floats) -> Floats:
        """The linear score of each row of columns, shape (rows, features)."""
        return columns @ self.coefficients + self.intercept


def fit_logistic(columns: Floats, correct: Bools, strength: float, weights: Floats | None = None) -> Logistic:
    """Minimise strength * (sum of weighted log losses) + |coefficients|^2 / 2; the intercept goes unpenalised.

    Args:
        columns: finite, shape (rows, features). correct: shape (rows,), of both classes. strength: scikit-learn's C.
        weights: shape (rows,), >= 0; 1 each without.
    """
    found = _newton(columns, correct, strength, weights)
    if found is not None:
        return found
    inner = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=MAX_STEPS, tol=SETTLED)
    inner.fit(columns, correct, sample_weight=weights)
    return Logistic(inner.coef_[0], float(inner.intercept_[0]))


class _Objective:
    """Mean loss and penalty of weights, of which the last is the intercept, and how they change."""

    def __init__(self, columns: Floats, correct: Bools, strength: float, weights: Floats | None) -> None:
        rows, features = columns.shape
        whole = float(rows) if weights is None else float(weights.sum())
        self.table = np.column_stack([columns, np.ones(rows)])
        self._labels = correct.astype(np.float64)
        self._shares = np.full(rows, 1 / whole) if weights is None else weights / whole
        self._penalties = np.append(np.full(features, 1 / (strength * whole)), 0.0)

    def loss(self, at: Floats, logits: Floats) -> float:
        """In nats a row, with the penalty."""
        losses = np.logaddexp(0.0, logits) - self._labels * logits
        return float(self._shares @ losses + self._penalties @ (at * at) / 2)

    def gradient(self, at: Floats, chances: Floats) -> Floats:
        """Of the loss, by weight."""
        found: Floats = self.table.T @ (self._shares * (chances - self._labels)) + self._penalties * at
        return found

    def hessian(self, chances: Floats) -> Floats:
        """Of the loss, by pairs of weights."""
        curvatures = self._shares * chances * (1 - chances)
        found: Floats = self.table.T @ (self.table * curvatures[:, None])
        found[np.diag_indices_from(found)] += self._penalties
        return found


def _newton(columns: Floats, correct: Bools, strength: float, weights: Floats | None) -> Logistic | None:
    """Take steps from 0 until they settle; None where they do not, or where the curvature is lost."""
    objective = _Objective(columns, correct, strength, weights)
    at, logits = np.zeros(objective.table.shape[1]), np.zeros(len(columns))
    loss, chances = objective.loss(at, logits), _chances(logits)
    gradient = objective.gradient(at, chances)
    for _ in range(MAX_STEPS):
        hessian = objective.hessian(chances)
        try:
            step = np.linalg.solve(hessian, -gradient)
        except np.linalg.LinAlgError:
            return None
        along, slope, size = objective.table @ step, float(gradient @ step), 1.0
        for _ in range(MAX_HALVINGS + 1):
            reached = objective.loss(at + size * step, logits + size * along)
            if reached - loss <= size * LEAST_GAIN * slope:
                break
            size /= 2
        else:
            return None
        at, logits, loss = at + size * step, logits + size * along, reached
        chances = _chances(logits)
        gradient = objective.gradient(at, chances)
        if np.abs(gradient).max() <= SETTLED and step @ hessian @ step / 2 <= SETTLED:
            return Logistic(at[:-1], float(at[-1]))
    return None


def _chances(logits: Floats) -> Floats:
    """1 / (1 + exp(-logit)) of each, without overflow at either end."""
    found: Floats = np.exp(-np.logaddexp(0.0, -logits))
    return found
