"""Are two answers told to agree where they do, to differ where they do, and left alone where neither can be said?"""

import pytest

from hybrid.labelling import Said, agree, said
from hybrid.policy.tasks import TaskKind
from hybrid.types import Finished, FinishReason, TextDelta, ToolCall, ToolCallDelta

CHOICES = "Which?\nA. one\nB. two\nC. three"


def call(name: str, arguments: str) -> Said:
    """Give an answer that calls a tool."""
    return Said("", (ToolCall("id", name, arguments),))


@pytest.mark.parametrize(
    ("kind", "local", "cloud", "expected"),
    [
        pytest.param(TaskKind.CHOICE, "B", "The answer is (B).", True, id="letters"),
        pytest.param(TaskKind.CHOICE, "C", "B. two", False, id="other-letter"),
        pytest.param(TaskKind.CHOICE, "hm", "B", False, id="local-named-none"),
        pytest.param(TaskKind.CHOICE, "B", "It depends.", None, id="cloud-named-none"),
        pytest.param(TaskKind.NUMBER, "#### 18.00", "so it is 18", True, id="numbers"),
        pytest.param(TaskKind.NUMBER, "19", "18", False, id="other-number"),
        pytest.param(TaskKind.NUMBER, "18", "many", None, id="cloud-has-no-number"),
        pytest.param(TaskKind.STRUCTURED, '{"a": 1, "b": [2.0]}', '{"b":[2],"a":1}', True, id="json"),
        pytest.param(TaskKind.STRUCTURED, '{"a": true}', '{"a": 1}', False, id="true-is-not-1"),
        pytest.param(TaskKind.STRUCTURED, '{"a"', '{"a": 1}', False, id="local-is-no-json"),
        pytest.param(TaskKind.STRUCTURED, '{"a": 1}', "Sure!", None, id="cloud-is-no-json"),
        pytest.param(TaskKind.STRUCTURED, "1", "[" * 100_000, None, id="too-deep"),
        pytest.param(TaskKind.CODE, "def f(): return 1", "def f(): return 1", None, id="code"),
        pytest.param(TaskKind.TEXT, "The sky is blue", "the sky is blue.", True, id="near"),
        pytest.param(TaskKind.TEXT, "The sky is blue", "No.", False, id="far"),
        pytest.param(TaskKind.TEXT, "The sky is blue", " ", None, id="cloud-said-nothing"),
        pytest.param(TaskKind.TEXT, "a" * 100_001, "a", None, id="too-long"),
    ],
)
def test_texts(kind, local, cloud, expected):
    """Letters, numbers and JSON are compared by value, text by its distance, and code not at all."""
    assert expected is agree(kind, CHOICES, Said(local), Said(cloud))


@pytest.mark.parametrize(
    ("local", "cloud", "expected"),
    [
        pytest.param(call("f", '{"a": 1, "b": 2}'), call("f", '{"b": 2, "a": 1}'), True, id="same"),
        pytest.param(call("f", '{"a": 2}'), call("f", '{"a": 1}'), False, id="other-arguments"),
        pytest.param(call("g", "{}"), call("f", ""), False, id="other-tool"),
        pytest.param(Said("no need"), call("f", "{}"), False, id="only-the-cloud-calls"),
        pytest.param(call("f", "{}"), Said("no need"), False, id="only-local-calls"),
        pytest.param(call("f", "{}"), call("f", "{"), None, id="cloud-is-no-json"),
    ],
)
def test_calls(local, cloud, expected):
    """The same tools with the same arguments, whatever their spelling."""
    assert expected is agree(TaskKind.CALL, "", local, cloud)


def test_what_a_limit_cut_off():
    """A cloud that was cut says a letter or nothing; local does not agree where its end matters and is missing."""
    assert agree(TaskKind.NUMBER, "", Said("18"), Said("18", is_cut=True)) is None
    assert agree(TaskKind.NUMBER, "", Said("8"), Said("8", is_cut=True)) is None
    assert agree(TaskKind.CHOICE, CHOICES, Said("B"), Said("The answer is B", is_cut=True)) is None
    assert agree(TaskKind.CHOICE, CHOICES, Said("B"), Said("B", is_cut=True)) is True
    assert agree(TaskKind.NUMBER, "", Said("18", is_cut=True), Said("18")) is False
    assert agree(TaskKind.TEXT, "", Said("the sky", is_cut=True), Said("the sky")) is True


def test_an_answer_is_put_together_from_its_events():
    """Text and pieces of calls are joined; without an end, or with two, there is no one answer."""
    end = Finished(FinishReason.TOOL_CALLS, None)
    pieces = [ToolCallDelta(0, id="c", name="f", arguments='{"a"'), ToolCallDelta(0, arguments=": 1}")]

    assert Said("so", (ToolCall("c", "f", '{"a": 1}'),)) == said([TextDelta("so"), *pieces, end])
    assert said([TextDelta("so")]) is None
    assert said([end, end]) is None
