"""Does a name reach APIs that have no field for it, and is one that cannot reach them told before the call?"""

from __future__ import annotations

import pytest

from hybrid.providers import anthropic, gemini, openai_responses
from hybrid.types import ImagePart, Message, TextPart, ToolCall

from .calls import call, user

IMAGE = "data:image/png;base64,aGk="
GROUP = (
    Message("system", (TextPart("2 + 2"),), name="example_user"),
    Message("system", (TextPart("4"),), name="example_assistant"),
    Message("user", (TextPart("Hello"),), name="ann"),
    Message("assistant", (TextPart("Hi"),), name="bot"),
    Message("user", (ImagePart(IMAGE),), name="bob"),
)
DIALECTS = (
    anthropic.AnthropicDialect(anthropic.Options()),
    gemini.GeminiDialect(gemini.Options()),
    openai_responses.ResponsesDialect(),
)


def assistant(name):
    """An assistant's turn under this name."""
    return Message("assistant", (TextPart("Hi"),), name=name)


def test_anthropic_reads_the_names_in_the_text():
    """Of users and of examples among the system messages; an image has its name before it."""
    body = anthropic.encode(call(messages=GROUP))
    assert "example_user: 2 + 2\nexample_assistant: 4" == body["system"]
    first, second, third = (turn["content"] for turn in body["messages"])
    assert ["ann: Hello", "Hi", "bob:"] == [turn[0]["text"] for turn in (first, second, third)]
    assert ["text", "image"] == [block["type"] for block in third]


def test_gemini_reads_the_names_in_the_text():
    """The same, in its words."""
    body = gemini.encode(call(messages=GROUP))
    assert [{"text": "example_user: 2 + 2\nexample_assistant: 4"}] == body["systemInstruction"]["parts"]
    first, second, third = (turn["parts"] for turn in body["contents"])
    assert ["ann: Hello", "Hi", "bob:"] == [turn[0]["text"] for turn in (first, second, third)]
    assert [["text"], ["inlineData"]] == [list(part) for part in third]


def test_responses_reads_the_names_in_the_text():
    """The same; each message stays one of its own."""
    spoken = [item["content"] for item in openai_responses.encode(call(messages=GROUP))["input"]]
    assert "Hi" == spoken[3]
    firsts = ["example_user: 2 + 2", "example_assistant: 4", "ann: Hello", "bob:"]
    assert firsts == [parts[0]["text"] for parts in [*spoken[:3], spoken[4]]]


NAMED = [
    pytest.param(GROUP, set(), id="one-assistant"),
    pytest.param((user("x"), assistant("a"), user("x"), assistant("b"), user("x")), {"messages.name"}, id="two"),
    pytest.param((user("x"), assistant("a"), user("x"), assistant(None), user("x")), {"messages.name"}, id="one-named"),
    pytest.param((Message("user", (TextPart("x"),), name=""),), set(), id="empty"),
    pytest.param(
        (
            user("x"),
            Message("assistant", (), tool_calls=(ToolCall("i", "f", "{}"),)),
            Message("tool", (TextPart("y"),), name="f", tool_call_id="i"),
        ),
        set(),
        id="a-tool-s",
    ),
]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: type(dialect).__name__)
@pytest.mark.parametrize(("messages", "expected"), NAMED)
def test_assistants_that_only_names_tell_apart_are_named(dialect, messages, expected):
    """A model that reads names in its own turns begins its answer with one, so these stay unwritten."""
    assert expected == set(dialect.missing(call(messages=messages).request))


def test_a_name_alone_says_nothing():
    """An empty message stays one that these APIs refuse."""
    messages = (Message("user", (TextPart(""),), name="ann"),)
    assert all({"messages.content"} == set(one.missing(call(messages=messages).request)) for one in DIALECTS[:2])
