"""How much may still be spent, and over which span of time? Pure: the caller brings the clock and the sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import lru_cache

from hybrid.types import Cap, Window

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How much somebody may spend: any of three caps, None where there is none.

    usd_per_window: in any span of `window_hours`, wherever it begins.
    client_key, tag: whose money the caps count; None of both: everybody's. A tag is compared case-folded.
    """

    usd_per_day: Decimal | None = None
    usd_per_month: Decimal | None = None
    usd_per_window: Decimal | None = None
    window_hours: float = 24.0
    client_key: str | None = None
    tag: str | None = None


def caps(allowance: Allowance, now: datetime, zone: tzinfo | None, *, name: str) -> tuple[Cap, ...]:
    """The caps of an allowance as they hold at `now`; none where it has none.

    Args:
        zone: whose midnights begin days and months; None: the machine's own.
        name: where the allowance is from, such as "budget"; it begins the names of its caps.
    Raises: ValueError if `now` has no time zone.
    """
    given: tuple[tuple[str, Decimal | None, Callable[[], Window]], ...] = (
        ("usd_per_day", allowance.usd_per_day, lambda: day_window(now, zone)),
        ("usd_per_month", allowance.usd_per_month, lambda: month_window(now, zone)),
        ("usd_per_window", allowance.usd_per_window, lambda: rolling_window(now, allowance.window_hours)),
    )
    return tuple(
        Cap(
            f"{name}.{key}",
            window(),
            limit_usd,
            client_key=allowance.client_key,
            tag=None if allowance.tag is None else allowance.tag.casefold(),
            is_rolling=key == "usd_per_window",
        )
        for key, limit_usd, window in given
        if limit_usd is not None
    )


def day_window(now: datetime, zone: tzinfo | None) -> Window:
    """The calendar day of `zone` that `now` lies in, as two UTC instants. No zone is the machine's own.

    Days tile the time line: each ends at the instant the next begins, so no spend is counted twice or not at all.
    A day is 23 or 25 hours long where the clocks change, and begins at the first instant of its date where they
    change at midnight.

    Raises: ValueError if `now` has no time zone.
    """
    return _enclosing(now, _local_date(now, zone), lambda day, days: day + days * _ONE_DAY, zone)


def month_window(now: datetime, zone: tzinfo | None) -> Window:
    """The calendar month of `zone` that `now` lies in, as two UTC instants; months tile time as days do.

    Raises: ValueError if `now` has no time zone.
    """
    return _enclosing(now, _local_date(now, zone).replace(day=1), _months_later, zone)


def rolling_window(now: datetime, hours: float) -> Window:
    """All that was reserved in the last `hours`, and in the next.

    What has a later time than now was reserved before the clock was set back, and is money of the same span. Because
    of it the cap holds for any stretch of `hours` by the times in the ledger, however the clock moved: of all that
    lies in a stretch, the reservation that was granted last has counted the rest.

    Raises: ValueError if `now` has no time zone or `hours` is not above 0.
    """
    if now.tzinfo is None or not hours > 0:
        raise ValueError(f"a budget needs a time with a zone and a span above 0; got {now.isoformat()}, {hours} h")
    span = timedelta(hours=hours)
    return Window((now - span).astimezone(UTC), (now + span).astimezone(UTC))


def left_usd(cap: Cap, spent_usd: Decimal, reserved_usd: Decimal) -> Decimal:
    """What a new reservation may still take under `cap`; never below 0.

    Args:
        spent_usd: settled within the cap's window.
        reserved_usd: promised to calls that are still out, whenever they began.
    """
    return max(Decimal(0), cap.limit_usd - spent_usd - reserved_usd)


def _local_date(now: datetime, zone: tzinfo | None) -> date:
    if now.tzinfo is None:
        raise ValueError(f"a budget needs a time with a zone; got {now.isoformat()}")
    return now.astimezone(zone).date()


def _enclosing(now: datetime, first: date, later: Callable[[date, int], date], zone: tzinfo | None) -> Window:
    # Where clocks go back across midnight a date's wall time comes twice, so the wall date alone can name a
    # neighbour of the span whose two boundaries enclose `now`.
    while now < _day_start(first, zone):
        first = later(first, -1)
    while now >= _day_start(later(first, 1), zone):
        first = later(first, 1)
    return Window(_day_start(first, zone), _day_start(later(first, 1), zone))


def _months_later(first: date, months: int) -> date:
    year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
    return date(year, month + 1, 1)


def _day_start(day: date, zone: tzinfo | None) -> datetime:
    """The first midnight of a date; where the clocks skip it, the instant they would have shown it."""
    if zone is not None:
        return _day_start_in(day, zone)
    return datetime(day.year, day.month, day.day, fold=0).astimezone(UTC)  # the machine's own zone may change


@lru_cache(maxsize=64)
def _day_start_in(day: date, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone, fold=0).astimezone(UTC)
