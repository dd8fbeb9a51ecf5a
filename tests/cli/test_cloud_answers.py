"""What counts as a cloud's answer to a dataset, and when is a kept one taken again?"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hybrid.calibration.datasets import Question, Recorded
from hybrid.calibration.drafts import Answer as Drafted
from hybrid.calibration.drafts import DraftFile, key_of
from hybrid.calibration.recipes import RECIPES
from hybrid.calibration.session import Asked
from hybrid.calibration.table import Table, tabulate
from hybrid.cli.cloud_answers import with_cloud
from hybrid.config import load
from hybrid.providers.fake import Answer, FakeProvider
from hybrid.types import FinishReason
from tests.calibration.tables import dataset
from tests.e2e.serving import NO_MODEL, cloud_toml

CHOICE = Question(id="1", question="What?", scorer="choice", choices=("a", "b", "c"), answer="B")
NUMBER = Question(id="2", question="How many?", scorer="number", answer="7")
PYTHON = Question(id="3", question="def f():", scorer="python", tests="assert f()", entry_point="f")
TEXT = Question(id="4", question="Say it.", scorer="text")


def _asked(folder: Path, question: Question) -> Asked:
    """Give a question that local has answered."""
    file = DraftFile(folder, "f" * 64, RECIPES[question.scorer])
    numbers = (-0.1,)
    with file.appending() as append:
        append(Drafted(
            key=key_of(question), text="B", finish=FinishReason.STOP,
            logprobs=numbers, entropies=numbers, margins=numbers,
        ))  # fmt: skip
    return Asked(question.scorer, (question,), file, 1)


async def _ask(folder: Path, cloud: FakeProvider, question: Question, *, models: str = '["m"]') -> Asked:
    """Have the cloud asked as `calibrate --cloud big` does, if no answer of its is kept."""
    prices = '[prices."big/n"]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n'
    (folder / "hybrid.toml").write_text(NO_MODEL + cloud_toml(cloud.base_url).replace('["m"]', models) + prices)
    config = load(folder / "hybrid.toml", os.environ).config
    asked = [_asked(folder, question)]
    _, (found,) = await asyncio.to_thread(with_cloud, "big", None, config, dataset([question]), asked)
    return found


def _recorded(folder: Path, question: Question, answer: Answer) -> Recorded:
    async def scenario() -> Asked:
        async with FakeProvider(answer) as cloud:
            return await _ask(folder, cloud, question)

    return asyncio.run(scenario()).questions[0].recorded["big"]


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        pytest.param(CHOICE, Answer(chunks=()), Recorded(), id="empty"),
        pytest.param(CHOICE, Answer(chunks=(" ",)), Recorded(), id="blank"),
        pytest.param(CHOICE, Answer(chunks=("The answer",), finish_reason="length"), Recorded(), id="cut"),
        pytest.param(CHOICE, Answer(chunks=("B",), finish_reason="length"), Recorded(True, "B"), id="cut-at-B"),
        pytest.param(CHOICE, Answer(chunks=("Z",), finish_reason="length"), Recorded(), id="cut-at-Z"),
        pytest.param(CHOICE, Answer(chunks=("B",)), Recorded(True, "B"), id="right"),
        pytest.param(CHOICE, Answer(chunks=("C",)), Recorded(False, "C"), id="wrong"),
        pytest.param(
            CHOICE, Answer(reasoning=("hm",) * 900, chunks=("It", " is", " B")), Recorded(True, "It is B"), id="thinks"
        ),
        pytest.param(CHOICE, Answer(reasoning=("hm",) * 9000, chunks=("B",)), Recorded(), id="thinks-too-long"),
        pytest.param(NUMBER, Answer(chunks=("She has 3", " and"), finish_reason="length"), Recorded(), id="cut-number"),
        pytest.param(NUMBER, Answer(chunks=("so",) * 900 + (" 7",)), Recorded(True, "so" * 900 + " 7"), id="verbose"),
        pytest.param(PYTHON, Answer(chunks=("def f(): return",), finish_reason="length"), Recorded(), id="cut-program"),
        pytest.param(TEXT, Answer(chunks=("It is",), finish_reason="length"), Recorded(), id="cut-text-as-label"),
        pytest.param(TEXT, Answer(chunks=("It",)), Recorded(True, "It"), id="text-as-label"),
    ],
)
def test_a_cloud_that_was_cut_off_or_said_nothing_is_not_wrong(tmp_path, question, answer, expected):
    """Counted as wrong it would excuse local's mistakes, and certify what is not safe."""
    assert expected == _recorded(tmp_path, question, answer)


def test_a_question_without_a_whole_answer_is_left_out_and_counted(tmp_path):
    """The others keep their marks."""

    async def scenario() -> Table:
        async with FakeProvider(Answer(chunks=())) as cloud:
            asked = await _ask(tmp_path, cloud, CHOICE)
        other = Question(
            id="o", question="Other?", scorer="choice", choices=CHOICE.choices, answer="A",
            recorded={"big": Recorded(correct=False)},
        )  # fmt: skip
        _asked(tmp_path, other)
        file = DraftFile(tmp_path, "f" * 64, RECIPES["choice"])
        return tabulate((*asked.questions, other), file, cloud="big")

    table = asyncio.run(scenario())
    assert {"that the cloud gave no whole answer to": 1} == table.skipped
    assert [False] == list(table.cloud_right)


def test_an_answer_is_kept_for_the_models_that_gave_it(tmp_path):
    """The same models are not paid twice, a changed list is asked anew."""

    async def scenario() -> tuple[int, list[str | None]]:
        async with FakeProvider(
            lambda request: Answer(chunks=("B" if request.body["model"] == "m" else "C",))
        ) as cloud:
            asked = [await _ask(tmp_path, cloud, CHOICE, models=models) for models in ('["m"]', '["m"]', '["n"]')]
            return len(cloud.requests), [one.questions[0].recorded["big"].text for one in asked]

    assert (2, ["B", "B", "C"]) == asyncio.run(scenario())
