"""A call runs by itself until it is read or given up; a race without a plan is no race."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from decimal import Decimal

import pytest

from hybrid.errors import ProviderThrottled
from hybrid.journal import Journal
from hybrid.latencies import LocalRun
from hybrid.policy.model import CloudOption, Escalate, Forecast, HedgePlan, Reason
from hybrid.policy.spread import lognormal
from hybrid.race import WAITING_EVENTS, Call, Race
from hybrid.types import Finished, FinishReason, Route, TextDelta

END = Finished(FinishReason.STOP, None)
OPTION = CloudOption(provider="c", model="m")
LATE = HedgePlan(
    option=OPTION,
    limit_s=60.0,
    is_whole=False,
    least_gain=0.1,
    local=Forecast(ttft=lognormal(500.0, 0.1), prefill=lognormal(500.0, 0.1)),
    cloud=lognormal(59.0, 0.1),
)
"""Local is sure to be late, and the cloud needs about all the time there is: it is asked at once."""
SOON = replace(
    LATE, cloud=lognormal(10.0, 0.1), local=Forecast(ttft=lognormal(50.0, 0.5), prefill=lognormal(50.0, 0.5))
)
"""Local may still make it, so the cloud is asked as late as it makes it as well: after three quarters of a minute."""


def journal() -> Journal:
    """A request's record."""
    return Journal(id="req_1", dialect="openai", arrived_s=asyncio.get_running_loop().time(), requested_model="hybrid")


async def say(*steps: object) -> AsyncGenerator[object, None]:
    """Yield events, wait for futures, raise errors."""
    for step in steps:
        if isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, BaseException):
            raise step
        else:
            yield step


async def read(call: Call) -> list[object]:
    """All events of a call."""
    return [event async for event in call.events()]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_call_gives_all_its_events_in_order(is_whole):
    """However it is waited for, whoever reads it gets the answer from its first event on."""

    async def scenario() -> list[object]:
        call = Call(say(TextDelta("a"), TextDelta("b"), END), is_whole=is_whole)
        await call.ready
        assert call.is_acceptable
        return await read(call)

    assert [TextDelta("a"), TextDelta("b"), END] == asyncio.run(scenario())


def test_a_stream_may_be_had_at_its_first_event_and_a_whole_answer_at_its_end():
    """What a client of each waits for."""

    async def scenario() -> tuple[bool, bool]:
        never = asyncio.Event()
        stream, whole = (Call(say(TextDelta("a"), never), is_whole=is_whole) for is_whole in (False, True))
        await stream.ready
        may_be_had = stream.is_acceptable, whole.is_acceptable
        for call in (stream, whole):
            call.give_up()
            await call.ended()
        return may_be_had

    assert (True, False) == asyncio.run(scenario())


def test_a_stream_nobody_reads_is_not_fetched_for_ever():
    """A slow client holds the provider back, as without a race."""
    fetched = 0

    async def endless() -> AsyncGenerator[object, None]:
        nonlocal fetched
        while True:
            fetched += 1
            yield TextDelta("x")

    async def scenario() -> None:
        call = Call(endless(), is_whole=False)
        for _ in range(10 * WAITING_EVENTS):
            await asyncio.sleep(0)
        call.give_up()
        await call.ended()

    asyncio.run(scenario())
    assert WAITING_EVENTS + 1 == fetched


def test_a_call_that_breaks_after_its_beginning_tells_its_reader():
    """What was there is given first; it was acceptable, and its failure is then the answer's."""

    async def scenario() -> object:
        call = Call(say(TextDelta("a"), ProviderThrottled("c", None)), is_whole=False)
        await call.ready
        events = call.events()
        first = await anext(events)
        with pytest.raises(ProviderThrottled):
            await anext(events)
        return first

    assert TextDelta("a") == asyncio.run(scenario())


@pytest.mark.parametrize("is_late", [True, False], ids=["its-time-is-up", "it-is-closed"])
def test_a_call_that_is_read_no_longer_has_ended_before_its_reader_goes_on(is_late):
    """Its connection is closed and its cost is known then, so that no other call is paid for beside it."""

    async def scenario() -> None:
        never, has_ended = asyncio.Event(), False

        async def endless() -> AsyncGenerator[object, None]:
            nonlocal has_ended
            try:
                yield TextDelta("a")
                await never.wait()
            finally:
                await asyncio.sleep(0)  # a settlement may take a turn of the loop
                has_ended = True

        events = Call(endless(), is_whole=False).events()
        assert TextDelta("a") == await anext(events)
        if is_late:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await anext(events)
        else:
            await events.aclose()
        assert has_ended

    asyncio.run(scenario())


def test_without_a_plan_there_is_no_race():
    """The draft's verdict is given as it is, and no call is made."""

    async def scenario() -> tuple[object, object]:
        async def draft() -> None:
            return None

        async with Race(None, journal(), lambda: pytest.fail("no call was planned")) as race:
            return await race.first(draft()), race.events

    assert (None, None) == asyncio.run(scenario())


def test_the_cloud_wins_and_the_draft_is_ended():
    """Its events are there to be read, and whoever drafted has been told to stop."""

    async def scenario() -> None:
        record, never, was_ended = journal(), asyncio.Event(), False

        async def draft() -> None:
            nonlocal was_ended
            try:
                await never.wait()
            finally:
                was_ended = True

        async with Race(LATE, record, lambda: say(TextDelta("a"), END)) as race:
            verdict = await race.first(draft())
            assert Escalate(reason=Reason.LATENCY, option=OPTION) == verdict
            assert was_ended
            assert [TextDelta("a"), END] == [event async for event in race.events]
            record.route = Route.CLOUD
        assert ("cloud", None) == (record.hedge.won, record.hedge.double_usd)

    asyncio.run(scenario())


def test_a_doubted_draft_takes_the_call_that_is_out():
    """The reason is the doubt's; no second call is made for it."""

    async def scenario() -> None:
        record, answered = journal(), asyncio.Event()
        doubt = Escalate(reason=Reason.CONFIDENCE, option=OPTION)

        async def draft() -> Escalate:
            while record.hedge is None:  # noqa: ASYNC110 - until the other side was started by what we run under
                await asyncio.sleep(0)
            return doubt

        calls = 0

        def call() -> AsyncGenerator[object, None]:
            nonlocal calls
            calls += 1
            return say(answered, TextDelta("a"), END)

        async with Race(LATE, record, call) as race:
            assert doubt == await race.first(draft())
            answered.set()
            assert [TextDelta("a"), END] == [event async for event in race.events]
        assert 1 == calls

    asyncio.run(scenario())


def test_local_wins_and_what_the_call_cost_is_double_spend():
    """It is ended before the request is, and its cost is known then."""

    async def scenario() -> None:
        record, never = journal(), asyncio.Event()
        record.cost_usd = Decimal("0.5")

        async def draft() -> None:
            while record.hedge is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            await asyncio.sleep(0)

        async def call() -> AsyncGenerator[object, None]:
            try:
                await never.wait()
                yield END
            finally:
                record.cost_usd += Decimal("0.25")

        async with Race(LATE, record, call) as race:
            assert await race.first(draft()) is None
            record.route = Route.LOCAL
            await race.close()
            assert ("local", Decimal("0.25")) == (record.hedge.won, record.hedge.double_usd)

    asyncio.run(scenario())


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved on, so that nobody has to wait."""

    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s


def comes(record: Journal, run: LocalRun) -> None:
    """The first token of a draft that was being computed."""
    run.hear(TextDelta("a"), record.elapsed_s)


def is_held_up(record: Journal, _run: LocalRun) -> None:
    """Nobody does anything for longer than there was time."""
    record.arrived_s -= SOON.limit_s


@pytest.mark.parametrize(
    ("happens", "is_asked"),
    [
        pytest.param(lambda _record, _run: None, True, id="nothing-comes"),
        pytest.param(comes, False, id="the-first-token-comes"),
        pytest.param(is_held_up, False, id="the-moment-is-missed"),
    ],
)
def test_a_first_token_calls_the_hedge_off(happens, is_asked):
    """A stream whose first token is there needs no second answer, however long the review of it takes.

    Nor one that came too late for it. Where neither is so, the cloud is asked at the moment that was chosen.
    """

    async def scenario() -> None:
        record, run = journal(), LocalRun(0.0, started_s=0.0)

        async def draft() -> None:
            for _ in range(5):
                await asyncio.sleep(0)  # the moment is being waited for
            happens(record, run)
            race.heard(run)
            await asyncio.sleep(0)
            asyncio.get_running_loop().skipped_s += SOON.limit_s
            for _ in range(5):
                await asyncio.sleep(0)

        async with Race(SOON, record, lambda: say(asyncio.Event())) as race:
            race.heard(run)
            assert await race.first(draft()) is None
        assert is_asked is (record.hedge is not None)

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(scenario())


def test_a_first_token_may_show_that_the_rest_will_be_late():
    """The moment is chosen again when it comes: a whole answer that seemed quick is hedged from there on."""
    slow = Forecast(
        ttft=lognormal(1.0, 0.1), prefill=lognormal(1.0, 0.1), total=lognormal(30.0, 0.2), decode=lognormal(500.0, 0.1)
    )

    async def scenario() -> None:
        record, run, asked = journal(), LocalRun(0.0, started_s=0.0), asyncio.Event()

        async def draft() -> None:
            await asyncio.sleep(0)
            assert record.hedge is None
            comes(record, run)
            race.heard(run)
            await asyncio.wait_for(asked.wait(), 5.0)

        async def call() -> AsyncGenerator[object, None]:
            asked.set()
            await asyncio.Event().wait()
            yield END

        async with Race(replace(LATE, is_whole=True, local=slow), record, call) as race:
            race.heard(run)
            assert await race.first(draft()) is None
        assert record.hedge is not None

    asyncio.run(scenario())


def test_waiting_for_both_sides_at_once_is_counted_once():
    """Our own time is what is left of the whole, so none of it may be taken away twice."""
    record = Journal(id="req_1", dialect="openai", arrived_s=0.0, requested_model="hybrid")
    with record.waiting(), record.waiting():
        pass
    once = record.waited_s
    with record.waiting():
        assert once == record.waited_s

    assert record.waited_s >= once
