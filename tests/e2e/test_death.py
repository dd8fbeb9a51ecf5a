"""Killed at any step of a paid call, does a gateway's ledger hold at least what the cloud bills, and nothing twice?

The cloud is a fake that keeps its own bill. A process killed by -9 is started again on the same data each time.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import sys
import time
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path

import httpx2
import pytest

from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.store.draws import logs_beside
from hybrid.store.escrow import POWER_CUT_PREFIX
from hybrid.types import Json, Usage
from tests.e2e.serving import NO_MODEL, Serving, body, cloud_toml

MORTAL = Path(__file__).with_name("mortal.py")
WORDS = ("one ", "two ", "three ", "four ")


def bill_usd(billed: Usage) -> Decimal:
    """What the fake charges, at the prices of `cloud_toml`."""
    return Decimal(billed.prompt_tokens * 1 + billed.completion_tokens * 2) / 1_000_000


def reservations(folder: Path) -> list[dict[str, Json]]:
    """Every paid call that the ledger knows, oldest first."""
    with closing(sqlite3.connect(folder / "hybrid.sqlite3")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM reservations ORDER BY reserved_at_us, rowid")]


def ask_and_lose(server: Serving, *, is_stream: bool) -> None:
    """Ask a server that dies over it."""
    with suppress(httpx2.HTTPError):
        server.ask("a question", model="cloud", stream=is_stream, max_tokens=50)
    server.process.wait(30)
    assert -9 == server.process.returncode


async def judged_after(folder: Path, cloud: FakeProvider, config: str) -> tuple[Decimal, dict[str, Json]]:
    """Start again, pay for one more call, and see that this cost exactly its bill. Gives what was spent before it."""
    with Serving(folder, config) as server:
        before = await asyncio.to_thread(server.report)
        billed_before = bill_usd(cloud.billed)
        answer = await asyncio.to_thread(server.ask, "a question", model="cloud", max_tokens=50)
        after = await asyncio.to_thread(server.report)
    spent_usd = Decimal(str(before["spent_usd"]))
    assert (200, 0, 0) == (answer.status_code, before["reserved_usd"], after["reserved_usd"])
    assert bill_usd(cloud.billed) - billed_before == Decimal(str(after["spent_usd"])) - spent_usd
    return spent_usd, before


# The steps of a paid call in their order, and what must be known of it at the next start: whether it was on record, and
# whether at exactly its bill.
TOLD = "hybrid.store.writer:_deliver:call:1"
CLOSED = "hybrid.store.rows:update_closed:return:1"
NOT_ON_RECORD, AT_WORST, AS_BILLED = "not on record", "at its worst case", "as billed"
STEPS = [
    pytest.param("hybrid.store.money:reserve:call:1", NOT_ON_RECORD, id="before-it-is-reserved"),
    pytest.param("hybrid.store.money:reserve:return:1", NOT_ON_RECORD, id="reserved-and-not-committed"),
    pytest.param(f"hybrid.store.money:reserve:return:1+{TOLD}", AT_WORST, id="committed-and-not-told"),
    pytest.param("hybrid.providers.transport:_answered:call:1", AT_WORST, id="before-it-is-sent"),
    pytest.param("hybrid.providers.wire:post:call:1", AT_WORST, id="about-to-connect"),
    pytest.param("hybrid.providers.transport:sent:call:1", AT_WORST, id="being-sent"),
    pytest.param("hybrid.pricing:cost_usd:call:1", AT_WORST, id="usage-arrived"),
    pytest.param("hybrid.pricing:cost_usd:return:1", AT_WORST, id="usage-priced"),
    pytest.param("hybrid.store.money:settle_all:call:1", AT_WORST, id="before-it-is-settled"),
    pytest.param("hybrid.store.money:settle_all:return:1", AT_WORST, id="settled-and-not-committed"),
    pytest.param("hybrid.journal:closed:call:1", AT_WORST, id="settlement-in-line"),
    pytest.param("hybrid.store.rows:update_closed:call:1", None, id="before-it-is-closed"),
    pytest.param("hybrid.store.rows:update_closed:return:1", None, id="closed-and-not-committed"),
    pytest.param(f"{CLOSED}+{TOLD}", AS_BILLED, id="all-committed"),
]


@pytest.mark.parametrize(("point", "expected"), STEPS)
def test_killed_at_a_step(tmp_path, point, expected):
    """Whatever the step, nothing is lost that was billed and nothing counts twice; later calls are exact again."""

    # The steps are the same for both forms; every other one is streamed.
    is_stream = bool([param.values for param in STEPS].index((point, expected)) % 2)

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=WORDS)) as cloud:
            config = NO_MODEL + cloud_toml(cloud.base_url)
            with Serving(tmp_path, config, command=(sys.executable, str(MORTAL), point)) as server:
                await asyncio.to_thread(ask_and_lose, server, is_stream=is_stream)
            bill = bill_usd(cloud.billed)
            kept = reservations(tmp_path)
            spent_usd, report = await judged_after(tmp_path, cloud, config)
        worst_usd = sum(Decimal(row["reserved_nusd"]) / 10**9 for row in kept)
        assert len(kept) <= 1
        assert bill <= spent_usd <= worst_usd
        if expected is not None:
            exact = {NOT_ON_RECORD: Decimal(0), AT_WORST: worst_usd, AS_BILLED: bill}[expected]
            assert (exact, expected == NOT_ON_RECORD) == (spent_usd, kept == [])
            ended = {"ok": 1} if expected == AS_BILLED else {"lost": 1}
            assert ended == report["outcomes"] or expected == NOT_ON_RECORD

    asyncio.run(scenario())


DRAWS = "hybrid.store.draws:append"
# The steps of a call that draws on a block which the one before it opened, or fills one, and what is known of it then.
BLOCK_STEPS = [
    pytest.param(f"{DRAWS}:call:1", NOT_ON_RECORD, id="before-it-draws"),
    pytest.param(f"{DRAWS}:return:1", AT_WORST, id="in-the-log-and-not-granted"),
    pytest.param(f"{DRAWS}:return:1+hybrid.store.escrow:enter:return:1", None, id="entered-and-not-committed"),
    pytest.param(f"{DRAWS}:return:1+hybrid.store.granting:ended:call:1", None, id="committed-and-still-in-the-log"),
    pytest.param("hybrid.providers.transport:sent:call:2", AT_WORST, id="being-sent"),
    pytest.param("hybrid.pricing:cost_usd:return:2", AT_WORST, id="usage-priced"),
    pytest.param("hybrid.store.money:settle_all:return:2", AT_WORST, id="settled-and-not-committed"),
    pytest.param("hybrid.journal:closed:call:2", AT_WORST, id="settlement-in-line"),
]


@pytest.mark.parametrize("is_cut", [False, True], ids=["killed", "power-cut"])
@pytest.mark.parametrize(("point", "expected"), BLOCK_STEPS)
def test_killed_at_a_step_of_a_call_out_of_a_block(tmp_path, point, expected, is_cut):
    """Killed, the second call is as certain as the first. Where the power was cut, its row may be lost, and the block
    that the first call left on the disk stands in for it: spend is not below the bill, and above it by no more."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=WORDS)) as cloud:
            config = NO_MODEL + cloud_toml(cloud.base_url)
            with Serving(tmp_path, config, command=(sys.executable, str(MORTAL), point)) as server:
                first = await asyncio.to_thread(server.ask, "a question", model="cloud", max_tokens=50)
                assert 200 == first.status_code
                first_usd = bill_usd(cloud.billed)
                await asyncio.to_thread(await_settled, tmp_path)
                if is_cut:
                    on_disk = as_on_disk(tmp_path)
                await asyncio.to_thread(ask_and_lose, server, is_stream=False)
            bill = bill_usd(cloud.billed)
            folder = on_disk if is_cut else tmp_path
            if is_cut:
                reboot(folder)
            block_usd = sum(block_usds(folder))
            spent_usd, report = await judged_after(folder, cloud, config)
            # Only now: what the killed one drew may have been in its log alone. The last one is the judge's.
            kept = [row for row in reservations(folder) if not str(row["id"]).startswith(POWER_CUT_PREFIX)]
            second = kept[1:-1]
        worst_usd = sum(Decimal(row["reserved_nusd"]) / 10**9 for row in second)
        assert block_usd > 0
        assert report["reserved_usd"] == 0
        assert [] == list(logs_beside(folder / "hybrid.sqlite3"))
        assert is_cut or not second or 2 == sum(report["outcomes"].values())  # a paid request has its row
        if is_cut:
            assert (second, first_usd + block_usd) == ([], spent_usd)
            assert bill <= spent_usd
        else:
            exact = {NOT_ON_RECORD: Decimal(0), AT_WORST: worst_usd, AS_BILLED: bill - first_usd}
            assert bill <= spent_usd <= first_usd + worst_usd
            assert expected is None or exact[expected] == spent_usd - first_usd

    asyncio.run(scenario())


def await_settled(folder: Path) -> None:
    """Nobody waits for a settlement to be written: it is some milliseconds behind the answer."""
    until_s = time.monotonic() + 10
    while any(row["settled_nusd"] is None for row in reservations(folder)):
        assert time.monotonic() < until_s
        time.sleep(0.001)


def as_on_disk(folder: Path) -> Path:
    """A copy of the ledger as it is: what the disk would have, were it waited for now and never again."""
    copy = folder / "disk"
    copy.mkdir()
    for name in ("hybrid.sqlite3", "hybrid.sqlite3-wal"):
        shutil.copy(folder / name, copy / name)
    return copy


def reboot(folder: Path) -> None:
    """Make what is in the ledger another boot's."""
    with closing(sqlite3.connect(folder / "hybrid.sqlite3")) as connection, connection:
        connection.execute("UPDATE escrow SET boot_id = 'the boot before'")


def block_usds(folder: Path) -> list[Decimal]:
    """What the open blocks hold."""
    with closing(sqlite3.connect(folder / "hybrid.sqlite3")) as connection:
        return [Decimal(nusd) / 10**9 for (nusd,) in connection.execute("SELECT left_nusd FROM escrow")]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("after_chunks", [0, 4])
def test_killed_while_the_cloud_speaks(tmp_path, after_chunks, is_stream):
    """With the call out and some, or all, of the answer billed, the next start counts the worst case, once."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=WORDS, fault=Fault.STALL, after_chunks=after_chunks)) as stalled:
            config = NO_MODEL + cloud_toml(stalled.base_url)
            with Serving(tmp_path, config) as server:
                asked = asyncio.create_task(asyncio.to_thread(ask_and_lose, server, is_stream=is_stream))
                request = await stalled.request(0)
                while request.billed is None:  # noqa: ASYNC110 - the fake tells nobody when it bills
                    await asyncio.sleep(0)
                server.process.kill()
                await asked
            bill = bill_usd(stalled.billed)
            with Serving(tmp_path, config) as server:
                report = await asyncio.to_thread(server.report)
        [kept] = reservations(tmp_path)
        spent_usd = Decimal(str(report["spent_usd"]))
        assert bill <= spent_usd == Decimal(kept["reserved_nusd"]) / 10**9
        assert ("recovery", 0) == (kept["settled_by"], report["reserved_usd"])

    asyncio.run(scenario())


def test_killed_again_and_again_in_a_storm(tmp_path):
    """Eight clients, streamed and not, and a death at a random moment, five times over: billed is never above spent."""

    async def storm(server: Serving, rng: random.Random) -> None:
        async def client(number: int) -> None:
            async with httpx2.AsyncClient(base_url=server.url, timeout=30) as http:
                while True:
                    wish = body(f"question {number}", model="cloud", max_tokens=50, stream=bool(number % 2))
                    with suppress(httpx2.HTTPError):
                        await http.post("/chat/completions", json=wish)
                    if server.process.poll() is not None:
                        return

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        await asyncio.sleep(0.2 + rng.random())
        server.process.kill()
        await asyncio.gather(*clients)

    async def scenario() -> tuple[Decimal, dict[str, Json]]:
        rng = random.Random(6)  # noqa: S311 - only when it dies
        async with FakeProvider(Answer(chunks=WORDS)) as cloud:
            config = NO_MODEL + cloud_toml(cloud.base_url, usd_per_day="0.05")
            for _ in range(5):
                with Serving(tmp_path, config) as server:
                    await storm(server, rng)
            with Serving(tmp_path, config) as server:
                report = await asyncio.to_thread(server.report)
            return bill_usd(cloud.billed), report

    bill, report = asyncio.run(scenario())
    kept = reservations(tmp_path)
    spent_usd = Decimal(str(report["spent_usd"]))
    recovered = [row for row in kept if row["settled_by"] == "recovery"]
    assert bill <= spent_usd <= Decimal("0.05")
    assert 0 == report["reserved_usd"]
    # What is above the bill is no more than the calls that a death cut off, each counted once at its worst.
    assert spent_usd - bill <= sum(Decimal(row["reserved_nusd"]) for row in recovered) / 10**9
    assert {"usage", "recovery", "release"} >= {row["settled_by"] for row in kept}
    assert len(recovered) <= 5 * 8


def test_the_operator_reads_what_was_lost(tmp_path):
    """The start after a death says how many requests were lost and how much was settled at its worst case."""

    async def scenario() -> list[str]:
        async with FakeProvider(Answer(fault=Fault.STALL, after_chunks=0)) as cloud:
            config = NO_MODEL + cloud_toml(cloud.base_url)
            with Serving(tmp_path, config) as server:
                asked = asyncio.create_task(asyncio.to_thread(ask_and_lose, server, is_stream=True))
                await cloud.request(0)
                server.process.kill()
                await asked
            with Serving(tmp_path, config) as server:
                return server.said

    said = asyncio.run(scenario())
    [told] = [line for line in said if "an earlier process died" in line]
    assert "1 requests marked lost, 1 reservations settled at their worst case" in told
    assert json.dumps(said).count("an earlier process died") == 1
