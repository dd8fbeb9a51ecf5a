"""A draft is judged by its weakest tokens, and an empty one is never released."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.confidence import score, weak_quarter_logprob
from hybrid.policy.model import Draft, Limits, Reason
from hybrid.policy.review import review

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=50)


def test_confident_filler_does_not_hide_a_weak_part():
    """Ten sure tokens around two guesses score by the guesses; the mean would have passed them."""
    logprobs = [-0.01] * 6 + [-3.0, -3.0]

    assert weak_quarter_logprob(logprobs) == pytest.approx(-3.0)
    assert score(Draft(logprobs=tuple(logprobs))) == pytest.approx(math.exp(-3.0))


@given(LOGPROBS)
def test_the_score_is_a_share_and_does_not_depend_on_order(logprobs):
    """It lies in [0, 1], and a shuffled draft scores the same."""
    value = score(Draft(logprobs=tuple(logprobs)))

    assert value is not None
    assert 0 <= value <= 1
    assert value == pytest.approx(score(Draft(logprobs=tuple(reversed(logprobs)))), rel=1e-12)


@given(LOGPROBS, st.data())
def test_a_less_likely_token_never_raises_the_score(logprobs, data):
    """Lowering one token's probability lowers the score or leaves it."""
    index = data.draw(st.integers(0, len(logprobs) - 1))
    lowered = [*logprobs]
    lowered[index] -= 1.0

    assert score(Draft(logprobs=tuple(lowered))) <= score(Draft(logprobs=tuple(logprobs))) + 1e-15


@pytest.mark.parametrize(
    ("logprobs", "is_accepted", "reason"),
    [
        pytest.param((-0.1, -0.2), True, Reason.DEFAULT, id="sure"),
        pytest.param((-0.1, -2.0), False, Reason.CONFIDENCE, id="doubtful"),
        pytest.param((), False, Reason.CONFIDENCE, id="empty"),
    ],
)
def test_review(logprobs, is_accepted, reason):
    """Above the threshold it is released, below it or without tokens escalated, with the numbers in the check."""
    verdict = review(Draft(logprobs=logprobs), Limits(min_confidence=0.5))

    assert (is_accepted, reason) == (verdict.is_accepted, verdict.reason)
    assert verdict.checks


def test_an_uncalibrated_score_is_called_so():
    """The check's words do not let a score pass for a probability."""
    assert "uncalibrated" in review(Draft(logprobs=(-0.1,)), Limits()).checks[0].detail


def test_no_tokens_is_no_score():
    """Asking for the tail of nothing is an error, scoring it is None."""
    assert score(Draft()) is None
    with pytest.raises(ValueError, match="without tokens"):
        weak_quarter_logprob([])
