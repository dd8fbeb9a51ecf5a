"""What does a killed process leave behind, and does the next one put it right?"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid.store import rows
from hybrid.store.db import connect_reader
from hybrid.store.ledger import Balance, Ledger, Recovery, Refused, RequestClosed, RequestOpened, Reservation, Reserved
from hybrid.types import Cap, Outcome, Window

CHILD = Path(__file__).with_name("ledger_child.py")
NOW = datetime.now(UTC)
ALWAYS = Window(NOW - timedelta(days=2), NOW + timedelta(days=2))  # both sides of a midnight during the test


@contextmanager
def child(path: Path, stage: str) -> Iterator[subprocess.Popen[str]]:
    """A process that works on the ledger, killed and reaped at the end in any case."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, CHILD, path, stage], stdout=subprocess.PIPE, text=True, env=environ)
    with process:
        try:
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill -9 and wait for the death, leaving a zombie as a parent does that is slow to look."""
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that the child said."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def reopened(path: Path) -> tuple[Recovery, Balance]:
    """Start a ledger on the file, and say what it found and where the money stands."""
    ledger = Ledger(path)
    try:
        return await ledger.start(), await ledger.balance(ALWAYS)
    finally:
        await ledger.aclose()


def outcome_of(path: Path, request_id: str = "req_1") -> str:
    """How the ledger says a request ended."""
    with closing(connect_reader(path)) as reader:
        return str(reader.execute("SELECT outcome FROM requests WHERE id = ?", (request_id,)).fetchone()[0])


@pytest.mark.parametrize(
    ("stage", "recovery", "spent_usd", "outcome"),
    [
        pytest.param("opened", Recovery(1, 0, Decimal(0)), "0", "lost", id="before-the-money"),
        pytest.param("reserved", Recovery(1, 1, Decimal("0.5")), "0.5", "lost", id="while-the-cloud-worked"),
        pytest.param("settled", Recovery(1, 0, Decimal(0)), "0.125", "lost", id="after-the-money"),
        pytest.param("closed", Recovery(0, 0, Decimal(0)), "0.125", "ok", id="after-everything"),
    ],
)
def test_kill_9(tmp_path, stage, recovery, spent_usd, outcome):
    """Killed at any stage, a request is never missing and its money never less than its worst case; once only."""
    path = tmp_path / "hybrid.sqlite3"
    with child(path, stage) as process:
        assert line_of(process) == "ready"
        kill(process)
        expected = Balance(Decimal(spent_usd), Decimal(0))
        assert (recovery, expected) == asyncio.run(reopened(path))
        assert (Recovery(0, 0, Decimal(0)), expected) == asyncio.run(reopened(path))
    assert outcome == outcome_of(path)


def test_kill_9_in_a_storm(tmp_path):
    """Killed between any two of its steps, no call that was granted is forgotten and the cap holds."""
    path = tmp_path / "hybrid.sqlite3"
    with child(path, "storm") as process:
        granted = [line_of(process) for _ in range(40)]
        kill(process)
        assert process.stdout is not None
        granted += process.stdout.read().split()
    recovery, balance = asyncio.run(reopened(path))
    with closing(connect_reader(path)) as reader:
        kept = {row["id"]: row["settled_nusd"] for row in reader.execute("SELECT id, settled_nusd FROM reservations")}
    assert set() == set(granted) - set(kept)
    # Settled at 0.001 USD each where that was written, and at the 0.01 USD set aside where it was not.
    assert {1_000_000, 10_000_000} >= set(kept.values())
    assert sum(nusd == 10_000_000 for nusd in kept.values()) == recovery.settled_reservations
    assert Decimal(0) == balance.reserved_usd
    assert balance.spent_usd <= Decimal(1)


def test_two_processes_share_a_cap(tmp_path):
    """A living neighbour's requests and reservations are left alone and its money counts; dead, it is cleaned up."""
    path = tmp_path / "hybrid.sqlite3"

    async def beside(process: subprocess.Popen[str]) -> None:
        ledger, later = Ledger(path), Ledger(path)
        assert Recovery(0, 0, Decimal(0)) == await ledger.start()
        cap = Cap("usd_per_day", ALWAYS, Decimal(1))
        for name, amount, expected in (
            ("a", "0.6", Refused(cap, Decimal("0.5"))),
            ("b", "0.5", Reserved(Decimal("0.5"))),
        ):
            wish = Reservation(
                id=name, request_id="req_2", provider="p", model="m", amount_usd=Decimal(amount), now=NOW, caps=(cap,)
            )
            assert expected == await ledger.reserve(wish)
        kill(process)
        assert Recovery(1, 1, Decimal("0.5")) == await later.start()
        assert Balance(Decimal("0.5"), Decimal("0.5")) == await ledger.balance(ALWAYS)
        await ledger.aclose()
        await later.aclose()

    with child(path, "reserved") as process:
        assert line_of(process) == "ready"
        asyncio.run(beside(process))


def test_a_closed_ledger_leaves_nothing_open(tmp_path):
    """What a process had open when it closed the ledger is settled by the next start, though the process lives."""
    path = tmp_path / "hybrid.sqlite3"

    async def leave() -> None:
        ledger = Ledger(path)
        await ledger.start()
        ledger.open_request(RequestOpened(id="req_1", created_at=NOW, dialect="openai", requested_model="hybrid"))
        cap = Cap("usd_per_day", ALWAYS, Decimal(1))
        await ledger.reserve(
            Reservation(
                id="rsv_1", request_id="req_1", provider="p", model="m", amount_usd=Decimal("0.5"), now=NOW, caps=(cap,)
            )
        )
        await ledger.aclose()

    asyncio.run(leave())
    expected = (Recovery(1, 1, Decimal("0.5")), Balance(Decimal("0.5"), Decimal(0)))
    assert expected == asyncio.run(reopened(path))


def test_a_request_taken_for_lost_is_put_right(tmp_path):
    """A process wrongly taken for dead may still say how its request ended, and that counts."""
    path = tmp_path / "hybrid.sqlite3"

    async def close_late() -> None:
        ledger = Ledger(path)
        await ledger.start()
        ledger.open_request(RequestOpened(id="req_1", created_at=NOW, dialect="openai", requested_model="hybrid"))
        await ledger.aclose()
        late = Ledger(path)
        assert 1 == (await late.start()).lost_requests
        late.close_request(RequestClosed(id="req_1", outcome=Outcome.CANCELLED))
        await late.aclose()

    asyncio.run(close_late())
    assert outcome_of(path) == "cancelled"


def test_who_is_alive(tmp_path):
    """A process is known by its number and its start together; a zombie is dead."""
    this = rows.this_process()
    assert rows.is_alive(this)
    assert not rows.is_alive(rows.ProcessMark(this.pid, this.started_s - 60))
    with child(tmp_path / "hybrid.sqlite3", "opened") as process:
        assert line_of(process) == "ready"
        mark = rows.ProcessMark(process.pid, rows.process_start_s(process.pid))
        assert rows.is_alive(mark)
        kill(process)
        assert not rows.is_alive(mark)
    assert not rows.is_alive(mark)
