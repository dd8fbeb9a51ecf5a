"""Is a month's forecast drawn from the days there were, wide where they differ, and absent where there are too few?"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.forecast import forecast

NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)
START = date(2026, 10, 1)
YESTERDAY = NOON.date() - timedelta(days=1)


def days(*usd: str, until: date = YESTERDAY) -> list[tuple[date, Decimal]]:
    """Spend of the days that end with `until`."""
    return [(until - timedelta(days=len(usd) - 1 - number), Decimal(amount)) for number, amount in enumerate(usd)]


def test_equal_days_leave_no_doubt():
    """Where every day cost a dollar, nine and a half were, half of today and twenty more are certain."""
    found = forecast([*days(*["1"] * 40), (NOON.date(), Decimal("0.5"))], START, NOON)
    assert found is not None
    assert (Decimal("9.5"), Decimal(30), Decimal(30), Decimal(30)) == (
        found.spent_usd, found.expected_usd, found.low_usd, found.high_usd
    )  # fmt: skip
    assert ("2026-11", 28) == (found.month, found.from_days)


def test_unequal_days_are_an_interval():
    """Days of nothing and of two dollars give about the same mean, and an interval that holds it."""
    found = forecast(days(*["0", "2"] * 20), START, NOON)
    assert found is not None
    assert found.low_usd < found.expected_usd < found.high_usd
    # The mean of 20.5 days of a dollar on top of ten spent, give or take what 2,000 draws leave open.
    assert Decimal("28.3") < found.expected_usd < Decimal("30.7")


def test_days_without_spend_count():
    """A whole day since the first request on which nothing was paid is a day of nothing."""
    found = forecast(days("4"), NOON.date() - timedelta(days=5), NOON)
    assert found is not None
    assert (4, Decimal(4)) == (found.from_days, found.spent_usd)
    assert found.low_usd < Decimal(4) + Decimal("20.5")


@pytest.mark.parametrize("first_day", [None, NOON.date(), NOON.date() - timedelta(days=3)])
def test_too_little_history(first_day):
    """With fewer than three whole days nothing is forecast."""
    assert None is forecast(days("1", "1"), first_day, NOON)


@given(
    usd=st.lists(st.decimals(0, 1000, places=6), min_size=3, max_size=28),
    now=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_what_was_spent_is_the_least(usd, now):
    """No forecast is below what the month has cost, its figures are in order, and the same facts give the same."""
    past = days(*map(str, usd), until=now.date() - timedelta(days=1))
    found = forecast(past, now.date() - timedelta(days=60), now)
    assert found is not None
    assert found.spent_usd <= found.low_usd <= found.high_usd
    assert found.spent_usd <= found.expected_usd
    assert found == forecast(past, now.date() - timedelta(days=60), now)
