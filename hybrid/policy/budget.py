"""How much may still be spent, and over which span of time? Pure: the caller brings the clock and the sums."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal

from hybrid.types import Cap, Window

_ONE_DAY = timedelta(days=1)


def day_window(now: datetime, zone: tzinfo | None) -> Window:
    """The calendar day of `zone` that `now` lies in, as two UTC instants. No zone is the machine's own.

    Days tile the time line: each ends at the instant the next begins, so no spend is counted twice or not at all.
    A day is 23 or 25 hours long where the clocks change, and begins at the first instant of its date where they
    change at midnight.

    Raises: ValueError if `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"a budget needs a time with a zone; got {now.isoformat()}")
    day = now.astimezone(zone).date()
    # Where clocks go back across midnight a date's wall time comes twice, so the wall date alone can name a
    # neighbour of the day whose two boundaries enclose `now`.
    while now < _day_start(day, zone):
        day -= _ONE_DAY
    while now >= _day_start(day + _ONE_DAY, zone):
        day += _ONE_DAY
    return Window(_day_start(day, zone), _day_start(day + _ONE_DAY, zone))


def left_usd(cap: Cap, spent_usd: Decimal, reserved_usd: Decimal) -> Decimal:
    """What a new reservation may still take under `cap`; never below 0.

    Args:
        spent_usd: settled within the cap's window.
        reserved_usd: promised to calls that are still out, whenever they began.
    """
    return max(Decimal(0), cap.limit_usd - spent_usd - reserved_usd)


def _day_start(day: date, zone: tzinfo | None) -> datetime:
    """The first midnight of a date; where the clocks skip it, the instant they would have shown it."""
    return datetime(day.year, day.month, day.day, tzinfo=zone, fold=0).astimezone(UTC)
