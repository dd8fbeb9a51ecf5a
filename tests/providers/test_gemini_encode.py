"""Is a request said to Google's API in full, and is what it cannot be told named before the call?"""

from __future__ import annotations

import pytest

from hybrid.providers.gemini import GeminiDialect, Options, encode, wants_budget
from hybrid.types import ImagePart, Message, Sampling, TextPart, ToolCall

from .calls import call, user

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("first", "second")]
STRICT = [{"type": "function", "function": {"name": "first", "strict": True}}]


def missing(options=None, **fields):
    """What is named as missing for a request of these fields."""
    return set(GeminiDialect(options or Options()).missing(call(**fields).request))


CHOICES = [
    pytest.param({"tools": TOOLS}, None, id="unsaid"),
    pytest.param({"tools": STRICT}, {"mode": "VALIDATED"}, id="strict"),
    pytest.param({"tools": TOOLS, "tool_choice": "auto"}, {"mode": "AUTO"}, id="auto"),
    pytest.param({"tools": TOOLS, "tool_choice": "none"}, {"mode": "NONE"}, id="none"),
    pytest.param({"tools": TOOLS, "tool_choice": "required"}, {"mode": "ANY"}, id="required"),
    pytest.param(
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "second"}}},
        {"mode": "ANY", "allowedFunctionNames": ["second"]},
        id="named",
    ),
]


@pytest.mark.parametrize(("extra", "expected"), CHOICES)
def test_tool_choice_keeps_its_meaning(extra, expected):
    """Each choice has its mode; tools that must be kept to have one of their own."""
    assert expected == encode(call(extra=extra)).get("toolConfig", {}).get("functionCallingConfig")


EFFORTS = [
    pytest.param("none", Options(reasoning="budget"), {"thinkingBudget": 0}, id="none"),
    pytest.param("low", Options(reasoning="budget"), {"thinkingBudget": 1024, "includeThoughts": True}, id="low"),
    pytest.param("high", Options(reasoning="budget"), {"thinkingBudget": 2999, "includeThoughts": True}, id="bounded"),
    pytest.param("minimal", Options(), {"thinkingLevel": "MINIMAL", "includeThoughts": True}, id="level"),
]


@pytest.mark.parametrize(("effort", "options", "expected"), EFFORTS)
def test_an_effort_is_said_as_the_model_wants_it(effort, options, expected):
    """As a level, or as a number of tokens that leaves a quarter of the output for the answer."""
    body = encode(call(extra={"reasoning_effort": effort}, max_output_tokens=4000), options)
    assert expected == body["generationConfig"]["thinkingConfig"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [("gemini-2.5-flash", True), ("models/gemini-2.0-flash", True), ("gemini-3-pro", False), ("tunedModels/x", False)],
)
def test_older_models_are_known_by_their_name(model, expected):
    """Before Gemini 3 they take a budget and no level."""
    assert expected is wants_budget(model)


def test_samplers_stops_and_log_probabilities_have_their_names():
    """All that the API knows is passed on under its own names."""
    given = Sampling(temperature=0.3, top_p=0.8, top_k=20, seed=7, presence_penalty=0.5, frequency_penalty=-0.5)
    extra = {"logprobs": True, "top_logprobs": 3}
    assert {
        "maxOutputTokens": 100,
        "temperature": 0.3,
        "topP": 0.8,
        "topK": 20,
        "seed": 7,
        "presencePenalty": 0.5,
        "frequencyPenalty": -0.5,
        "stopSequences": ["END"],
        "responseLogprobs": True,
        "logprobs": 3,
    } == encode(call(sampling=given, stop=("END",), extra=extra))["generationConfig"]


def test_a_name_with_a_folder_is_a_resource_by_itself():
    """Tuned models have a path of their own; a streamed call has its verb and asks for events."""
    dialect, request = GeminiDialect(Options()), call(is_stream=False)
    paths = [dialect.post(replace_model(one, model)).path for one in (call(), request) for model in ("m", "tuned/m 1")]
    assert [
        "/models/m:streamGenerateContent?alt=sse",
        "/tuned/m%201:streamGenerateContent?alt=sse",
        "/models/m:generateContent",
        "/tuned/m%201:generateContent",
    ] == paths


def replace_model(one, model):
    """The same call of another model."""
    return type(one)(one.request, model, one.max_output_tokens)


def fmt(schema):
    """A response_format with this schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


MISSING = [
    pytest.param({"sampling": Sampling(seed=2**31)}, {"seed"}, id="long-seed"),
    pytest.param(
        {"sampling": Sampling(min_p=0.1, repetition_penalty=1.1)}, {"min_p", "repetition_penalty"}, id="min-p"
    ),
    pytest.param({"stop": tuple("abcdef")}, {"stop"}, id="six-stops"),
    pytest.param({"extra": {"n": 2}}, {"n"}, id="choices"),
    pytest.param({"extra": {"reasoning_effort": "none"}}, {"reasoning_effort"}, id="it-always-thinks"),
    pytest.param({"extra": {"tools": TOOLS, "parallel_tool_calls": False}}, {"parallel_tool_calls"}, id="one-call"),
    pytest.param(
        {"extra": {"tools": [{"type": "function", "function": {"name": "1st"}}]}}, {"tools.name"}, id="a-number-first"
    ),
    pytest.param(
        {"extra": {"tools": TOOLS, "response_format": {"type": "json_object"}}},
        {"response_format with tools"},
        id="json-and-tools",
    ),
    pytest.param({"extra": fmt({"type": "string", "pattern": "a"})}, {"response_format.pattern"}, id="pattern"),
    pytest.param({"extra": fmt({"const": "a"})}, set(), id="const-is-an-enum-of-one"),
    pytest.param(
        {"messages": (user("x"), Message("tool", (TextPart("y"),), tool_call_id="lost"))},
        {"messages.tool_call_id"},
        id="a-result-without-its-call",
    ),
    pytest.param(
        {"messages": (Message("user", (ImagePart("https://example.com/a.png"),)),)}, {"https URL image"}, id="web-image"
    ),
    pytest.param(
        {"messages": (Message("user", (ImagePart("data:image/gif;base64,aGk="),)),)}, {"image/gif image"}, id="gif"
    ),
    pytest.param({"messages": (Message("user", (ImagePart("data:image/jpg;base64,aGk="),)),)}, set(), id="jpg-is-jpeg"),
    pytest.param(
        {"messages": (Message("user", (ImagePart("https://[bad"),)),)}, {"https URL image"}, id="image-of-a-broken-host"
    ),
    pytest.param({"messages": (Message("user", ()),)}, {"messages.content"}, id="empty"),
]


@pytest.mark.parametrize(("fields", "expected"), MISSING)
def test_what_it_cannot_be_told_is_named(fields, expected):
    """Nothing is dropped: each wish without a place in the API is named before the call."""
    assert expected == missing(**fields)


@pytest.mark.parametrize("text", [(), ("",), (" \n",)], ids=["no-part", "empty", "blank"])
def test_an_answer_that_says_nothing_is_left_out(text):
    """Its neighbours of one role become one, and it rules the API out no longer; nor does a name that it lacks."""
    empty = Message("assistant", tuple(TextPart(one) for one in text))
    messages = (user("x"), empty, user("y"), Message("assistant", (TextPart("z"),), name="ann"), empty)
    assert set() == missing(messages=messages)
    contents = encode(call(messages=messages))["contents"]
    expected = [("user", ["x", "y"]), ("model", ["z"])]
    assert expected == [(turn["role"], [part["text"] for part in turn["parts"]]) for turn in contents]


def test_calls_carry_a_stand_in_signature_only_for_models_that_want_one():
    """Of parallel calls the first carries it; older models are not bothered with it."""
    calls = (ToolCall("a", "first", "{}"), ToolCall("b", "second", "{}"))
    messages = (user("x"), Message("assistant", (), tool_calls=calls))
    parts = encode(call(messages=messages))["contents"][1]["parts"]
    assert [True, False] == ["thoughtSignature" in part for part in parts]
    older = encode(replace_model(call(messages=messages), "gemini-2.5-flash"))["contents"][1]["parts"]
    assert [False, False] == ["thoughtSignature" in part for part in older]
