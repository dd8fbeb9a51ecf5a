"""When the disk refuses, is no money granted and nothing lost that can be kept?"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest

from hybrid.errors import StoreError
from hybrid.store.ledger import Balance, Ledger, RequestClosed, Reserved
from hybrid.store.writer import Write, Writer
from hybrid.types import Outcome
from tests.store.ledgers import DAY, NOW, TENTH, held, ledger_at, opened, rows_of, until_taken, wish


@pytest.fixture
def path(tmp_path):
    """Where the ledger lies."""
    return tmp_path / "hybrid.sqlite3"


def test_the_line_is_bounded(path):
    """With the file held, rows beyond the bound are dropped and counted, reservations refused, settlements taken."""

    async def crowd() -> tuple[int, int, Balance]:
        async with ledger_at(path, max_pending_writes=4) as ledger:
            await ledger.reserve(wish("a"))
            with held(path):
                ledger.open_request(opened("req_0"))
                await until_taken(ledger)
                for number in range(1, 11):
                    ledger.open_request(opened(f"req_{number}"))
                with pytest.raises(StoreError, match="4 writes behind"):
                    await ledger.reserve(wish("b"))
                ledger.settle_soon("a", Decimal("0.05"), is_estimated=False)
                health = ledger.health()
            await ledger.flush()
            return health.pending_writes, health.dropped_writes, await ledger.balance(DAY)

    assert (5, 6, Balance(Decimal("0.05"), Decimal(0))) == asyncio.run(crowd())
    assert [f"req_{number}" for number in range(5)] == [row["id"] for row in rows_of(path)]


@contextmanager
def full_disk() -> Iterator[None]:
    """A disk that takes no byte more from this process: reading goes on, every write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(path):
    """On a full disk no money is granted and the operator is told; rows and settlements wait, and nothing is lost."""

    async def fill() -> tuple[Decimal, bool]:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("a"))
            with full_disk():
                ledger.open_request(opened("req_1"))
                with pytest.raises(StoreError, match=f"cannot write {path}.*check the disk"):
                    await ledger.reserve(wish("b"))
                with pytest.raises(StoreError):
                    await ledger.settle("a", Decimal("0.05"), is_estimated=False)
                ledger.close_request(RequestClosed(id="req_1", outcome=Outcome.OK))
                assert "check the disk" in (ledger.health().error or "")
            assert isinstance(await ledger.reserve(wish("c")), Reserved)
            return await ledger.spent_usd(DAY), ledger.health().is_ok

    assert (Decimal("0.05"), True) == asyncio.run(fill())
    assert [("req_1", "ok")] == [(row["id"], row["outcome"]) for row in rows_of(path)]


def test_a_damaged_ledger_refuses_money_until_it_is_replaced(path):
    """Started on a damaged file, the ledger grants nothing and keeps rows; with the file gone they are written."""
    path.write_text("no database at all " * 100)

    async def live_on() -> None:
        ledger = Ledger(path, clock=lambda: NOW)
        with pytest.raises(StoreError, match="not a hybrid ledger"):
            await ledger.start()
        ledger.open_request(opened("req_1"))
        with pytest.raises(StoreError, match="not a hybrid ledger"):
            await ledger.reserve(wish("a"))
        with pytest.raises(StoreError, match="not a hybrid ledger"):
            await ledger.balance(DAY)
        path.unlink()
        assert isinstance(await ledger.reserve(wish("b")), Reserved)
        assert Balance(Decimal(0), TENTH) == await ledger.balance(DAY)
        await ledger.aclose()

    asyncio.run(live_on())
    assert ["req_1"] == [row["id"] for row in rows_of(path)]


def test_waiting_rows_are_tried_again_by_themselves(path):
    """After a failure the writer tries again when its pause is over, though nobody asks."""
    written, refusals = threading.Event(), iter([sqlite3.OperationalError("disk I/O error")])

    def refuse_once(_connection: sqlite3.Connection) -> None:
        for error in refusals:
            raise error

    writer = Writer(path, on_open=refuse_once, max_pending=10, retry_after_s=0.001)
    writer.start()
    writer.submit(Write(lambda _connection: written.set(), "a row", is_kept=True))
    assert written.wait(timeout=10)
    writer.close()
    assert writer.health().error is None


def test_a_closing_on_a_broken_disk_ends(path, caplog):
    """A closing tries what waits once more, says what was lost, and does not hang."""
    path.mkdir()
    writer = Writer(path, on_open=lambda _connection: None, max_pending=10, retry_after_s=3600)
    writer.submit(Write(lambda _connection: None, "the arrival of req_1", is_kept=True))
    writer.start()
    writer.close()
    assert 1 == writer.health().dropped_writes
    assert "the ledger lost the arrival of req_1" in caplog.text
