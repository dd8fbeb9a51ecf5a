"""Are answers, chunks and errors what OpenAI's clients expect, to the field?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from hybrid.errors import BudgetExhausted, HybridError, InvalidRequest, ProviderRejected, QueueFull, Unauthorized
from hybrid.server.errors import envelope, error_headers
from hybrid.server.openai_render import Answer, Chunks
from hybrid.types import Event, Finished, FinishReason, ReasoningDelta, Tail, TextDelta, TokenLogprob, ToolCallDelta

from .scripted import FINISHED, HEAD, TAIL, USAGE

NOW = 1_800_000_000
TOOL_EVENTS = (
    ToolCallDelta(0, id="call_a", name="now", arguments=""),
    ToolCallDelta(0, arguments='{"a"'),
    ToolCallDelta(1, id="call_b", name="then", arguments="{}"),
    ToolCallDelta(0, arguments=":1}"),
    Finished(FinishReason.TOOL_CALLS, None),
)


def whole(events: Iterable[Event], tail: Tail = TAIL) -> Any:
    answer = Answer()
    for event in events:
        answer.add(event)
    return msgspec.json.decode(answer.render(tail, NOW))


def stream(events: Iterable[Event], tail: Tail = TAIL, *, usage: bool = False, hybrid: bool = False) -> list[Any]:
    chunks = Chunks(HEAD, NOW, wants_usage=usage, wants_hybrid=hybrid)
    raw = b"".join(chunks.event(event) for event in events) + chunks.end(tail)
    lines = raw.decode().split("\n\n")
    assert ["data: [DONE]", ""] == lines[-2:]
    return [msgspec.json.decode(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_whole_answer():
    """Text, usage with cached tokens, and the released answer's model."""
    expected = {
        "id": "chatcmpl-r-1",
        "object": "chat.completion",
        "created": NOW,
        "model": "local/smollm2",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    assert expected == whole([TextDelta("Hel"), TextDelta("lo"), FINISHED])


def test_whole_tool_calls():
    """Pieces are joined per index; content is null beside calls; reasoning is its own field."""
    choice = whole([ReasoningDelta("hm"), *TOOL_EVENTS])["choices"][0]
    calls = [
        {"id": "call_a", "type": "function", "function": {"name": "now", "arguments": '{"a":1}'}},
        {"id": "call_b", "type": "function", "function": {"name": "then", "arguments": "{}"}},
    ]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": calls,
    }


def test_logprobs_of_a_whole_answer():
    """Tokens with bytes and alternatives, joined over the pieces; what JSON cannot say is OpenAI's -9999."""
    named = TokenLogprob("<end>", None, -math.inf)
    events = [
        TextDelta("h", logprobs=(TokenLogprob("h", b"h", -0.5, (TokenLogprob("h", b"h", -0.5), named)),)),
        TextDelta("\u00e9", logprobs=(TokenLogprob("\\xc3", b"\xc3", -1.0), TokenLogprob("\\xa9", b"\xa9", -2.0))),
        FINISHED,
    ]
    top = [
        {"token": "h", "logprob": -0.5, "bytes": [104]},
        {"token": "<end>", "logprob": -9999.0, "bytes": None},
    ]
    assert whole(events)["choices"][0]["logprobs"] == {
        "content": [
            {"token": "h", "logprob": -0.5, "bytes": [104], "top_logprobs": top},
            {"token": "\\xc3", "logprob": -1.0, "bytes": [195], "top_logprobs": []},
            {"token": "\\xa9", "logprob": -2.0, "bytes": [169], "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_logprobs_in_a_stream():
    """Each chunk tells of the tokens that came with its text, and of none where there are none."""
    told = (TokenLogprob("a", b"a", -0.1),)
    chunks = stream([TextDelta("a", logprobs=told), TextDelta(""), FINISHED])
    assert [["a"], None, None] == [
        chunk["choices"][0]["logprobs"] and [token["token"] for token in chunk["choices"][0]["logprobs"]["content"]]
        for chunk in chunks
    ]


def test_unknown_usage_is_absent():
    """A provider that told no usage used an unknown number of tokens, not zero."""
    assert "usage" not in whole([Finished(FinishReason.STOP, None)], Tail(head=HEAD, usage=None))


def test_a_plain_stream():
    """The role comes first, id, time and model stay, the finish reason is last, and nothing of ours is added."""
    chunks = stream([TextDelta("Hel"), TextDelta("lo"), FINISHED])
    assert [{"role": "assistant", "content": "Hel"}, {"content": "lo"}, {}] == [
        c["choices"][0]["delta"] for c in chunks
    ]
    assert [None, None, "stop"] == [c["choices"][0]["finish_reason"] for c in chunks]
    assert {("chatcmpl-r-1", NOW, "local/smollm2")} == {(c["id"], c["created"], c["model"]) for c in chunks}
    assert not any("usage" in c or "hybrid" in c for c in chunks)


def test_a_stream_with_usage():
    """With include_usage every chunk has a null usage but the last, which has no choices and the `hybrid` object."""
    chunks = stream([TextDelta("x"), FINISHED], usage=True)
    assert [None, None] == [c["usage"] for c in chunks[:-1]]
    assert ([], 9) == (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"])
    assert chunks[-1]["hybrid"]["request_id"] == "r-1"


def test_a_stream_for_a_client_that_knows_us():
    """With an x-hybrid header and no usage the `hybrid` object rides on the finish chunk, the last before the end."""
    chunks = stream([TextDelta("x"), FINISHED], hybrid=True)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["hybrid"] == {
        "request_id": "r-1",
        "route": "local",
        "model": "local/smollm2",
        "reason": "default",
        "confidence": 0.7322,
        "calibration": "uncalibrated",
        "cost_usd": 0,
        "saved_usd": 0.00012,
        "overhead_ms": 1.2,
        "degraded": None,
    }


def test_streamed_tool_calls():
    """Each call has its index, its id and name once, and its arguments as string pieces."""
    chunks = stream(TOOL_EVENTS)
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "now", "arguments": ""}}],
    }
    assert deltas[1] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_empty_stream_still_has_a_role():
    """An answer without a token is an empty assistant message, not nothing."""
    assert stream([FINISHED])[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_half_a_surrogate_pair():
    """Text that has no UTF-8 is replaced, not a crash, whole and streamed."""
    assert whole([TextDelta("a\ud800"), FINISHED])["choices"][0]["message"]["content"] == "a?"
    assert stream([TextDelta("a\ud800"), FINISHED])[0]["choices"][0]["delta"]["content"] == "a?"
    assert msgspec.json.decode(envelope(HybridError("a\ud800")))["error"]["message"] == "a?"


def test_line_breaks_stay_inside_an_event():
    """No text can end its event early or forge another."""
    text = "a\n\ndata: [DONE]\n\n\r\rb"
    assert stream([TextDelta(text), FINISHED])[0]["choices"][0]["delta"]["content"] == text


def test_a_failure_in_a_stream():
    """It is one data event with the envelope, and there is no terminator."""
    raw = Chunks.failure(QueueFull(3, 2.0)).decode()
    assert raw.endswith("\n\n")
    assert "[DONE]" not in raw
    assert msgspec.json.decode(raw.removeprefix("data: "))["error"]["code"] == "queue_full"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(InvalidRequest("no", param="n"), {}, id="caller"),
        pytest.param(QueueFull(3, 1.2), {b"retry-after": b"2"}, id="retry-later"),
        pytest.param(Unauthorized("no"), {b"www-authenticate": b"Bearer"}, id="key"),
        pytest.param(ProviderRejected("openai", 401, "no"), {b"x-should-retry": b"false"}, id="do-not-retry"),
        pytest.param(BudgetExhausted("no", needed_usd=Decimal(1)), {}, id="money"),
    ],
)
def test_error_headers(error: HybridError, expected: dict[bytes, bytes]):
    """A client is told when to try again, and when not to: OpenAI's retry every 5xx by themselves."""
    assert {b"content-type": b"application/json", **expected} == dict(error_headers(error))


def test_the_envelope():
    """Every error has the same five fields."""
    expected = {
        "message": "no",
        "type": "invalid_request_error",
        "code": "invalid_request",
        "param": "n",
        "src": "hybrid",
    }
    assert {"error": expected} == msgspec.json.decode(envelope(InvalidRequest("no", param="n")))


def test_usage_falls_back_to_finished():
    """The tail's figures are final; without them the Finished event's count."""
    assert USAGE.prompt_tokens == whole([FINISHED], Tail(head=HEAD, usage=None))["usage"]["prompt_tokens"]
