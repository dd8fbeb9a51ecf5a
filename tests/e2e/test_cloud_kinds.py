"""A cloud of every kind behind the real process: one client, one script, one bill, whatever the cloud speaks."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from hybrid.providers.fake import Answer, FakeProvider, FakeRequest
from hybrid.providers.fake_anthropic import FakeAnthropic
from hybrid.providers.fake_gemini import FakeGemini
from hybrid.providers.fake_responses import FakeResponses
from hybrid.types import ToolCall
from tests.e2e.serving import FAKE_MODEL, Serving, body, cloud_toml

KINDS = [
    pytest.param(FakeProvider, 'kind = "openai"', id="openai"),
    pytest.param(FakeResponses, 'kind = "openai"\napi = "responses"', id="responses"),
    pytest.param(FakeAnthropic, 'kind = "anthropic"', id="anthropic"),
    pytest.param(FakeGemini, 'kind = "gemini"', id="gemini"),
]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALLS = (ToolCall("call_1", "weather", '{"city": "Bern"}'), ToolCall("call_2", "weather", '{"city": "Rome"}'))


def config(url: str, kind: str) -> str:
    """The fake local model, and one priced cloud of this kind."""
    return FAKE_MODEL + cloud_toml(url).replace('name = "big"\n', f'name = "big"\n{kind}\n', 1)


def script(request: FakeRequest) -> Answer:
    """Call the tool in parallel where there is one, else speak, thinking first."""
    if request.body.get("tools"):
        return Answer(chunks=(), tool_calls=CALLS, prompt_tokens=40)
    return Answer(chunks=("from ", "the ", "cloud"), reasoning=("Hm.",), prompt_tokens=11)


@pytest.mark.parametrize(("fake", "kind"), KINDS)
def test_a_doubt_goes_to_a_cloud_of_any_kind(tmp_path, fake, kind):
    """Whole, streamed and with tools: the same answers, and headers, report and the cloud's bill agree to the token."""

    async def scenario():
        async with fake(script) as cloud:
            with Serving(tmp_path, config(cloud.base_url, kind)) as server:
                whole = await asyncio.to_thread(server.ask, "[doubt] hard")
                streamed = await asyncio.to_thread(server.ask, "[doubt] hard", stream=True)
                called = await asyncio.to_thread(server.ask, "weather?", model="cloud", tools=[WEATHER])
                return whole, streamed, called, await asyncio.to_thread(server.report), cloud.billed

    whole, streamed, called, report, billed = asyncio.run(scenario())
    message = whole.json()["choices"][0]["message"]
    assert ("from the cloud", "Hm.") == (message["content"], message["reasoning_content"])
    assert ["cloud"] * 3 == [one.headers["x-hybrid-route"] for one in (whole, streamed, called)]
    assert ('"the "' in streamed.text, True) == (True, "data: [DONE]" in streamed.text)
    answer = called.json()["choices"][0]
    assert ("tool_calls", ["call_1", "call_2"]) == (
        answer["finish_reason"],
        [one["id"] for one in answer["message"]["tool_calls"]],
    )
    cost = Decimal(billed.prompt_tokens * 1 + billed.completion_tokens * 2) / 1_000_000
    assert (billed.prompt_tokens, billed.completion_tokens) == (
        report["tokens"]["cloud_prompt"],
        report["tokens"]["cloud_completion"],
    )
    assert float(cost) == pytest.approx(report["spent_usd"], abs=1e-15)
    assert Decimal(whole.headers["x-hybrid-cost-usd"]) == Decimal(11 * 1 + 4 * 2) / 1_000_000


@pytest.mark.parametrize(
    ("fake", "kind", "wish", "named"),
    [
        pytest.param(FakeAnthropic, 'kind = "anthropic"', {"seed": 1}, "seed", id="anthropic-has-no-seed"),
        pytest.param(FakeGemini, 'kind = "gemini"', {"min_p": 0.2}, "min_p", id="gemini-has-no-min-p"),
        pytest.param(
            FakeResponses, 'kind = "openai"\napi = "responses"', {"stop": ["x"]}, "stop", id="responses-have-no-stop"
        ),
    ],
)
def test_what_a_cloud_cannot_be_told_is_not_dropped(tmp_path, fake, kind, wish, named):
    """Local keeps its doubted draft and says so; who wants the cloud alone gets a 400 that names the wish."""

    async def scenario():
        async with fake(script) as cloud:
            with Serving(tmp_path, config(cloud.base_url, kind)) as server:
                kept = await asyncio.to_thread(server.ask, "[doubt] hard", **wish)
                refused = await asyncio.to_thread(
                    server.client.post, "/chat/completions", json=body("hard", model="cloud", **wish)
                )
                return kept, refused, cloud.requests

    kept, refused, requests = asyncio.run(scenario())
    assert ("local", []) == (kept.headers["x-hybrid-route"], requests)
    assert 400 == refused.status_code
    assert named in refused.json()["error"]["message"]


def test_a_cloud_that_counts_nothing_is_settled_at_the_worst_case(tmp_path):
    """Zeros in place of counts are no free answer: the reservation is what is spent, and it is said to be."""

    async def scenario():
        async with FakeProvider(Answer(prompt_tokens=0, chunks=())) as cloud:
            with Serving(tmp_path, config(cloud.base_url, 'kind = "openai"')) as server:
                answer = await asyncio.to_thread(server.ask, "hard", model="cloud", max_tokens=8)
                explained = await asyncio.to_thread(server.explain, answer.headers["x-hybrid-request-id"])
                return await asyncio.to_thread(server.report), str(explained)

    report, explained = asyncio.run(scenario())
    assert (True, 0) == (report["spent_usd"] > 0, report["reserved_usd"])
    assert "worst case: usage unknown" in explained
