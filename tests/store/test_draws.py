"""Does what is drawn in memory count for good, for every process and after any death, before the database has it?"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from hybrid.policy.budget import day_window
from hybrid.store import draws, escrow
from hybrid.store.draws import Draw, DrawLog, Line, logs_beside, revoke
from hybrid.store.ledger import Balance, Ledger, Recovery
from hybrid.store.records import Refused, Reservation, Reserved
from hybrid.types import Cap
from tests.store.ledgers import held, opened, rows_of
from tests.store.test_escrow import BOOT, CENT, OTHER_BOOT, wish
from tests.store.test_granting import copied, ledger_on, reopened
from tests.store.test_money import START

DRAW = Draw("rsv_1", "req_1", "p", "m", 5, 7, "k", None, "k", "")


@pytest.fixture
def path(tmp_path):
    """Where the ledger lies."""
    return tmp_path / "hybrid.sqlite3"


def log_of(path: Path, owner_id: int = 1) -> DrawLog:
    """An empty log."""
    log = DrawLog(path)
    log.ready(owner_id, os.getpid(), 1.5)
    return log


def test_a_log_gives_back_what_was_put_into_it(path):
    """Draws and the rows of their requests come back the same; once they were read nothing more may be added."""
    log, arrival = log_of(path), {"id": "req_1", "tag": "zwölf\n", "is_stream": 1, "client_key": None}
    assert log.append(DRAW, arrival)
    assert log.append(replace(DRAW, id="rsv_2"), None)
    [found] = logs_beside(path)
    assert (1, os.getpid(), 1.5) == (found.owner_id, found.pid, found.started_s)
    expected = [Line(DRAW, arrival), Line(replace(DRAW, id="rsv_2"))]
    assert expected == revoke(found)
    assert (False, False) == (log.is_open, log.append(replace(DRAW, id="rsv_3"), None))
    assert expected == revoke(found)
    log.ready(1, os.getpid(), 1.5)
    assert log.append(replace(DRAW, id="rsv_4"), None)
    assert 2 == len(list(logs_beside(path)))
    log.drop_old()
    [newer] = logs_beside(path)
    assert [Line(replace(DRAW, id="rsv_4"))] == revoke(newer)
    log.remove()
    assert [] == list(logs_beside(path))


def test_a_full_log_takes_no_more(path):
    """What has no room is not granted; the next log has room again."""
    log = log_of(path)
    line = {"id": "req", "requested_model": "m" * 500}
    taken = [log.append(replace(DRAW, id=f"rsv_{number}"), line) for number in range(4000)]
    count = taken.index(False)
    assert (True, count) == (log.is_large, sum(taken))
    [found] = logs_beside(path)
    assert count == len(revoke(found))


@pytest.mark.parametrize(
    ("spoil", "left"),
    [
        pytest.param(lambda content: content[:60], None, id="without-a-state"),
        pytest.param(lambda content: b"\0" * len(content), None, id="zeros"),
        pytest.param(lambda content: content[:200] + b"\0" * 300 + content[500:], 1, id="a-page-that-was-lost"),
        pytest.param(lambda content: content[:144], 0, id="cut-behind-the-state"),
    ],
)
def test_what_a_power_cut_makes_of_a_log(path, spoil, left):
    """Lines that are broken are no draws, the others are; a log without a head is passed over."""
    log = log_of(path)
    for number in range(2):
        assert log.append(replace(DRAW, id=f"rsv_{number}", request_id="r" * 200), None)
    [found] = logs_beside(path)
    found.path.write_bytes(spoil(found.path.read_bytes()))
    lines = [line for one in logs_beside(path) for line in revoke(one)]
    assert (left or 0) == len(lines)


def test_a_log_that_is_being_read_takes_nothing(path):
    """Whoever reads it decides with what it saw, so nothing may come in between."""
    log = log_of(path)
    [found] = logs_beside(path)
    with found.path.open("r+b") as handle, draws._locked(handle.fileno()):
        assert not log.append(DRAW, None)
    assert log.append(DRAW, None)


def killed_after_ten_draws(path: Path) -> Path:
    """The files as a kill leaves them after ten calls that were granted while somebody held the database."""

    async def live() -> Path:
        ledger = ledger_on(path, BOOT)
        await ledger.start()
        await ledger.reserve(wish("first"))
        await ledger.flush()
        with held(path):
            for number in range(10):
                ledger.open_request(opened(f"req_{number}", created_at=START))
                wanted = replace(wish(f"r{number}"), request_id=f"req_{number}")
                assert Reserved(CENT) == await asyncio.wait_for(ledger.reserve(wanted), 1)
            copy = copied(path, path.parent / "copy")
        await ledger.aclose()
        return copy

    return asyncio.run(live())


def test_a_draw_waits_for_no_database(path):
    """With the file held by somebody, calls go on out of the block; killed then, each counts, and has its row."""
    copy = killed_after_ten_draws(path)
    expected = (Recovery(0, 0, Decimal(0)), Balance(reserved_usd=11 * CENT))
    assert expected == asyncio.run(reopened(copy, BOOT))  # its owner is this process, which lives
    assert [f"req_{number}" for number in range(10)] == [row["id"] for row in rows_of(copy)]
    assert expected == asyncio.run(reopened(copy, BOOT))


def test_after_a_power_cut_the_log_takes_from_the_block(path):
    """What of the log reached the disk counts as calls, and the rest of their block is charged: together no more."""
    copy = killed_after_ten_draws(path)
    charged = Decimal("0.54")
    expected = (Recovery(0, 0, Decimal(0), charged), Balance(charged, 11 * CENT))
    assert expected == asyncio.run(reopened(copy, OTHER_BOOT))


def test_another_database_was_here_before(path):
    """A log that the owners of this database did not write is no money of it, and is removed with its process."""
    log = DrawLog(path)
    log.ready(1, 2**22 + 1, 1.0)
    assert log.append(DRAW, None)
    assert (Recovery(0, 0, Decimal(0)), Balance()) == asyncio.run(reopened(path, BOOT))
    assert [] == list(logs_beside(path))


def test_a_lowered_cap_holds_at_once(path):
    """A block that was set aside under another cap serves no call under this one."""

    async def live() -> object:
        ledger = ledger_on(path, BOOT)
        await ledger.start()
        await ledger.reserve(wish("first"))
        await ledger.reserve(wish("second"))
        grant = await ledger.reserve(wish("third", cap_usd=Decimal("0.02")))
        await ledger.aclose()
        return grant

    grant = asyncio.run(live())
    assert isinstance(grant, Refused)


def test_without_a_log_calls_wait_for_the_database(path, monkeypatch):
    """Where none can be made, reservations go on as they did, and the caps hold."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hybrid.store.draws.os.posix_fallocate", refuse)

    async def live() -> list[object]:
        ledger = ledger_on(path, BOOT)
        await ledger.start()
        grants = [await ledger.reserve(wish(f"r{number}", cap_usd=Decimal("0.05"))) for number in range(6)]
        await ledger.aclose()
        return grants

    grants = asyncio.run(live())
    assert [True] * 5 + [False] == [isinstance(grant, Reserved) for grant in grants]
    assert [] == list(logs_beside(path))


class Crowd:
    """Clients of three ledgers, as of three processes, who reserve and settle as they like, and know what is granted.

    One ledger has no blocks. What is granted and not settled lower counts in full at every moment.
    """

    cap_usd, key_cap_usd = Decimal("0.6"), Decimal("0.25")

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.rng = path, random.Random(seed)  # noqa: S311 - what they do, nothing secret
        self.counted: dict[str | None, Decimal] = {"all": Decimal(0), "k": Decimal(0), None: Decimal(0)}
        self.granted: dict[str, Decimal] = {}
        self.refusals = 0
        self.kept: list[Ledger] = []

    def wanted(self, name: str, key: str | None) -> Reservation:
        """A reservation under everybody's cap, and that of its key."""
        day = day_window(START, UTC)
        caps = [Cap("day", day, self.cap_usd)]
        caps += [] if key is None else [Cap("key", day, self.key_cap_usd, client_key=key)]
        amount_usd = Decimal(self.rng.randrange(1, 8)) / 1000
        return replace(wish(name, amount_usd), caps=tuple(caps), client_key=key)

    async def pay(self, ledger: Ledger, wanted: Reservation) -> None:
        """Reserve, wait a little or not, settle at a part of it."""
        if not isinstance(await ledger.reserve(wanted), Reserved):
            self.refusals += 1
            return
        self.count(wanted, wanted.amount_usd)
        assert self.counted["all"] <= self.cap_usd
        assert self.counted["k"] <= self.key_cap_usd
        await asyncio.sleep(self.rng.choice([0, 0, 0.001]))
        cost_usd = wanted.amount_usd * self.rng.randrange(0, 3) / 4
        self.granted[wanted.id] = cost_usd
        self.count(wanted, cost_usd - wanted.amount_usd)  # now: others may have it as soon as it is in line
        ledger.settle_soon(wanted.id, cost_usd, is_estimated=False)

    def count(self, wanted: Reservation, usd: Decimal) -> None:
        """Take down what is granted or given back."""
        for scope in {"all", wanted.client_key}:
            self.counted[scope] += usd

    async def client(self, ledgers: list[Ledger], number: int) -> None:
        """Pay 120 times. Now and then another process starts, which gives back the blocks of all others."""
        for turn in range(120):
            place = self.rng.randrange(len(ledgers))
            await self.pay(ledgers[place], self.wanted(f"{number}-{turn}", self.rng.choice([None, None, "k"])))
            if self.rng.random() < 0.02:
                self.kept.append(ledgers[place])
                ledgers[place] = ledger_on(self.path, BOOT)
                await ledgers[place].start()

    async def run(self) -> Balance:
        """Let all of them pay; give what the ledger says in the end."""
        plain = Ledger(self.path, clock=lambda: START)
        ledgers = [ledger_on(self.path, BOOT), ledger_on(self.path, BOOT, idle_s=0.02), plain]
        for ledger in ledgers:
            await ledger.start()
        await asyncio.gather(*(self.client(ledgers, number) for number in range(8)))
        for ledger in [*ledgers, *self.kept]:
            await ledger.aclose()
        return (await reopened(self.path, BOOT))[1]


@pytest.mark.parametrize("seed", range(6))
def test_ledgers_in_a_crowd_keep_the_caps(path, seed):
    """No cap is passed at any moment, and in the end each call counts once, at what it was settled at."""
    crowd = Crowd(path, seed)
    balance = asyncio.run(crowd.run())
    assert Balance(sum(crowd.granted.values(), Decimal(0)), Decimal(0)) == balance
    assert crowd.refusals
    assert sorted(crowd.granted) == sorted(str(row["id"]) for row in rows_of(path, "reservations"))
    assert [] == list(logs_beside(path))


@pytest.mark.parametrize("has_escrow", [True, False], ids=["with-blocks", "without"])
def test_what_is_drawn_in_memory_counts_for_other_processes(path, has_escrow):
    """Ten cents that the database has not heard of are no longer there for another process; the rest is."""

    async def live() -> list[object]:
        one = ledger_on(path, BOOT)
        other = Ledger(path, clock=lambda: START, has_escrow=has_escrow, boot_id=BOOT)
        await one.start()
        await other.start()
        await one.reserve(wish("first"))
        for number in range(10):
            assert Reserved(CENT) == one._granter.draw(wish(f"r{number}"), None)
        grants = [await other.reserve(wish(name, Decimal(usd))) for name, usd in (("big", "99.90"), ("fits", "99.89"))]
        grants.append(await one.reserve(wish("last")))
        await one.aclose()
        await other.aclose()
        return grants

    assert [False, True, False] == [isinstance(grant, Reserved) for grant in asyncio.run(live())]


def test_a_block_that_the_caps_no_longer_hold_is_drawn_on_no_more(path):
    """Another ledger, one that knows no blocks, took the room of ours: neither way of asking again finds any."""

    async def live() -> list[object]:
        one, other = ledger_on(path, BOOT), Ledger(path, clock=lambda: START)
        await one.start()
        await other.start()
        await one.reserve(wish("first"))
        await other.reserve(wish("all", Decimal("99.99")))
        grants = [await one.reserve(wish(f"r{number}")) for number in range(3)]
        await one.aclose()
        await other.aclose()
        return grants

    assert [False] * 3 == [isinstance(grant, Reserved) for grant in asyncio.run(live())]


def test_nothing_is_drawn_in_memory_while_the_blocks_change(path, monkeypatch):
    """A reservation that may need what the blocks hold decides alone; the next calls draw again when it is over."""
    drawn: list[object] = []

    async def live() -> None:
        ledger = ledger_on(path, BOOT)
        await ledger.start()
        await ledger.reserve(wish("first"))
        assert Reserved(CENT) == ledger._granter.draw(wish("a"), None)

        def watched(act: Callable[..., object], *args: object) -> object:
            drawn.append(ledger._granter._drawn(wish("b"), None))
            return act(*args)

        for name in ("draw", "reserve"):
            monkeypatch.setattr(escrow, name, partial(watched, getattr(escrow, name)))
        await ledger.reserve(wish("dear", Decimal(2)))
        assert Reserved(CENT) == ledger._granter.draw(wish("c"), None)
        await ledger.aclose()

    asyncio.run(live())
    assert [None] * 3 == drawn
    assert {"first", "a", "dear", "c"} == {row["id"] for row in rows_of(path, "reservations")}


def test_a_block_grows_while_it_is_drawn_on(path):
    """Calls in a row that never wait find the block filled again and again, from half of it on, and no call is lost."""

    async def live() -> int:
        ledger = ledger_on(path, BOOT)
        await ledger.start()
        await ledger.reserve(wish("first"))
        count = 0
        for number in range(500):
            count += ledger._granter.draw(wish(f"r{number}"), None) is not None
            if number % 20 == 0:
                await ledger.flush()
        [block] = rows_of(path, "escrow")
        assert 0 < ledger._granter._held["", ""].left_nusd <= block["size_nusd"]
        await ledger.aclose()
        return count

    assert 500 == asyncio.run(live())
    assert 501 == len(rows_of(path, "reservations"))
