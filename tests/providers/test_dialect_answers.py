"""What do the rarer answers of each dialect mean? Counts that are not final, log-probabilities, ends without a word."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from hybrid.errors import ProviderProtocolError, ProviderUnavailable
from hybrid.providers import anthropic_answer, gemini_answer, openai_answer, openai_responses_answer
from hybrid.providers.failures import Failures
from hybrid.providers.stream import StreamParser
from hybrid.types import Finished, FinishReason, TextDelta, TokenLogprob, ToolCallDelta, Usage

from .calls import parse

FAILURES = Failures("cloud")
READERS = {
    "chat": openai_answer.ChatReader,
    "responses": openai_responses_answer.ResponseReader,
    "anthropic": anthropic_answer.MessageReader,
    "gemini": gemini_answer.ContentReader,
}
DECODERS = {
    "chat": openai_answer.decode,
    "responses": openai_responses_answer.decode,
    "anthropic": anthropic_answer.decode,
    "gemini": gemini_answer.decode,
}


def streamed(api, *events):
    """The events of a stream of these, which must not fail."""
    data = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    found, failure = parse(StreamParser(FAILURES, READERS[api](FAILURES)), [data.encode()])
    assert failure is None
    return found


def whole(api, body):
    """The events of an answer that was not streamed."""
    return DECODERS[api](json.dumps(body).encode(), FAILURES)


def test_a_count_of_the_beginning_is_not_billed_by():
    """Anthropic's message_start guesses its output; where the end tells no count, the use is unknown."""
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert [Finished(FinishReason.STOP, None)] == streamed("anthropic", start, end, {"type": "message_stop"})
    told = end | {"usage": {"output_tokens": 9}}
    used = Usage(prompt_tokens=25, completion_tokens=9, cache_write_tokens=0)
    assert [Finished(FinishReason.STOP, used)] == streamed("anthropic", start, told, {"type": "message_stop"})


def test_a_running_total_is_not_billed_by():
    """Gemini counts with every chunk; where the last has no count, the use is unknown."""
    first = {
        "candidates": [{"content": {"parts": [{"text": "Hi"}]}}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 4},
    }
    last = {"candidates": [{"content": {}, "finishReason": "STOP"}]}
    assert [TextDelta("Hi"), Finished(FinishReason.STOP, None)] == streamed("gemini", first, last)


def test_thinking_may_use_up_the_whole_answer():
    """Gemini's thinking counts to the output's bound and is billed as output, though no candidate has a token.

    Source: the numbers of a report in Google's developer forum, thread 96462.
    """
    body = {
        "candidates": [
            {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}
        ],
        "usageMetadata": {
            "promptTokenCount": 10,
            "totalTokenCount": 109,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}],
            "thoughtsTokenCount": 99,
        },
        "modelVersion": "gemini-2.5-pro",
    }
    used = Usage(prompt_tokens=10, completion_tokens=99, cache_write_tokens=0, reasoning_tokens=99)
    assert [Finished(FinishReason.LENGTH, used)] == whole("gemini", body)


def _counted(completion_tokens, **also):
    return Usage(prompt_tokens=1000, completion_tokens=completion_tokens, **also)


@pytest.mark.parametrize(
    ("api", "counts", "expected"),
    [
        pytest.param("chat", {"prompt_tokens": 1000}, None, id="chat-prompt-alone"),
        pytest.param("chat", {"prompt_tokens": 1000, "completion_tokens": None}, None, id="chat-null"),
        pytest.param("chat", {"prompt_tokens": 1000, "cost": -1}, None, id="chat-with-no-cost-to-believe"),
        pytest.param("chat", {"prompt_tokens": 1000, "total_tokens": 0}, None, id="chat-total-below-the-prompt"),
        pytest.param("chat", {"prompt_tokens": 1000, "total_tokens": 1007}, _counted(7), id="chat-total"),
        pytest.param("chat", {"prompt_tokens": 1000, "completion_tokens": 0}, _counted(0), id="chat-zero-is-told"),
        pytest.param("chat", {"prompt_tokens": 1000, "cost": 2}, _counted(0, cost_usd=Decimal(2)), id="chat-cost"),
        pytest.param("gemini", {"promptTokenCount": 1000}, None, id="gemini-prompt-alone"),
        pytest.param(
            "gemini",
            {"promptTokenCount": 1000, "totalTokenCount": 1007},
            _counted(7, cache_write_tokens=0),
            id="gemini-total",
        ),
    ],
)
def test_a_count_that_is_missing_is_not_zero(api, counts, expected):
    """Where neither the answer's tokens nor a total nor a cost are told, the use is unknown; a total tells it."""
    body = {
        "chat": {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": counts},
        "gemini": {
            "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
            "usageMetadata": counts,
        },
    }[api]
    assert Finished(FinishReason.STOP, expected) == whole(api, body)[-1]


IN_FLOATS = {
    "chat": {
        "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 9.0,
            "completion_tokens": 3.0,
            "prompt_tokens_details": {"cached_tokens": 4.0, "cache_write_tokens": 1.0},
            "completion_tokens_details": {"reasoning_tokens": 2.0},
        },
    },
    "responses": {
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
        "usage": {
            "input_tokens": 9.0,
            "output_tokens": 3.0,
            "input_tokens_details": {"cached_tokens": 4.0, "cache_write_tokens": 1.0},
            "output_tokens_details": {"reasoning_tokens": 2.0},
        },
    },
    "anthropic": {
        "type": "message",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 4.0,
            "cache_creation_input_tokens": 1.0,
            "cache_read_input_tokens": 4.0,
            "output_tokens": 3.0,
            "output_tokens_details": {"thinking_tokens": 2.0},
        },
    },
    "gemini": {
        "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
        "usageMetadata": {
            "promptTokenCount": 9.0,
            "cachedContentTokenCount": 4.0,
            "candidatesTokenCount": 1.0,
            "thoughtsTokenCount": 2.0,
        },
    },
}
"""Nine prompt tokens, four cached and one written to the cache where that is told; three answered, two thought."""


@pytest.mark.parametrize("api", IN_FLOATS)
def test_counts_may_be_written_as_floats(api):
    """Servers in languages of one kind of number write 3.0; what we book is whole."""
    used = whole(api, IN_FLOATS[api])[-1].usage
    written = 0 if api == "gemini" else 1
    expected = Usage(
        prompt_tokens=9, completion_tokens=3, cached_tokens=4, cache_write_tokens=written, reasoning_tokens=2
    )
    assert (expected, {int, type(None)}) == (used, {type(getattr(used, name)) for name in Usage.__slots__})


@pytest.mark.parametrize("last", [{}, {"prompt_tokens": None, "completion_tokens": None}], ids=["empty", "nulls"])
def test_a_usage_that_tells_nothing_replaces_none(last):
    """Some servers end with an empty object after the chunk that counted; only a count replaces a count."""
    told = {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    counted = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
    used = Usage(prompt_tokens=9, completion_tokens=3)
    events = streamed("chat", told, counted, {"choices": [], "usage": last})
    assert [TextDelta("Hi"), Finished(FinishReason.STOP, used)] == events


def test_a_stop_with_every_chunk_is_no_end():
    """Older Gemini models say STOP all along; only the end of the bytes ends the answer."""
    chunks = [
        {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}]} for text in ("One, ", "two.")
    ]
    assert [TextDelta("One, "), TextDelta("two."), Finished(FinishReason.STOP, None)] == streamed("gemini", *chunks)


def test_calls_without_ids_get_their_own():
    """Older Gemini models name no call; each gets an id that its result can be told by."""
    parts = [{"functionCall": {"name": "f", "args": {"x": 1}}}, {"functionCall": {"name": "f"}}]
    body = {"responseId": "r1", "candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    assert [
        ToolCallDelta(0, "call_r1_0", "f", '{"x":1}'),
        ToolCallDelta(1, "call_r1_1", "f", "{}"),
        Finished(FinishReason.TOOL_CALLS, None),
    ] == whole("gemini", body)


CHAT_TOKEN = {
    "token": "Hi",
    "logprob": -0.25,
    "bytes": [72, 105],
    "top_logprobs": [{"token": "\u00e9", "logprob": -2.5, "bytes": None}],
}
LOGPROBS = [
    pytest.param(
        "chat",
        {"choices": [{"message": {"content": "Hi"}, "logprobs": {"content": [CHAT_TOKEN]}, "finish_reason": "stop"}]},
        TokenLogprob("Hi", b"Hi", -0.25, (TokenLogprob("\u00e9", None, -2.5),)),
        id="chat",
    ),
    pytest.param(
        "responses",
        {
            "status": "completed",
            "output": [
                {
                    "type": "message",
                    "content": [{"type": "output_text", "text": "Hi", "logprobs": [CHAT_TOKEN | {"top_logprobs": []}]}],
                }
            ],
        },
        TokenLogprob("Hi", b"Hi", -0.25),
        id="responses",
    ),
    pytest.param(
        "gemini",
        {
            "candidates": [
                {
                    "content": {"parts": [{"text": "Hi"}]},
                    "finishReason": "STOP",
                    "logprobsResult": {
                        "chosenCandidates": [{"token": "Hi", "tokenId": 7, "logProbability": -0.25}],
                        "topCandidates": [{"candidates": [{"token": "\u00e9", "logProbability": -2.5}]}],
                    },
                }
            ]
        },
        TokenLogprob("Hi", b"Hi", -0.25, (TokenLogprob("\u00e9", b"\xc3\xa9", -2.5),)),
        id="gemini",
    ),
]


@pytest.mark.parametrize(("api", "body", "expected"), LOGPROBS)
def test_log_probabilities_come_with_their_text(api, body, expected):
    """Each token with those that were likely in its place, beside the text it is of."""
    assert TextDelta("Hi", logprobs=(expected,)) == whole(api, body)[0]


def test_the_stream_of_responses_has_them_as_well():
    """There a token's bytes are not told; those of its text stand in."""
    delta = {"type": "response.output_text.delta", "delta": "Hi", "logprobs": [{"token": "Hi", "logprob": -0.25}]}
    end = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    expected = TextDelta("Hi", logprobs=(TokenLogprob("Hi", b"Hi", -0.25),))
    assert [expected, Finished(FinishReason.STOP, None)] == streamed("responses", delta, end)


def test_what_came_whole_within_a_stream_is_said_once():
    """Servers that copy the Responses API may leave out the pieces, or send all of it again at the end."""
    message = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    made = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    done = [
        {"type": "response.output_item.done", "output_index": number, "item": item}
        for number, item in enumerate((message, made))
    ]
    end = {"type": "response.completed", "response": {"status": "completed", "output": [message, made]}}
    assert [
        TextDelta("Hi"),
        ToolCallDelta(0, "c", "f", "{}"),
        Finished(FinishReason.TOOL_CALLS, None),
    ] == streamed("responses", *done, end)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param('"cost": 1e-7', Decimal("1E-7"), id="its-key"),
        pytest.param(
            '"cost": 1e-7, "is_byok": true, "cost_details": {"upstream_inference_cost": 2e-6}',
            Decimal("2.1E-6"),
            id="own-key",
        ),
        pytest.param('"cost": 1e-7, "is_byok": true, "cost_details": {}', None, id="own-key-and-no-bill"),
    ],
)
def test_a_reported_cost_of_responses_is_exact(told, expected):
    """OpenRouter tells what it charged, and with a key of one's own what was billed; that goes before our prices."""
    body = f'{{"status": "completed", "output": [], "usage": {{"input_tokens": 1, "output_tokens": 1, {told}}}}}'
    assert expected == DECODERS["responses"](body.encode(), FAILURES)[-1].usage.cost_usd


@pytest.mark.parametrize(("word", "expected"), anthropic_answer.FINISH_REASONS.items())
def test_every_stop_reason_of_anthropic_has_a_meaning(word, expected):
    """Each as the API lists it."""
    body = {"type": "message", "content": [], "stop_reason": word}
    assert Finished(expected, None) == whole("anthropic", body)[-1]


@pytest.mark.parametrize(("word", "expected"), gemini_answer.FINISH_REASONS.items())
def test_every_finish_reason_of_gemini_has_a_meaning(word, expected):
    """Each as the API lists it."""
    assert Finished(expected, None) == whole("gemini", {"candidates": [{"finishReason": word}]})[-1]


# As Google's own client lists them; what it does not say is an end for no known reason, as elsewhere.
REFUSED = ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")
REFUSED_IMAGES = ("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION")
BROKEN_OFF = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE")
NO_IMAGES = ("NO_IMAGE", "IMAGE_OTHER")


@pytest.mark.parametrize("word", [*REFUSED, *REFUSED_IMAGES, *BROKEN_OFF, *NO_IMAGES, "OTHER", "NEW_WORD"])
def test_no_end_of_gemini_but_a_good_one_looks_like_a_stop(word):
    """What was withheld is a refusal, what went wrong an error; a word that nobody knows yet is an end."""
    body = {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": word}]}
    if word in (*BROKEN_OFF, *NO_IMAGES, "OTHER"):
        with pytest.raises(ProviderUnavailable, match=word):
            whole("gemini", body)
        return
    expected = FinishReason.STOP if word == "NEW_WORD" else FinishReason.CONTENT_FILTER
    assert [TextDelta("Hi"), Finished(expected, None)] == whole("gemini", body)


def test_a_second_candidate_was_not_asked_for():
    """It would have been paid for, and nobody could be given it."""
    with pytest.raises(ProviderProtocolError, match="sent candidate 1"):
        whole("gemini", {"candidates": [{"index": 1, "finishReason": "STOP"}]})
