"""Are draws in memory kept, and found again, where the database fails or is replaced under its process?"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from hybrid.errors import StoreError
from hybrid.store import escrow
from hybrid.store.draws import DrawLog, Line, logs_beside, revoke
from hybrid.store.ledger import Balance, Ledger, Recovery
from hybrid.store.records import Reserved
from tests.store.ledgers import opened, rows_of
from tests.store.test_draws import DRAW
from tests.store.test_escrow import BOOT, CENT, wish
from tests.store.test_granting import copied, ledger_on, reopened
from tests.store.test_money import START


@pytest.fixture
def path(tmp_path):
    """Where the ledger lies."""
    return tmp_path / "hybrid.sqlite3"


def test_a_file_that_is_replaced_gets_a_log_of_its_own(path):
    """Under the number that its process has there: what is drawn then is found by whoever starts on the new file."""

    failures = [sqlite3.OperationalError("disk I/O error")]

    def fail_once(_: sqlite3.Connection) -> None:
        if failures:
            raise failures.pop()

    async def live() -> tuple[Path, int]:
        before = ledger_on(path, BOOT)
        await before.start()
        await before.aclose()
        ledger = ledger_on(path, BOOT)
        await ledger.start()
        await ledger.reserve(wish("first"))
        await ledger.reserve(wish("second"))
        await ledger.flush()
        for part in ("", "-wal", "-shm"):
            path.with_name(path.name + part).rename(path.with_name(f"moved{part}"))
        ledger.write(fail_once, "what fails once")
        with suppress(StoreError):
            await ledger.flush()
        for name in ("a", "b", "c"):
            assert Reserved(CENT) == await ledger.reserve(wish(name))
        copy = copied(path, path.parent / "copy")
        lines = [line.draw.id for log in logs_beside(path, ledger._owner()) for line in revoke(log)]
        owner_id = ledger._owner()
        await ledger.aclose()
        assert ["b", "c"] == lines
        return copy, owner_id

    copy, owner_id = asyncio.run(live())
    assert 1 == owner_id
    assert (Recovery(0, 0, Decimal(0)), Balance(reserved_usd=3 * CENT)) == asyncio.run(reopened(copy, BOOT))


def test_two_processes_of_one_number_have_two_logs(path):
    """As on a file that was moved and its successor: neither writes, reads or removes the other's."""
    one, other = DrawLog(path), DrawLog(path)
    one.ready(1, 100, 1.0)
    other.ready(1, 200, 1.0)
    assert one.append(DRAW, None)
    assert other.append(replace(DRAW, id="rsv_2"), None)
    one.remove()
    [left] = logs_beside(path, 1)
    assert (200, [Line(replace(DRAW, id="rsv_2"))]) == (left.pid, revoke(left))


def test_a_failing_database_is_told_and_the_line_does_not_grow(path, monkeypatch):
    """Draws wait as one write however often it fails, and a call that asks is refused at once; then all are entered."""
    enter, fails = escrow.enter, list[bool]()

    def failing(*args: object) -> None:
        if fails:
            raise sqlite3.OperationalError("disk I/O error")
        enter(*args)  # type: ignore[arg-type]

    async def live() -> int:
        ledger = Ledger(path, clock=lambda: START, has_escrow=True, boot_id=BOOT, retry_after_s=0.001)
        await ledger.start()
        await ledger.reserve(wish("first"))
        await ledger.reserve(wish("a"))
        fails.append(True)
        for number in range(300):
            ledger.open_request(opened(f"req_{number}"))
        with suppress(StoreError):
            await ledger.flush()
        with pytest.raises(StoreError, match="disk I/O error"):
            await asyncio.wait_for(ledger.reserve(wish("b")), 5)
        await asyncio.sleep(0.1)
        waiting = ledger.health().pending_writes
        fails.clear()
        await ledger.flush()
        await ledger.aclose()
        return waiting

    monkeypatch.setattr(escrow, "enter", failing)
    assert asyncio.run(live()) <= 302
    assert ["a", "first"] == [row["id"] for row in rows_of(path, "reservations")]
    assert 300 == len(rows_of(path))
