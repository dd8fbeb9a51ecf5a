"""What a draft tells about itself, as named numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.features import (
    OPTION_FEATURES,
    SAMPLE_FEATURES,
    TOKEN_FEATURES,
    features,
    option_features,
    option_shares,
    prior_features,
    quantile,
)
from hybrid.policy.model import Agreement, Draft
from hybrid.types import FinishReason

DRAFT = Draft(
    logprobs=(-0.1, -0.2, -0.4, -3.0),
    entropies=(0.1, 0.2, 0.3, 2.0),
    margins=(0.9, 0.8, 0.7, 0.1),
    finish_reason=FinishReason.STOP,
    options=(math.log(0.5), math.log(0.25), math.log(0.125), math.log(0.0625)),
    agreement=Agreement(0.6, 5, is_majority=True),
)


def test_every_feature_has_its_value():
    """Worked out by hand for four tokens, four options and five samples."""
    found = features(DRAFT)

    assert found == pytest.approx(
        {
            "mean_logprob": -0.925,
            "min_logprob": -3.0,
            "median_logprob": -0.3,
            "q10_logprob": -2.22,
            "q25_logprob": -1.05,
            "weak_quarter_logprob": -3.0,
            "log_tokens": math.log(4),
            "is_cut": 0.0,
            "mean_entropy": 0.65,
            "max_entropy": 2.0,
            "mean_margin": 0.625,
            "q10_margin": 0.28,
            "option_margin": 4 / 15,
            "option_top": 8 / 15,
            "option_entropy": -sum(s / 15 * math.log(s / 15) for s in (8, 4, 2, 1)) / math.log(4),
            "option_mass": math.log(0.9375),
            "agreement": 0.6,
            "is_majority": 1.0,
        }
    )
    assert {*TOKEN_FEATURES, *OPTION_FEATURES, *SAMPLE_FEATURES} == set(found)


def test_a_draft_without_options_or_samples_has_only_its_tokens():
    """What is not there is missing, not zero: a model that wants it then has no say."""
    found = features(Draft(logprobs=(-0.5,), finish_reason=FinishReason.LENGTH))

    assert found["is_cut"] == 1.0
    assert not {*OPTION_FEATURES, *SAMPLE_FEATURES} & set(found)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_number_that_is_none_is_refused_by_name(bad):
    """A NaN must not pass for a low score."""
    with pytest.raises(ValueError, match="logprobs"):
        features(Draft(logprobs=(-0.1, bad)))


@pytest.mark.parametrize("options", [(), (-1.0,), (-math.inf, -math.inf), (-1.0, math.nan)])
def test_options_that_make_no_choice_are_refused(options):
    """There must be two, and one that can be said."""
    with pytest.raises(ValueError, match="two options"):
        option_features(options)


@given(st.lists(st.floats(-700, 0), min_size=2, max_size=10))
def test_options_shares_sum_to_one_and_features_stay_in_range(logprobs):
    """Whatever the model says, and however unlikely all of it is."""
    found = option_features(logprobs)

    assert sum(option_shares(logprobs)) == pytest.approx(1.0)
    assert 0 <= found["option_margin"] <= found["option_top"] <= 1
    assert -1e-9 <= found["option_entropy"] <= 1 + 1e-9


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_lies_among_the_values_and_does_not_fall(values, share):
    """Between the smallest and the largest, and growing with the share."""
    ordered = sorted(values)

    assert ordered[0] <= quantile(ordered, share) <= ordered[-1] + 1e-12
    assert quantile(ordered, share * 0.5) <= quantile(ordered, share) + 1e-12


def test_a_habit_is_taken_off_the_options():
    """A letter that is said three times as often counts for a third; what only habit chose falls below 0."""
    habit = tuple(math.log(share) for share in (0.6, 0.2, 0.2))
    found = prior_features((math.log(0.5), math.log(0.3), math.log(0.2)), habit)

    weights = (0.5 / 0.6, 0.3 / 0.2, 0.2 / 0.2)
    assert found["fair_top"] == pytest.approx(weights[0] / sum(weights))
    assert found["fair_margin"] == pytest.approx((weights[0] - weights[1]) / sum(weights))
    assert found["fair_margin"] < 0
