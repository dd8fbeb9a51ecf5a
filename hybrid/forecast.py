"""What will this month have cost at its end, and how sure is that? From the days there were, drawn again and again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

HISTORY_DAYS = 28
"""Past days that a forecast draws from, at most: four of each day of the week."""
LEAST_DAYS = 3
"""With fewer whole days there is no forecast."""
INTERVAL = 0.8
_DRAWS = 2000
_NANO = Decimal("1e-9")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A month's spend as it will probably be: the mean of the draws, and the two figures that 80 % of them lie between.

    from_days: whole past days that were drawn from.
    """

    month: str
    spent_usd: Decimal
    expected_usd: Decimal
    low_usd: Decimal
    high_usd: Decimal
    from_days: int


def forecast(days: Sequence[tuple[date, Decimal]], first_day: date | None, now: datetime) -> Forecast | None:
    """Forecast the spend of the calendar month that `now` lies in.

    A bootstrap: each day that is left is one of the past days, drawn at random with replacement, 2,000 times; of today
    the part that is left. It knows nothing of weekdays, trends and caps, and says so by its width. The same facts give
    the same figures.

    Args:
        days: spend by local day, those without any left out.
        first_day: since when the ledger counts; whole days after it count, also those without spend.
        now: local time.
    Returns: None with fewer than 3 whole days of history.
    """
    today, spent = now.date(), dict(days)
    if first_day is None:
        return None
    past = [today - timedelta(days=back) for back in range(1, HISTORY_DAYS + 1)]
    history = [float(spent.get(day, 0)) for day in past if day > first_day]
    if len(history) < LEAST_DAYS:
        return None
    next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    left_today = 1 - (now - datetime.combine(today, datetime.min.time(), now.tzinfo)) / timedelta(days=1)
    whole_days = (next_month - today).days - 1
    rng = random.Random(0)  # noqa: S311 - a simulation that gives the same twice
    draws = sorted(
        rng.choice(history) * max(0.0, left_today) + sum(rng.choices(history, k=whole_days)) for _ in range(_DRAWS)
    )
    so_far = sum((usd for day, usd in days if today.replace(day=1) <= day <= today), Decimal(0))
    tail = round(_DRAWS * (1 - INTERVAL) / 2)
    return Forecast(
        month=f"{today:%Y-%m}",
        spent_usd=so_far,
        expected_usd=_usd(so_far, sum(draws) / _DRAWS),
        low_usd=_usd(so_far, draws[tail]),
        high_usd=_usd(so_far, draws[-1 - tail]),
        from_days=len(history),
    )


def _usd(so_far: Decimal, more: float) -> Decimal:
    return so_far + Decimal(more).quantize(_NANO)
