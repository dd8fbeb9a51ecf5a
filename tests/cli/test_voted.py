"""`hybrid calibrate --samples` of choices, and `hybrid eval` after it: a letter and votes for reasons, from an echo."""

import json

import pytest

from hybrid.artefact import read_artefact
from hybrid.calibration.recipes import REASONED
from tests.cli.test_calibrate import _run, _write

COUNT = 40
CALIBRATE = ("calibrate", "--dataset", "set.jsonl", "--task", "bees", "--cloud", "recorded:big", "--samples", "4")
EVALUATE = ("eval", "--dataset", "set.jsonl", "--cloud", "recorded:big")


def _choices(*, votes_tell: bool) -> list[dict[str, object]]:
    """The echo always says B at once. Half of it is right: what its reasons say too, or where it is surer."""
    rows = []
    for number in range(COUNT):
        is_good = number % 2 == 0
        is_right = is_good or number % 8 == 7
        sign = f"The answer is {'B' if is_good else 'A'}." if votes_tell else "" if is_good else "[doubt]"
        rows.append(
            {
                "id": str(number),
                "question": f"B\n{sign} question {number}",
                "choices": ["x", "y"],
                "scorer": "choice",
                "answer": "B" if is_right else "A",
                "recorded": {"big": {"correct": number % 5 != 0}},
            }
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose model was calibrated with three votes to each question."""
    folder = tmp_path_factory.mktemp("voted")
    _write(folder, _choices(votes_tell=True))
    done = _run(folder, *CALIBRATE)
    assert 0 == done.returncode, done.stderr
    (folder / "said").write_text(done.stderr)
    return folder


def _task(folder):
    [path] = (folder / "calibration").glob("*.json")
    [task] = read_artefact(path).tasks
    return task


def test_a_calibration_keeps_by_which_words_votes_were_asked_for(folder):
    """Forty letters and three votes for each, of which the fit makes use; below a floor none will be asked for."""
    task = _task(folder)

    assert f"{4 * COUNT} of {4 * COUNT}" in (folder / "said").read_text()
    assert (4, REASONED.digest) == (task.samples, task.votes)
    assert {"vote_top", "vote_margin", "vote_share", "agreement"} & set(task.local.features)


def test_an_evaluation_draws_what_serve_would(folder):
    """As many answers as the calibration, without being told; all are kept, and none is drawn again."""
    done = _run(folder, *EVALUATE, "--json", "e.json")

    assert 0 == done.returncode, done.stderr
    assert "fake answers" not in done.stderr
    figures = json.loads((folder / "e.json").read_text())
    assert ("calibration", COUNT) == (figures["ranked_by"], figures["n"])
    assert 0 < figures["votes_asked"] <= 1
    assert "asked for in" in done.stdout
    assert {"vote_top", "vote_margin", "vote_share"} <= figures["auroc"].keys()


def test_another_number_of_answers_is_not_what_was_calibrated(folder):
    """The letter alone: ranked by its bare margin, and said so."""
    done = _run(folder, *EVALUATE, "--samples", "1")

    assert 0 == done.returncode, done.stderr
    assert "the calibration is of 4 answers to each question, not of 1" in done.stderr
    assert "ranked by bare option_margin" in done.stdout


def test_votes_that_tell_no_more_than_the_letter_are_not_asked_for(tmp_path):
    """The letter's own margin parts right from wrong as well, so the calibration is of the letter alone."""
    _write(tmp_path, _choices(votes_tell=False))
    done = _run(tmp_path, *CALIBRATE)

    assert 0 == done.returncode, done.stderr
    assert "the 3 votes tell no more than the letter" in done.stdout
    task = _task(tmp_path)
    assert (1, "", None, ("option_margin",)) == (task.samples, task.votes, task.vote_floor, task.local.features)
