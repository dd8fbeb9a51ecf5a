"""Calls are found in running text, in every format and whatever the chunks; what is no call stays text."""

import itertools
import json
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hybrid.engine.formats.formats import BY_NAME
from hybrid.engine.formats.scan import Scanner, Spoken
from hybrid.types import TextDelta, ToolCallDelta

WEATHER = '{"city": "Köln", "days": 2}'
TWO = [("weather", WEATHER), ("time", "{}")]

CONVERSATIONS = [
    pytest.param("hermes", "Just text, 1 < 2.", ["Just text, 1 < 2."], id="hermes-text"),
    pytest.param(
        "hermes",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call>\n'
        '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
        TWO,
        id="hermes-parallel",
    ),
    pytest.param(
        "hermes",
        'I look.\n\n<tool_call>\n{"arguments": {"a": "</tool_call>}\\""}, "name": "time"}\n</tool_call>\nDone.',
        ["I look.", ("time", '{"a": "</tool_call>}\\""}'), "Done."],
        id="hermes-between-text-keys-turned-marker-in-a-string",
    ),
    pytest.param(
        "hermes", '<tool_call>\n{"name": "time"}\n</tool_call>', [("time", "{}")], id="hermes-without-arguments"
    ),
    pytest.param(
        "hermes",
        '<tool_call>[{"name": "time", "arguments": null}, {"name": "time", "arguments": "{\\"a\\": 1}"}]</tool_call>',
        [("time", "{}"), ("time", '{"a": 1}')],
        id="hermes-a-list-null-and-a-string",
    ),
    pytest.param(
        "hermes",
        '<tool_call>{"name": "time", "arguments": {}, "why": {"x": 1}}</tool_call>',
        [("time", "{}")],
        id="hermes-a-key-too-many",
    ),
    pytest.param(
        "hermes",
        '```json\n{"name": "time", "arguments": {}}\n```',
        [("time", "{}")],
        id="hermes-small-models-forget-the-tags",
    ),
    pytest.param("hermes", '```json\n{"a": 1}\n```', ['```json\n{"a": 1}\n```'], id="hermes-a-json-block-is-text"),
    pytest.param("hermes", '{"name": "Bob", "age": 3}', ['{"name": "Bob", "age": 3}'], id="hermes-json-is-text"),
    pytest.param("hermes", "a <tool_", ["a <tool_"], id="hermes-half-a-marker-at-the-end"),
    pytest.param("llama", '{"name": "time", "parameters": {"a": [1]}}', [("time", '{"a": [1]}')], id="llama"),
    pytest.param(
        "llama",
        '<|python_tag|>{"type": "function", "name": "time", "parameters": {}}; {"name": "weather", "parameters": {}}',
        [("time", "{}"), ("weather", "{}")],
        id="llama-tag-and-two",
    ),
    pytest.param("llama", '\n{"name": "nobody"}', ['\n{"name": "nobody"}'], id="llama-an-unknown-name-is-text"),
    pytest.param("llama", "{not json", ["{not json"], id="llama-a-brace-is-text"),
    pytest.param(
        "mistral",
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln", "days": 2}}, '
        '{"name": "time", "arguments": {}}]',
        TWO,
        id="mistral-list",
    ),
    pytest.param(
        "mistral_args",
        'Well: [TOOL_CALLS]weather[ARGS]{"city": "Köln", "days": 2}[TOOL_CALLS]time[CALL_ID]ab12[ARGS]{}',
        ["Well:", *TWO],
        id="mistral-names",
    ),
    pytest.param(
        "mistral_args", "[TOOL_CALLS]nobody[ARGS]{}", ["[TOOL_CALLS]nobody[ARGS]{}"], id="mistral-an-unknown-name"
    ),
    pytest.param(
        "gemma",
        '```tool_call\n{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n'
        '{"name": "time", "arguments": {}}\n```',
        TWO,
        id="gemma-json-block",
    ),
    pytest.param(
        "gemma",
        'Let me see.\n```tool_code\nprint(default_api.weather(city="Köln", days=2))\n```\nThere.',
        ["Let me see.", TWO[0], "There."],
        id="gemma-python-block",
    ),
    pytest.param(
        "gemma", '```tool_code\n[weather(city="Köln", days=2), time()]\n```', TWO, id="gemma-a-list-of-python-calls"
    ),
    pytest.param(
        "gemma",
        "```tool_code\nimport os\nos.remove('x')\n```",
        ["```tool_code\nimport os\nos.remove('x')\n```"],
        id="gemma-other-python-is-text",
    ),
    pytest.param(
        "hermes",
        '<tool_call>{"name": "time", "arguments": " "}</tool_call>',
        [("time", "{}")],
        id="hermes-no-arguments-in-a-string",
    ),
    pytest.param(
        "hermes",
        '<tool_call>\n{"name": "time", "arguments": {"a": 1}\n</tool_call>\nThere.',
        [("time", '{"a": 1}'), "There."],
        id="hermes-a-brace-forgotten",
    ),
    pytest.param("gemma", "```python\ntime()\n```", ["```python\ntime()\n```"], id="gemma-a-python-block-is-text"),
    pytest.param(
        "generic",
        '{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n{"name": "time", "arguments": {}}',
        TWO,
        id="generic-lines",
    ),
    pytest.param(
        "generic",
        '[{"name": "weather", "arguments": {"city": "Köln", "days": 2}}, {"name": "time"}]',
        TWO,
        id="generic-list",
    ),
]


def scanner(name: str, known: tuple[str, ...] = ("weather", "time")) -> Scanner:
    """Give a format's scanner that knows two tools and numbers the calls."""
    count = itertools.count()
    return BY_NAME[name].scanner(frozenset(known), lambda: f"call_{next(count)}")


def scan(name: str, text: str, cuts: Iterable[int] = ()) -> list[Spoken]:
    """Give the events of a text that comes in chunks, neighbours joined."""
    borders = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    found = scanner(name)
    events = [
        event for start, end in itertools.pairwise(borders) for event in found.push(text[start:end])
    ] + found.flush()
    joined: list[Spoken] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ToolCallDelta) and isinstance(last, ToolCallDelta) and event.id is None:
            joined[-1] = ToolCallDelta(last.index, last.id, last.name, last.arguments + event.arguments)
        else:
            joined.append(event)
    return joined


def meant(events: list[Spoken]) -> list[str | tuple[str | None, str]]:
    """Give texts and calls without the rest."""
    return [event.text if isinstance(event, TextDelta) else (event.name, event.arguments) for event in events]


@pytest.mark.parametrize(("name", "text", "expected"), CONVERSATIONS)
def test_a_golden_conversation(name, text, expected):
    """Each format's answers become the texts and calls they mean, nothing lost and nothing invented."""
    assert expected == meant(scan(name, text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(
            "hermes",
            r'<tool_call>{"name": "time", "arguments": "{\"a\": \"\ud83d\ude00\ud83d\"}"}</tool_call>',
            id="arguments-in-a-string",
        ),
        pytest.param("gemma", "```tool_code\ntime(a='\\ud83d\\ude00\\ud83d')\n```", id="python"),
    ],
)
def test_half_a_character_is_replaced(name, text):
    """A model may escape one half of a surrogate pair; alone it cannot be encoded for the client."""
    [(_, arguments)] = meant(scan(name, text))

    assert {"a": "\U0001f600\ufffd"} == json.loads(arguments.encode())


@pytest.mark.parametrize(("name", "text", "expected"), CONVERSATIONS)
def test_one_character_at_a_time_changes_nothing(name, text, expected):
    """The worst chunks there are give the same events."""
    assert scan(name, text) == scan(name, text, range(len(text)))


PIECES = (
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"),
    *("```tool_code\n", "```tool_call\n", "```json\n", "```", "\n", " ", "text", "time", "time()", "1", "é"),
    *("{", "}", "[", "]", '"', ",", ";", "<", "`", "\\", '"name":', '"arguments": ', '"parameters": 5'),
    *('{"name": "time", "arguments": {"a": "', '{"name": "time"', ', "arguments": {}}', '{"name": "x", '),
    '{"name": "time", "arguments": {}}',
)


@given(
    name=st.sampled_from(sorted(BY_NAME)),
    text=st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)
@example(name="hermes", text='<tool_call>{"name": "time", "arguments": {}, "name": "time"}', cuts=[40])
def test_any_text_means_the_same_in_any_chunks(name, text, cuts):
    """However broken the text and wherever it is cut, the events are those of the whole text."""
    assert scan(name, text) == scan(name, text, cuts)


@given(name=st.sampled_from(sorted(BY_NAME)), text=st.text(max_size=60))
def test_text_without_calls_is_not_touched(name, text):
    """An answer that holds no call is shown to the last character, white space included."""
    events = scan(name, text)

    assert [text] if text else [] == meant(events)


def test_text_is_not_held_longer_than_needed():
    """Only what may become a marker waits; the argument text of a call comes as it arrives."""
    found = scanner("hermes")

    assert [TextDelta("a")] == found.push("a <tool")
    assert [TextDelta(" <toolbox")] == found.push("box")
    assert [] == found.push('<tool_call>\n{"name": "time", "arg')
    assert [ToolCallDelta(0, "call_0", "time", '{"a"')] == found.push('uments": {"a"')
    assert [ToolCallDelta(0, arguments=": 1")] == found.push(": 1")
    assert [ToolCallDelta(0, arguments="}")] == found.push("}}\n")
    assert [] == found.push("</tool_call>") + found.flush()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        pytest.param("hermes", '<tool_call>{"name": "nobody"}</tool_call>', 1, id="a-name-nobody-has"),
        pytest.param("hermes", "<tool_call>time()</tool_call>", 1, id="no-json"),
        pytest.param("hermes", '<tool_call>{"name": "time", ', 1, id="cut-off-before-it-was-one"),
        pytest.param("hermes", '```json\n{"a": 1}\n```', 0, id="a-block-promises-nothing"),
        pytest.param("mistral", "[TOOL_CALLS] sure", 1, id="a-marker-and-text"),
        pytest.param("llama", '{"name": "nobody", "age": 3}', 0, id="bare-json-promises-nothing"),
        pytest.param(
            "llama", '{"name": "nobody", "parameters": {"age": 3}}', 1, id="unless-it-has-the-shape-of-a-call"
        ),
        pytest.param("generic", '```json\n{"arguments": {}, "name": "nobody"}\n```', 1, id="in-either-order"),
    ],
)
def test_a_promise_without_a_call_is_counted(name, text, expected):
    """A marker or a shape promises a call; what is none is shown as text, and counted as a fault."""
    found = scanner(name)
    events = found.push(text) + found.flush()

    assert expected == found.malformed
    assert text == "".join(event.text for event in events if isinstance(event, TextDelta))


def test_long_arguments_take_linear_time():
    """A call of a hundred thousand characters, two at a time, is read well within the test's time limit."""
    body = '{"name": "time", "arguments": {"text": "' + "x" * 100_000 + '"}}'

    [event] = scan("generic", body, range(0, len(body), 2))

    assert len(body) - len('{"name": "time", "arguments": }') == len(event.arguments)
