"""A choice with votes for reasons: what is asked, and what is told of the letter."""

import math

import pytest

from hybrid.calibration.datasets import Question
from hybrid.calibration.drafts import Answer, DraftFile, key_of
from hybrid.calibration.recipes import REASONED, RECIPES
from hybrid.calibration.session import Asked
from hybrid.calibration.table import tabulate
from hybrid.errors import DatasetError
from hybrid.policy.model import Agreement, Ballot
from hybrid.types import FinishReason

QUESTION = Question(id="q", scorer="choice", question="Which?", choices=("w", "x", "y", "z"), answer="C")
KEY = key_of(QUESTION)
LETTER = Answer(
    key=KEY,
    text="A",
    finish=FinishReason.LENGTH,
    logprobs=(-0.5,),
    options=tuple(map(math.log, (0.5, 0.1, 0.3, 0.05))),
    total_s=1.0,
)


def _asked(folder, *answers: Answer, samples: int = 4) -> Asked:
    file, votes = DraftFile(folder, "m", RECIPES["choice"]), DraftFile(folder, "m", REASONED)
    with file.appending() as keep, votes.appending() as count:
        for answer in answers:
            (count if answer.number else keep)(answer)
    return Asked("choice", (QUESTION,), file, samples, votes)


def _vote(number: int, text: str, finish: FinishReason = FinishReason.STOP) -> Answer:
    return Answer(key=KEY, number=number, text=text, finish=finish, logprobs=(-0.1,) * 9, total_s=number + 1.0)


def _numbers(asked: Asked) -> list[list[int]]:
    return [[number for wish in wishes for number in wish.numbers] for _, _, wishes in asked.wishes()]


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        pytest.param([], [[0], [1, 2, 3]], id="nothing-yet"),
        pytest.param([LETTER], [[], [1, 2, 3]], id="the-letter"),
        pytest.param([LETTER, _vote(1, "C."), _vote(3, "C.")], [[], [2]], id="some-votes"),
        pytest.param([Answer(key=KEY, problem="too long")], [[], []], id="refused"),
    ],
)
def test_what_is_missing_is_asked(tmp_path, answers, wanted):
    """The letter by its recipe and the votes by theirs; of a question that was refused nothing more."""
    assert wanted == _numbers(_asked(tmp_path, *answers))


def test_the_letter_counts_and_votes_are_told_of_it(tmp_path):
    """One that a limit cut off names nothing. It takes as long as the last."""
    votes = [
        _vote(1, "So the answer is C."),
        _vote(2, "The answer is A."),
        _vote(3, "The answer is A", FinishReason.LENGTH),
    ]
    asked = _asked(tmp_path, LETTER, *votes)
    [row] = tabulate(asked.questions, asked.file, samples=4, votes=asked.votes).rows

    assert ("A", False, 4.0) == (row.answer.text, row.is_right, row.answer.total_s)
    assert Ballot((1 / 3, 0.0, 1 / 3, 0.0), 0) == row.draft.ballot
    assert Agreement(1 / 3, 4, is_majority=True) == row.draft.agreement
    assert LETTER.logprobs == row.draft.logprobs


def test_a_question_waits_for_all_its_votes(tmp_path):
    """It is not marked by some of them."""
    asked = _asked(tmp_path, LETTER, _vote(1, "C."))
    with pytest.raises(DatasetError, match="1 not answered yet"):
        tabulate(asked.questions, asked.file, samples=4, votes=asked.votes)
