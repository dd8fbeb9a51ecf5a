"""Is a request said to Anthropic's API in full, and is what it cannot be told named before the call?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybrid.errors import UnsupportedCapability
from hybrid.providers.anthropic import PREFILL, AnthropicDialect, Options, encode, takes_prefill
from hybrid.providers.fake import Answer
from hybrid.types import ImagePart, Message, OtherPart, Sampling, TextPart, ToolCall

from .calls import call, collect, run, user
from .dialects import ANTHROPIC, meaning_of, provider_of

OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED = {**OBJECT, "required": ["a"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("first", "second")]
CALLED = (
    user("Look"),
    Message("assistant", (), tool_calls=(ToolCall("fc:1", "first", "{}"),)),
    Message("tool", (TextPart("seen"),), tool_call_id="fc:1"),
)


def schema(body, *, is_strict=False):
    """A response_format with this schema."""
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": body, "strict": is_strict}}
    }


def missing(options=None, **fields):
    """What is named as missing for a request of these fields."""
    return set(AnthropicDialect(options or Options()).missing(call(**fields).request))


CHOICES = [
    pytest.param({}, None, 2, id="unsaid"),
    pytest.param({"tool_choice": "auto"}, {"type": "auto"}, 2, id="auto"),
    pytest.param({"tool_choice": "none"}, {"type": "none"}, 2, id="none"),
    pytest.param({"tool_choice": "required"}, {"type": "any"}, 2, id="required"),
    pytest.param(
        {"tool_choice": {"type": "function", "function": {"name": "second"}}},
        {"type": "tool", "name": "second"},
        1,
        id="named",
    ),
    pytest.param(
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "first"}}]},
            }
        },
        {"type": "auto"},
        1,
        id="allowed",
    ),
    pytest.param(
        {"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}, 2, id="one-at-a-time"
    ),
]


@pytest.mark.parametrize(("extra", "expected", "count"), CHOICES)
def test_tool_choice_keeps_its_meaning(extra, expected, count):
    """Each choice has its word, and a bound on which tools may be called leaves the others out."""
    body = encode(call(extra={"tools": TOOLS, **extra}))
    assert (expected, count) == (body.get("tool_choice"), len(body["tools"]))


def test_a_turn_of_calls_is_written_as_blocks():
    """Ids are put into the letters the API takes, alike in the call and its result; results come in one user turn."""
    assert [
        {"role": "user", "content": [{"type": "text", "text": "Look"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "fc_3a_1", "name": "first", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "fc_3a_1", "content": "seen"}]},
    ] == encode(call(messages=CALLED))["messages"]


def said(*texts):
    """An assistant's message of these texts."""
    return Message("assistant", tuple(TextPart(text) for text in texts))


TURNS = [
    pytest.param((user("x"), said("{ \n")), [("user", ["x"]), ("assistant", ["{"])], id="begun-answer"),
    pytest.param((user("x"), said(" a ", " ")), [("user", ["x"]), ("assistant", [" a"])], id="blank-part-at-the-end"),
    pytest.param((user("x"), said("")), [("user", ["x"])], id="empty-at-the-end"),
    pytest.param((user("x"), said(), said(" "), user("y")), [("user", ["x", "y"])], id="empty-in-between"),
    pytest.param(
        (user("x"), said("a "), user("y")), [("user", ["x"]), ("assistant", ["a "]), ("user", ["y"])], id="past-answer"
    ),
]


@pytest.mark.parametrize(("messages", "expected"), TURNS)
def test_what_an_assistant_said_is_written_so_that_it_is_taken(messages, expected):
    """White space at the very end is cut, and an answer that says nothing is left out."""
    assert set() == missing(messages=messages)
    turns = encode(call(messages=messages))["messages"]
    assert expected == [(turn["role"], [block["text"] for block in turn["content"]]) for turn in turns]


BEGUN = (user("x"), said("{"))
PREFILLS = [
    pytest.param(Options(has_prefill=False), {"messages": BEGUN}, {PREFILL}, id="a-newer-model"),
    pytest.param(Options(has_prefill=False), {"messages": (user("x"), said(" "))}, set(), id="nothing-begun"),
    pytest.param(Options(), {"messages": BEGUN, "extra": {"reasoning_effort": "low"}}, {PREFILL}, id="thinking"),
    pytest.param(Options(), {"messages": BEGUN, "extra": schema(CLOSED)}, {PREFILL}, id="schema"),
    pytest.param(Options(), {"messages": (said(" "),)}, {"messages"}, id="nothing-said-at-all"),
]


@pytest.mark.parametrize(("options", "fields", "expected"), PREFILLS)
def test_where_an_answer_cannot_be_begun(options, fields, expected):
    """Newer models, thinking and schemas do not go on with the client's words; that is known before the call."""
    assert expected == missing(options, **fields)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        *(("claude-3-5-sonnet-20241022", True), ("claude-opus-4-20250514", True), ("claude-haiku-4-5-20251001", True)),
        *(("claude-sonnet-4-5", True), ("claude-opus-4-6", False), ("anthropic/claude-sonnet-4.6", False)),
        *(("claude-sonnet-4-6-20260217", False), ("claude-opus-5", False), ("claude-sonnet-4-10", False)),
        ("MiniMax-M2", True),
    ],
)
def test_newer_models_are_known_by_their_names(model, expected):
    """Claude 4.6 and later refuse an answer that was begun; what else speaks the API says so itself."""
    assert expected is takes_prefill(model)


EFFORTS = [
    pytest.param("none", Options(), {"type": "disabled"}, None, id="none"),
    pytest.param("minimal", Options(), {"type": "adaptive", "display": "summarized"}, "low", id="minimal"),
    pytest.param("max", Options(), {"type": "adaptive", "display": "summarized"}, "max", id="max"),
    pytest.param("low", Options(reasoning="budget"), {"type": "enabled", "budget_tokens": 1024}, None, id="low-budget"),
    pytest.param(
        "high", Options(reasoning="budget"), {"type": "enabled", "budget_tokens": 2999}, None, id="bounded-budget"
    ),
]


@pytest.mark.parametrize(("effort", "options", "thinking", "said"), EFFORTS)
def test_an_effort_is_said_as_the_model_wants_it(effort, options, thinking, said):
    """As such, or as a number of tokens below the bound on the output that leaves a quarter for the answer."""
    body = encode(call(extra={"reasoning_effort": effort}, max_output_tokens=4000), options)
    assert (thinking, said) == (body["thinking"], body.get("output_config", {}).get("effort"))


def test_no_room_to_think_is_told_before_anything_is_sent():
    """A bound on the output below the least budget cannot be met; nothing is sent."""

    async def scenario():
        async with ANTHROPIC.fake() as fake:
            provider = provider_of(ANTHROPIC, fake.base_url, options=Options(reasoning="budget"))
            with pytest.raises(UnsupportedCapability, match="reasoning_effort"):
                await collect(provider, call(extra={"reasoning_effort": "low"}, max_output_tokens=1000))
            await provider.aclose()
            return fake.requests

    assert [] == run(scenario())


@pytest.mark.parametrize(("limit", "expected"), [(1000, {"reasoning_effort"}), (1370, set())])
def test_a_client_that_leaves_no_room_to_think_is_known_before(limit, expected):
    """Its own bound on the output tells that the least budget does not fit into three quarters of it."""
    request = replace(call(extra={"reasoning_effort": "low"}).request, max_output_tokens=limit)
    assert expected == set(AnthropicDialect(Options(reasoning="budget")).missing(request))


def test_prompts_are_cached_only_where_that_is_asked_for():
    """Writing a cache costs more, so it is the configuration's choice."""
    assert {"type": "ephemeral"} == encode(call(), Options(caches_prompts=True))["cache_control"]
    assert "cache_control" not in encode(call())


def test_a_schema_by_a_tool_gives_the_answer_as_text():
    """Where a model knows no output format, the arguments of a tool that must be called are the answer."""
    answer = Answer(chunks=(), tool_calls=(ToolCall("call_a", "answer", '{"a": "b"}'),))

    async def scenario(is_stream):
        async with ANTHROPIC.fake(answer) as fake:
            provider = provider_of(ANTHROPIC, fake.base_url, options=Options(structured="tool"))
            events = await collect(provider, call(extra=schema(OBJECT), is_stream=is_stream))
            await provider.aclose()
            return meaning_of(events), fake.requests[0].body

    streamed, body = run(scenario(True))
    whole, _ = run(scenario(False))
    assert ('{"a": "b"}', (), "stop") == (streamed.text, streamed.calls, streamed.reason)
    assert ('{"a":"b"}', (), "stop") == (whole.text, whole.calls, whole.reason)
    assert [{"name": "answer", "description": "Give the answer.", "input_schema": OBJECT}] == body["tools"]
    assert {"type": "tool", "name": "answer", "disable_parallel_tool_use": True} == body["tool_choice"]


def test_a_call_without_arguments_has_the_empty_object():
    """Some calls come with no piece of arguments at all; a client parses them all the same."""
    answer = Answer(chunks=(), tool_calls=(ToolCall("call_a", "first", ""),))

    async def scenario(is_stream):
        async with ANTHROPIC.fake(answer) as fake:
            provider = provider_of(ANTHROPIC, fake.base_url)
            events = await collect(provider, call(extra={"tools": TOOLS}, is_stream=is_stream))
            await provider.aclose()
            return meaning_of(events).calls

    assert (("call_a", "first", "{}"),) == run(scenario(True)) == run(scenario(False))


IMAGES = [
    pytest.param("data:image/png;base64,aGk=", set(), id="png"),
    pytest.param("DATA:IMAGE/JPEG;base64,aGk=", set(), id="any-case"),
    pytest.param("data:image/jpg;base64,aGk=", set(), id="jpg-is-jpeg"),
    pytest.param("https://example.com/a.png", set(), id="https"),
    pytest.param("http://example.com/a.png", {"http image"}, id="http"),
    pytest.param("data:image/bmp;base64,aGk=", {"image/bmp image"}, id="bmp"),
    pytest.param("data:image/png;base64,a", {"broken data image"}, id="broken-base64"),
    pytest.param("data:image/gif,hi", set(), id="not-base64-is-made-so"),
    pytest.param("https://[bad", set(), id="broken-host-is-the-api-s-to-refuse"),
    pytest.param("http://exa\u2100mple.com", {"http image"}, id="odd-host"),
]


@pytest.mark.parametrize(("url", "expected"), IMAGES)
def test_images_it_does_not_take_are_named(url, expected):
    """By media type, or by the scheme of their URL."""
    assert expected == missing(messages=(Message("user", (ImagePart(url),)),))


def test_a_jpg_is_told_as_the_jpeg_it_is():
    """Clients make the media type of a file's ending; the API knows the registered one alone."""
    asked = call(messages=(Message("user", (ImagePart("data:image/jpg;base64,aGk="),)),))
    [image] = encode(asked)["messages"][0]["content"]
    assert {"type": "base64", "media_type": "image/jpeg", "data": "aGk="} == image["source"]


MISSING = [
    pytest.param({"sampling": Sampling(temperature=1.5)}, {"temperature"}, id="too-hot"),
    pytest.param({"sampling": Sampling(seed=1, min_p=0.1)}, {"seed", "min_p"}, id="foreign-samplers"),
    pytest.param(
        {"sampling": Sampling(presence_penalty=0, frequency_penalty=0, min_p=0, repetition_penalty=1, top_p=1)},
        set(),
        id="switched-off",
    ),
    pytest.param({"extra": {"n": 2}}, {"n"}, id="choices"),
    pytest.param({"extra": {"logprobs": True}}, {"logprobs"}, id="logprobs"),
    pytest.param({"extra": {"verbosity": "low"}}, {"verbosity"}, id="verbosity"),
    pytest.param({"stop": ("\n",)}, {"stop"}, id="blank-stop"),
    pytest.param({"sampling": Sampling(temperature=0.5, top_p=0.9)}, {"temperature with top_p"}, id="both-samplers"),
    pytest.param({"messages": (user("  "),)}, {"messages.content"}, id="blank-text"),
    pytest.param({"messages": (Message("system", (TextPart("x"),)),)}, {"messages"}, id="nothing-but-a-system-prompt"),
    pytest.param(
        {"messages": (Message("user", (OtherPart("file", {}),)),)}, {"messages.content"}, id="a-part-nobody-reads"
    ),
    pytest.param(
        {"messages": (user("x"), Message("assistant", (), tool_calls=(ToolCall("a", "f", "[1]"),)))},
        {"messages.tool_calls.arguments"},
        id="arguments-that-are-no-object",
    ),
    pytest.param(
        {"messages": (user("x"), Message("assistant", (), tool_calls=(ToolCall("a", "f", '{"a": "\\ud83d"}'),)))},
        {"messages.tool_calls.arguments"},
        id="arguments-with-half-a-character",
    ),
    pytest.param(
        {"extra": {"reasoning_effort": "low"}, "sampling": Sampling(temperature=0.2, top_k=5, top_p=0.5)},
        {"temperature", "top_k", "top_p", "temperature with top_p"},
        id="thinking-and-samplers",
    ),
    pytest.param(
        {"extra": {"reasoning_effort": "low", "tools": TOOLS, "tool_choice": "required"}},
        {"tool_choice"},
        id="thinking-and-a-forced-call",
    ),
    pytest.param({"extra": schema({**OBJECT, "maxProperties": 1})}, {"response_format.maxProperties"}, id="keyword"),
    pytest.param({"extra": schema({"type": "object"})}, {"response_format.additionalProperties"}, id="open-object"),
    pytest.param({"extra": {"response_format": {"type": "json_object"}}}, set(), id="json-object"),
    pytest.param(
        {"extra": {"response_format": {"type": "json_object"}, "tools": TOOLS}},
        {"response_format"},
        id="json-object-and-tools",
    ),
    pytest.param({"extra": {"response_format": {"type": "grammar"}}}, {"response_format"}, id="grammar"),
    pytest.param(
        {"extra": {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "third"}}}},
        {"tool_choice"},
        id="a-tool-nobody-described",
    ),
]


@pytest.mark.parametrize(("fields", "expected"), MISSING)
def test_what_it_cannot_be_told_is_named(fields, expected):
    """Nothing is dropped: each wish without a place in the API is named before the call."""
    assert expected == missing(**fields)


SAMPLERS = [
    pytest.param(Sampling(temperature=1, top_p=0.9), {"top_p": 0.9}, id="the-api-s-own-temperature"),
    pytest.param(Sampling(temperature=0, top_p=0.9), {"temperature": 0}, id="the-likeliest-token"),
    pytest.param(Sampling(temperature=0.5, top_p=1, top_k=5), {"temperature": 0.5, "top_k": 5}, id="top-p-off"),
    pytest.param(Sampling(top_p=0.9), {"top_p": 0.9}, id="top-p-alone"),
]


@pytest.mark.parametrize(("sampling", "expected"), SAMPLERS)
def test_of_temperature_and_top_p_one_is_sent(sampling, expected):
    """The API refuses both together; the one that is left out would have changed nothing."""
    assert set() == missing(sampling=sampling)
    body = encode(call(sampling=sampling))
    assert expected == {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body}


BY_OPTION = [
    pytest.param(Options(has_sampling=False), {"sampling": Sampling(temperature=0.5)}, {"temperature"}, id="sampling"),
    pytest.param(Options(has_sampling=False), {"sampling": Sampling(temperature=1)}, set(), id="its-own-temperature"),
    pytest.param(Options(structured="tool"), {"extra": schema({"type": "object"})}, set(), id="any-object-by-a-tool"),
    pytest.param(
        Options(structured="tool"),
        {"extra": schema(OBJECT, is_strict=True)},
        {"response_format"},
        id="strict-by-a-tool",
    ),
    pytest.param(
        Options(structured="tool"), {"extra": schema({"type": "array"})}, {"response_format"}, id="a-list-by-a-tool"
    ),
    pytest.param(
        Options(reasoning="budget"),
        {"messages": CALLED, "extra": {"tools": TOOLS, "reasoning_effort": "low"}},
        {"reasoning_effort"},
        id="thinking-within-a-turn",
    ),
]


@pytest.mark.parametrize(("options", "fields", "expected"), BY_OPTION)
def test_what_a_model_cannot_do_is_named(options, fields, expected):
    """What differs between models is an option, and is known before the call as well."""
    assert expected == missing(options, **fields)
