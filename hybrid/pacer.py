"""What is the budget's shadow price now? Kept up from the ledger's sums, so that a restart knows it as well."""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal

from hybrid.policy.pacing import HOURS, STEP, Demand, Pace, expected_demand, outlook, shadow_price, stepped
from hybrid.store.history import requests_by_hour, spend_steps
from hybrid.store.ledger import Ledger
from hybrid.store.records import Balance
from hybrid.types import Cap, Window

HISTORY = timedelta(days=7)
"""How far back the hours of requests are counted."""

WARM_UP = timedelta(days=3)
"""How many days of spending a new process goes through again; what came before has faded from the price by then."""

_DEMAND_HOLDS = timedelta(hours=6)
_OPEN_SHARE = Decimal("0.5")
"""Of what is set aside, counted as spent: calls cost less than their worst case, and how much less is not known yet."""


@dataclass(slots=True)
class _State:
    """The price's memory after all steps up to `until`, for each cap by its name."""

    until: datetime
    paces: dict[str, Pace] = field(default_factory=dict)


class _Spent:
    """Spending by steps, and its sum between any two of them. A price needs no cents, so floats do."""

    def __init__(self, steps: Mapping[datetime, Decimal]) -> None:
        self._starts = sorted(steps)
        self._sums = [0.0, *itertools.accumulate(float(steps[start]) for start in self._starts)]

    @property
    def first(self) -> datetime | None:
        """The first step that has any."""
        return self._starts[0] if self._starts else None

    def between(self, start: datetime, end: datetime) -> float:
        """What the steps that begin between two times have, in USD."""
        first, last = (bisect.bisect_left(self._starts, moment) for moment in (start, end))
        return self._sums[last] - self._sums[first]


class Pacer:
    """Follows the spending under the runtime's own caps. Client keys and tags have hard caps alone.

    Args:
        caps: the caps as they hold at a time.
        zone: whose hours demand is expected by.
    """

    def __init__(self, ledger: Ledger, caps: Callable[[datetime], tuple[Cap, ...]], zone: tzinfo) -> None:
        self._ledger, self._caps, self._zone = ledger, caps, zone
        self._demand = Demand()
        self._demand_until: datetime | None = None
        self._state: _State | None = None
        self._catching_up = asyncio.Lock()

    async def catch_up(self, now: datetime) -> Window:
        """Take in every step that is over, and give the span of the one that runs.

        Raises: StoreError if the ledger cannot be read.
        """
        running = step_at(now)
        if self._state is None or self._state.until < running.start:
            async with self._catching_up:
                await self._learn(now)
                await self._follow(running.start)
        elif self._state.until > running.start:
            # The clock was set back: what was taken in of later steps is learned again when they come.
            self._state = None
            return await self.catch_up(now)
        return running

    def price(self, now: datetime, counted: Mapping[Cap, Balance], step_usd: Decimal) -> float | None:
        """Give lambda, the highest of any cap's; None before the first `catch_up`.

        Args:
            counted: each of the runtime's caps with what it counts now.
            step_usd: spent within the running step.
        """
        if self._state is None or not counted:
            return None
        prices = []
        since_days = self._demand.days(self._state.until, now)
        for cap, balance in counted.items():
            spent = balance.spent_usd + _OPEN_SHARE * balance.reserved_usd
            ahead = outlook(cap, float(spent), now, self._demand)
            pace = self._state.paces.get(cap.name, Pace())
            prices.append(shadow_price(pace, float(step_usd), since_days, ahead))
        return max(prices)

    async def _learn(self, now: datetime) -> None:
        """Count at which hours requests came, when that was not done lately."""
        if self._demand_until is not None and abs(now - self._demand_until) < _DEMAND_HOLDS:
            return
        offset = now.astimezone(self._zone).utcoffset() or timedelta(0)
        none: tuple[int, ...] = (0,) * HOURS
        counts = await self._ledger.read(
            lambda connection: requests_by_hour(connection, Window(now - HISTORY, now), offset), empty=none
        )
        self._demand, self._demand_until = expected_demand(counts, offset), now

    async def _follow(self, until: datetime) -> None:
        state, earliest = self._state, step_at(until - WARM_UP).start
        # After a longer rest, or a clock that was far behind, it begins as a new process does: going through months
        # of steps that have faded would keep every stream waiting.
        is_new = state is None or state.until < earliest
        if state is None or is_new:
            state = _State(earliest)
        if state.until >= until:
            return
        oldest = min((cap.window.start for cap in self._caps(state.until)), default=state.until)
        none: Mapping[datetime, Decimal] = {}
        start = min(oldest, state.until)
        spent = _Spent(await self._ledger.read(lambda reader: spend_steps(reader, start, until), empty=none))
        if is_new:
            # Before the first dollar there was no pace to keep.
            state.until = max(state.until, spent.first or until)
        for end in _ends(state.until, until):
            self._take_in(state, end, spent)
        state.until = until
        self._state = state

    def _take_in(self, state: _State, end: datetime, spent: _Spent) -> None:
        spent_usd = spent.between(end - STEP, end)
        days = self._demand.days(end - STEP, end)
        for cap in self._caps(end):
            ahead = outlook(cap, spent.between(cap.window.start, end), end, self._demand)
            state.paces[cap.name] = stepped(state.paces.get(cap.name, Pace()), spent_usd, days, ahead)


def step_at(now: datetime) -> Window:
    """The step that a time lies in; steps are quarters of an hour of UTC."""
    epoch = datetime.fromtimestamp(0, now.tzinfo)
    start = epoch + (now - epoch) // STEP * STEP
    return Window(start, start + STEP)


def _ends(start: datetime, until: datetime) -> list[datetime]:
    return [start + number * STEP for number in range(1, (until - start) // STEP + 1)]
