"""Is an answer of an OpenAI-compatible API understood, however it is cut, and whatever the server makes of the API?"""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.errors import (
    ProviderProtocolError,
    ProviderRejected,
    ProviderThrottled,
    ProviderTimeout,
    ProviderUnavailable,
)
from hybrid.providers.failures import Failures
from hybrid.providers.openai_answer import FINISH_REASONS, ChatReader, decode
from hybrid.providers.stream import StreamParser
from hybrid.types import Finished, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta, Usage

from .calls import captured, cut, halves, parse

FAILURES = Failures("cloud")
STOP, TOOLS = FinishReason.STOP, FinishReason.TOOL_CALLS
CAPTURED = [
    pytest.param(
        captured("mistral_thinking.sse"),
        [ReasoningDelta("Hm"), ReasoningDelta("."), TextDelta("Hi"), TextDelta("!"), Finished(STOP, None)],
        id="mistral-thinking",
    ),
    pytest.param(
        captured("openai_text.sse"),
        [
            TextDelta("Caf\u00e9 "),
            TextDelta("\U0001f600"),
            Finished(STOP, Usage(prompt_tokens=9, completion_tokens=3, cached_tokens=4, reasoning_tokens=1)),
        ],
        id="openai-text",
    ),
    pytest.param(
        captured("openai_tools.sse"),
        [
            ToolCallDelta(0, "call_a", "weather", ""),
            ToolCallDelta(0, arguments='{"city":'),
            ToolCallDelta(0, arguments='"Bern"}'),
            ToolCallDelta(1, "call_b", "time", "{}"),
            Finished(TOOLS, None),
        ],
        id="openai-parallel-tools",
    ),
    pytest.param(
        captured("openai_refusal.sse"),
        [TextDelta("I can't "), TextDelta("help."), Finished(FinishReason.CONTENT_FILTER, None)],
        id="openai-refusal",
    ),
    pytest.param(
        captured("azure_text.sse"),
        [TextDelta("Hi"), Finished(FinishReason.CONTENT_FILTER, None)],
        id="azure-content-filter",
    ),
    pytest.param(
        captured("openrouter_text.sse"),
        [
            ReasoningDelta("Hmm."),
            TextDelta("Hi"),
            Finished(
                STOP,
                Usage(
                    prompt_tokens=7,
                    completion_tokens=5,
                    reasoning_tokens=3,
                    cost_usd=Decimal("0.000123456789012345678"),
                ),
            ),
        ],
        id="openrouter-cost-and-usage-beside-a-choice",
    ),
    pytest.param(
        captured("deepseek_text.sse"),
        [
            ReasoningDelta("First, "),
            ReasoningDelta("second."),
            TextDelta("Hi"),
            Finished(
                FinishReason.LENGTH,
                Usage(prompt_tokens=20, completion_tokens=9, cached_tokens=16, reasoning_tokens=8),
            ),
        ],
        id="deepseek-reasoning-and-cache-hits",
    ),
    pytest.param(
        captured("vllm_running_usage.sse"),
        [TextDelta("a"), TextDelta("b"), Finished(STOP, Usage(prompt_tokens=3, completion_tokens=2))],
        id="vllm-running-usage",
    ),
    pytest.param(
        captured("gemini_tools.sse"),
        [
            ToolCallDelta(0, "fc-1", "a", "{}"),
            ToolCallDelta(1, "fc-2", "b", '{"x":1}'),
            # 25 tokens beyond the prompt were billed; 21 of them are thinking that only the total shows.
            Finished(STOP, Usage(prompt_tokens=5, completion_tokens=25)),
        ],
        id="gemini-one-index-for-two-calls-and-hidden-thinking",
    ),
    pytest.param(
        captured("old_server_tools.sse"),
        [ToolCallDelta(0, "call_10_0", "a", "{"), ToolCallDelta(0, arguments="}"), Finished(TOOLS, None)],
        id="no-index-no-id-unknown-reason",
    ),
    pytest.param(
        captured("no_done.sse"),
        [TextDelta("Hi"), Finished(STOP, Usage(prompt_tokens=1, completion_tokens=1))],
        id="finished-without-done",
    ),
]


def parsed(chunks):
    """The events of a stream, and its failure as text."""
    return parse(StreamParser(FAILURES, ChatReader(FAILURES)), chunks)


@pytest.mark.parametrize(("stream", "expected"), CAPTURED)
def test_a_stream_gives_its_events_wherever_it_is_cut(stream, expected):
    """Each server's shape becomes our events: uncut, cut in two anywhere, and byte by byte."""
    assert (expected, None) == parsed([stream])
    assert (expected, None) == parsed(stream[at : at + 1] for at in range(len(stream)))
    assert all((expected, None) == parsed(pieces) for pieces in halves(stream))


BROKEN = [
    pytest.param(captured("openrouter_error.sse"), id="error-object"),
    pytest.param(captured("vllm_error.sse"), id="vllm-error"),
    pytest.param(captured("openai_text.sse")[:900], id="cut-off"),
    pytest.param(
        captured("openai_text.sse").replace(b'"content":"Caf', b'"content":["Caf'), id="garbage-in-the-middle"
    ),
    pytest.param(captured("openai_text.sse").replace(b"\xc3\xa9", b"\xc3"), id="not-utf8"),
]


@settings(deadline=None)
@given(stream=st.sampled_from([case.values[0] for case in CAPTURED + BROKEN]), ats=st.lists(st.integers(min_value=0)))
def test_events_and_failure_do_not_depend_on_the_cuts(stream, ats):
    """Good or broken, the bytes alone decide what is seen and what is said to be wrong."""
    assert parsed([stream]) == parsed(cut(stream, ats))


@settings(deadline=None)
@given(junk=st.binary())
def test_junk_is_a_failure_and_never_an_exception(junk):
    """Whatever bytes come, feed and close return; what is no answer ends as a protocol error."""
    events, failure = parsed([junk])
    assert [] == events
    assert failure is not None
    assert failure.startswith("ProviderProtocolError: cloud: ")


def failure_of(*events: str, before: str = ""):
    """The failure of a stream of these events' data, after one good chunk of text if `before` is given."""
    parser = StreamParser(FAILURES, ChatReader(FAILURES))
    start = [f'{{"choices":[{{"index":0,"delta":{{"content":"{before}"}}}}]}}'] if before else []
    seen, _ = parse(parser, ["".join(f"data: {data}\n\n" for data in [*start, *events]).encode()])
    assert [TextDelta(before)] * bool(before) == seen
    return parser.failure


ERRORS = [
    pytest.param('{"error":{"message":"m","type":"rate_limit_error"}}', ProviderThrottled, id="rate-limit-by-type"),
    pytest.param('{"error":{"message":"m","code":"rate_limit_exceeded"}}', ProviderThrottled, id="rate-limit-by-code"),
    pytest.param('{"error":{"message":"m","code":429}}', ProviderThrottled, id="rate-limit-by-number"),
    pytest.param('{"error":{"message":"m","code":"insufficient_quota"}}', ProviderRejected, id="no-money-left"),
    pytest.param('{"error":{"message":"m","type":"invalid_request_error"}}', ProviderRejected, id="bad-request"),
    pytest.param('{"error":{"message":"m","code":"504"}}', ProviderTimeout, id="timeout-as-text"),
    pytest.param('{"error":{"message":"m","type":"overloaded_error"}}', ProviderUnavailable, id="overloaded"),
    pytest.param('{"error":{"message":"m","type":"server_error"}}', ProviderUnavailable, id="server-error"),
    pytest.param('{"error":"something broke"}', ProviderUnavailable, id="only-text"),
    pytest.param('{"object":"error","message":"m","code":400}', ProviderRejected, id="vllm"),
    pytest.param('{"error":{"message":"m","code":429},"n":1e999}', ProviderThrottled, id="no-float-holds-its-number"),
    pytest.param('{"object":"error","message":"m","n":1e999}', ProviderUnavailable, id="nor-that-of-vllm"),
    pytest.param('{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}', ProviderUnavailable, id="openrouter"),
]


@pytest.mark.parametrize(("data", "expected"), ERRORS)
def test_an_error_inside_a_200_is_the_error_it_stands_for(data, expected):
    """By kind, not by status; text that came before is still seen; and it may have been billed."""
    failure = failure_of(data, "[DONE]", before="Hal")
    assert expected is type(failure)
    assert failure.may_have_billed


def test_an_error_event_is_an_error_whatever_its_shape():
    """A server that names the event `error` need not wrap its object."""
    parser = StreamParser(FAILURES, ChatReader(FAILURES))
    parse(parser, [b'event: error\ndata: {"message": "boom", "code": 503}\n\n'])
    assert "cloud: answered HTTP 503: boom" == str(parser.failure)


PROTOCOL = [
    pytest.param([], "ended its stream before the answer was finished", id="nothing"),
    pytest.param(["[DONE]"], "ended its stream without an answer", id="only-done"),
    pytest.param(["{"], "sent JSON that is no chat completion", id="truncated-json"),
    pytest.param(["[]"], "sent JSON that is no chat completion", id="no-object"),
    pytest.param(['{"choices":{}}'], "sent JSON that is no chat completion", id="choices-no-list"),
    pytest.param(['{"x":' + "[" * 100_000], "sent JSON that is no chat completion", id="too-deep"),
    pytest.param(['{"usage":{"prompt_tokens":-1}}'], "sent JSON that is no chat completion", id="negative-usage"),
    pytest.param(['{"usage":{"prompt_tokens":1.5}}'], "sent JSON that is no chat completion", id="half-a-token"),
    pytest.param(['{"usage":{"prompt_tokens":-1.0}}'], "sent JSON that is no chat completion", id="less-than-none"),
    pytest.param(
        ['{"choices":[{"delta":{"tool_calls":[{"index":0.5}]}}]}'], "sent JSON that is no chat completion", id="index"
    ),
    pytest.param(
        ['{"choices":[{"index":1,"delta":{"content":"x"}}]}'], "sent choice 1; one was asked for", id="choice"
    ),
    pytest.param(
        ['{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}]}'],
        "began a tool call without a name",
        id="nameless-call",
    ),
]


@pytest.mark.parametrize(("events", "expected"), PROTOCOL)
def test_what_the_api_does_not_allow_is_a_protocol_error(events, expected):
    """Each says what was wrong, and none reaches us as another exception."""
    failure = failure_of(*events)
    assert ProviderProtocolError is type(failure)
    assert expected in str(failure)


def piece(arguments="", name=None, **fields):
    """A chunk with one piece of a tool call at index 0."""
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": function, **fields}]}}]}


ONE_INDEX = [
    pytest.param([piece("{}", "a"), piece('{"x":1}', "b")], [("a", "{}"), ("b", '{"x":1}')], id="other-names"),
    pytest.param([piece('{"x":1}', "a"), piece('{"x":2}', "a")], [("a", '{"x":1}'), ("a", '{"x":2}')], id="one-name"),
    pytest.param(
        [piece(name="a"), piece('{"x"'), piece(":1}"), piece(name="a"), piece('{"x":2}')],
        [("a", '{"x":1}'), ("a", '{"x":2}')],
        id="name-first-and-then-pieces",
    ),
    pytest.param([piece('{"x":', "a"), piece("{}", "a"), piece("}", "a")], [("a", '{"x":{}}')], id="name-repeated"),
    pytest.param([piece('{"x":1}', "a"), piece("", "a")], [("a", '{"x":1}')], id="name-repeated-at-the-end"),
    pytest.param([piece('{"x":1}', "a"), piece("\n")], [("a", '{"x":1}\n')], id="white-space-at-the-end"),
    pytest.param([piece('{"x":', "a", id="i"), piece("1}", id="j")], [("a", '{"x":1}')], id="an-id-for-every-piece"),
    pytest.param([piece("{}", "a", id="i"), piece("{}", "a", id="j")], [("a", "{}"), ("a", "{}")], id="other-ids"),
    pytest.param([piece({"x": 1}, "a"), piece({}, "a")], [("a", '{"x":1}'), ("a", "{}")], id="arguments-as-objects"),
]


@pytest.mark.parametrize(("chunks", "expected"), ONE_INDEX)
def test_calls_that_share_one_index_are_told_apart(chunks, expected):
    """By id, by name, or because an object of arguments is whole; what only repeats a name goes on with its call."""
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, {"choices": [{"finish_reason": "stop"}]}])
    events, failure = parsed([stream.encode()])
    assert failure is None
    calls = {}
    for event in events[:-1]:
        calls.setdefault(event.index, [event.id, event.name, ""])[2] += event.arguments
    assert expected == [(name, arguments) for _, name, arguments in calls.values()]
    assert len(calls) == len({call_id for call_id, _, _ in calls.values()})


@pytest.mark.parametrize(
    ("word", "expected"), [("tool_calls", ["{}", '{"x":1}', "{}"]), ("length", ["", '{"x":1}', ""])]
)
def test_a_call_without_arguments_has_the_empty_object(word, expected):
    """Clients parse what they get; a call that was cut off must not look whole."""
    calls = [
        {"function": {"name": name, "arguments": said}} for name, said in (("a", ""), ("b", '{"x":1}'), ("c", None))
    ]
    whole = {"choices": [{"message": {"tool_calls": calls}, "finish_reason": word}]}
    streamed = {"choices": [{"delta": {"tool_calls": [{"index": 0, **call} for call in calls]}, "finish_reason": word}]}
    events, failure = parsed([f"data: {json.dumps(streamed)}\n\ndata: [DONE]\n\n".encode()])
    assert failure is None
    for answer in (events, decode(json.dumps(whole).encode(), FAILURES)):
        said = [[event.arguments for event in answer[:-1] if event.index == index] for index in range(3)]
        assert expected == ["".join(pieces) for pieces in said]


@pytest.mark.parametrize("at", [("0", "1"), (0.0, 1.0), (0, 1)], ids=repr)
def test_an_index_may_be_written_as_text(at):
    """Or as 0.0; pieces with one index are one call all the same."""
    sent = [(at[0], "a", "{"), (at[1], "b", "{}"), (at[0], None, "}")]
    calls = [{"index": index, "function": {"name": name, "arguments": said}} for index, name, said in sent]
    chunk = {"choices": [{"delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    events, failure = parsed([f"data: {json.dumps(chunk)}\n\n".encode()])
    assert failure is None
    assert [(0, "a", "{"), (1, "b", "{}"), (0, None, "}")] == [(e.index, e.name, e.arguments) for e in events[:-1]]


def test_content_without_any_end_is_a_protocol_error():
    """Text and then nothing: no finish_reason, no [DONE]."""
    assert "ended its stream before the answer was finished" in str(failure_of(before="Hal"))


def test_done_after_content_without_a_reason_is_an_end():
    """Some servers never give a finish_reason; [DONE] says that nothing was lost."""
    events, failure = parsed([b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n'])
    assert ([TextDelta("Hi"), Finished(STOP, None)], None) == (events, failure)


@pytest.mark.parametrize(
    ("word", "expected"), [*FINISH_REASONS.items(), ("SAFETY", FinishReason.CONTENT_FILTER), ("?", STOP)]
)
def test_every_finish_reason_has_a_meaning(word, expected):
    """Known words in any case mean what they say; an unknown one is an end."""
    body = b'{"choices":[{"message":{"content":"x"},"finish_reason":"%b"}]}' % word.encode()
    assert Finished(expected, None) == decode(body, Failures("cloud"))[-1]


COSTS = [
    pytest.param(b'{"cost":0.1}', Decimal("0.1"), id="no-float-in-between"),
    pytest.param(b'{"cost":1e-7}', Decimal("1E-7"), id="exponent"),
    pytest.param(b'{"cost":"0.30"}', Decimal("0.30"), id="text"),
    pytest.param(b'{"cost_usd":0.2}', Decimal("0.2"), id="by-another-name"),
    pytest.param(b'{"cost":{"total_cost":0.4,"input_tokens_cost":0.1}}', Decimal("0.4"), id="perplexity"),
    pytest.param(b'{"cost":0}', Decimal(0), id="free"),
    pytest.param(b"{}", None, id="not-told"),
    pytest.param(b'{"cost":null}', None, id="null"),
    pytest.param(b'{"cost":-1}', None, id="negative"),
    pytest.param(b'{"cost":"NaN"}', None, id="not-a-number"),
    pytest.param(b'{"cost":"Infinity"}', None, id="infinite"),
    pytest.param(b'{"cost":1e99999}', None, id="absurd"),
    pytest.param(
        b'{"cost":0.95,"is_byok":true,"cost_details":{"upstream_inference_cost":19}}', Decimal("19.95"), id="own-key"
    ),
    pytest.param(
        b'{"cost":0.95,"is_byok":false,"cost_details":{"upstream_inference_cost":0.95}}', Decimal("0.95"), id="its-key"
    ),
    pytest.param(
        b'{"cost":0.95,"cost_details":{"upstream_inference_cost":19}}', Decimal("0.95"), id="whose-key-is-not-told"
    ),
    pytest.param(b'{"cost":0.95,"is_byok":true}', None, id="own-key-without-details"),
    pytest.param(
        b'{"cost":0.95,"is_byok":true,"cost_details":{"upstream_inference_cost":null}}', None, id="own-key-and-no-bill"
    ),
    pytest.param(b'{"is_byok":true,"cost_details":{"upstream_inference_cost":19}}', None, id="own-key-and-no-fee"),
]


@pytest.mark.parametrize(("usage", "expected"), COSTS)
def test_a_reported_cost_is_exact_or_unknown(usage, expected):
    """The digits of the wire are the digits of the ledger; a cost that cannot be is unknown, and the tokens remain."""
    body = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"usage":%b}'
    counted = usage.replace(b"{", b'{"completion_tokens":1,', 1).replace(b",}", b"}")
    assert expected == decode(body % counted, Failures("cloud"))[-1].usage.cost_usd


BODIES = [
    pytest.param(
        b'{"choices":[{"message":{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text",'
        b'"text":"Hm"},{"type":"text","text":"."}]},{"type":"text","text":"Hi"}]},"finish_reason":"stop"}]}',
        [ReasoningDelta("Hm."), TextDelta("Hi"), Finished(STOP, None)],
        id="mistral-thinking",
    ),
    pytest.param(
        captured("openai.json"),
        [
            TextDelta("Hi"),
            Finished(STOP, Usage(prompt_tokens=9, completion_tokens=3, cached_tokens=4, reasoning_tokens=1)),
        ],
        id="text",
    ),
    pytest.param(
        captured("openai_tools.json"),
        [
            ToolCallDelta(0, "call_a", "weather", '{"city":"Bern"}'),
            ToolCallDelta(1, "call_b", "time", "{}"),
            Finished(TOOLS, None),
        ],
        id="tools",
    ),
]


@pytest.mark.parametrize(("body", "expected"), BODIES)
def test_a_whole_body_gives_the_events_of_its_stream(body, expected):
    """What is not streamed becomes the same kinds of events, in the same order."""
    assert expected == decode(body, Failures("cloud"))


@pytest.mark.parametrize(
    "body", [b"", b"null", b"{}", b'{"choices":[]}', b"<html>", b'{"choices":[{"message":{"content":"caf\xc3'], ids=repr
)
def test_a_body_without_an_answer_is_a_protocol_error(body):
    """Empty, foreign or cut bodies are not an empty answer."""
    with pytest.raises(ProviderProtocolError):
        decode(body, Failures("cloud"))
