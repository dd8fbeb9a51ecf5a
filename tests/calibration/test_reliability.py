"""Are AUROC, calibration errors, Brier scores and drift what their definitions say?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.calibration.reliability import (
    Bin,
    auroc,
    base_rate_brier,
    brier,
    brier_skill,
    ece,
    ece_floor,
    log_loss,
    psi,
    reliability,
)

ROWS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def exact(value: object) -> object:
    """Sums of a few shares, exact but for rounding in the last digits."""
    return pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("score", "correct", "expected"),
    [
        pytest.param([1, 2, 3, 4], [0, 0, 1, 1], 1.0, id="perfect"),
        pytest.param([4, 3, 2, 1], [0, 0, 1, 1], 0.0, id="reversed"),
        pytest.param([1, 1, 1, 1], [0, 0, 1, 1], 0.5, id="constant"),
        pytest.param([1, 2, 2, 3], [0, 1, 0, 1], 0.875, id="one-tie-in-four-pairs"),
        pytest.param([1, 3, 2], [0, 0, 1], 0.5, id="one-of-two-pairs"),
        pytest.param([1, 2], [1, 1], None, id="all-right"),
        pytest.param([1, 2], [0, 0], None, id="all-wrong"),
        pytest.param([-np.inf, np.inf], [0, 1], 1.0, id="infinite"),
    ],
)
def test_auroc(score, correct, expected):
    """The share of right-wrong pairs in order, ties half; None without pairs."""
    assert (None if expected is None else exact(expected)) == auroc(score, correct)


@given(ROWS)
def test_auroc_counts_pairs(rows):
    """The rank formula equals counting every pair."""
    score, correct = (np.array(column) for column in zip(*rows, strict=True))
    right, wrong = score[correct], score[~correct]
    if not len(right) or not len(wrong):
        assert auroc(score, correct) is None
        return
    pairs = np.sign(right[:, None] - wrong[None, :]) / 2 + 0.5
    assert exact(pairs.mean()) == auroc(score, correct)


P = [0.05, 0.15, 0.15, 0.85, 0.95]
RIGHT = [0, 0, 1, 1, 1]


def test_the_table_by_hand():
    """Four bins of width a tenth hold five rows."""
    assert (
        Bin(0.0, 0.1, 1, 0.05, 0.0),
        Bin(exact(0.1), 0.2, 2, 0.15, 0.5),
        Bin(exact(0.8), exact(0.9), 1, 0.85, 1.0),
        Bin(exact(0.9), 1.0, 1, 0.95, 1.0),
    ) == reliability(P, RIGHT)


def test_ece_by_hand():
    """(0.05 + 2 * 0.35 + 0.15 + 0.05) / 5 with equal widths; two equal masses are {0.05, 0.15, 0.15} and the rest."""
    assert exact(0.19) == ece(P, RIGHT)
    assert exact((3 * abs(0.35 / 3 - 1 / 3) + 2 * 0.1) / 5) == ece(P, RIGHT, bins=2, binning="mass")


def test_edges_belong_to_the_bin_below():
    """0 and 1 have a bin, and a value on an edge lies in the lower one."""
    assert [(0.0, 2), (0.5, 1)] == [(row.low, row.n) for row in reliability([0.0, 0.5, 1.0], [0, 1, 1], bins=2)]


def test_equal_values_share_a_bin():
    """Equal mass does not cut what is equal: a constant has one bin."""
    [row] = reliability([0.4] * 20, [1] * 10 + [0] * 10, binning="mass")
    assert Bin(0.4, 0.4, 20, exact(0.4), 0.5) == row


@given(ROWS, st.integers(1, 15), st.sampled_from(["width", "mass"]))
def test_a_table_holds_every_row_once(rows, bins, binning):
    """Bins add up to the rows, lie in their edges, and the error lies in [0, 1]."""
    p, correct = (np.array(column) for column in zip(*rows, strict=True))
    table = reliability(p, correct, bins, binning)
    assert len(p) == sum(row.n for row in table)
    assert exact(correct.mean()) == sum(row.n * row.share_correct for row in table) / len(p)
    assert all(row.low - 1e-12 <= row.mean_p <= row.high + 1e-12 for row in table)
    assert len(table) <= bins
    assert 0 <= ece(p, correct, bins, binning) <= 1


def test_a_predictor_of_the_mean_has_a_fine_ece_and_no_skill():
    """The reason why Brier skill stands beside ECE."""
    correct = np.array([1] * 30 + [0] * 70)
    assert exact(0.0) == ece(np.full(100, 0.3), correct)
    assert exact(0.0) == brier_skill(np.full(100, 0.3), correct)


def test_brier_by_hand():
    """Squares of 0.2 and 0.4; the base rate's is 0.25; what is removed is 60 %."""
    assert exact(0.1) == brier([0.8, 0.4], [1, 0])
    assert exact(0.25) == base_rate_brier([1, 0])
    assert exact(0.6) == brier_skill([0.8, 0.4], [1, 0])
    assert brier_skill([0.8, 0.4], [1, 1]) is None


@given(ROWS)
def test_skill_is_at_most_one(rows):
    """Only being certain and right removes all."""
    p, correct = (np.array(column) for column in zip(*rows, strict=True))
    skill = brier_skill(p, correct)
    assert skill is None or skill <= 1
    assert skill is None or exact(1.0) == brier_skill(correct.astype(float), correct)


def test_log_loss_by_hand():
    """ln 2 for a coin; a certain and wrong one is large, not infinite."""
    assert exact(np.log(2)) == log_loss([0.5, 0.5], [1, 0])
    assert pytest.approx(-np.log(1e-15)) == log_loss([1.0], [0])


def test_the_floor_is_what_a_perfect_predictor_gets():
    """Chance alone gives 2,000 perfect rows an ECE near 0.024 and 100 rows far more."""
    rng = np.random.default_rng(3)
    p = rng.random(2_000)
    own = ece(p, rng.random(2_000) < p)
    assert pytest.approx(own, abs=0.015) == ece_floor(p)
    assert ece_floor(p[:100]) > 2 * ece_floor(p)


def test_no_drift_is_zero():
    """The same values have the same shares."""
    values = np.random.default_rng(0).random(500)
    assert exact(0.0) == psi(values, values)


def test_drift_by_hand():
    """Shares (1/2, 1/2) become (1/4, 3/4): (1/4) ln 3."""
    assert exact(0.25 * np.log(3)) == psi([0, 0, 1, 1], [0, 1, 1, 1], bins=2)


def test_drift_grows_with_the_shift():
    """By custom 0.1 is a warning and 0.25 an alarm; a shift by one standard deviation is beyond."""
    rng = np.random.default_rng(0)
    before = rng.standard_normal(5_000)
    found = [psi(before, rng.standard_normal(5_000) + shift) for shift in (0.0, 0.3, 1.0)]
    assert sorted(found) == found
    assert found[0] < 0.01
    assert 0.05 < found[1] < 0.25 < found[2]


def test_values_never_seen_are_a_large_drift_not_an_infinite_one():
    """An empty bin counts as a ten-thousandth."""
    assert 4 < psi([0.1] * 50 + [0.2] * 50, [0.9] * 100, bins=2) < 20


def test_a_constant_that_stays_has_not_drifted():
    """One value is one bin, and what lies above it another."""
    assert exact(0.0) == psi([1.0] * 10, [1.0] * 5)
    assert psi([1.0] * 10, [2.0] * 5) > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: auroc([], []), "at least one row", id="empty"),
        pytest.param(lambda: auroc([1.0, 2.0], [True]), "label for each", id="lengths"),
        pytest.param(lambda: auroc([np.nan], [True]), "NaN", id="nan"),
        pytest.param(lambda: ece([1.2], [True]), "lies in", id="no-probability"),
        pytest.param(lambda: brier([-0.2], [True]), "lies in", id="negative"),
        pytest.param(lambda: ece([0.2], [True], bins=0), "at least one bin", id="no-bins"),
        pytest.param(lambda: brier([0.2], [0.5]), "true and false", id="half-right"),
        pytest.param(lambda: psi([], [1.0]), "both times", id="no-past"),
        pytest.param(lambda: psi([1.0], [np.nan]), "NaN", id="nan-now"),
    ],
)
def test_bad_input_is_refused(call, message):
    """A number that is told of nothing, or of half of something, would be believed."""
    with pytest.raises(ValueError, match=message):
        call()
