"""Are the deferral curve and its summaries what their definitions say, on tables done by hand and on random ones?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.calibration.curves import (
    Deferral,
    always_cloud,
    always_local,
    deferral,
    deferral_at_quantiles,
    oracle,
    random_choice,
)

# Four requests; local has the last two right, the cloud the first three.
SCORE = [0.1, 0.2, 0.3, 0.4]
LOCAL = [False, False, True, True]
CLOUD = [True, True, True, False]

ROWS = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=40)


def exact(values: object) -> object:
    """Sums of a few shares, exact but for rounding in the last digits."""
    return pytest.approx(values, abs=1e-12)


def line(*quality: float) -> Deferral:
    """A curve through these qualities at equal steps of cloud calls."""
    return Deferral(np.linspace(0, 1, len(quality)), np.array(quality))


def test_the_curve_by_hand():
    """Two escalations gain a right answer each, the third changes nothing, the fourth loses one."""
    curve = deferral(SCORE, LOCAL, CLOUD)
    assert exact([0, 0.25, 0.5, 0.75, 1]) == curve.calls
    assert exact([0.5, 0.75, 1.0, 1.0, 0.75]) == curve.quality
    assert (0.5, 0.75) == (curve.local, curve.cloud)


def test_the_summaries_by_hand():
    """PGR is 0, 1, 2, 2, 1; its area 1.375. The area under quality is 0.84375, against 0.625 for random."""
    curve = deferral(SCORE, LOCAL, CLOUD)
    assert exact([0, 1, 2, 2, 1]) == curve.pgr()
    assert exact(1.375) == curve.apgr()
    assert exact(0.84375) == curve.auc_df()
    assert exact(0.84375 / 0.625 - 1) == curve.auc_df_over_random()
    assert exact(0.125) == curve.cpt(0.5)
    assert exact(0.25) == curve.cpt(1.0)
    assert exact(0.625) == curve.at(0.125)


@pytest.mark.parametrize("recovered", [0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
def test_a_constant_score_is_a_random_choice(recovered):
    """Ties stand in no order, so one big tie recovers exactly what it pays for: APGR 0.5, CPT(x) = x."""
    curve = deferral([7.0] * 4, LOCAL, CLOUD)
    assert exact(0.5) == curve.apgr()
    assert exact(recovered) == curve.cpt(recovered)
    assert exact(0.0) == curve.auc_df_over_random()
    assert exact(curve.quality) == np.interp(curve.calls, *_points(random_choice(LOCAL, CLOUD)))


def _points(curve: Deferral) -> tuple[np.ndarray, np.ndarray]:
    return curve.calls, curve.quality


def test_a_random_score_has_half_the_area_in_expectation():
    """Over all 24 orders of four requests the mean APGR is 0.5, exactly."""
    found = [deferral(order, LOCAL, CLOUD).apgr() for order in itertools.permutations(SCORE)]
    assert exact(0.5) == np.mean(found)


@given(ROWS)
def test_ties_are_the_mean_over_their_orders(rows):
    """With ties broken at random many times, the mean curve tends to the curve with ties."""
    score, local, cloud = (np.array(column) for column in zip(*rows, strict=True))
    rng = np.random.default_rng(0)
    broken = [deferral(score + 0.5 * rng.random(len(score)), local, cloud).quality for _ in range(400)]
    # Each step is at most 1/n off, and 5 standard errors of 400 draws of a walk of n steps are below this.
    assert np.allclose(np.mean(broken, axis=0), deferral(score, local, cloud).quality, atol=5 * 0.5 / np.sqrt(400))


@given(ROWS)
def test_the_ends_and_the_bounds_hold(rows):
    """A curve begins at always-local, ends at always-cloud, and no score beats the oracle anywhere."""
    score, local, cloud = (np.array(column) for column in zip(*rows, strict=True))
    curve, best = deferral(score, local, cloud), oracle(local, cloud)
    assert exact((0.0, curve.local)) == always_local(local)
    assert exact((1.0, curve.cloud)) == always_cloud(cloud)
    assert (curve.quality <= best.quality + 1e-12).all()
    assert (curve.apgr() is None) == (cloud.mean() <= local.mean())


@given(ROWS)
def test_a_monotone_change_of_the_score_changes_nothing(rows):
    """Only the order counts."""
    score, local, cloud = (np.array(column) for column in zip(*rows, strict=True))
    assert np.array_equal(
        deferral(score, local, cloud).quality, deferral(np.exp(score.astype(float)), local, cloud).quality
    )


@given(ROWS)
def test_a_reversed_score_mirrors_the_area(rows):
    """What a score gains over random, its reverse loses."""
    score, local, cloud = (np.array(column) for column in zip(*rows, strict=True))
    one, other = deferral(score, local, cloud), deferral(-score, local, cloud)
    assert pytest.approx(one.local + one.cloud, abs=1e-9) == one.auc_df() + other.auc_df()


def test_an_oracle_recovers_more_than_the_gap():
    """Local alone is right once; keeping that, the oracle is better than the cloud: APGR above 1."""
    best = oracle(LOCAL, CLOUD)
    assert exact([0.5, 0.75, 1.0, 1.0, 0.75]) == best.quality
    assert best.apgr() > 1


@pytest.mark.parametrize(
    ("curve", "recovered", "expected"),
    [
        pytest.param(line(0.4, 0.8), 0.8, 0.8, id="straight"),
        pytest.param(line(0.4, 0.4, 0.8), 0.5, 0.75, id="late"),
        pytest.param(line(0.4, 0.3, 0.8), 0.0, 0.0, id="nothing-asked"),
        pytest.param(line(0.4, 0.7, 0.5, 0.8), 0.75, 1 / 3, id="first-crossing"),
        pytest.param(line(0.8, 0.9, 0.8), 0.5, None, id="no-gap"),
        pytest.param(line(0.8, 0.9, 0.7), 0.5, None, id="cloud-worse"),
    ],
)
def test_cpt(curve, recovered, expected):
    """CPT is the first crossing, linear between points, and None where the cloud is no better than local."""
    assert (expected if expected is None else exact(expected)) == curve.cpt(recovered)


def test_no_gap_has_no_area():
    """Where the cloud is no better there is nothing to recover."""
    assert line(0.8, 0.9, 0.8).apgr() is None
    assert line(0.0, 0.0).auc_df_over_random() is None


@pytest.mark.parametrize("recovered", [-0.1, 1.1, float("nan")])
def test_cpt_of_no_share_is_refused(recovered):
    """The gap's share lies in [0, 1]."""
    with pytest.raises(ValueError, match="share of the gap"):
        line(0.4, 0.8).cpt(recovered)


def test_quantile_thresholds_by_hand():
    """Two bins over four requests: nothing, the lower half, everything; the area is a coarse one."""
    curve = deferral_at_quantiles(SCORE, LOCAL, CLOUD, bins=2)
    assert exact([0.0, 0.5, 1.0]) == curve.calls
    assert exact([0.5, 1.0, 0.75]) == curve.quality
    assert exact(1.25) == curve.apgr()


def test_quantile_thresholds_come_near_the_whole_curve():
    """With many rows and ten bins both ways agree to a hundredth; a constant score is random in both."""
    rng = np.random.default_rng(1)
    score = rng.random(5_000)
    local, cloud = rng.random(5_000) < score, rng.random(5_000) < 0.8
    assert pytest.approx(deferral(score, local, cloud).apgr(), abs=0.01) == (
        deferral_at_quantiles(score, local, cloud).apgr()
    )
    assert exact(0.5) == deferral_at_quantiles(np.zeros(5_000), local, cloud).apgr()


def test_infinite_scores_have_a_rank():
    """Minus infinity goes first, infinity last."""
    score = [-np.inf, 0.2, 0.3, np.inf]
    assert exact(deferral(SCORE, LOCAL, CLOUD).quality) == deferral(score, LOCAL, CLOUD).quality
    assert exact([0, 0.5, 1]) == deferral_at_quantiles(score, LOCAL, CLOUD, bins=2).calls


@pytest.mark.parametrize(
    ("score", "local", "cloud", "message"),
    [
        pytest.param([], [], [], "at least one", id="empty"),
        pytest.param([1.0], [True, False], [True], "shapes", id="lengths"),
        pytest.param([[1.0]], [[True]], [[True]], "shapes", id="two-dimensional"),
        pytest.param([1.0, np.nan], [True, False], [True, True], "1 of 2 scores are NaN", id="nan"),
        pytest.param([1.0], [0.5], [True], "local_correct", id="half-right"),
        pytest.param([1.0], [1], [3], "cloud_correct", id="no-label"),
    ],
)
def test_bad_input_is_refused(score, local, cloud, message):
    """Nothing is drawn of what is not one score and two labels a row."""
    with pytest.raises(ValueError, match=message):
        deferral(score, local, cloud)


def test_no_bins_are_refused():
    """A curve at quantiles needs a bin."""
    with pytest.raises(ValueError, match="at least one bin"):
        deferral_at_quantiles(SCORE, LOCAL, CLOUD, bins=0)
