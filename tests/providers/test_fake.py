"""Is the fake a faithful cloud? The official client must read from it what our adapter reads."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import openai
import pytest

from hybrid import errors
from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.types import Finished, TextDelta, ToolCall, ToolCallDelta, Usage

from .calls import KEY, call, collect, provider_at, run

MESSAGES = [{"role": "user", "content": "Say hello"}]
WEATHER = (ToolCall("call_a", "weather", '{"city": "Bern"}'), ToolCall("call_b", "time", "{}"))
ANSWERS = [
    pytest.param(Answer(), id="text"),
    pytest.param(
        Answer(chunks=("Caf\u00e9 ", "\U0001f600"), prompt_tokens=11, cached_tokens=5), id="unicode-and-cached"
    ),
    pytest.param(Answer(chunks=(), tool_calls=WEATHER), id="parallel-tools"),
    pytest.param(Answer(chunks=("Let me see.",), tool_calls=WEATHER[:1]), id="text-and-tool"),
    pytest.param(Answer(reasoning=("Hm", "m."), chunks=("Hi",)), id="reasoning"),
    pytest.param(Answer(chunks=("word ",) * 200), id="cut-at-the-limit"),
    pytest.param(Answer(finish_reason="content_filter"), id="filtered"),
    pytest.param(Answer(chunks=()), id="nothing-said"),
]


def meaning_of_events(events):
    """What our events say: text, reason, calls, usage."""
    calls: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            name, arguments = calls.setdefault(event.index, ["", ""])
            calls[event.index] = [name + (event.name or ""), arguments + event.arguments]
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert isinstance(events[-1], Finished)
    return text, str(events[-1].reason), list(calls.values()), events[-1].usage


def usage_of(usage):
    """The official client's usage in our words."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.prompt_tokens_details.cached_tokens,
        reasoning_tokens=usage.completion_tokens_details.reasoning_tokens,
    )


async def official_stream(client):
    """What the official client makes of a stream."""
    text, reason, calls, usage = "", None, {}, None
    stream = await client.chat.completions.create(
        model="gpt-test",
        messages=MESSAGES,
        max_completion_tokens=100,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for piece in choice.delta.tool_calls or []:
                name, arguments = calls.setdefault(piece.index, ["", ""])
                calls[piece.index] = [name + (piece.function.name or ""), arguments + (piece.function.arguments or "")]
    return text, reason, list(calls.values()), usage_of(usage)


async def official_whole(client):
    """What the official client makes of a whole answer."""
    answer = await client.chat.completions.create(model="gpt-test", messages=MESSAGES, max_completion_tokens=100)
    choice = answer.choices[0]
    calls = [[tool.function.name, tool.function.arguments] for tool in choice.message.tool_calls or []]
    return choice.message.content or "", choice.finish_reason, calls, usage_of(answer.usage)


def client_of(fake, key=KEY):
    """The official client, told not to retry."""
    return openai.AsyncOpenAI(base_url=fake.base_url, api_key=key, max_retries=0)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
def test_the_official_client_and_our_adapter_read_the_same(answer, is_stream):
    """Text, finish reason, tool calls and usage are equal, and equal to what was billed."""

    async def scenario():
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider, client_of(fake) as client:
            ours = meaning_of_events(await collect(provider, call(is_stream=is_stream)))
            theirs = await (official_stream(client) if is_stream else official_whole(client))
            return ours, theirs, fake.requests[0].billed

    ours, theirs, billed = run(scenario())
    assert theirs == ours
    assert billed == ours[3]


def test_what_we_send_is_what_the_official_client_sends():
    """The same request, field for field."""

    async def scenario():
        async with FakeProvider() as fake, provider_at(fake.base_url) as provider, client_of(fake) as client:
            await collect(provider, call())
            await official_stream(client)
            return [request.body for request in fake.requests]

    ours, theirs = run(scenario())
    assert theirs == ours


ERRORS = [
    pytest.param(400, openai.BadRequestError, errors.ProviderRejected, id="400"),
    pytest.param(401, openai.AuthenticationError, errors.ProviderRejected, id="401"),
    pytest.param(404, openai.NotFoundError, errors.ProviderRejected, id="404"),
    pytest.param(429, openai.RateLimitError, errors.ProviderThrottled, id="429"),
    pytest.param(500, openai.InternalServerError, errors.ProviderUnavailable, id="500"),
]


@pytest.mark.parametrize(("status", "theirs", "ours"), ERRORS)
def test_both_see_the_same_kind_of_refusal(status, theirs, ours):
    """Each status is the official client's error and the one of ours that means the same."""

    async def scenario():
        answer = Answer(status=status, error={"error": {"message": "why", "type": "t", "param": None, "code": None}})
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider, client_of(fake) as client:
            with pytest.raises(theirs, match="why"):
                await official_whole(client)
            with pytest.raises(ours):
                await collect(provider, call())

    run(scenario())


def test_both_see_an_error_inside_a_stream():
    """An error object after two tokens of a 200."""

    async def scenario():
        error = {"error": {"message": "boom", "type": "server_error", "code": None}}
        answer = Answer(fault=Fault.ERROR_OBJECT, after_chunks=2, error=error)
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider, client_of(fake) as client:
            with pytest.raises(openai.APIError, match="boom"):
                await official_stream(client)
            with pytest.raises(errors.ProviderUnavailable, match="boom"):
                await collect(provider, call())

    run(scenario())


def test_a_wrong_key_is_refused_and_quoted():
    """The fake is as careless as the worst server, so that redaction is worth testing."""

    async def scenario():
        async with FakeProvider(api_key="right") as fake, client_of(fake, key="wrong") as client:
            with pytest.raises(openai.AuthenticationError, match="wrong"):
                await official_whole(client)

    run(scenario())


def test_the_bill_counts_what_was_generated_before_the_client_left():
    """Prompt and two tokens, and no more; and the time of the hang-up is known."""

    async def scenario():
        answer = Answer(fault=Fault.STALL, after_chunks=2, prompt_tokens=7)
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider:
            task = asyncio.create_task(collect(provider, call()))
            request = await fake.request(0)
            before_s = asyncio.get_running_loop().time()
            task.cancel()
            await request.gone.wait()
            await asyncio.gather(task, return_exceptions=True)
            return fake.billed, request.gone_at_s >= before_s

    billed, is_after = run(scenario())
    assert (7, True) == (billed.prompt_tokens, is_after)
    assert billed.completion_tokens <= 2


def test_a_cost_travels_to_the_last_digit():
    """What the script says is what the adapter reports."""

    async def scenario():
        cost_usd = Decimal("0.10000000000000000001")
        async with FakeProvider(Answer(cost_usd=cost_usd)) as fake, provider_at(fake.base_url) as provider:
            return [
                (await collect(provider, call(is_stream=is_stream)))[-1].usage.cost_usd for is_stream in (True, False)
            ]

    assert [Decimal("0.10000000000000000001")] * 2 == run(scenario())


def test_usage_may_be_withheld():
    """A server that never tells its usage leaves it unknown."""

    async def scenario():
        async with FakeProvider(Answer(has_usage=False)) as fake, provider_at(fake.base_url) as provider:
            return [(await collect(provider, call(is_stream=is_stream)))[-1].usage for is_stream in (True, False)]

    assert [None, None] == run(scenario())


def test_the_limit_on_the_output_is_kept():
    """Neither more content nor a larger bill than was asked for."""

    async def scenario():
        async with FakeProvider() as fake, provider_at(fake.base_url) as provider:
            events = await collect(provider, call(max_output_tokens=2))
            return meaning_of_events(events), fake.billed.completion_tokens

    (text, reason, _, _), billed = run(scenario())
    assert ("Hello, ", "length", 2) == (text, reason, billed)


def test_a_script_that_raises_fails_the_test_and_not_only_the_connection():
    """A mistake in a script must not look like a provider that broke off."""

    def script(request):
        raise KeyError("a mistake")

    async def scenario():
        async with FakeProvider(script) as fake, provider_at(fake.base_url) as provider:
            with pytest.raises(errors.ProviderUnavailable):
                await collect(provider, call())

    with pytest.raises(KeyError, match="a mistake"):
        run(scenario())
