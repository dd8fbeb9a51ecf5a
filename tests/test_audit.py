"""With what chance was a draft compared with the cloud? The labels of its time are weighed by it."""

import math
from dataclasses import replace
from decimal import Decimal

import pytest

from hybrid.audit import least_chance
from hybrid.policy.model import Limits
from tests.policy.test_watch import promise

HELD = Limits(promise=promise())
WITHDRAWN = Limits(promise=promise(threshold=math.inf, is_withdrawn=True))


@pytest.mark.parametrize(
    ("limits", "price", "chance"),
    [
        pytest.param(HELD, 0.0, 0.2, id="the-share-that-is-audited"),
        pytest.param(HELD, 3.0, 0.2, id="at-any-price"),
        pytest.param(Limits(), 0.0, 0.2, id="without-a-promise"),
        pytest.param(WITHDRAWN, 0.0, 1.0, id="all-are-asked"),
        pytest.param(WITHDRAWN, None, 1.0, id="nothing-is-paced"),
        pytest.param(WITHDRAWN, 0.1, 0.0, id="the-least-doubtful-stay-while-money-is-scarce"),
        pytest.param(replace(WITHDRAWN, value_usd=Decimal(1)), 0.0, 0.0, id="those-that-do-not-pay-stay"),
    ],
)
def test_no_draft_is_counted_as_asked_that_might_have_stayed(limits, price, chance):
    """A sample that lacks the high scores would certify them for nothing."""
    assert chance == least_chance(limits, price, 0.2)
