"""Do our adapters agree with a mock that others wrote? LLMock speaks each API as its authors read the documentation.

Our own fakes could share a misreading with our adapters; this one was written without either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from llmock.scenarios import Fail, Reply, StreamFault, ToolCall
from llmock.testing import LLMockServer

from hybrid.errors import ProviderError, ProviderRejected, ProviderThrottled
from hybrid.types import Message, TextPart
from hybrid.types import ToolCall as OurToolCall

from .calls import call, collect, outcome, run, user
from .dialects import ANTHROPIC, CHAT, GEMINI, RESPONSES, Dialect, Meaning, meaning_of, provider_of

PATHS = {CHAT.name: "/v1", RESPONSES.name: "/v1", ANTHROPIC.name: "/anthropic/v1", GEMINI.name: "/gemini/v1beta"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TEXT = "Grüße — it is 21 °C in Paris, and that is all there is to say about it."

pytestmark = pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
dialects = pytest.mark.parametrize("dialect", [CHAT, RESPONSES, ANTHROPIC, GEMINI], ids=lambda one: one.name)


@pytest.fixture(scope="module")
def _server() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


@pytest.fixture
def mock(_server: LLMockServer) -> LLMockServer:
    """The mock, without what an earlier test told it to do."""
    _server.state.reset()
    return _server


async def answered(mock: LLMockServer, dialect: Dialect, *, is_stream: bool, **fields: object) -> Meaning:
    """One call of ours, and what its events say."""
    provider = provider_of(dialect, mock.url + PATHS[dialect.name])
    try:
        return meaning_of(await collect(provider, call(is_stream=is_stream, **fields)))
    finally:
        await provider.aclose()


async def failed(mock: LLMockServer, dialect: Dialect, *, is_stream: bool) -> ProviderError | None:
    """The error of one call of ours."""
    provider = provider_of(dialect, mock.url + PATHS[dialect.name])
    try:
        return (await outcome(provider, call(is_stream=is_stream)))[1]
    finally:
        await provider.aclose()


@dialects
def test_text(mock, dialect, is_stream):
    """A plain answer arrives whole, with the tokens the mock says it counted."""
    mock.state.scenarios.add(Reply(text=TEXT))
    meaning = run(answered(mock, dialect, is_stream=is_stream))
    assert (TEXT, (), "stop") == (meaning.text, meaning.calls, meaning.reason)
    assert meaning.usage is not None
    assert meaning.usage.prompt_tokens > 0
    assert meaning.usage.completion_tokens > 0


@dialects
def test_tools(mock, dialect, is_stream):
    """A tool that we describe is understood: the mock calls it with arguments that fit its schema."""
    mock.state.scenarios.add(Reply(tool_calls=(ToolCall("get_weather", {"city": "Zürich"}),)))
    meaning = run(answered(mock, dialect, is_stream=is_stream, extra={"tools": [WEATHER]}))
    [(id_, name, arguments)] = meaning.calls
    assert ("get_weather", {"city": "Zürich"}, "tool_calls") == (name, json.loads(arguments), meaning.reason)
    assert id_


@dialects
def test_a_tool_is_chosen_from_what_we_send(mock, dialect, is_stream):
    """Unscripted, the mock finds our tool and its schema in the request, and its result in the next: the loop ends."""
    first = run(answered(mock, dialect, is_stream=is_stream, extra={"tools": [WEATHER]}))
    [(id_, name, arguments)] = first.calls
    assert ("get_weather", str) == (name, type(json.loads(arguments)["city"]))
    turns = (
        user("How is the weather?"),
        Message("assistant", (), tool_calls=(OurToolCall(id_, name, arguments),)),
        Message("tool", (TextPart("21 °C"),), tool_call_id=id_),
    )
    then = run(answered(mock, dialect, is_stream=is_stream, messages=turns, extra={"tools": [WEATHER]}))
    assert ((), "stop") == (then.calls, then.reason)
    assert then.text


@dialects
@pytest.mark.parametrize(("status", "error"), [(429, ProviderThrottled), (401, ProviderRejected)])
def test_errors(mock, dialect, is_stream, status, error):
    """A refusal in the API's own envelope is told as what it is, with the wait it asks for."""
    mock.state.scenarios.add(Fail(status, retry_after=7, message="no", times=None))
    failure = run(failed(mock, dialect, is_stream=is_stream))
    assert isinstance(failure, error)
    if status == 429:
        assert 6.5 < failure.retry_after_s <= 7.0  # counted down from its arrival


@dialects
@pytest.mark.parametrize("fault", ["disconnect", "truncate"])
def test_a_stream_that_breaks_off(mock, dialect, is_stream, fault):
    """A stream without its end is a failure and no short answer; an answer fetched whole has no such end."""
    mock.state.scenarios.add(Reply(text=TEXT), StreamFault(fault, after_chunks=2))
    failure = run(failed(mock, dialect, is_stream=is_stream))
    assert is_stream == isinstance(failure, ProviderError)
