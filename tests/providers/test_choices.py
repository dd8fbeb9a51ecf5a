"""Are several answers to one request kept apart, all asked for, and reserved for together?"""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from hybrid.clouds import CloudModel
from hybrid.errors import ProviderProtocolError
from hybrid.pricing import TokenPrice
from hybrid.providers.fake import Answer, FakeProvider
from hybrid.types import Finished, FinishReason, TextDelta, ToolCall, Usage

from .calls import call, collect, outcome, provider_at, run
from .official import openai_client

TWO = {"n": 2}
PRICE = TokenPrice(input_usd_per_mtok=Decimal(0), output_usd_per_mtok=Decimal(2), source="test")


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
def test_each_answer_has_its_events_and_the_last_tells_what_all_used(is_stream):
    """Texts by their choice; the use of each alone is not told, that of all is what was billed."""

    async def scenario():
        async with FakeProvider(Answer(chunks=("Hi", "!"))) as fake, provider_at(fake.base_url) as provider:
            return await collect(provider, call(extra=TWO, is_stream=is_stream)), fake.requests[0]

    events, request = run(scenario())
    said = ["".join(one.text for one in events if isinstance(one, TextDelta) and one.choice == at) for at in (0, 1)]
    assert (["Hi!", "Hi!"], 2) == (said, request.body["n"])
    assert [
        Finished(FinishReason.STOP, None, choice=0),
        Finished(FinishReason.STOP, Usage(prompt_tokens=2, completion_tokens=4), choice=1),
    ] == events[-2:]
    assert events[-1].usage == request.billed


def test_the_official_client_reads_the_same_answers():
    """Two choices of parallel calls, each with its own."""
    calls = (ToolCall("call_a", "f", "{}"), ToolCall("call_b", "g", "{}"))

    async def scenario():
        async with FakeProvider(Answer(chunks=(), tool_calls=calls)) as fake:
            async with openai_client(fake) as client:
                answer = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "Say hello"}], n=2
                )
            async with provider_at(fake.base_url) as provider:
                return answer, await collect(provider, call(extra=TWO, is_stream=False))

    answer, events = run(scenario())
    theirs = [[tool.function.name for tool in choice.message.tool_calls] for choice in answer.choices]
    ours = [[one.name for one in events if not isinstance(one, Finished) and one.choice == at] for at in (0, 1)]
    assert [["f", "g"], ["f", "g"]] == theirs == ours


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
def test_a_server_that_ignores_the_wish_is_found_out(is_stream):
    """One answer where two were asked for is no answer to the request."""
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice]}).encode()
    answer = Answer(raw=b"data: " + body + b"\n\ndata: [DONE]\n\n")
    if not is_stream:
        answer = Answer(raw=body, content_type="application/json")

    async def scenario():
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider:
            return await outcome(provider, call(extra=TWO, is_stream=is_stream))

    _, error = run(scenario())
    assert ProviderProtocolError is type(error)
    assert "without 1 of the answers; 2 were asked for" in str(error)


def test_all_of_them_are_reserved_for():
    """The bound that is sent holds for each, so the worst case is that of all."""

    async def scenario():
        async with provider_at("http://127.0.0.1:9/v1") as provider:
            cloud = CloudModel(provider=provider, model="m", price=PRICE, max_output_tokens=1_000_000)
            return [cloud.option(call(extra=extra).request).reserve_usd for extra in ({}, TWO)]

    assert [Decimal(2), Decimal(4)] == run(scenario())
