"""Raw events become finished ones: reasoning, answer and calls apart, counted, with the right end."""

import itertools

import pytest

from hybrid.engine.formats.formats import HERMES
from hybrid.engine.formats.listen import Listener
from hybrid.engine.formats.thinking import Thinking
from hybrid.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    TokenSignal,
    ToolCallDelta,
    Usage,
)

SIGNAL = TokenSignal(-0.1, 0.2, 0.9)
USAGE = Usage(prompt_tokens=3, completion_tokens=5)
CALL = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'


def listener(*, thinks: bool = False) -> Listener:
    """Give one that knows a tool."""
    count = itertools.count()
    return Listener(
        thinking=Thinking("<think>", "</think>", is_open=False) if thinks else None,
        scanner=HERMES.scanner(frozenset({"time"}), lambda: f"call_{next(count)}"),
    )


def hear(found: Listener, *texts: str, end: FinishReason = FinishReason.STOP) -> list[Event]:
    """Give the events of one token a text, and of the end."""
    events = [event for text in texts for event in found.hear(TextDelta(text, (SIGNAL,)))]
    return events + found.hear(Finished(end, USAGE, stopped_by="x"))


def test_without_tools_and_thinking_nothing_changes():
    """The same event objects come out, signals and all."""
    delta, end = TextDelta("<think>" + CALL, (SIGNAL,)), Finished(FinishReason.STOP, USAGE)

    assert [delta, end] == [*Listener().hear(delta), *Listener().hear(end)]


@pytest.mark.parametrize(
    ("text", "end", "expected"),
    [
        pytest.param(CALL, FinishReason.STOP, FinishReason.TOOL_CALLS, id="calls"),
        pytest.param("hi", FinishReason.STOP, FinishReason.STOP, id="text"),
        pytest.param(CALL[:40], FinishReason.LENGTH, FinishReason.LENGTH, id="cut-off"),
        pytest.param(CALL.split("}")[0], FinishReason.STOP, FinishReason.STOP, id="stopped-in-a-call"),
    ],
)
def test_the_finish_reason_tells_of_calls(text, end, expected):
    """A natural end after a call is `tool_calls`, in one `stop`; cut off it stays `length`; what stopped it is kept."""
    last = hear(listener(), text, end=end)[-1]

    assert Finished(expected, USAGE, stopped_by="x") == last


def test_thinking_is_reasoning_and_is_counted():
    """Thinking goes to its own events, and its tokens, markers included, to the usage."""
    events = hear(listener(thinks=True), "<think>", "hm ", "so", "</think>", "\n\n", "Yes", CALL)

    assert [
        ReasoningDelta("hm"),
        ReasoningDelta(" so"),
        TextDelta("Yes"),
        ToolCallDelta(0, "call_0", "time", "{}"),
        Finished(
            FinishReason.TOOL_CALLS,
            Usage(prompt_tokens=3, completion_tokens=5, reasoning_tokens=4),
            stopped_by="x",
        ),
    ] == events


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(CALL, None, id="sound"),
        pytest.param("just text", None, id="no-call"),
        pytest.param(
            '<tool_call>{"name": "time", "arguments": {"a":', "the arguments of the call of time", id="cut-off"
        ),
        pytest.param('<tool_call>{"name": "time", "arguments": [1]}</tool_call>', "no JSON object", id="a-list"),
        pytest.param('<tool_call>{"name": "nobody", "arguments": {}}</tool_call>', "call that is none", id="unknown"),
    ],
)
def test_flaws_are_told(text, expected):
    """A verifier needs no score: calls that cannot be followed are a fact."""
    found = listener()
    hear(found, text)

    assert (found.flaw is None) if expected is None else (expected in str(found.flaw))


def test_logprobs_stay_with_the_answers_text():
    """Tokens held back until their text is certain are told with it; those of calls are not content."""
    told = [TokenLogprob(text, text.encode(), -0.5) for text in ("a", " <", "b", CALL)]
    found = listener()
    events = [event for token in told for event in found.hear(TextDelta(token.text, (SIGNAL,), (token,)))]

    assert [TextDelta("a", (), (told[0],)), TextDelta(" <b", (), (told[1], told[2]))] == events[:2]
    assert [ToolCallDelta] == [type(event) for event in events[2:]]


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(["<think>", "\n", "hm", "\n", "</think>", "\n\n"], id="thinking"),
        pytest.param(["<think>", "</think>", "\n\n"], id="no-thinking"),
        pytest.param([], id="nothing"),
        pytest.param([CALL.removesuffix("</tool_call>"), "</tool_call>", "\n"], id="a-call"),
    ],
)
def test_logprobs_of_markers_and_the_space_beside_them_are_not_the_answers(texts):
    """What a client joins of the tokens it is told of is the content, to the last character."""
    found = listener(thinks=True)
    told = [TokenLogprob(text, text.encode(), -0.5) for text in (*texts, "Yes", " <b", "!")]
    events = [event for token in told for event in found.hear(TextDelta(token.text, (SIGNAL,), (token,)))]
    said = [event for event in events if isinstance(event, TextDelta)]

    assert "Yes <b!" == "".join(event.text for event in said)
    assert ["Yes", " <b", "!"] == [token.text for event in said for token in event.logprobs]


def test_logprobs_wait_for_text_that_may_open_thinking():
    """A token that could have begun a marker is told of when it turns out to be the answer."""
    found = listener(thinks=True)
    told = [TokenLogprob(text, text.encode(), -0.5) for text in ("<", "b>")]
    events = [event for token in told for event in found.hear(TextDelta(token.text, (SIGNAL,), (token,)))]

    assert [TextDelta("<b>", (), tuple(told))] == events
