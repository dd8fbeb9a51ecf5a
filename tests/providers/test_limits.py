"""Is every limit of time kept by itself and named, and does a hang-up close the connection at once?"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from hybrid import errors
from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.types import Finished, FinishReason, TextDelta

from .calls import HELLO, USAGE, call, collect, failure, outcome, provider_at, run

LIMITS = [
    pytest.param(Fault.NO_HEADERS, None, True, "first_token_s", "no token", id="no-headers"),
    pytest.param(Fault.STALL, 0, True, "first_token_s", "no token", id="headers-but-no-token"),
    pytest.param(Fault.STALL, 2, True, "between_tokens_s", "no token", id="stall-after-two"),
    pytest.param(Fault.STALL, 2, True, "total_s", "no end of the answer", id="total-streamed"),
    pytest.param(Fault.NO_HEADERS, None, False, "total_s", "no end of the answer", id="total-whole"),
    pytest.param(Fault.STALL, None, False, "total_s", "no end of the answer", id="total-in-a-body"),
]


@pytest.mark.parametrize(("fault", "after", "is_stream", "limit", "words"), LIMITS)
def test_each_limit_is_kept_by_itself_and_named(fault, after, is_stream, limit, words):
    """Only the one limit is short: the error names it and its value."""
    error = failure(Answer(fault=fault, after_chunks=after), is_stream=is_stream, **{limit: 0.05})
    assert errors.ProviderTimeout is type(error)
    assert f"cloud: {words} within {limit} = 0.05 s" == str(error)
    assert error.may_have_billed


def test_a_whole_answer_has_no_first_token_to_wait_for():
    """Fetched whole, it may take as long as total_s allows."""

    async def scenario():
        answer = Answer(headers_delay_s=0.1)
        async with FakeProvider(answer) as fake, provider_at(fake.base_url, first_token_s=0.01) as provider:
            return await collect(provider, call(is_stream=False))

    assert Finished(FinishReason.STOP, USAGE) == run(scenario())[-1]


def test_comments_are_no_tokens():
    """Keep-alive comments hold the connection open; they do not hold off the limit on the first token."""
    comments = b": still here\n\n" * 50
    error = failure(Answer(raw=comments * 2, fault=Fault.STALL), first_token_s=0.05)
    assert "cloud: no token within first_token_s = 0.05 s" == str(error)


def test_a_handshake_that_never_ends_is_a_connect_timeout_and_free():
    """TLS counts to the connection: three attempts, then the limit is named, and nothing can have been billed."""

    async def scenario():
        async with FakeProvider() as fake:
            url = fake.base_url.replace("http:", "https:")
            async with provider_at(url, connect_s=0.05) as provider:
                return (await outcome(provider, call()))[1]

    error = run(scenario())
    assert "cloud: no connection within connect_s = 0.05 s" == str(error)
    assert (errors.ProviderTimeout, False) == (type(error), error.may_have_billed)


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved on, so that nobody has to wait."""

    skipped_s = 0.0

    def time(self):
        return super().time() + self.skipped_s


def test_a_slow_reader_is_not_a_slow_provider():
    """Between tokens only our waiting counts, not the time that the consumer takes."""

    async def scenario():
        async with FakeProvider() as fake, provider_at(fake.base_url, total_s=1e6) as provider:
            events = []
            async for event in provider.stream(call()):
                events.append(event)
                asyncio.get_running_loop().skipped_s += 1000.0
            return events

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        assert [*HELLO, Finished(FinishReason.STOP, USAGE)] == runner.run(scenario())


HANG_UPS = [
    pytest.param(Fault.NO_HEADERS, None, True, id="before-the-headers"),
    pytest.param(Fault.STALL, 0, True, id="before-the-first-token"),
    pytest.param(Fault.STALL, None, False, id="in-a-whole-body"),
    pytest.param(Fault.STALL, 2, True, id="between-tokens"),
]


@pytest.mark.parametrize(("fault", "after", "is_stream"), HANG_UPS)
def test_cancelling_the_task_closes_the_connection(fault, after, is_stream):
    """Wherever the call waits, the provider sees the connection close, and the task ends as cancelled."""

    async def scenario():
        answer = Answer(fault=fault, after_chunks=after)
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider:
            task = asyncio.create_task(collect(provider, call(is_stream=is_stream)))
            request = await fake.request(0)
            task.cancel()
            await request.gone.wait()
            return (await asyncio.gather(task, return_exceptions=True))[0]

    assert isinstance(run(scenario()), asyncio.CancelledError)


def test_closing_the_generator_closes_the_connection():
    """A consumer that has enough closes; the provider stops, and is billed no further."""

    async def scenario():
        answer = Answer(fault=Fault.STALL, after_chunks=2)
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider:
            async with aclosing(provider.stream(call())) as events:
                first = await anext(events)
            await fake.requests[0].gone.wait()
            return first, fake.billed.completion_tokens

    assert (TextDelta("Hello"), 2) == run(scenario())


def test_a_cancelled_call_leaves_the_client_usable():
    """The next call gets a connection of its own and an answer."""

    async def scenario():
        script = [Answer(fault=Fault.STALL, after_chunks=1), Answer()]
        async with FakeProvider(script) as fake, provider_at(fake.base_url) as provider:
            async with aclosing(provider.stream(call())) as events:
                await anext(events)
            return await collect(provider, call())

    assert [*HELLO, Finished(FinishReason.STOP, USAGE)] == run(scenario())


def test_closing_the_provider_ends_calls_in_flight_and_refuses_new_ones():
    """Both fail as unavailable; the one that never left was certainly free."""

    async def scenario():
        async with (
            FakeProvider(Answer(fault=Fault.STALL, after_chunks=1)) as fake,
            provider_at(fake.base_url) as provider,
        ):
            running = asyncio.create_task(outcome(provider, call()))
            await fake.request(0)
            await provider.aclose()
            return (await running)[1], (await outcome(provider, call()))[1]

    running, refused = run(scenario())
    assert (errors.ProviderUnavailable, errors.ProviderUnavailable) == (type(running), type(refused))
    assert not refused.may_have_billed
