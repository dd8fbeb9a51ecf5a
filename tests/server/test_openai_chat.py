"""Does `parse` take every chat request an OpenAI client may send, and refuse every other by name?"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.errors import InvalidRequest
from hybrid.server.openai_chat import parse, peek_model
from hybrid.server.openai_wire import ChatWire
from hybrid.types import Capability, ChatRequest, ImagePart, Message, OtherPart, Sampling, TextPart, ToolCall

USER = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "now", "description": "the time", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
GRAMMAR = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}


def body(**fields: Any) -> bytes:
    """A valid body with some fields set; None leaves one out."""
    whole = {"model": "hybrid", "messages": [USER], **fields}
    return msgspec.json.encode({name: value for name, value in whole.items() if value is not ...})


def read(**fields: Any) -> ChatRequest:
    return parse(body(**fields), [])


def refused(raw: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw, [])
    return caught.value


def test_the_least_request():
    """Model and one message are enough; everything else is "the client did not say"."""
    expected = ChatRequest(model="hybrid", messages=(Message("user", (TextPart("Hi"),)),))
    assert expected == read()


def test_every_sampling_field():
    """Sampling parameters arrive as sent, OpenAI's and the shared extensions alike."""
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "seed": 7,
        "presence_penalty": -1,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.1,
    }
    assert Sampling(**fields) == read(**fields).sampling


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(-1, 2**64 - 1, id="minus-one"),
        pytest.param(-(2**63), 2**63, id="least"),
        pytest.param(2**64 - 1, 2**64 - 1, id="largest"),
    ],
)
def test_seed_is_unsigned(sent: int, expected: int):
    """OpenAI's signed seeds become unsigned ones, two's complement."""
    assert expected == read(seed=sent).sampling.seed


def test_top_k_off():
    """-1, other servers' "off", is our 0."""
    assert read(top_k=-1).sampling.top_k == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"max_tokens": 5}, 5, id="old"),
        pytest.param({"max_completion_tokens": 6}, 6, id="new"),
        pytest.param({"max_tokens": 5, "max_completion_tokens": 5}, 5, id="both-the-same"),
    ],
)
def test_max_output_tokens(fields: dict[str, int], expected: int | None):
    """Either name for the output limit is taken."""
    assert expected == read(**fields).max_output_tokens


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param("END", ("END",), id="string"),
        pytest.param(["a", "b", "a"], ("a", "b"), id="list-once-each"),
        pytest.param([], (), id="empty"),
        pytest.param(None, (), id="null"),
    ],
)
def test_stop(sent: Any, expected: tuple[str, ...]):
    """Stop strings come as one string or a list."""
    assert expected == read(stop=sent).stop


@pytest.mark.parametrize(
    ("fields", "needs", "extra"),
    [
        pytest.param({"tools": [TOOL]}, {Capability.TOOLS}, {"tools": [TOOL]}, id="tools"),
        pytest.param({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, set(), {}, id="no-tools"),
        pytest.param(
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            {Capability.TOOLS},
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "now"}}},
            id="named-tool",
        ),
        pytest.param({"response_format": {"type": "text"}}, set(), {}, id="text-format"),
        pytest.param(
            {"response_format": {"type": "json_object"}},
            {Capability.STRUCTURED_OUTPUT},
            {"response_format": {"type": "json_object"}},
            id="json-object",
        ),
        pytest.param(
            {"response_format": SCHEMA}, {Capability.STRUCTURED_OUTPUT}, {"response_format": SCHEMA}, id="json-schema"
        ),
        pytest.param(
            {"response_format": GRAMMAR}, {Capability.STRUCTURED_OUTPUT}, {"response_format": GRAMMAR}, id="grammar"
        ),
        pytest.param({"logprobs": False}, set(), {}, id="logprobs-off"),
        pytest.param(
            {"logprobs": True, "top_logprobs": 3},
            {Capability.LOGPROBS},
            {"logprobs": True, "top_logprobs": 3},
            id="logprobs",
        ),
        pytest.param({"logit_bias": {"5": -100}}, {Capability.LOGIT_BIAS}, {"logit_bias": {"5": -100}}, id="bias"),
        pytest.param({"logit_bias": {}}, set(), {}, id="empty-bias"),
        pytest.param({"n": 1}, set(), {}, id="one-choice"),
        pytest.param({"n": 2}, {Capability.MULTIPLE_CHOICES}, {"n": 2}, id="two-choices"),
        pytest.param({"modalities": ["text"]}, set(), {}, id="text-modality"),
        pytest.param(
            {"modalities": ["text", "audio"], "audio": {"voice": "ash", "format": "wav"}},
            {Capability.AUDIO},
            {"modalities": ["text", "audio"], "audio": {"voice": "ash", "format": "wav"}},
            id="audio-out",
        ),
        pytest.param(
            {"reasoning_effort": "low"}, {Capability.REASONING_EFFORT}, {"reasoning_effort": "low"}, id="reasoning"
        ),
        pytest.param({"verbosity": "low"}, set(), {"verbosity": "low"}, id="verbosity-is-a-wish"),
    ],
)
def test_needs_and_extra(fields: dict[str, Any], needs: set[Capability], extra: dict[str, Any]):
    """What only a capable answerer can honour is carried, and the capability it takes is named."""
    request = read(**fields)
    assert (needs, extra) == (set(request.needs), request.extra)


def test_harmless_fields_are_taken():
    """Bookkeeping fields that change no answer are accepted and left behind."""
    harmless = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "prediction": {"type": "content", "content": "x"},
        "stream_options": None,
        "functions": None,
        "function_call": None,
        "web_search_options": None,
    }
    assert read() == read(**harmless)


def test_stream_options():
    """`include_usage` asks for the usage chunk."""
    request = read(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert (True, True) == (request.is_stream, request.wants_usage)


def test_a_conversation_with_tools():
    """An assistant message echoed with null fields and what its client parsed, and the tool's answer keep their ids."""
    echoed = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{**CALL, "function": {"name": "now", "arguments": "{}", "parsed_arguments": {}}}],
        "parsed": {"a": [1]},
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning_content": "hm",
    }
    answer = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "noon"}]}
    request = read(messages=[{"role": "system", "content": "s"}, USER, echoed, answer])
    assert request.messages[2:] == (
        Message("assistant", (), tool_calls=(ToolCall("call_1", "now", "{}"),)),
        Message("tool", (TextPart("noon"),), tool_call_id="call_1"),
    )
    assert {Capability.TOOLS} == request.needs


def test_parts_that_are_not_text():
    """Images, audio and files are carried as they came, and each names what it needs."""
    parts = [
        {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
    ]
    request = read(messages=[{"role": "user", "content": parts}])
    assert request.messages[0].parts == (
        TextPart("look"),
        ImagePart("https://a.example/x.png", "low"),
        OtherPart("input_audio", {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}),
        OtherPart("file", {"type": "file", "file": {"file_id": "f"}}),
    )
    assert {Capability.IMAGES, Capability.AUDIO, Capability.FILES} == request.needs


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"model": ...}, "model", id="no-model"),
        pytest.param({"model": ""}, "model", id="empty-model"),
        pytest.param({"model": "m" * 257}, "model", id="long-model"),
        pytest.param({"model": None}, "model", id="null-model"),
        pytest.param({"messages": ...}, "messages", id="no-messages"),
        pytest.param({"messages": []}, "messages", id="empty-messages"),
        pytest.param({"messages": "Hi"}, "messages", id="messages-string"),
        pytest.param({"messages": [{"role": "user"}]}, "messages[0].content", id="no-content"),
        pytest.param({"messages": [{"role": "user", "content": None}]}, "messages[0].content", id="null-content"),
        pytest.param({"messages": [{"role": "user", "content": []}]}, "messages[0].content", id="empty-parts"),
        pytest.param({"messages": [USER, {"role": "king", "content": ""}]}, "messages[1].role", id="bad-role"),
        pytest.param({"messages": [{"content": ""}]}, "messages[0].role", id="no-role"),
        pytest.param({"messages": [{"role": "tool", "content": ""}]}, "messages[0].tool_call_id", id="tool-without-id"),
        pytest.param({"messages": [{"role": "assistant"}]}, "messages[0].content", id="assistant-says-nothing"),
        pytest.param(
            {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": ""}}]},
            "messages[0].function_call",
            id="legacy-call",
        ),
        pytest.param({"messages": [{**USER, "contents": 1}]}, "messages[0].contents", id="unknown-message-field"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages[0].content[0].type",
            id="unknown-part",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
            "messages[0].content[0].image_url.url",
            id="file-url",
        ),
        pytest.param({"temperature": -0.1}, "temperature", id="cold"),
        pytest.param({"temperature": 2.1}, "temperature", id="hot"),
        pytest.param({"temperature": "1"}, "temperature", id="text-number"),
        pytest.param({"temperature": True}, "temperature", id="bool-number"),
        pytest.param({"top_p": 1.5}, "top_p", id="top-p"),
        pytest.param({"top_k": -2}, "top_k", id="top-k"),
        pytest.param({"min_p": -1}, "min_p", id="min-p"),
        pytest.param({"repetition_penalty": 0}, "repetition_penalty", id="repetition"),
        pytest.param({"presence_penalty": 3}, "presence_penalty", id="presence"),
        pytest.param({"frequency_penalty": -3}, "frequency_penalty", id="frequency"),
        pytest.param({"seed": 2**64}, "seed", id="seed-too-large"),
        pytest.param({"seed": -(2**63) - 1}, "seed", id="seed-too-small"),
        pytest.param({"seed": 1.5}, "seed", id="seed-fraction"),
        pytest.param({"max_tokens": 0}, "max_tokens", id="no-tokens"),
        pytest.param({"max_tokens": -5}, "max_tokens", id="negative-tokens"),
        pytest.param({"max_completion_tokens": 10**12}, "max_completion_tokens", id="absurd-tokens"),
        pytest.param({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", id="two-different-limits"),
        pytest.param({"n": 0}, "n", id="n-0"),
        pytest.param({"n": 17}, "n", id="n-17"),
        pytest.param({"stop": ""}, "stop", id="empty-stop"),
        pytest.param({"stop": ["a"] * 17}, "stop", id="many-stops"),
        pytest.param({"stop": ["a", ""]}, "stop[1]", id="empty-in-stops"),
        pytest.param({"stop": "s" * 257}, "stop", id="long-stop"),
        pytest.param({"stream": "yes"}, "stream", id="text-bool"),
        pytest.param({"top_logprobs": 2}, "top_logprobs", id="top-without-logprobs"),
        pytest.param({"logprobs": True, "top_logprobs": 21}, "top_logprobs", id="top-21"),
        pytest.param({"logit_bias": {"x": 1}}, "logit_bias", id="bias-key"),
        pytest.param({"logit_bias": {"1": 101}}, "logit_bias[...]", id="bias-value"),
        pytest.param({"tool_choice": "required"}, "tool_choice", id="choice-without-tools"),
        pytest.param({"tools": [{"type": "function"}]}, "tools[0].function", id="tool-without-function"),
        pytest.param(
            {"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name", id="name"
        ),
        pytest.param({"tools": [TOOL] * 129}, "tools", id="many-tools"),
        pytest.param(
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": deep(80)}}}]},
            "tools",
            id="deep-tool",
        ),
        pytest.param({"response_format": {"type": "xml"}}, "response_format.type", id="format"),
        pytest.param({"functions": [FUNCTION]}, "functions", id="legacy-functions"),
        pytest.param({"web_search_options": {}}, "web_search_options", id="web-search"),
        pytest.param({"reasoning_effort": "huge"}, "reasoning_effort", id="effort"),
        pytest.param({"tempereture": 1}, "tempereture", id="misspelt"),
        pytest.param({"n_discard": -1}, "n_discard", id="engine-parameter"),
        pytest.param({"x" * 500: 1}, "x" * 120, id="endless-name"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str):
    """A field that is wrong is a 400 that names it, the way OpenAI names it."""
    error = refused(body(**fields))
    assert (400, param) == (error.status, error.param)


def test_unknown_field_suggests_the_nearest():
    """A misspelt field is answered with the one that was meant, at the top and below it."""
    assert str(refused(body(max_completion_token=3))).endswith("did you mean max_completion_tokens?")
    assert str(refused(body(messages=[{**USER, "contnt": "x"}]))).endswith("did you mean content?")


VALID_START = b'{"model":"m","messages":[{"role":"user","content":"x"}],'


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{", id="cut-off"),
        pytest.param(body() + b"x", id="trailing"),
        pytest.param(b"\xef\xbb\xbf" + body(), id="byte-order-mark"),
        pytest.param(body().decode().encode("utf-16"), id="utf-16"),
        pytest.param(b'{"model":"\xff\xfe"}', id="not-utf-8"),
        pytest.param(b'{"model":"\\ud800","messages":[]}', id="lone-surrogate"),
        pytest.param(VALID_START + b'"temperature":NaN}', id="nan"),
        pytest.param(VALID_START + b'"temperature":1e999}', id="infinity"),
        pytest.param(VALID_START + b'"seed":' + b"9" * 1_000_000 + b"}", id="million-digits"),
        pytest.param(VALID_START + b'"audio":{"a":' + b"9" * 1_000_000 + b"}}", id="million-digits-in-free-json"),
        pytest.param(b"[" * 100_000, id="deep-array"),
        pytest.param(VALID_START + b'"audio":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", id="deep-free-json"),
        pytest.param(VALID_START + b'"user":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep-hint"),
        pytest.param(VALID_START + b'"' + b"k" * 1_000_000 + b'":1}', id="million-char-key"),
    ],
)
def test_hostile_bodies(raw: bytes):
    """Whatever the body, the answer is a 400 with a short message."""
    error = refused(raw)
    assert error.status == 400
    assert len(str(error)) < 500


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes):
    """No byte string makes parse raise anything but InvalidRequest."""
    try:
        parse(raw, [])
    except InvalidRequest:
        return


TEXT = st.text('ab{"\\ \n\x00é😀', max_size=9)  # a small alphabet: drawing from all of Unicode is slow
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(ChatWire.__struct_encode_fields__), JSON, max_size=6))
def test_any_field_values(fields: dict[str, Any]):
    """No JSON in any known field makes parse raise anything but InvalidRequest."""
    raw = msgspec.json.encode({"model": "m", "messages": [USER], **fields})
    try:
        parse(raw, [])
    except InvalidRequest:
        return


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(body(temperature=9), "hybrid", id="readable"),
        pytest.param(b'{"model": 3}', None, id="not-text"),
        pytest.param(b"{}", None, id="none"),
        pytest.param(b"\xff", None, id="garbage"),
        pytest.param(b"[" * 100_000, None, id="deep"),
    ],
)
def test_peek_model(raw: bytes, expected: str | None):
    """The model of a refused body is told where it can be read."""
    assert expected == peek_model(raw)
