"""Does a request draw on the budgets that are its own, and on all of them at once?"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from hybrid.budgets import Budgets, BudgetView, budgets_of
from hybrid.config import load
from hybrid.journal import Journal
from hybrid.policy.budget import Allowance
from hybrid.policy.model import CloudOption
from hybrid.store.ledger import Ledger, Refused, Reservation, Reserved
from hybrid.types import ChatRequest

OPTIONS = (CloudOption(provider="p", model="m", reserve_usd=Decimal("0.1")),)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
CONFIG = """
[budget]
usd_per_day = 5
usd_per_month = 50
usd_per_window = 2
window_hours = 5
timezone = "UTC"
[tags."Nightly"]
usd_per_day = 0.5
"""


@asynccontextmanager
async def ledger_in(folder):
    """A started ledger, closed at the end."""
    ledger = Ledger(folder / "hybrid.sqlite3")
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.aclose()


def request(*, tag=None, key=None):
    """A request of somebody."""
    return ChatRequest(model="hybrid", messages=(), tag=tag, client_key=key)


def journal():
    """A request's record."""
    return Journal(id="r", dialect="openai", arrived_s=0.0, requested_model="hybrid")


def configured(tmp_path, text=CONFIG):
    """The budgets of a configuration, whose phone has a dollar a day."""
    path = tmp_path / "hybrid.toml"
    path.write_text(text)
    return load(path, {}).config


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(request(), [], id="anybody"),
        pytest.param(
            request(tag="nightly", key="phone"), ["tags.Nightly.usd_per_day", "key phone.usd_per_day"], id="both"
        ),
        pytest.param(request(tag="NIGHTLY", key="laptop"), ["tags.Nightly.usd_per_day"], id="a-tag-in-other-letters"),
        pytest.param(request(tag="daily"), [], id="a-tag-without-a-budget"),
    ],
)
def test_who_has_which_caps(tmp_path, asked, expected):
    """Everybody has the runtime's three caps, and those of their own tag and key beside them."""
    config = configured(tmp_path)
    phone = {"phone": Allowance(usd_per_day=Decimal(1), client_key="phone")}
    budgets = budgets_of(config, Ledger(tmp_path / "x"), UTC, of_key=phone.get)
    everybody = ["budget.usd_per_day", "budget.usd_per_month", "budget.usd_per_window"]
    assert [*everybody, *expected] == [cap.name for cap in budgets.caps(NOON, asked)]


def test_no_budget_means_no_cloud(tmp_path):
    """Without a cap for everybody a key's or tag's own budget opens nothing."""
    budgets = Budgets(
        Ledger(tmp_path / "x"), runtime=Allowance(), zone=UTC, of_key=lambda _: Allowance(usd_per_day=Decimal(1))
    )
    assert () == budgets.caps(NOON, request(key="phone"))
    assert BudgetView() == asyncio.run(budgets.look(request(key="phone"), OPTIONS, journal()))


def test_the_tightest_cap_is_what_is_left(tmp_path):
    """A tag that spent its share has nothing left, another has what the runtime's tightest window leaves."""
    config = configured(tmp_path)

    async def spend() -> list[object]:
        async with ledger_in(tmp_path) as ledger:
            budgets, now = budgets_of(config, ledger, UTC), datetime.now(UTC)

            async def reserve(name: str, usd: str, asked: ChatRequest) -> object:
                return await ledger.reserve(
                    Reservation(
                        id=name, request_id="r", provider="p", model="m", amount_usd=Decimal(usd), now=now,
                        caps=budgets.caps(now, asked), tag=asked.tag,
                    )
                )  # fmt: skip

            nightly, other = request(tag="nightly"), request()
            first, second = await reserve("a", "0.5", nightly), await reserve("b", "0.1", nightly)
            assert isinstance(second, Refused)
            return [
                first, second.cap.name, await reserve("c", "0.1", other),
                *[(await budgets.look(asked, OPTIONS, journal())).left_usd for asked in (nightly, other)],
            ]  # fmt: skip

    expected = [
        Reserved(Decimal("0.5")),
        "tags.Nightly.usd_per_day",
        Reserved(Decimal("0.1")),
        Decimal(0),
        Decimal("1.4"),
    ]
    assert expected == asyncio.run(spend())


def test_an_unreadable_ledger_has_no_money(tmp_path):
    """Where the file is no ledger nothing may be spent, and the request's record says why."""
    (tmp_path / "hybrid.sqlite3").write_text("no database " * 100)
    budgets, record = budgets_of(configured(tmp_path), Ledger(tmp_path / "hybrid.sqlite3"), UTC), journal()
    assert BudgetView(left_usd=Decimal(0)) == asyncio.run(budgets.look(request(), OPTIONS, record))
    assert "no money can be spent" in record.events[0][1]


def test_without_a_cloud_nobody_looks(tmp_path):
    """A request that no cloud may have costs no look at the money."""
    (tmp_path / "hybrid.sqlite3").write_text("no database " * 100)
    budgets, record = budgets_of(configured(tmp_path), Ledger(tmp_path / "hybrid.sqlite3"), UTC), journal()
    assert (BudgetView(), []) == (asyncio.run(budgets.look(request(), (), record)), record.events)
