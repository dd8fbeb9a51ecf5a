"""Is what is written together written as it would be alone, and does one bad row harm no other?"""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import timedelta
from decimal import Decimal

import pytest

from hybrid.store import escrow, holding, money, rows
from hybrid.store.db import as_values, in_chunks
from hybrid.store.ledger import Ledger, RequestClosed
from hybrid.types import Outcome
from tests.store.ledgers import TENTH, held, ledger_at, opened, rows_of, wish
from tests.store.test_escrow import BOOT
from tests.store.test_escrow import wish as wish_for_block
from tests.store.test_money import DEAD, START, store


@pytest.fixture
def path(tmp_path):
    """Where the ledger lies."""
    return tmp_path / "hybrid.sqlite3"


def ended(name, outcome=Outcome.OK):
    """A request's end."""
    return RequestClosed(id=name, outcome=outcome)


async def written_together(ledger: Ledger, path, act) -> None:
    """Have all that is put in line written in one transaction."""
    with held(path):
        act()
        ledger._wake()
        await asyncio.sleep(0.05)
    await ledger.flush()


@pytest.mark.parametrize("count", [1, 2, 16, 17, 128, 300])
def test_any_number_is_written_as_each_alone(path, count):
    """Arrivals and ends of many requests in one transaction: every row has its own values."""

    async def live() -> None:
        async with ledger_at(path) as ledger:

            def act() -> None:
                for number in range(count):
                    ledger.open_request(opened(f"req_{number}", tag=f"tag {number}", is_stream=bool(number % 2)))
                for number in range(count):
                    ledger.close_request(RequestClosed(id=f"req_{number}", outcome=Outcome.OK, ttft_s=number / 7))

            await written_together(ledger, path, act)

    asyncio.run(live())
    found = {row["id"]: (row["tag"], row["is_stream"], row["outcome"], row["ttft_s"]) for row in rows_of(path)}
    assert {f"req_{n}": (f"tag {n}", n % 2, "ok", n / 7) for n in range(count)} == found


def test_one_bad_row_harms_no_other(path, caplog):
    """An id that comes twice, an end without a beginning, a second end: the first counts, and the rest is written."""

    async def live() -> None:
        async with ledger_at(path) as ledger:

            def act() -> None:
                for name in ("a", "b", "a", "c"):
                    ledger.open_request(opened(name))
                for one in (ended("a"), ended("nobody"), ended("b", Outcome.FAILED), ended("b"), ended("c")):
                    ledger.close_request(one)

            await written_together(ledger, path, act)

    asyncio.run(live())
    assert [("a", "ok"), ("b", "failed"), ("c", "ok")] == [(row["id"], row["outcome"]) for row in rows_of(path)]
    assert 1 == caplog.text.count("nobody ended (ok), but no open row")
    assert 1 == caplog.text.count("b ended (ok), but no open row")
    assert 2 == caplog.text.count("but no open row")


def test_settlements_together(path, caplog):
    """Each at its amount and the first of two; one of no reservation is told, and one above what was set aside."""

    async def live() -> None:
        async with ledger_at(path) as ledger:
            for name in ("a", "b", "c"):
                await ledger.reserve(wish(name))

            def act() -> None:
                ledger.settle_soon("a", Decimal("0.01"), is_estimated=False)
                ledger.settle_soon("b", Decimal("0.02"), is_estimated=True)
                ledger.settle_soon("b", Decimal("0.09"), is_estimated=False)
                ledger.settle_soon("nobody", TENTH, is_estimated=False)
                ledger.release_soon("unknown")
                ledger.settle_soon("c", Decimal("0.2"), is_estimated=False)

            await written_together(ledger, path, act)

    asyncio.run(live())
    found = [(row["id"], row["settled_nusd"], row["settled_by"]) for row in rows_of(path, "reservations")]
    assert [("a", 10_000_000, "usage"), ("b", 20_000_000, "estimate"), ("c", 200_000_000, "usage")] == found
    assert 1 == caplog.text.count("no reservation 'nobody' to settle")
    assert "unknown" not in caplog.text
    assert 1 == caplog.text.count("reservation c cost 0.2 USD, more than the 0.1 USD set aside")


def test_rows_without_values_are_no_rows():
    """The padding of a statement is neither written nor counted."""
    values, parameters = as_values([("a", 1)] * 3)
    assert (16 * 2, 16) == (len(parameters), values.count("(?, ?)"))
    assert [3, 128, 128, 44] == [len(some) for many in (3, 300) for some in in_chunks(range(many))]
    with closing(store()) as connection:
        owner_id = rows.register(connection, DEAD, 0)
        arrivals = [rows.opened_values(opened(f"req_{number}")) for number in range(3)]
        rows.insert_opened(connection, owner_id, *arrivals)
        assert 3 == connection.execute("SELECT COUNT(*) FROM requests").fetchone()[0]
        assert 0 == money.settle_all(connection, [("x", 1, "usage", 1), ("y", 1, "usage", 1)])


def test_what_nobody_waits_for_waits_for_others(path):
    """Two rows some milliseconds apart are one transaction; who asks has them written at once."""

    async def live() -> int:
        async with ledger_at(path) as ledger:
            await ledger.flush()
            ledger.open_request(opened("a"))
            await asyncio.sleep(0.002)
            ledger.open_request(opened("b"))
            before = ledger.health().pending_writes
            await ledger.flush()
            assert 0 == ledger.health().pending_writes
            return before

    assert 2 == asyncio.run(live())
    assert 2 == len(rows_of(path))


def test_a_block_is_as_large_as_the_rate_of_calls_asks():
    """Some four seconds of calls, and never less than 64 of them or more than 4,096."""
    fills = holding.Fills(last_s=0.0)
    sizes = []
    for calls, now_s in ((10, 10.0), (600, 11.0), (90_000, 21.0), (1, 21.0)):
        fills.calls = calls
        sizes.append(fills.next_calls(now_s))
    assert [escrow.CALLS, 2400, escrow.MOST_CALLS, 4000] == sizes


def test_a_held_block_serves_what_it_was_set_aside_for():
    """Its amount, its quarter of an hour, its caps; a rolling window has to hold the whole quarter."""
    first = wish_for_block("first")
    with closing(store()) as connection:
        owner_id = rows.register(connection, DEAD, 0)
        escrow.reserve(connection, owner_id, first, BOOT)
        [block] = escrow.blocks_in(connection).values()
    one = holding.held_of(block, holding.Looked(holding.caps_of(first), first.now))
    assert one.serves(wish_for_block("same"), 1)
    assert one.serves(wish_for_block("later", now=START + timedelta(minutes=4)), 1)
    assert not one.serves(wish_for_block("clock set back", now=START - timedelta(minutes=4)), 1)
    assert not one.serves(wish_for_block("dear"), block.left_nusd + 1)
    assert not one.serves(wish_for_block("next day", now=START + timedelta(minutes=10)), 1)
    assert not one.serves(wish_for_block("lowered", cap_usd=Decimal(99)), 1)
    assert not one.serves(wish_for_block("another's", client_key="k"), 1)
