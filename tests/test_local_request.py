"""What a request asks of the local model follows from its fields and from how that model speaks."""

import asyncio

import pytest

from hybrid.engine.checker import Checker
from hybrid.engine.formats.speech import Speech
from hybrid.engine.frames import Ready
from hybrid.errors import InvalidRequest
from hybrid.local_request import LocalRequest
from hybrid.types import Capability, ChatRequest, Json, Message, TextPart

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
HERMES = Speech(tool_format="hermes", knows_tools=True)
THINKS = Speech(tool_format="hermes", knows_tools=True, thinking=("<think>", "</think>"), can_stop_thinking=True)
PLAIN = Speech()


def asked(speech: Speech = HERMES, *, bound: int | None = None, **extra: Json) -> LocalRequest:
    """Give a request to a model that speaks so."""
    request = ChatRequest(model="hybrid", messages=(Message("user", (TextPart("hi"),)),), extra=extra)
    numbers = dict.fromkeys(("vocab_tokens", "context_tokens", "slots", "kv_cells", "threads", "file_bytes"), 1)
    texts = dict.fromkeys(("name", "architecture", "device", "fingerprint", "template_fingerprint"), "")
    facts = Ready(**numbers, **texts, speech=speech, markers={"<tool_call>": 7})
    return LocalRequest(request=request, facts=facts, max_reasoning_tokens=bound)


def source(local: LocalRequest) -> str:
    """Give the grammar's text, empty without one."""
    grammar = local.grammar(is_thinking=False)
    return "" if grammar is None else grammar.source


@pytest.mark.parametrize(
    ("extra", "is_told", "expected"),
    [
        pytest.param({}, False, [], id="no-tools"),
        pytest.param({"tools": TOOLS}, True, ["answer: FREE | FREE calls", '\\"f\\"', '\\"g\\"', "){0,"], id="auto"),
        pytest.param({"tools": TOOLS, "tool_choice": "none"}, False, [], id="none"),
        pytest.param({"tools": TOOLS, "tool_choice": "required"}, True, ["answer: calls"], id="required"),
        pytest.param({"tools": TOOLS, "parallel_tool_calls": False}, True, ["call_1"], id="single"),
    ],
)
def test_the_tool_choice(extra, is_told, expected):
    """The model is told of tools unless calls are forbidden, and the grammar follows the choice."""
    local = asked(**extra)

    assert is_told is bool(local.tools)
    assert all(part in source(local) for part in expected)
    assert bool(expected) is bool(source(local))


def test_a_named_function_is_the_only_way_on():
    """The model is told of all tools, so that its cached prompt stays good, and can call one, once."""
    local = asked(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}})

    assert TOOLS == local.tools
    assert "answer: calls" in source(local)
    assert '\\"f\\"' not in source(local)
    assert "){0," not in source(local)


def test_allowed_tools_limit_the_calls():
    """A client may tell of more tools than it allows now."""
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}
    local = asked(tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})

    assert "answer: FREE | FREE calls" in source(local)
    assert '\\"f\\"' not in source(local)


def test_a_model_without_tools_in_its_template_is_told_in_words():
    """The template gets no tools; the system message names them."""
    local = asked(PLAIN, tools=TOOLS)

    assert local.tools is None
    assert "You can call functions" in str(local.messages[0]["content"])


@pytest.mark.parametrize(
    ("speech", "effort", "expected"),
    [
        pytest.param(THINKS, None, {}, id="not-said"),
        pytest.param(THINKS, "none", {"reasoning_effort": "none", "enable_thinking": False}, id="none"),
        pytest.param(THINKS, "high", {"reasoning_effort": "high", "enable_thinking": True}, id="high"),
        pytest.param(HERMES, "none", {"reasoning_effort": "none"}, id="no-switch"),
    ],
)
def test_the_effort_reaches_the_template(speech, effort, expected):
    """Templates that can stop thinking are told to; without a wish their own default holds."""
    assert expected == asked(speech, **({} if effort is None else {"reasoning_effort": effort})).variables


@pytest.mark.parametrize(
    ("speech", "bound", "effort", "expected"),
    [
        pytest.param(THINKS, None, None, None, id="unbounded"),
        pytest.param(THINKS, 300, None, 300, id="configured"),
        pytest.param(THINKS, 300, "medium", 300, id="the-smaller"),
        pytest.param(THINKS, 3000, "low", 512, id="effort"),
        pytest.param(THINKS, None, "none", 1, id="none-is-closed-at-once"),
        pytest.param(HERMES, 300, None, None, id="does-not-think"),
    ],
)
def test_thinking_is_bounded(speech, bound, effort, expected):
    """The grammar closes the thinking at the smaller of the configured bound and the effort's."""
    text = source(asked(speech, bound=bound, **({} if effort is None else {"reasoning_effort": effort})))

    assert (f"max_tokens={expected}]" in text) if expected is not None else ("max_tokens" not in text)


CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
REGEX = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}


@pytest.mark.parametrize(
    ("speech", "extra", "kind", "parts"),
    [
        pytest.param(HERMES, {}, "json_schema", ['"city"'], id="alone"),
        pytest.param(THINKS, {}, "lark", ["thinking", "schema: %json", '"city"'], id="after-thinking"),
        pytest.param(HERMES, {"tools": TOOLS}, "lark", ["schema | calls", '\\"f\\"'], id="or-a-call"),
    ],
)
def test_the_form_of_an_answer(speech, extra, kind, parts):
    """An answer's schema stands alone where nothing else may be said, and beside thinking and calls where they may."""
    grammar = asked(speech, response_format=FORM, **extra).grammar(is_thinking=False)

    assert kind == grammar.kind
    assert all(part in grammar.source for part in parts), grammar.source


@pytest.mark.parametrize(
    ("speech", "extra", "param", "message"),
    [
        pytest.param(HERMES, {"response_format": REGEX, "tools": TOOLS}, "response_format", "with tools", id="tools"),
        pytest.param(THINKS, {"response_format": REGEX}, "response_format", "that thinks", id="thinking"),
        pytest.param(HERMES, {"logit_bias": {"1": -100}}, "logit_bias", "token 1", id="unknown-token"),
        pytest.param(HERMES, {"response_format": {"type": "json_object"}}, None, None, id="fine"),
        pytest.param(HERMES, {"logit_bias": {"0": 5}}, None, None, id="known-token"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_waits(speech, extra, param, message):
    """A request that is beyond the model in a detail is refused by that detail's name."""

    async def check() -> None:
        checker = Checker()
        try:
            await asked(speech, **extra).check(checker, is_thinking=False)
        finally:
            await checker.aclose()

    if param is None:
        asyncio.run(check())
        return
    with pytest.raises(InvalidRequest, match=message) as caught:
        asyncio.run(check())

    assert param == caught.value.param


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        pytest.param({}, None, id="not-asked"),
        pytest.param({"logprobs": True}, 0, id="only-the-drawn"),
        pytest.param({"logprobs": True, "top_logprobs": 4}, 4, id="alternatives"),
    ],
)
def test_logprobs_are_filled_only_when_asked_for(extra, expected):
    """None keeps the usual token small on its way from the worker."""
    assert expected == asked(**extra).top_logprobs


@pytest.mark.parametrize(
    ("speech", "effort", "expected"),
    [
        pytest.param(THINKS, "low", True, id="thinks"),
        pytest.param(HERMES, "low", False, id="does-not"),
        pytest.param(HERMES, "none", True, id="none-is-easy"),
    ],
)
def test_effort_is_a_capability_of_models_that_think(speech, effort, expected):
    """A model that does not think cannot be told how hard to; calling tools any model can."""
    capabilities = asked(speech, reasoning_effort=effort).capabilities

    assert expected is (Capability.REASONING_EFFORT in capabilities)
    assert Capability.TOOLS in capabilities
