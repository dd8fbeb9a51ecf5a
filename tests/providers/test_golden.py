"""Does each API's answer mean the same and cost the same, streamed and whole, to the last digit?"""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid import errors
from hybrid.pricing import TokenPrice, cost_usd
from hybrid.providers.anthropic import AnthropicDialect
from hybrid.providers.anthropic import Options as AnthropicOptions
from hybrid.providers.base import CloudCall
from hybrid.providers.failures import Failures, Fault
from hybrid.providers.gemini import GeminiDialect
from hybrid.providers.gemini import Options as GeminiOptions
from hybrid.providers.hints import retry_after_s
from hybrid.providers.http_provider import Dialect
from hybrid.providers.openai import ChatDialect
from hybrid.providers.openai import Options as ChatOptions
from hybrid.providers.openai_responses import ResponsesDialect
from hybrid.providers.stream import StreamParser
from hybrid.types import (
    Capability,
    ChatRequest,
    ImagePart,
    Message,
    Sampling,
    TextPart,
    ToolCall,
)

from .calls import cut, parse, user
from .dialects import Meaning, meaning_of

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
ERRORS = json.loads((GOLDEN / "errors.json").read_text())
FAILURES = Failures("cloud")

DIALECTS: dict[str, Dialect] = {
    "chat": ChatDialect(ChatOptions(), has_extra_sampling=False),
    "responses": ResponsesDialect(),
    "anthropic": AnthropicDialect(AnthropicOptions()),
    "gemini": GeminiDialect(GeminiOptions()),
}
MODELS = {"chat": "gpt-test", "responses": "gpt-test", "anthropic": "model-test", "gemini": "gemini-3-flash"}


def price(input_usd: str, output_usd: str, cached_usd: str, written_usd: str | None = None) -> TokenPrice:
    """USD per million tokens."""
    return TokenPrice(
        input_usd_per_mtok=Decimal(input_usd),
        output_usd_per_mtok=Decimal(output_usd),
        cached_input_usd_per_mtok=Decimal(cached_usd),
        cache_write_usd_per_mtok=None if written_usd is None else Decimal(written_usd),
        source="test",
    )


PRICES = {
    "chat": price("0.25", "2.00", "0.025"),
    "responses": price("1.25", "10.00", "0.125", "1.5625"),
    "anthropic": price("3", "15", "0.30", "3.75"),
    "gemini": price("0.50", "3.00", "0.05"),
}

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Of a city.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time"}},
]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
}
HISTORY = (
    Message("system", (TextPart("Be brief."),)),
    user("Weather and time in Bern?"),
    Message(
        "assistant",
        (TextPart("One moment."),),
        tool_calls=(ToolCall("call_1", "get_weather", '{"city": "Bern"}'), ToolCall("call_2", "get_time", "{}")),
    ),
    Message("tool", (TextPart("12 C"),), tool_call_id="call_1"),
    Message("tool", (TextPart("09:30"),), tool_call_id="call_2"),
    user("And tomorrow?"),
)
CASES: dict[str, dict[str, Any]] = {
    "plain": {
        "messages": (Message("system", (TextPart("Be brief."),)), user("What is the capital of France?")),
        "sampling": Sampling(temperature=1.0, top_p=0.9),
    },
    "tools": {"messages": HISTORY, "extra": {"tools": TOOLS, "tool_choice": "required"}},
    "structured": {
        "messages": (user("How many live in Bern?"),),
        "extra": {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}},
    },
    "images": {
        "messages": (Message("user", (TextPart("What is this?"), ImagePart(f"data:image/png;base64,{PIXEL}", "low"))),),
    },
    "cached": {"messages": (user("Is it so?"),)},
    "reasoning": {"messages": (user("2 + 2?"),), "extra": {"reasoning_effort": "medium"}},
    "refusal": {"messages": (user("Tell me something you may not."),)},
    "length": {"messages": (user("Tell me a story."),), "max_output_tokens": 16},
}


def request_of(case: str, *, is_stream: bool) -> ChatRequest:
    """The request behind a case."""
    needs = {Capability.TOOLS} if case == "tools" else set()
    return ChatRequest(model="hybrid", is_stream=is_stream, needs=frozenset(needs), **CASES[case])


def call_of(api: str, case: str, *, is_stream: bool = True) -> CloudCall:
    """The call behind a case."""
    request = request_of(case, is_stream=is_stream)
    return CloudCall(request, MODELS[api], request.max_output_tokens or 400)


def read(api: str, case: str, form: str) -> list[Any]:
    """The events of a fixture, streamed or whole."""
    data = (GOLDEN / api / f"{case}.{form}").read_bytes()
    call = call_of(api, case)
    if form == "json":
        return DIALECTS[api].decode(data, FAILURES, call)
    events, failure = parse(StreamParser(FAILURES, DIALECTS[api].reader(FAILURES, call)), [data])
    assert failure is None
    return events


def told(meaning: Meaning) -> dict[str, Any]:
    """A meaning in the words of `expected.json`, without its price."""
    usage = meaning.usage
    assert usage is not None
    return {
        "text": meaning.text,
        "reasoning": meaning.reasoning,
        "calls": [[id_, name, json.loads(arguments)] for id_, name, arguments in meaning.calls],
        "reason": meaning.reason,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


@pytest.mark.parametrize("form", ["sse", "json"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("api", DIALECTS)
def test_an_answer_means_and_costs_what_was_written_down(api, case, form):
    """Texts, calls, end, each count and the cost, by the same figures streamed and whole."""
    meaning = meaning_of(read(api, case, form))
    cost = cost_usd(PRICES[api], meaning.usage)
    assert EXPECTED[api][case] == told(meaning) | {"cost_usd": format(cost.normalize(), "f")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("api", DIALECTS)
def test_a_request_is_written_as_the_api_has_it(api, case):
    """Each case's body, field by field; the API can do what it asks for."""
    call = call_of(api, case)
    assert frozenset() == DIALECTS[api].missing(call.request)
    post = DIALECTS[api].post(call)
    expected = json.loads((GOLDEN / api / f"{case}.request.json").read_text())
    assert expected == {"path": post.path, "body": msgspec.to_builtins(post.body)}


STREAMS = [(api, case) for api in DIALECTS for case in CASES]


@settings(deadline=None)
@given(which=st.sampled_from(STREAMS), ats=st.lists(st.integers(min_value=0), max_size=12), end=st.floats(0, 1))
def test_events_and_failure_do_not_depend_on_the_cuts(which, ats, end):
    """Whole or broken off anywhere, the bytes alone decide what is seen and what is said to be wrong."""
    api, case = which
    data = (GOLDEN / api / f"{case}.sse").read_bytes()
    data = data[: int(len(data) * end)]

    def parsed(pieces):
        return parse(StreamParser(FAILURES, DIALECTS[api].reader(FAILURES, call_of(api, case))), pieces)

    assert parsed([data]) == parsed(cut(data, ats))


@settings(deadline=None)
@given(api=st.sampled_from(list(DIALECTS)), junk=st.binary())
def test_junk_is_a_failure_and_never_an_exception(api, junk):
    """Whatever bytes come, a stream of them ends as a protocol error, and a body of them raises one."""
    call = call_of(api, "plain")
    events, failure = parse(StreamParser(FAILURES, DIALECTS[api].reader(FAILURES, call)), [junk])
    assert ([], True) == (events, (failure or "").startswith("ProviderProtocolError: cloud: "))
    with pytest.raises(errors.ProviderProtocolError):
        DIALECTS[api].decode(junk, FAILURES, call)


def error_of(case: dict[str, Any]) -> errors.ProviderError:
    """The error that a case of `errors.json` becomes: an answer that is no 200, or a stream or body inside one."""
    if "status" in case:
        wait_s = retry_after_s(case.get("headers", {}), now_unix_s=0)
        failures = Failures("cloud", may_bill_400=case.get("may_bill_400", False))
        return failures.from_status(case["status"], Fault.from_body(json.dumps(case["body"]).encode()), wait_s)
    dialect, call = DIALECTS[case["api"]], call_of(case["api"], "plain")
    if "stream" in case:
        parser = StreamParser(FAILURES, dialect.reader(FAILURES, call))
        parse(parser, ["".join(case["stream"]).encode()])
        assert parser.failure is not None
        return parser.failure
    with pytest.raises(errors.ProviderError) as caught:
        dialect.decode(json.dumps(case["whole"]).encode(), FAILURES, call)
    return caught.value


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in ERRORS])
def test_an_error_is_what_it_stands_for(case):
    """Its kind, whether it may be tried again and may have cost something, and how long to wait."""
    error = error_of(case)
    expected = case["expected"]
    found = {
        "error": type(error).__name__,
        "is_retryable": error.is_retryable,
        "may_have_billed": error.may_have_billed,
        "retry_after_s": error.retry_after_s,
        "upstream_status": getattr(error, "upstream_status", None),
    }
    assert expected == {name: found[name] for name in expected}
    assert case.get("says", "") in str(error)


def test_a_prompt_across_a_step_costs_the_dearer_rate_throughout():
    """One token over the mark, and every token of the answer pays the longer prompt's price."""
    stepped = replace(PRICES["gemini"], steps=((19, price("1.00", "6.00", "0.10")),))
    usage = meaning_of(read("gemini", "reasoning", "sse")).usage
    assert Decimal("0.00038") == cost_usd(stepped, usage)
