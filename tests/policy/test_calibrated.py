"""Is a fitted model applied as it says: right numbers, monotone, in [0, 1], and refused when broken?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.calibrated import Isotonic, LinearModel, Platt, around, linear_score, logistic, probability

NAN, INFINITY = float("nan"), float("inf")
SCORES = st.floats(-1e6, 1e6)


PLAIN = Platt(1.0, 0.0)


def model(calibration: Platt | Isotonic = PLAIN, **changes: object) -> LinearModel:
    """Two features: z = 0.5 + 2 (a - 1) / 2 - (b - 10) / 5."""
    numbers = {
        "features": ("a", "b"),
        "means": (1.0, 10.0),
        "scales": (2.0, 5.0),
        "coefficients": (2.0, -1.0),
        "intercept": 0.5,
    }
    return LinearModel(**{**numbers, "calibration": calibration, **changes})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"a": 3.0, "b": 15.0}, 0.5 + 2 - 1, id="both"),
        pytest.param({"a": 1.0, "b": 10.0}, 0.5, id="the-means"),
        pytest.param({"a": 3.0}, 2.5, id="one-absent"),
        pytest.param({"a": 3.0, "b": None}, 2.5, id="one-none"),
        pytest.param({"a": NAN, "b": 15.0}, -0.5, id="one-nan"),
        pytest.param({"a": 3.0, "b": 15.0, "c": 99.0}, 1.5, id="one-too-many"),
        pytest.param({"a": None, "b": NAN}, None, id="nothing-known"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_linear_score(values, expected):
    """Standardised, weighted, added up; what is missing counts as its mean, and nothing known is no score."""
    assert expected == linear_score(model(), values)


def test_probability_is_the_mapped_score():
    """The map is applied to the linear score; no score is no probability."""
    assert pytest.approx(1 / (1 + math.exp(-1.5))) == probability(model(), {"a": 3.0, "b": 15.0})
    assert pytest.approx(1 / (1 + math.exp(-(2 * 1.5 - 1)))) == probability(
        model(Platt(2.0, -1.0)), {"a": 3.0, "b": 15.0}
    )
    assert probability(model(), {}) is None


@pytest.mark.parametrize("value", [INFINITY, -INFINITY])
def test_an_infinite_feature_is_refused(value):
    """Infinity is no measurement, and would be certainty."""
    with pytest.raises(ValueError, match="feature b is infinite"):
        probability(model(), {"a": 1.0, "b": value})


def test_a_score_that_overflows_is_refused():
    """Two infinities that cancel would be no number, and no number would compare as anything."""
    with pytest.raises(ValueError, match="too large"):
        probability(model(scales=(1e-300, 1e-300)), {"a": 1e300, "b": 1e300})


@pytest.mark.parametrize(
    ("z", "expected"),
    [(-5.0, 0.1), (-1.0, 0.1), (0.0, 0.3), (1.0, 0.5), (2.0, 0.5), (3.0, 0.9), (2.5, 0.7), (9.0, 0.9)],
)
def test_isotonic_by_hand(z, expected):
    """Straight lines between (-1, 0.1), (1, 0.5), (2, 0.5), (3, 0.9); flat outside."""
    assert pytest.approx(expected, abs=1e-12) == Isotonic((-1.0, 1.0, 2.0, 3.0), (0.1, 0.5, 0.5, 0.9))(z)


def test_one_knot_is_a_constant():
    """A model at chance is one number."""
    assert [0.4, 0.4, 0.4] == [Isotonic((0.0,), (0.4,))(z) for z in (-1.0, 0.0, 1.0)]


@pytest.mark.parametrize(("logit", "expected"), [(0.0, 0.5), (800.0, 1.0), (-800.0, 0.0), (math.log(3), 0.75)])
def test_logistic(logit, expected):
    """Known values, and no overflow far out."""
    assert pytest.approx(expected, abs=1e-15) == logistic(logit)


KNOTS = st.lists(
    st.tuples(st.floats(-50, 50), st.floats(0, 1)), min_size=1, max_size=20, unique_by=lambda knot: knot[0]
)


@given(KNOTS, SCORES, SCORES)
def test_isotonic_is_monotone_and_a_probability(knots, one, other):
    """A higher score never has a lower probability."""
    rising = Isotonic(tuple(sorted(x for x, _ in knots)), tuple(sorted(y for _, y in knots)))
    low, high = sorted((one, other))
    assert 0 <= rising(low) <= rising(high) <= 1


@given(KNOTS, st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | st.just(NAN) | SCORES))
def test_what_is_around_a_draft_judges_it_the_same(knots, values):
    """The part of a model that one draft needs gives the very same probability, and is small."""
    whole = model(Isotonic(tuple(sorted(x for x, _ in knots)), tuple(sorted(y for _, y in knots))))
    part = around(whole, values)

    assert probability(whole, values) == probability(part, values)
    assert len(part.calibration.x) <= 2


@given(st.floats(0, 100), st.floats(-100, 100), SCORES, SCORES)
def test_platt_is_monotone_and_a_probability(slope, offset, one, other):
    """A higher score never has a lower probability."""
    low, high = sorted((one, other))
    assert 0 <= Platt(slope, offset)(low) <= Platt(slope, offset)(high) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Platt(-1.0, 0.0), "must not fall", id="falling"),
        pytest.param(lambda: Platt(NAN, 0.0), "finite", id="nan-slope"),
        pytest.param(lambda: Isotonic((), ()), "at least one", id="no-knots"),
        pytest.param(lambda: Isotonic((0.0, 1.0), (0.5,)), "as many", id="cut-off"),
        pytest.param(lambda: Isotonic((1.0, 1.0), (0.1, 0.2)), "ascend strictly", id="equal-knots"),
        pytest.param(lambda: Isotonic((0.0, 1.0), (0.5, 0.4)), "within", id="falling-knots"),
        pytest.param(lambda: Isotonic((0.0, 1.0), (0.5, 1.4)), "within", id="over-one"),
        pytest.param(lambda: Isotonic((0.0, INFINITY), (0.5, 0.6)), "finite", id="infinite-knot"),
        pytest.param(lambda: model(features=("a",)), "one mean, scale", id="one-name"),
        pytest.param(lambda: model(features=("a", "a")), "no name twice", id="twice"),
        pytest.param(
            lambda: model(features=(), means=(), scales=(), coefficients=()), "at least one feature", id="no-features"
        ),
        pytest.param(lambda: model(scales=(0.0, 1.0)), "above 0", id="no-scale"),
        pytest.param(lambda: model(coefficients=(NAN, 1.0)), "finite", id="nan-weight"),
        pytest.param(lambda: model(intercept=INFINITY), "finite", id="infinite-intercept"),
    ],
)
def test_a_broken_model_cannot_be_made(make, message):
    """An artefact that lost or changed a number is an error, not a probability."""
    with pytest.raises(ValueError, match=message):
        make()
