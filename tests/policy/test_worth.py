"""Is an escalation paid for exactly when its gain is worth more than its price?"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.calibrated import LinearModel, Platt
from hybrid.policy.model import Check, CloudOption, Limits, Reason, Review
from hybrid.policy.promise import Promise
from hybrid.policy.tasks import TaskKind
from hybrid.policy.worth import is_worth, weigh

OPTION = CloudOption(provider="big", model="m", reserve_usd=Decimal("0.05"), expected_usd=Decimal("0.01"))
usd = st.decimals(min_value=0, max_value=100, places=6)


def doubted(
    confidence: float | None = 0.2, reason: Reason = Reason.CONFIDENCE, threshold: float | None = 0.35
) -> Review:
    """A draft that review did not accept."""
    check = Check("confidence", False, "low")
    return Review(
        is_accepted=False, reason=reason, confidence=confidence, score=confidence, threshold=threshold, checks=(check,)
    )


@pytest.mark.parametrize(
    ("gain", "lambda_", "expected"),
    [
        pytest.param(0.5, 0.0, True, id="five-cents-for-one"),
        pytest.param(0.5, 4.0, False, id="five-for-five-is-no-gain"),
        pytest.param(0.5, 3.99, True, id="just-below"),
        pytest.param(0.0999, 0.0, False, id="less-than-a-cent-for-a-cent"),
        pytest.param(0.0, 0.0, False, id="no-gain"),
        pytest.param(-0.5, 0.0, False, id="local-is-better"),
    ],
)
def test_is_worth(gain, lambda_, expected):
    """A gain of ten cents' worth, at a cent a call."""
    assert expected == is_worth(gain, Decimal("0.1"), Decimal("0.01"), lambda_)


def test_nothing_is_worth_nothing():
    """A free call with no gain is not worth making; with any gain it is."""
    assert not is_worth(0.0, Decimal(1), Decimal(0), 0.0)
    assert is_worth(1e-9, Decimal(1), Decimal(0), 1000.0)


def test_waiting_costs_too():
    """Seconds that the client waits longer are weighed as money; a faster cloud is no discount."""
    values = (0.5, Decimal("0.1"), Decimal("0.01"), 0.0)
    assert is_worth(*values, extra_s=39, usd_per_s=Decimal("0.001"))
    assert not is_worth(*values, extra_s=40, usd_per_s=Decimal("0.001"))
    assert is_worth(*values, extra_s=-5, usd_per_s=Decimal("0.001"))


@given(gain=st.floats(-1, 1), value=usd, cost=usd, low=st.floats(0, 1000), high=st.floats(0, 1000))
def test_a_dearer_dollar_never_buys_more(gain, value, cost, low, high):
    """What is worth it at a high lambda is at any lower one."""
    low, high = sorted((low, high))
    assert is_worth(gain, value, cost, low) or not is_worth(gain, value, cost, high)


@pytest.mark.parametrize("bad", [{"gain": 1.1}, {"gain": float("nan")}, {"lambda_": -0.1}, {"cost_usd": Decimal(-1)}])
def test_what_makes_no_sense(bad):
    """Arguments out of range are refused."""
    good = {"gain": 0.5, "value_usd": Decimal(1), "cost_usd": Decimal(1), "lambda_": 0.0}
    with pytest.raises(ValueError, match="lambda"):
        is_worth(**{**good, **bad})


@pytest.mark.parametrize(
    ("confidence", "lambda_", "expected"),
    [
        pytest.param(0.34, None, Reason.CONFIDENCE, id="not-paced"),
        pytest.param(0.34, 0.0, Reason.CONFIDENCE, id="money-to-spare"),
        pytest.param(0.34, 0.1, Reason.BUDGET, id="the-least-doubted-goes-first"),
        pytest.param(0.10, 1.0, Reason.CONFIDENCE, id="much-doubted"),
        pytest.param(0.20, 1.0, Reason.BUDGET, id="too-little-for-this-price"),
        pytest.param(0.0, 1000.0, Reason.CONFIDENCE, id="no-confidence-at-all"),
    ],
)
def test_scarcity_alone(confidence, lambda_, expected):
    """Where nobody said what an answer is worth, the most doubted are escalated first as the price rises."""
    weighed = weigh(doubted(confidence), OPTION, lambda_, Limits(min_confidence=0.35))
    assert (expected, expected is Reason.BUDGET) == (weighed.reason, weighed.is_accepted)
    assert ("worth", expected is Reason.CONFIDENCE) == (weighed.checks[-1].rule, weighed.checks[-1].is_passed)


@pytest.mark.parametrize(
    ("confidence", "lambda_", "expected"),
    [
        pytest.param(0.2, 0.0, Reason.CONFIDENCE, id="pays"),
        pytest.param(0.2, 6.0, Reason.BUDGET, id="would-pay-with-money-to-spare"),
        pytest.param(0.85, 0.0, Reason.ABSTAIN, id="never-pays"),
        pytest.param(0.85, 6.0, Reason.ABSTAIN, id="never-pays-at-any-price"),
    ],
)
def test_with_a_value(confidence, lambda_, expected):
    """With a value the expected cost decides, and a draft that stands says whether money was the reason."""
    limits = Limits(min_confidence=0.9, value_usd=Decimal("0.1"), p_cloud=0.9)
    assert expected == weigh(doubted(confidence), OPTION, lambda_, limits).reason


@pytest.mark.parametrize(
    ("p_local", "lambda_", "expected"),
    [
        pytest.param(0.7, 0.0, Reason.CONFIDENCE, id="money-to-spare"),
        pytest.param(0.7, 0.3, Reason.BUDGET, id="little-to-gain"),
        pytest.param(0.1, 0.3, Reason.CONFIDENCE, id="much-to-gain"),
        pytest.param(0.1, 100.0, Reason.BUDGET, id="at-no-such-price"),
    ],
)
def test_calibrated_scarcity(p_local, lambda_, expected):
    """With a calibration the doubt is the share of the cloud's probability that is to be gained."""
    review = replace(doubted(p_local), p_cloud=0.8, is_calibrated=True, threshold=None, score=-0.1)
    assert expected == weigh(review, OPTION, lambda_, Limits()).reason


def test_a_calibrated_gain():
    """With a value and a calibration the gain is between the two calibrated probabilities."""
    review = replace(doubted(0.5), p_cloud=0.52, is_calibrated=True)
    limits = Limits(value_usd=Decimal("0.1"), p_cloud=0.9)
    assert Reason.ABSTAIN is weigh(review, OPTION, 0.0, limits).reason
    assert Reason.CONFIDENCE is weigh(replace(review, p_cloud=0.8), OPTION, 0.0, limits).reason


@pytest.mark.parametrize(
    "review",
    [
        pytest.param(doubted(0.2, Reason.VERIFIER), id="proved-wrong"),
        pytest.param(doubted(None), id="empty"),
        pytest.param(Review(is_accepted=True, reason=Reason.DEFAULT, confidence=0.9), id="accepted"),
    ],
)
def test_only_doubt_is_weighed(review):
    """What was proved wrong, an empty answer, and what nobody doubted stay as they were at any price."""
    assert review == weigh(review, OPTION, 1000.0, Limits(value_usd=Decimal("0.001")))


BY_MEAN = LinearModel(
    features=("m",), means=(0.0,), scales=(1.0,), coefficients=(1.0,), intercept=0.0, calibration=Platt(1.0, 0.0)
)


def promised(**changes: object) -> Limits:
    """A promise of regret <= 5 %, a calibrated cloud right in 0.9; and what a right answer is worth, if given."""
    value_usd = changes.pop("value_usd", None)
    promise = Promise(
        **{
            "task": "quiz", "kind": TaskKind.CHOICE, "local": BY_MEAN, "threshold": 0.7, "max_regret": 0.05,
            "delta": 0.1, "local_share": 0.3, "bound": 0.04, "base_rate": 0.6, "cloud_rate": 0.9, **changes,
        }  # type: ignore[arg-type]
    )  # fmt: skip
    return Limits(promise=promise, value_usd=value_usd)


@pytest.mark.parametrize("value_usd", [None, Decimal("0.000001")], ids=["scarcity", "a-value-that-never-pays"])
def test_no_price_outranks_a_promise(value_usd):
    """What its threshold doubts goes to the cloud whatever a dollar is worth, and the review says which rule won."""
    review = replace(doubted(0.69, threshold=0.7), p_cloud=0.9, is_calibrated=True)
    weighed = weigh(review, OPTION, 1000.0, promised(value_usd=value_usd))
    assert (False, Reason.CONFIDENCE) == (weighed.is_accepted, weighed.reason)
    assert "regret <= 0.05 goes before the price" in weighed.checks[-1].detail
    assert weigh(review, OPTION, 1000.0, promised(value_usd=value_usd, is_withdrawn=True)).is_accepted


def accepted(confidence: float, reason: Reason = Reason.DEFAULT, p_cloud: float = 0.9) -> Review:
    """A draft that the promise lets stay."""
    return Review(is_accepted=True, reason=reason, confidence=confidence, is_calibrated=True, p_cloud=p_cloud)


@pytest.mark.parametrize(
    ("review", "limits", "lambda_", "expected"),
    [
        pytest.param(accepted(0.75), promised(), 0.0, True, id="nobody-said-what-it-is-worth"),
        pytest.param(accepted(0.75), promised(value_usd=Decimal("0.1")), 0.0, False, id="a-better-one-pays"),
        pytest.param(accepted(0.75), promised(value_usd=Decimal("0.1")), 1.0, True, id="not-while-money-is-scarce"),
        pytest.param(accepted(0.85), promised(value_usd=Decimal("0.1")), 0.0, True, id="hardly-better"),
        pytest.param(accepted(0.95), promised(value_usd=Decimal(100)), 0.0, True, id="the-cloud-is-worse"),
        pytest.param(
            accepted(0.2, Reason.ABSTAIN, 0.3), promised(value_usd=Decimal(100)), 0.0, True, id="neither-is-right"
        ),
        pytest.param(
            accepted(0.85, p_cloud=1.0), promised(value_usd=Decimal("0.1"), cloud_rate=None), 0.0, True,
            id="that-the-cloud-is-always-right-is-an-assumption",
        ),
    ],
)  # fmt: skip
def test_the_price_decides_inside_the_promise(review, limits, lambda_, expected):
    """What it accepts may still be worth a better answer, which lowers the regret."""
    assert expected == weigh(review, OPTION, lambda_, limits).is_accepted


@given(confidence=st.floats(0, 1), lambda_=st.floats(0, 1000), value=usd, is_accepted=st.booleans())
def test_under_a_promise_no_price_keeps_more_local(confidence, lambda_, value, is_accepted):
    """Whatever is escalated without a price is with any: so the certified regret is an upper bound."""
    review = replace(accepted(confidence), is_accepted=is_accepted)
    review = review if is_accepted else replace(review, reason=Reason.CONFIDENCE)
    assert is_accepted or not weigh(review, OPTION, lambda_, promised(value_usd=value)).is_accepted
