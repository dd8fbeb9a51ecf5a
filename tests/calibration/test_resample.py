"""Does the bootstrap's interval hold what it should, and the same one every time?"""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.calibration.resample import Interval, band, bootstrap, bootstrap_all, bootstrap_together, draws


def test_the_mean_of_many_has_the_textbook_interval():
    """For 400 draws of a standard normal the interval of the mean is within 10 % of 1.96 standard errors wide."""
    values = np.random.default_rng(0).standard_normal(400)
    found = bootstrap(lambda rows: float(values[rows].mean()), 400, rounds=4_000)
    error = values.std() / 20
    assert pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error) == found.low
    assert pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error) == found.high
    assert 0.0 == found.undefined


def test_it_covers_the_truth_as_often_as_it_says():
    """Of 200 samples, 95 % of the intervals hold the true share of 0.3; within 4 standard errors of that many."""
    rng = np.random.default_rng(5)
    hits = 0
    for seed in range(200):
        sample = rng.random(150) < 0.3
        found = bootstrap(lambda rows, sample=sample: float(sample[rows].mean()), 150, rounds=300, seed=seed)
        hits += found.low <= 0.3 <= found.high
    assert 200 * 0.95 - 4 * np.sqrt(200 * 0.95 * 0.05) <= hits


def test_the_same_seed_draws_the_same():
    """Two statistics of one seed see the same rows: a difference of equals is exactly 0."""
    values = np.arange(50.0)
    assert bootstrap(lambda rows: float(values[rows].sum()), 50) == bootstrap(lambda rows: float(rows.sum()), 50)
    both = bootstrap_all({"a": lambda rows: float(rows.sum()), "b": lambda rows: float(values[rows].sum())}, 50)
    assert both["a"] == both["b"] == bootstrap(lambda rows: float(rows.sum()), 50)


def test_numbers_had_at_once_have_the_intervals_they_have_alone():
    """A draw without one of them still counts for the others."""
    alone = bootstrap_all({"a": lambda rows: float(rows.sum()), "b": lambda rows: None if rows[0] else 1.0}, 3)
    together = bootstrap_together(lambda rows: [float(rows.sum()), None if rows[0] else 1.0], 3)
    assert [*alone.values()] == together


def test_another_seed_draws_others():
    """The seed is used."""
    assert bootstrap(lambda rows: float(rows.sum()), 50, seed=1) != bootstrap(lambda rows: float(rows.sum()), 50)


def test_draws_without_the_number_are_left_out_and_told():
    """Of two rows a quarter of the draws holds only the first; those have no number."""
    found = bootstrap(lambda rows: None if rows.max() == 0 else 1.0, 2)
    # 4 standard errors of 1,000 draws.
    assert pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 1_000)) == found.undefined
    assert Interval(1.0, 1.0, found.undefined) == found


def test_mostly_undefined_is_undefined():
    """Where most draws have no number there is no interval."""
    assert bootstrap(lambda rows: 1.0 if rows.max() == 0 else None, 3) is None
    assert bootstrap(lambda _: None, 3) is None


def test_a_band_holds_its_curve():
    """A curve of two points: a constant has no width, a mean has."""
    values = np.random.default_rng(0).random(100)
    low, high = band(lambda rows: np.array([1.0, values[rows].mean()]), 100)
    assert low[0] == high[0] == 1.0
    assert low[1] < values.mean() < high[1]


@pytest.mark.parametrize(("n", "rounds"), [(0, 10), (10, 0)])
def test_nothing_to_draw_is_refused(n, rounds):
    """A bootstrap needs rows and rounds."""
    with pytest.raises(ValueError, match="rows and rounds"):
        draws({}, n, rounds)
