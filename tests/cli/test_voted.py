"""`hybrid calibrate --samples` of choices, and `hybrid eval` after it: a letter and votes for reasons, from an echo."""

import json

import pytest

from hybrid.artefact import read_artefact
from hybrid.calibration.recipes import REASONED
from tests.cli.test_calibrate import _run, _write

COUNT = 40


def _choices() -> list[dict[str, object]]:
    """The echo says B at once, and so does what it says of reasons; where it doubts, that is noise, and B is wrong."""
    rows = []
    for number in range(COUNT):
        is_sure = number % 2 == 0
        is_right = is_sure or number % 8 == 7
        question = f"B\n{'' if is_sure else '[doubt] '}question {number}"
        recorded = {"big": {"correct": number % 5 != 0}}
        rows.append(
            {
                "id": str(number),
                "question": question,
                "choices": ["x", "y"],
                "scorer": "choice",
                "answer": "B" if is_right else "A",
                "recorded": recorded,
            }
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose model was calibrated with three votes to each question."""
    folder = tmp_path_factory.mktemp("voted")
    _write(folder, _choices())
    done = _run(
        folder, "calibrate", "--dataset", "set.jsonl", "--task", "bees", "--cloud", "recorded:big", "--samples", "4"
    )
    assert 0 == done.returncode, done.stderr
    (folder / "printed").write_text(done.stdout)
    (folder / "said").write_text(done.stderr)
    return folder


def test_a_calibration_says_what_votes_are_worth(folder):
    """Forty letters and three votes for each; the echo's letter tells all that they do, so the bare margin stays."""
    assert "the 3 votes tell no more than the letter" in (folder / "printed").read_text()
    assert f"{4 * COUNT} of {4 * COUNT}" in (folder / "said").read_text()
    [path] = (folder / "calibration").glob("*.json")
    [task] = read_artefact(path).tasks
    assert (4, REASONED.digest) == (task.samples, task.votes)
    assert ("option_margin",) == task.local.features


def test_an_evaluation_draws_what_serve_would(folder):
    """As many answers as the calibration, without being told; all are kept, and none is drawn again."""
    done = _run(folder, "eval", "--dataset", "set.jsonl", "--cloud", "recorded:big", "--json", "e.json")

    assert 0 == done.returncode, done.stderr
    assert "fake answers" not in done.stderr
    figures = json.loads((folder / "e.json").read_text())
    assert ("calibration", COUNT) == (figures["ranked_by"], figures["n"])
    assert 0 < figures["votes_asked"] <= 1
    assert "asked for in" in done.stdout
    assert {"vote_top", "vote_margin", "vote_share"} <= figures["auroc"].keys()


def test_another_number_of_answers_is_not_what_was_calibrated(folder):
    """The letter alone: ranked by its bare margin, and said so."""
    done = _run(folder, "eval", "--dataset", "set.jsonl", "--cloud", "recorded:big", "--samples", "1")

    assert 0 == done.returncode, done.stderr
    assert "the calibration is of 4 answers to each question, not of 1" in done.stderr
    assert "ranked by bare option_margin" in done.stdout
