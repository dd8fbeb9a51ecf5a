"""What a dataset file may hold, and how each thing that is wrong in it is told."""

import json

import pytest

from hybrid.calibration.datasets import load
from hybrid.errors import DatasetError

CHOICE = {"id": "a", "scorer": "choice", "question": "Which?", "choices": ["x", "y"], "answer": "B"}


def _file(tmp_path, *lines):
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_file_is_read_in_order_and_named_by_its_bytes(tmp_path):
    """Empty lines are nothing, unknown fields are left alone, and the digest is of the file as it is."""
    path = _file(tmp_path, CHOICE, "", {**CHOICE, "id": "b", "licence": "MIT"})
    found = load(path)

    assert ["a", "b"] == [question.id for question in found.questions]
    assert load(_file(tmp_path, CHOICE)).digest != found.digest


@pytest.mark.parametrize(
    ("line", "told"),
    [
        pytest.param('{"id": "b", "question"', "line 2", id="cut-off"),
        pytest.param("[1, 2]", "line 2", id="no-object"),
        pytest.param({**CHOICE}, "line 2: id 'a' is line 1's already", id="same-id"),
        pytest.param({**CHOICE, "id": "b", "scorer": "vibes"}, "line 2: .*vibes", id="unknown-scorer"),
        pytest.param({**CHOICE, "id": "b", "choices": ["x"]}, "2 to 10 choices, here are 1", id="one-choice"),
        pytest.param({**CHOICE, "id": "b", "answer": "C"}, "answer 'C' is none of A, B", id="no-such-choice"),
        pytest.param({**CHOICE, "id": "b", "question": ""}, "line 2", id="empty"),
        pytest.param({"id": "b", "scorer": "python", "question": "?"}, "tests and entry_point", id="no-tests"),
        pytest.param({"id": "b", "scorer": "number", "question": "?"}, "neither an answer nor", id="no-label"),
    ],
)
def test_a_broken_line_is_told_by_its_number(tmp_path, line, told):
    """Nothing of the file is used, and the message says where and why."""
    with pytest.raises(DatasetError, match=told):
        load(_file(tmp_path, CHOICE, line))


def test_many_broken_lines_are_counted_not_all_told(tmp_path):
    """The first five, and how many more there are."""
    with pytest.raises(DatasetError, match=r"line 5: .*; and 15 more"):
        load(_file(tmp_path, *["nonsense"] * 20))


@pytest.mark.parametrize("body", [b"", b"\n\n", b"\xff\xfe\n"])
def test_a_file_without_questions_is_refused(tmp_path, body):
    """Empty, blank, or no text at all."""
    path = tmp_path / "set.jsonl"
    path.write_bytes(body)

    with pytest.raises(DatasetError):
        load(path)


def test_a_file_that_is_not_there_says_so(tmp_path):
    """With the system's reason."""
    with pytest.raises(DatasetError, match="No such file"):
        load(tmp_path / "none.jsonl")


def test_a_sample_is_the_same_for_the_same_seed(tmp_path):
    """It keeps the file's order, so that questions that share a beginning stay together."""
    found = load(_file(tmp_path, *({**CHOICE, "id": str(n)} for n in range(50))))
    ids = [int(question.id) for question in found.sample(10, seed=3).questions]

    assert ids == sorted(ids)
    assert ids == [int(question.id) for question in found.sample(10, seed=3).questions]
    assert ids != [int(question.id) for question in found.sample(10, seed=4).questions]
    assert found.sample(None) is found


def test_recorded_models_are_those_every_question_has(tmp_path):
    """One that is missing anywhere cannot stand for the cloud."""
    both = {"big": {"correct": True}, "small": {"correct": False}}
    lines = [{**CHOICE, "recorded": both}, {**CHOICE, "id": "b", "recorded": {"big": {"correct": False}}}]

    assert ("big",) == load(_file(tmp_path, *lines)).recorded_models()
