"""Does the ledger keep every request and every dollar under concurrency and cancellation?"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from hybrid.errors import StoreError
from hybrid.store.ledger import Balance, Ledger, Refused, RequestClosed, Reserved
from hybrid.store.samples import KEPT, Sample
from hybrid.types import Cap, Outcome, Route, Window
from tests.store.ledgers import CAP, DAY, NOW, TENTH, held, ledger_at, opened, rows_of, until_taken, wish

YESTERDAY = Cap("usd_per_day", Window(DAY.start - timedelta(days=1), DAY.start), Decimal(1))


@pytest.fixture
def path(tmp_path):
    """Where the ledger lies."""
    return tmp_path / "hybrid.sqlite3"


def test_a_request_is_kept_whole(path):
    """Every field of an opening and a closing is in the file, amounts in nano-USD and times in microseconds."""
    closing_row = RequestClosed(
        id="req_1", outcome=Outcome.OK, route=Route.CLOUD, model="gpt", provider="openai", reason="confidence",
        degraded="latency", error_code="x", confidence=0.25, is_calibrated=True, prompt_tokens=1, completion_tokens=2,
        cached_tokens=3, local_prompt_tokens=4, local_completion_tokens=5, cloud_prompt_tokens=6,
        cloud_completion_tokens=7, cost_usd=Decimal("0.0000000011"), saved_usd=Decimal("-0.5"), queue_s=0.5,
        ttft_s=1.5, total_s=2.5, overhead_s=0.25, decision_json='{"facts": {}}',
        hedge="local", double_usd=Decimal("0.0000000021"),
    )  # fmt: skip

    async def write() -> None:
        async with ledger_at(path) as ledger:
            ledger.open_request(opened("req_1", client_key="phone", tag="home", is_stream=True))
            ledger.close_request(closing_row)

    asyncio.run(write())
    (row,) = rows_of(path)
    same = set(RequestClosed.__struct_fields__) - {"cost_usd", "saved_usd", "double_usd"}
    assert {name: getattr(closing_row, name) for name in same} == {name: row[name] for name in same}
    assert ("phone", "home", 1, "hybrid", "openai") == tuple(
        row[name] for name in ("client_key", "tag", "is_stream", "requested_model", "dialect")
    )
    assert (2, -500_000_000, 3) == (row["cost_nusd"], row["saved_nusd"], row["double_nusd"])
    assert int(NOW.timestamp()) * 1_000_000 == row["created_at_us"] == row["closed_at_us"]


def test_only_the_first_end_counts(path):
    """A second closing of the same request changes nothing, nor does the end of one that never came."""

    async def write() -> None:
        async with ledger_at(path) as ledger:
            ledger.open_request(opened("req_1"))
            ledger.close_request(RequestClosed(id="req_1", outcome=Outcome.OK))
            ledger.close_request(RequestClosed(id="req_1", outcome=Outcome.FAILED))
            ledger.close_request(RequestClosed(id="req_2", outcome=Outcome.FAILED))

    asyncio.run(write())
    assert [("req_1", "ok")] == [(row["id"], row["outcome"]) for row in rows_of(path)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a\ud800b", "a?b", id="half-a-surrogate-pair"),
        pytest.param("x" * 500, "x" * 500, id="just-short-enough"),
        pytest.param("x" * 501, "x" * 499 + "…", id="too-long"),
        pytest.param("'; DROP TABLE requests; --", "'; DROP TABLE requests; --", id="sql"),
        pytest.param("a\x00b", "a\x00b", id="nul"),
    ],
)
def test_no_text_costs_the_row(path, text, expected):
    """Whatever a client sends as a model or tag, its request is on record."""

    async def write() -> None:
        async with ledger_at(path) as ledger:
            ledger.open_request(opened("req_1", requested_model=text, tag=text))

    asyncio.run(write())
    assert [(expected, expected)] == [(row["requested_model"], row["tag"]) for row in rows_of(path)]


def test_a_bad_row_costs_no_other(path):
    """A row that cannot be written (its id is taken) leaves its neighbours in the same batch alone."""

    async def write() -> None:
        async with ledger_at(path) as ledger:
            for name in ("req_1", "req_1", "req_2"):
                ledger.open_request(opened(name))
            assert isinstance(await ledger.reserve(wish("a")), Reserved)

    asyncio.run(write())
    assert ["req_1", "req_2"] == [row["id"] for row in rows_of(path)]


def test_sixty_four_at_once_for_ten(path):
    """Of 64 concurrent reservations against a budget for ten, ten are granted and none is over."""

    async def race() -> tuple[list[object], Balance]:
        async with ledger_at(path) as ledger:
            grants = await asyncio.gather(*(ledger.reserve(wish(f"rsv_{n}")) for n in range(64)))
            return grants, await ledger.balance(DAY)

    grants, balance = asyncio.run(race())
    assert 10 == grants.count(Reserved(TENTH))
    assert 54 == grants.count(Refused(CAP, Decimal(0)))
    assert Balance(Decimal(0), Decimal(1)) == balance


def test_settling_gives_room_back(path):
    """A settled call counts at what it cost; the rest may be reserved again, to the last nano-USD."""

    async def spend() -> list[object]:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("a", Decimal(1)))
            seen = [await ledger.reserve(wish("b"))]
            seen.append(await ledger.settle("a", Decimal("0.25"), is_estimated=False))
            seen.append(await ledger.reserve(wish("c", Decimal("0.750000001"))))
            seen.append(await ledger.reserve(wish("d", Decimal("0.75"))))
            seen.append((await ledger.spent_usd(DAY), await ledger.reserved_usd()))
            return seen

    expected = [
        Refused(CAP, Decimal(0)),
        True,
        Refused(CAP, Decimal("0.75")),
        Reserved(Decimal("0.75")),
        (Decimal("0.25"), Decimal("0.75")),
    ]
    assert expected == asyncio.run(spend())


def test_settled_once(path):
    """A second settlement, release or late settlement of the same reservation changes nothing and says so."""

    async def settle() -> tuple[list[bool], Decimal]:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("a"))
            done = [
                await ledger.settle("a", Decimal("0.05"), is_estimated=True),
                await ledger.settle("a", Decimal("0.07"), is_estimated=False),
                await ledger.release("a"),
            ]
            ledger.settle_soon("a", Decimal("0.09"), is_estimated=False)
            await ledger.flush()
            return done, await ledger.spent_usd(DAY)

    assert ([True, False, False], Decimal("0.05")) == asyncio.run(settle())
    assert ["estimate"] == [row["settled_by"] for row in rows_of(path, "reservations")]


def test_a_release_counts_nothing(path):
    """A call that never left costs nothing, and releasing what was never reserved is no error."""

    async def release() -> tuple[bool, bool, Balance]:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("a"))
            return await ledger.release("a"), await ledger.release("b"), await ledger.balance(DAY)

    assert (True, False, Balance(Decimal(0), Decimal(0))) == asyncio.run(release())


def test_more_than_reserved_is_recorded(path, caplog):
    """A call that cost more than its bound is booked at what it cost, and the log says that the bound is wrong."""

    async def settle() -> Decimal:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("a"))
            await ledger.settle("a", Decimal("0.2"), is_estimated=False)
            return await ledger.spent_usd(DAY)

    assert Decimal("0.2") == asyncio.run(settle())
    assert "its bound is wrong" in caplog.text


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda ledger: ledger.reserve(wish("a", caps=())), ValueError, id="no-cap"),
        pytest.param(lambda ledger: ledger.reserve(wish("a", caps=(YESTERDAY,))), ValueError, id="another-days-cap"),
        pytest.param(lambda ledger: ledger.reserve(wish("a", Decimal(-1))), ValueError, id="negative-reservation"),
        pytest.param(lambda ledger: ledger.settle("b", Decimal("NaN"), is_estimated=False), ValueError, id="no-number"),
        pytest.param(lambda ledger: ledger.settle("b", TENTH, is_estimated=False), StoreError, id="never-reserved"),
        pytest.param(lambda ledger: ledger.reserve(wish("taken")), StoreError, id="id-taken"),
    ],
)
def test_what_is_no_reservation(path, call, error):
    """A reservation or settlement that makes no sense is an error and moves no money."""

    async def try_it() -> Balance:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("taken"))
            with pytest.raises(error):
                await call(ledger)
            return await ledger.balance(DAY)

    assert Balance(Decimal(0), TENTH) == asyncio.run(try_it())


@pytest.mark.parametrize("steps", range(4))
def test_a_cancelled_reserve_leaves_nothing_open(path, steps):
    """A caller that is cancelled at any moment of its reserving holds no money afterwards."""

    async def cancel() -> Balance:
        async with ledger_at(path) as ledger:
            for number in range(10):
                task = asyncio.create_task(ledger.reserve(wish(f"rsv_{number}")))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await ledger.flush()
            return await ledger.balance(DAY)

    assert Balance(Decimal(0), Decimal(0)) == asyncio.run(cancel())


def test_cancelled_while_the_disk_works(path):
    """Cancelled when its transaction has begun, a reservation is written and then released."""

    async def cancel() -> Balance:
        async with ledger_at(path) as ledger:
            with held(path):
                task = asyncio.create_task(ledger.reserve(wish("a")))
                await asyncio.sleep(0)
                await until_taken(ledger)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await ledger.flush()
            return await ledger.balance(DAY)

    assert Balance(Decimal(0), Decimal(0)) == asyncio.run(cancel())
    assert ["release"] == [row["settled_by"] for row in rows_of(path, "reservations")]


def test_a_cancelled_settle_is_written(path):
    """A caller that is cancelled while it settles has settled all the same."""

    async def cancel() -> Balance:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("a"))
            with held(path):
                task = asyncio.create_task(ledger.settle("a", Decimal("0.05"), is_estimated=False))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await ledger.flush()
            return await ledger.balance(DAY)

    assert Balance(Decimal("0.05"), Decimal(0)) == asyncio.run(cancel())


def test_closing_writes_what_waits(path):
    """All rows that were put in line before the closing are in the file after it; later ones are an error."""

    async def close() -> None:
        ledger = Ledger(path, clock=lambda: NOW)
        await ledger.start()
        for number in range(1000):
            ledger.open_request(opened(f"req_{number}"))
        await ledger.aclose()
        await ledger.aclose()
        with pytest.raises(StoreError, match="closed"):
            ledger.open_request(opened("req_late"))
        with pytest.raises(StoreError, match="closed"):
            await ledger.reserve(wish("late"))
        ledger.settle_soon("late", TENTH, is_estimated=False)

    asyncio.run(close())
    assert 1000 == len(rows_of(path))


def test_a_ledger_that_never_started_closes(path):
    """Closing what was never started is harmless and makes no file."""
    asyncio.run(Ledger(path).aclose())
    assert not path.exists()


def test_spend_counts_in_the_window_it_was_reserved_in(path):
    """A call that was reserved before midnight and settled after it is yesterday's spend."""
    tomorrow = Window(DAY.end, DAY.end + timedelta(days=1))

    async def spend() -> tuple[Decimal, Decimal]:
        ledger = Ledger(path, clock=lambda: DAY.end + timedelta(hours=1))
        await ledger.start()
        await ledger.reserve(wish("a"))
        await ledger.settle("a", TENTH, is_estimated=False)
        spent = await ledger.spent_usd(DAY), await ledger.spent_usd(tomorrow)
        await ledger.aclose()
        return spent

    assert (TENTH, Decimal(0)) == asyncio.run(spend())


def test_what_was_measured_comes_back_in_order_and_old_or_many_go(path):
    """The newest of each kind and subject survive a restart, the oldest first; two weeks are the most."""
    many = [Sample("cloud_ttft_s", "c/m", float(number)) for number in range(KEPT + 5)]

    async def write(at: datetime, *measured: Sample) -> tuple[Sample, ...]:
        ledger = Ledger(path, clock=lambda: at)
        await ledger.start()
        try:
            ledger.append_samples(measured)
            return await ledger.recent_samples()
        finally:
            await ledger.aclose()

    asyncio.run(write(NOW - timedelta(days=20), Sample("cloud_ttft_s", "c/m", 99.0)))
    kept = asyncio.run(write(NOW, *many, Sample("answer_tokens", "tiny", 7.0)))

    assert [*many[5:], Sample("answer_tokens", "tiny", 7.0)] == list(kept)
    assert len(kept) == len(rows_of(path, "samples"))


def test_what_nobody_waits_for_is_written_soon_all_the_same(path):
    """The writer is woken a little later for it; a settlement and a release alike, behind their reservation."""

    async def write() -> tuple[int, list[object]]:
        async with ledger_at(path) as ledger:
            ledger.open_request(opened("req_1"))
            async with asyncio.timeout(10):
                while not rows_of(path):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.001)
            for name in ("a", "b"):
                await ledger.reserve(wish(name, TENTH))
            ledger.settle_soon("a", Decimal("0.05"), is_estimated=False)
            ledger.release_soon("b")
            async with asyncio.timeout(10):
                while None in (settled := [row["settled_nusd"] for row in rows_of(path, "reservations")]):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            return len(rows_of(path)), settled

    assert (1, [50_000_000, 0]) == asyncio.run(write())


def test_whoever_reads_sees_what_was_put_in_line_before(path):
    """A settlement that nobody waited for is in the balance."""

    async def write() -> Balance:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("a", TENTH))
            ledger.settle_soon("a", Decimal("0.05"), is_estimated=False)
            return await ledger.balance(DAY)

    assert Balance(Decimal("0.05"), Decimal(0)) == asyncio.run(write())


def test_a_reading_does_not_wait_for_a_lock_that_another_process_holds(path, monkeypatch):
    """It tells what is in the file; what is in line comes when that is possible."""
    monkeypatch.setattr("hybrid.store.ledger.WRITTEN_S", 0.05)

    async def read() -> tuple[Balance, Balance]:
        async with ledger_at(path) as ledger:
            await ledger.reserve(wish("a", TENTH))
            with held(path):
                ledger.settle_soon("a", Decimal("0.05"), is_estimated=False)
                async with asyncio.timeout(3):  # the writer itself tries for five
                    meanwhile = await ledger.balance(DAY)
            await ledger.flush()
            return meanwhile, await ledger.balance(DAY)

    assert (Balance(Decimal(0), TENTH), Balance(Decimal("0.05"), Decimal(0))) == asyncio.run(read())
