"""Does the shadow price follow the ledger, and is it the same after a restart?"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from hybrid.pacer import WARM_UP, Pacer, step_at
from hybrid.policy.budget import Allowance, caps
from hybrid.policy.pacing import STEP
from hybrid.store.history import requests_by_hour, standing
from hybrid.store.ledger import Balance, Ledger, RequestOpened, Reservation
from hybrid.types import Window

MORNING = datetime(2026, 6, 2, 6, tzinfo=UTC)
ALLOWANCE = Allowance(usd_per_day=Decimal(1), usd_per_month=Decimal(30), usd_per_window=Decimal("0.5"), window_hours=5)


def caps_at(now):
    """Three caps on everybody's spending."""
    return caps(ALLOWANCE, now, UTC, name="budget")


@asynccontextmanager
async def ledger_in(folder):
    """A started ledger, closed at the end."""
    ledger = Ledger(folder / "hybrid.sqlite3")
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def pay(ledger, at, usd, name):
    """Spend so much at a time."""
    await ledger.reserve(
        Reservation(
            id=name, request_id="r", provider="p", model="m", amount_usd=usd, now=at, caps=caps_at(at)
        )
    )  # fmt: skip
    await ledger.settle(name, usd, is_estimated=False)


async def price_at(pacer, ledger, now):
    """Lambda at a time."""
    step, held = await pacer.catch_up(now), caps_at(now)
    balances, step_usd = await ledger.read(
        lambda reader: standing(reader, held, step), empty=((Balance(),) * 3, Decimal(0))
    )
    return pacer.price(now, dict(zip(held, balances, strict=True)), step_usd)


def test_a_restart_knows_the_price(tmp_path):
    """A pacer that followed the spending and one that starts now on the same ledger say the same."""

    async def follow() -> list[tuple[float, float]]:
        async with ledger_in(tmp_path) as ledger:
            pacer, prices = Pacer(ledger, caps_at, UTC), []
            for minute in range(0, 240, 5):
                now = MORNING + timedelta(minutes=minute)
                prices.append(
                    (await price_at(pacer, ledger, now), await price_at(Pacer(ledger, caps_at, UTC), ledger, now))
                )
                await pay(ledger, now, Decimal("0.01"), f"rsv_{minute}")
            return prices

    prices = asyncio.run(follow())
    assert prices[0] == (0, 0)
    assert all(kept == pytest.approx(anew) for kept, anew in prices)
    assert prices[-1][0] > 1


def test_spending_raises_the_price_and_rest_lowers_it(tmp_path):
    """A burst is felt at once, not at the next step, and a night's rest forgets it."""

    async def burst() -> list[float]:
        async with ledger_in(tmp_path) as ledger:
            pacer = Pacer(ledger, caps_at, UTC)
            before = await price_at(pacer, ledger, MORNING)
            for number in range(5):
                await pay(ledger, MORNING, Decimal("0.05"), f"rsv_{number}")
            at_once = await price_at(pacer, ledger, MORNING + timedelta(seconds=1))
            return [before, at_once, await price_at(pacer, ledger, MORNING + timedelta(days=1))]

    before, at_once, next_day = asyncio.run(burst())
    assert before == next_day == 0
    assert at_once > 0.5


def test_a_clock_set_back_is_survived(tmp_path):
    """After a step back the price is that of a pacer that starts then."""

    async def step_back() -> tuple[float, float]:
        async with ledger_in(tmp_path) as ledger:
            pacer = Pacer(ledger, caps_at, UTC)
            for number in range(8):
                await pay(ledger, MORNING + number * timedelta(minutes=15), Decimal("0.05"), f"rsv_{number}")
            await price_at(pacer, ledger, MORNING + timedelta(hours=3))
            then = MORNING + timedelta(hours=1)
            return await price_at(pacer, ledger, then), await price_at(Pacer(ledger, caps_at, UTC), ledger, then)

    kept, anew = asyncio.run(step_back())
    assert kept == pytest.approx(anew)


def test_a_long_rest_is_not_gone_through(tmp_path):
    """After weeks without a paid request, or a clock that was years behind, only what has not faded is looked at."""

    async def rest() -> tuple[int, float, float]:
        looked_at = []

        def counted(now):
            looked_at.append(now)
            return caps_at(now)

        async with ledger_in(tmp_path) as ledger:
            pacer, later = Pacer(ledger, counted, UTC), MORNING + timedelta(days=400)
            await pay(ledger, MORNING, Decimal("0.2"), "rsv_before")
            await price_at(pacer, ledger, MORNING + timedelta(hours=1))
            for number in range(5):
                await pay(ledger, later, Decimal("0.05"), f"rsv_{number}")
            looked_at.clear()
            now = later + timedelta(hours=1)
            kept = await price_at(pacer, ledger, now)
            return len(looked_at), kept, await price_at(Pacer(ledger, caps_at, UTC), ledger, now)

    steps, kept, anew = asyncio.run(rest())
    assert WARM_UP // STEP + 1 >= steps
    assert anew == kept > 0


def test_an_empty_ledger_has_no_price(tmp_path):
    """Where no file is yet lambda is 0."""
    ledger = Ledger(tmp_path / "none")
    assert 0 == asyncio.run(price_at(Pacer(ledger, caps_at, UTC), ledger, MORNING))


def test_steps_tile_time():
    """A time lies in its step, which is a quarter of an hour of UTC."""
    now = datetime(2026, 6, 1, 12, 44, 59, 999_999, tzinfo=UTC)
    assert Window(now.replace(minute=30, second=0, microsecond=0), now + timedelta(microseconds=1)) == step_at(now)


def test_hours_are_of_the_local_clock(tmp_path):
    """Requests are counted by the hour of a clock ahead of or behind UTC, and old ones are not counted."""

    async def count() -> list[tuple[int, ...]]:
        async with ledger_in(tmp_path) as ledger:
            for number, hours in enumerate((0, 1, 1, 200)):
                ledger.open_request(
                    RequestOpened(
                        id=f"req_{number}", created_at=MORNING - timedelta(hours=hours),
                        dialect="openai", requested_model="hybrid",
                    )
                )  # fmt: skip
                await ledger.flush()
            week = Window(MORNING - timedelta(days=7), MORNING + timedelta(seconds=1))
            counts = []
            for offset in (timedelta(0), timedelta(hours=-7), timedelta(hours=2)):
                counts.append(await ledger.read(lambda r, o=offset: requests_by_hour(r, week, o), empty=()))
            return counts

    utc, behind, ahead = asyncio.run(count())
    assert (2, 1) == (utc[5], utc[6])
    assert (2, 1) == (behind[22], behind[23])
    assert (2, 1) == (ahead[7], ahead[8])
    assert 3 == sum(utc) == sum(ahead) == sum(behind)
