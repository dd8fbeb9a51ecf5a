"""How dear is a dollar of the budget now? `lambda`, its shadow price, from what was spent and what is to come. Pure.

A price and not a ration: while money is plentiful lambda is 0 and every escalation that pays is made; as it runs out
faster than the demand that is still expected, lambda rises, and only those worth `(1 + lambda)` times their cost are.

The update is dual ascent on the budget's constraint, in the logarithm of `1 + lambda`, so multiplicative and bounded:
the price moves by the log of the pressure, which is the spending rate over the rate that the rest of the budget can
bear. What was spent moves it step by step (memory), and the pressure of this moment on top (at once). Both come from
sums, so a restart that reads the ledger's sums has the same price.

Source: online budget pacing by dual ascent, Balseiro and Gur, Management Science 2019 (doi:10.1287/mnsc.2018.3174); the
budget as a multi-choice knapsack over a stream of queries, PILOT, arXiv:2508.21141. tests/policy/test_pacing.py has
simulated days.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hybrid.types import Cap

HOURS = 24
STEP = timedelta(minutes=15)
"""How long a step is: as a quarter of the ledger's sums."""

LAMBDA_MAX = 1000.0
"""No price is higher: what is left then is for the hard cap alone to keep."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOG_MAX = math.log1p(LAMBDA_MAX)
_GAIN_PER_DAY = 24.0
"""How fast the price learns: within an hour of ordinary demand it moves by the whole log of the pressure."""
_STEP_LIMIT = 0.5
"""The most that one step moves the log of the price, in either direction."""
_MOMENT_LIMIT = 2.0
"""The most that the pressure of the moment adds to it or takes from it."""
_MEMORY_DAYS = 1 / 8
"""Demand over which past spending fades: three ordinary hours."""
_PRIOR_DAYS = 1 / 8
"""Three hours of demand spent as planned are taken for granted, so that a few calls in a quiet hour prove little."""
_NOTHING_USD = 1e-9
_LEAST_DEMAND_DAYS = 1e-6
_FEW_REQUESTS = 100
"""So many requests in the past weigh as much as knowing nothing about the hours."""


@dataclass(frozen=True, slots=True)
class Demand:
    """How a day's demand is expected to fall on its hours.

    shares: of each hour of the local day, 24 of them, together 1.
    offset: of the local clock from UTC. A day whose clocks change is taken as any other: an hour's share is wrong then.
    """

    shares: tuple[float, ...] = (1 / HOURS,) * HOURS
    offset: timedelta = timedelta(0)

    def days(self, start: datetime, end: datetime) -> float:
        """The demand expected between two times, in days of it; 0 if the end is not after the start."""
        return max(0.0, self._until(end) - self._until(start))

    def _until(self, moment: datetime) -> float:
        hours = (moment - _EPOCH + self.offset) / timedelta(hours=1)
        day, hour = divmod(hours, HOURS)
        whole = int(hour)
        return day + sum(self.shares[:whole]) + (hour - whole) * self.shares[whole % HOURS]


def expected_demand(requests_by_hour: Sequence[int], offset: timedelta = timedelta(0)) -> Demand:
    """Expect the hours to be as busy as they were, as far as there were requests enough to tell.

    Args:
        requests_by_hour: requests of past days in each hour of the local day, 24 counts.
    Raises: ValueError if there are not 24 counts, or one is negative.
    """
    if len(requests_by_hour) != HOURS or min(requests_by_hour) < 0:
        raise ValueError(f"expected 24 counts >= 0; got {list(requests_by_hour)}")
    total = sum(requests_by_hour) + _FEW_REQUESTS
    return Demand(tuple((count + _FEW_REQUESTS / HOURS) / total for count in requests_by_hour), offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A budget at one moment: what is left of it, and the demand that is still expected before it is new.

    left_usd: below a nano-USD counts as nothing. demand_days: in days of demand.
    """

    left_usd: float
    demand_days: float


def outlook(cap: Cap, spent_usd: float, now: datetime, demand: Demand) -> Outlook:
    """Look ahead from `now` to where the cap's money is new again.

    A day's or month's is at its end. A rolling window never ends: all that it counts leaves it within its length, so
    over that the whole limit is there, but what is left now must do for the next eighth of it, when little may leave.
    The scarcer of the two is the outlook, and so a well paced rolling window keeps about an eighth in hand.

    Args:
        spent_usd: what the window counts.
    """
    left_usd = float(cap.limit_usd) - spent_usd
    days = demand.days(now, cap.window.end)
    if not cap.is_rolling:
        return Outlook(left_usd=left_usd, demand_days=days)
    soon_days = demand.days(now, now + (cap.window.end - now) / 8)
    whole = Outlook(left_usd=float(cap.limit_usd), demand_days=days)
    soon = Outlook(left_usd=left_usd, demand_days=soon_days)
    return min(whole, soon, key=lambda ahead: ahead.left_usd / max(ahead.demand_days, _LEAST_DEMAND_DAYS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What is remembered of the steps so far. A new one has seen nothing and asks for nothing.

    log_price: of `1 + lambda`, in [0, log(1001)].
    spent_usd, demand_days: recent ones, faded.
    """

    log_price: float = 0.0
    spent_usd: float = 0.0
    demand_days: float = 0.0


def stepped(pace: Pace, spent_usd: float, demand_days: float, outlook: Outlook) -> Pace:
    """Take in one step that is over.

    Args:
        spent_usd, demand_days: of the step.
        outlook: at its end.
    """
    seen = _seen(pace, spent_usd, demand_days)
    move = _GAIN_PER_DAY * demand_days * _log_pressure(seen, outlook)
    log_price = seen.log_price + max(-_STEP_LIMIT, min(_STEP_LIMIT, move))
    return Pace(log_price=max(0.0, min(_LOG_MAX, log_price)), spent_usd=seen.spent_usd, demand_days=seen.demand_days)


def shadow_price(pace: Pace, spent_usd: float, demand_days: float, outlook: Outlook) -> float:
    """Give lambda now, in [0, 1000].

    Args:
        spent_usd, demand_days: since the last step that `pace` took in.
        outlook: now.
    """
    if outlook.left_usd <= _NOTHING_USD:
        return LAMBDA_MAX
    pressure = _log_pressure(_seen(pace, spent_usd, demand_days), outlook)
    log_price = pace.log_price + max(-_MOMENT_LIMIT, min(_MOMENT_LIMIT, pressure))
    return math.expm1(max(0.0, min(_LOG_MAX, log_price)))


def _seen(pace: Pace, spent_usd: float, demand_days: float) -> Pace:
    fade = math.exp(-demand_days / _MEMORY_DAYS)
    return Pace(
        log_price=pace.log_price,
        spent_usd=pace.spent_usd * fade + spent_usd,
        demand_days=pace.demand_days * fade + demand_days,
    )


def _log_pressure(pace: Pace, outlook: Outlook) -> float:
    """The log of how many times faster money goes than what is left can bear; 0 while nothing was seen."""
    if outlook.left_usd <= _NOTHING_USD:
        return _MOMENT_LIMIT
    bearable_usd_per_day = outlook.left_usd / max(outlook.demand_days, _LEAST_DEMAND_DAYS)
    planned_usd = _PRIOR_DAYS * bearable_usd_per_day
    usd_per_day = (pace.spent_usd + planned_usd) / (pace.demand_days + _PRIOR_DAYS)
    return math.log(usd_per_day / bearable_usd_per_day)
