"""Does the regression for small tables find what scikit-learn's finds?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import LinAlgWarning
from sklearn.linear_model import LogisticRegression

from hybrid.calibration.logistic import MAX_STEPS, SETTLED, fit_logistic

SAME = 1e-6
"""Both end within their `SETTLED` of the least loss, one perhaps a step before the other."""


def by_scikit_learn(columns, correct, strength, weights):
    """Its weights, the intercept last."""
    inner = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=MAX_STEPS, tol=SETTLED)
    inner.fit(columns, correct, sample_weight=weights)
    return [*inner.coef_[0], inner.intercept_[0]]


def by_us(columns, correct, strength, weights):
    """Ours, the intercept last."""
    found = fit_logistic(columns, correct, strength, weights)
    return [*found.coefficients, found.intercept]


def rows(n: int, features: int, seed: int, *, steepness: float = 1.0):
    """Random rows, and labels that follow the first feature."""
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((n, features))
    correct = rng.random(n) < 1 / (1 + np.exp(-steepness * columns[:, 0]))
    correct[:2] = [False, True]
    return columns, correct


@given(
    st.integers(8, 80),
    st.integers(1, 5),
    st.integers(0, 10_000),
    st.sampled_from([0.001, 0.03, 1.0, 10.0]),
    st.booleans(),
)
def test_it_finds_what_scikit_learn_finds(n, features, seed, strength, is_weighted):
    """With every strength that is tried, weighted or not."""
    columns, correct = rows(n, features, seed, steepness=3.0)
    weights = np.random.default_rng(seed + 1).uniform(0.2, 5.0, n) if is_weighted else None
    expected = by_scikit_learn(columns, correct, strength, weights)
    assert pytest.approx(expected, abs=SAME, rel=SAME) == by_us(columns, correct, strength, weights)


@pytest.mark.parametrize("strength", [1.0, 1e6], ids=["penalised", "hardly-penalised"])
def test_perfectly_parted_rows_have_the_weights_of_scikit_learn(strength):
    """Where only the penalty keeps the weights finite it is the same one."""
    columns = np.linspace(-2, 2, 40)[:, None]
    correct = columns[:, 0] > 0
    expected = by_scikit_learn(columns, correct, strength, None)
    assert pytest.approx(expected, abs=SAME, rel=1e-6) == by_us(columns, correct, strength, None)


def test_what_has_no_curvature_is_left_to_scikit_learn():
    """Twice the same column and no penalty: it says so, takes another way, and finds what one column alone gives."""
    columns, correct = rows(60, 1, 5)
    with pytest.warns(LinAlgWarning, match="ill-conditioned"):
        *halves, intercept = by_us(np.column_stack([columns, columns]), correct, np.inf, None)
    assert pytest.approx(by_us(columns, correct, np.inf, None), rel=1e-3) == [sum(halves), intercept]


def test_logits_are_of_each_row():
    """Coefficients times columns, and the intercept."""
    columns, correct = rows(50, 2, 3)
    found = fit_logistic(columns, correct, 1.0)
    by_hand = [found.coefficients[0] * one + found.coefficients[1] * two + found.intercept for one, two in columns]
    assert pytest.approx(by_hand) == found.logits(columns)
