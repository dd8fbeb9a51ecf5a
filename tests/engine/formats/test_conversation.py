"""A conversation with calls and results reaches every template in a shape it takes."""

import json

import pytest

from hybrid.engine.chat_template import ChatTemplate
from hybrid.engine.formats.conversation import template_messages
from hybrid.engine.formats.speech import hear
from hybrid.types import Message, TextPart, ToolCall
from tests.engine.formats import templates

FUNCTION = {"name": "weather", "description": "Tells the <weather>", "parameters": {"z": 1, "a": 2}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALLS = (ToolCall("call_one", "weather", '{"city": "Köln"}'), ToolCall("call_two", "weather", '{"city": "Bonn"}'))


def said(role: str, text: str = "", **fields: object) -> Message:
    """Give a message."""
    return Message(role, (TextPart(text),) if text else (), **fields)


PARALLEL = (
    said("developer", "Be brief."),
    said("user", "Weather?"),
    said("assistant", tool_calls=CALLS),
    said("tool", "rain", tool_call_id="call_one"),
    said("tool", "sun", tool_call_id="call_two"),
    said("user", "Thanks"),
)


def rendered(template: str, messages: tuple[Message, ...] = PARALLEL) -> str:
    """Render a conversation with its tools, as the worker does."""
    speech = hear(template)
    shown = template_messages(messages, speech, TOOLS)
    chat = ChatTemplate(template, bos_text="<s>", eos_text="</s>")
    return chat.render(shown, tools=TOOLS if speech.knows_tools else None)


def test_qwen_gets_tools_calls_and_results_in_its_own_words():
    """The captured template renders our tools in their key order, unescaped, and arguments as objects."""
    text = rendered(templates.QWEN25)

    assert json.dumps(TOOLS[0], ensure_ascii=False) in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>' in text
    assert "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>" in text
    assert text.startswith("<|im_start|>system\nBe brief.")


def test_a_template_for_single_calls_gets_them_one_by_one():
    """Parallel calls are spread over turns, each followed by its own result."""
    text = rendered(templates.LLAMA3)

    order = ['"city": "Köln"', "rain", '"city": "Bonn"', "sun", "Thanks"]
    assert sorted(order, key=text.index) == order


def test_ids_that_come_again_are_calls_of_their_own():
    """Some clients number the calls of each turn anew; no result is left out for one of an earlier turn."""
    again = (said("assistant", tool_calls=CALLS[:1]), said("tool", "snow", tool_call_id="call_one"))

    text = rendered(templates.LLAMA3, (*PARALLEL, *again))

    assert [1, 1, 1] == [text.count(result) for result in ("rain", "sun", "snow")]


def test_mistral_gets_ids_it_accepts():
    """Ids of any client are shortened to nine letters and digits, the same for a call and its result."""
    shown = template_messages(PARALLEL, hear(templates.MISTRAL), TOOLS)
    ids = [call["id"] for call in shown[2]["tool_calls"]]

    assert ids == [shown[3]["tool_call_id"], shown[4]["tool_call_id"]]
    assert {9} == {len(call_id) for call_id in ids}
    assert "[TOOL_RESULTS]rain" in rendered(templates.MISTRAL)


@pytest.mark.parametrize(
    "template",
    [pytest.param(templates.SMOLLM2, id="smollm2-captured"), pytest.param(templates.GEMMA3, id="gemma")],
)
def test_a_template_without_tools_gets_them_as_text(template):
    """The system message says which functions there are, and roles only such a template knows are used."""
    text = rendered(template)

    assert "Be brief.\n\nYou can call functions." in text
    assert json.dumps(FUNCTION, ensure_ascii=False) in text
    assert '{"name": "weather", "arguments": {"city": "Bonn"}}' in text
    assert "Result of weather: rain\nResult of weather: sun" in text


def test_without_tools_nothing_is_added():
    """A plain conversation reaches the template as it is, but for `developer`, which templates do not know."""
    expected = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}]

    assert expected == template_messages(PARALLEL[:2], hear(templates.SMOLLM2))
    assert expected == template_messages(PARALLEL[:2], hear(templates.QWEN25))


@pytest.mark.parametrize("arguments", ["{oops", pytest.param("[" * 100_000, id="deep")])
def test_arguments_that_are_no_json_stay_a_string(arguments):
    """A conversation may hold calls some model got wrong; they are not the template's problem."""
    broken = said("assistant", tool_calls=(ToolCall("c", "weather", arguments),))

    [shown] = template_messages([broken], hear(templates.QWEN25))

    assert arguments == shown["tool_calls"][0]["function"]["arguments"]
