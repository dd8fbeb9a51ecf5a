"""What a request asks of the local model follows from its fields and from how that model speaks."""

import pytest

from hybrid.engine.formats.speech import Speech
from hybrid.engine.frames import Ready
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
