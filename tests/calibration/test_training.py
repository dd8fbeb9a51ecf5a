"""Are the parts of the fit right: folds, standard errors, standardising, Platt and isotonic?"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from hybrid.calibration.reliability import auroc
from hybrid.calibration.training import (
    Candidate,
    Tried,
    auroc_error,
    fit_isotonic,
    fit_platt,
    folds_of,
    placements,
    simplest_of_the_best,
    standardised,
    standards,
)
from hybrid.policy.calibrated import Platt

NAN = float("nan")


def whole(n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """One fold of all rows."""
    return [(np.arange(n), np.arange(n))]


def test_folds_hold_both_classes_and_every_row_once():
    """Ten rows of which three are right make three folds with one right row each."""
    correct = np.arange(10) < 3
    parts = folds_of(correct, seed=0)
    assert 3 == len(parts)
    assert list(range(10)) == sorted(np.concatenate([held for _, held in parts]).tolist())
    assert [1, 1, 1] == [int(correct[held].sum()) for _, held in parts]
    assert all(not set(rows) & set(held) for rows, held in parts)


def test_a_class_of_one_cannot_be_parted():
    """One right row is either learned from or held out."""
    with pytest.raises(ValueError, match="rarer one has 1"):
        folds_of(np.arange(10) < 1, seed=0)


def test_placements_average_to_the_auroc():
    """Over either class, with ties."""
    rng = np.random.default_rng(0)
    scores, correct = rng.integers(0, 5, 200).astype(float), rng.random(200) < 0.4
    placed = placements(scores, correct, whole(200))
    assert pytest.approx(auroc(scores, correct)) == placed[correct].mean()
    assert pytest.approx(auroc(scores, correct)) == placed[~correct].mean()


def test_scores_of_different_folds_are_not_compared():
    """A fold whose model is shifted by a constant changes nothing."""
    rng = np.random.default_rng(0)
    scores, correct = rng.random(100), rng.random(100) < 0.5
    parts = folds_of(correct, seed=1)
    shifted = scores.copy()
    shifted[parts[0][1]] += 9
    assert np.array_equal(placements(scores, correct, parts), placements(shifted, correct, parts))


def test_the_error_of_an_auroc_is_its_spread_over_samples():
    """DeLong's error is within 15 % of the standard deviation of AUROC over 400 samples."""
    found, errors = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        correct = rng.random(150) < 0.5
        scores = rng.standard_normal(150) + correct
        found.append(auroc(scores, correct))
        errors.append(auroc_error(placements(scores, correct, whole(150)), correct))
    assert pytest.approx(np.std(found), rel=0.15) == np.mean(errors)


def tried(columns: tuple[int, ...], placed: np.ndarray, correct: np.ndarray) -> Tried:
    """A candidate with these placements."""
    return Tried(Candidate(str(columns), columns), 1.0, placed, placed, float(placed[correct].mean()), 0.0)


def test_the_simplest_within_one_error_wins():
    """A gain of less than its own paired error does not pay for a second feature; a steady one does."""
    rng = np.random.default_rng(0)
    correct = np.arange(200) < 100
    base = rng.random(200)
    single = tried((0,), base, correct)
    noisy = tried((0, 1), base + rng.standard_normal(200) + 0.0, correct)
    noisy = tried((0, 1), noisy.placements - noisy.placements[correct].mean() + base[correct].mean() + 0.03, correct)
    steady = tried((0, 1), base + 0.03 + 0.01 * rng.standard_normal(200), correct)
    assert single is simplest_of_the_best([single, noisy], correct)
    assert steady is simplest_of_the_best([single, steady], correct)


def test_of_equals_the_bare_one_is_kept():
    """Among single features within one error the named one wins, else the better."""
    correct = np.arange(200) < 100
    base = np.random.default_rng(0).random(200)
    one, other = tried((0,), base, correct), tried((1,), base + 1e-6, correct)
    other_noisy = tried((1,), base + 0.1 * np.random.default_rng(1).standard_normal(200), correct)
    assert other is simplest_of_the_best([one, other], correct)
    assert one is simplest_of_the_best([one, other_noisy], correct, bare=0)
    assert other_noisy is simplest_of_the_best([one, other_noisy], correct, bare=1)


def test_standards_ignore_what_is_missing():
    """Means and scales of what is known; a constant or unknown column has scale 1 and standardises to 0."""
    values = np.array([[1.0, NAN, 0.1, NAN], [3.0, 4.0, 0.1, NAN], [NAN, 8.0, 0.1, NAN]])
    means, scales = standards(values)
    assert [2.0, 6.0, 0.1, 0.0] == pytest.approx(means.tolist())
    assert [1.0, 2.0, 1.0, 1.0] == scales.tolist()
    assert [[-1, 0, 0, 0], [1, -1, 0, 0], [0, 1, 0, 0]] == standardised(values, means, scales).round(9).tolist()


def test_platt_finds_the_line_it_was_made_from():
    """20,000 labels by logistic(2 z - 1) give slope and offset back, within 4 standard errors."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(20_000)
    found = fit_platt(z, rng.random(20_000) < 1 / (1 + np.exp(-(2 * z - 1))))
    assert pytest.approx(2.0, abs=4 * 0.03) == found.slope
    assert pytest.approx(-1.0, abs=4 * 0.02) == found.offset


def test_platt_on_separated_rows_stays_off_certainty():
    """Smoothed targets: (N+ + 1) / (N+ + 2) at best."""
    found = fit_platt(np.array([-1.0] * 5 + [1.0] * 5), np.arange(10) >= 5)
    assert pytest.approx(6 / 7, abs=1e-3) == found(1.0)
    assert pytest.approx(1 / 7, abs=1e-3) == found(-1.0)


def test_a_misleading_score_becomes_the_mean():
    """Where p would fall as the score rises there is no slope at all."""
    found = fit_platt(np.arange(10.0), np.arange(10) < 5)
    assert isinstance(found, Platt)
    assert 0.0 == found.slope
    assert pytest.approx(0.5) == found(3.0)


def test_isotonic_equals_scikit_learn():
    """The knots in pure Python predict what scikit-learn's regression does, to 1e-9, inside and outside."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(500).round(2)
    correct = rng.random(500) < 1 / (1 + np.exp(-2 * z))
    inner = IsotonicRegression(y_min=1 / 502, y_max=1 - 1 / 502, out_of_bounds="clip").fit(z, correct)
    found = fit_isotonic(z, correct)
    asked = np.concatenate([z, np.linspace(-6, 6, 500)])
    assert np.allclose(inner.predict(asked), [found(score) for score in asked.tolist()], atol=1e-9, rtol=0)
    assert min(found.y) > 0
    assert max(found.y) < 1


def test_isotonic_of_one_score_is_the_mean():
    """A score that never varies has one knot."""
    found = fit_isotonic(np.zeros(10), np.arange(10) < 3)
    assert pytest.approx(0.3) == found(0.0)
