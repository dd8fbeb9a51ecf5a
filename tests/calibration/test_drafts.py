"""Answers to a dataset are asked once and kept, over breaks, torn files and a dead worker. Real process, fake model."""

import asyncio
import json
import math
import os
import signal

import pytest
from msgspec import structs

from hybrid.calibration.datasets import Question
from hybrid.calibration.drafts import LEAST_LOGPROB, DraftFile, _Growing, draft_all, key_of, missing
from hybrid.calibration.recipes import RECIPES, Recipe, ask
from hybrid.calibration.table import tabulate
from hybrid.engine.frames import Submit
from hybrid.engine.generation import Generation
from hybrid.engine.process import SupervisorOptions
from hybrid.engine.supervisor import Supervisor
from hybrid.errors import LocalError
from hybrid.local_request import LocalRequest
from hybrid.types import Finished, FinishReason, TextDelta, TokenSignal

TIME_LIMIT_S = 30
ECHO = Recipe(max_output_tokens=200)
CHOICE = Question(id="c", question="BAB", choices=("x", "y"), scorer="choice", answer="B")


def _questions(count: int) -> list[Question]:
    return [Question(id=str(n), question=f"say {n}", scorer="text", answer=f"say {n}") for n in range(count)]


def _draft(file: DraftFile, questions, samples: int = 1, recipe: Recipe = ECHO, kill_after: int | None = None) -> int:
    """Ask what is missing; give how many answers came. Kills the worker once after so many."""
    came = 0

    async def main() -> None:
        options = SupervisorOptions(backend="fake", model_path="", context_tokens=4096, slots=2, threads=1)
        local = Supervisor(options)

        def on_done(count: int) -> None:
            nonlocal came
            if kill_after is not None and came < kill_after <= came + count:
                assert local.pid is not None
                os.kill(local.pid, signal.SIGKILL)
            came += count

        async with asyncio.timeout(TIME_LIMIT_S):
            local.start()
            await local.wait_settled()
            try:
                wishes = missing(questions, file, samples)
                await draft_all(local, wishes, recipe, file, concurrency=2, on_done=on_done)
            finally:
                await local.stop()

    asyncio.run(main())
    return came


def test_a_second_run_asks_nothing_and_reads_the_same(tmp_path):
    """All answers of the first are found again, each with its signals and its end."""
    questions = _questions(5)
    file = DraftFile(tmp_path, "model", ECHO)

    assert _draft(file, questions) == 5
    again = DraftFile(tmp_path, "model", ECHO)
    assert [] == missing(questions, again, 1)
    answers = [again.get(key_of(question)) for question in questions]
    assert [question.answer for question in questions] == [answer.text for answer in answers if answer]
    assert all(answer and answer.finish is FinishReason.STOP for answer in answers)
    # The echo ends with a token of its own.
    assert [len(question.question) + 1 for question in questions] == [len(a.logprobs) for a in answers if a]


def test_samples_are_asked_beside_the_draft_and_only_those_that_lack(tmp_path):
    """Three samples of each after one draft: two more answers a question, each under its number."""
    questions = _questions(3)
    file = DraftFile(tmp_path, "model", ECHO)
    _draft(file, questions)

    assert _draft(file, questions, samples=3) == 6
    assert all(file.get(key_of(question), number) for question in questions for number in range(3))


def test_a_torn_line_is_asked_again_and_the_rest_is_kept(tmp_path):
    """A process that died while it wrote costs one answer, and the file goes on after it."""
    questions = _questions(3)
    file = DraftFile(tmp_path, "model", ECHO)
    _draft(file, questions)
    body = file.path.read_bytes()
    file.path.write_bytes(body[:-20])

    assert _draft(DraftFile(tmp_path, "model", ECHO), questions) == 1
    assert [] == missing(questions, DraftFile(tmp_path, "model", ECHO), 1)


def test_another_model_or_recipe_has_a_file_of_its_own(tmp_path):
    """Answers of one are never taken for another's."""
    paths = {
        DraftFile(tmp_path, fingerprint, recipe).path
        for fingerprint in ("model", "other")
        for recipe in (ECHO, RECIPES["choice"])
    }

    assert len(paths) == 4


def test_options_are_told_for_a_choice(tmp_path):
    """One number an option, as the model saw them at its first token."""
    file = DraftFile(tmp_path, "model", ECHO)
    _draft(file, [CHOICE])
    answer = file.get(key_of(CHOICE))

    assert answer is not None
    assert len(answer.options) == 2
    assert answer.draft().options == answer.options


def test_a_question_that_does_not_fit_is_kept_as_a_problem(tmp_path):
    """It is told why, never cut, and not asked again."""
    long = Question(id="long", question="x" * 5000, scorer="text", answer="x")
    file = DraftFile(tmp_path, "model", ECHO)
    _draft(file, [long, *_questions(1)], samples=2)
    answer = file.get(key_of(long))

    assert answer is not None
    assert answer.problem is not None
    assert "the context holds 4096" in answer.problem
    assert [] == missing([long], DraftFile(tmp_path, "model", ECHO), 2)


def test_a_worker_that_dies_costs_nothing(tmp_path):
    """It is started again, and what it held is asked once more in the same run."""
    questions = _questions(8)
    file = DraftFile(tmp_path, "model", ECHO)

    assert 8 == _draft(file, questions, kill_after=2)
    assert [] == missing(questions, DraftFile(tmp_path, "model", ECHO), 1)


class _Deadly(Supervisor):
    """A worker that dies as soon as one of these questions is before it, so many times."""

    def __init__(self, deadly: list[Question], times: int) -> None:
        super().__init__(SupervisorOptions(backend="fake", model_path="", context_tokens=4096, slots=4, threads=1))
        self.left = dict.fromkeys(map(key_of, deadly), times)

    async def submit(self, submit: Submit) -> Generation:
        generation = await super().submit(submit)
        key = submit.id.partition(".")[0]
        if self.left.get(key, 0) and self.pid is not None:
            self.left[key] -= 1
            os.kill(self.pid, signal.SIGKILL)
        return generation


def _draft_beside(file: DraftFile, questions, deadly, times: int, samples: int = 1) -> int:
    """Ask four at a time; give how many answers were told to be done."""
    came = 0

    async def main() -> None:
        local = _Deadly(deadly, times)

        def on_done(count: int) -> None:
            nonlocal came
            came += count

        local.start()
        try:
            await draft_all(local, missing(questions, file, samples), ECHO, file, concurrency=4, on_done=on_done)
        finally:
            await local.stop()

    asyncio.run(asyncio.wait_for(main(), TIME_LIMIT_S))
    return came


def test_a_question_at_which_the_worker_dies_once_is_answered(tmp_path):
    """And so are those that were with it in the worker."""
    questions = _questions(8)
    file = DraftFile(tmp_path, "model", ECHO)

    assert 8 == _draft_beside(file, questions, questions[2:3], times=1)
    assert [None] * 8 == [file.get(key_of(question)).problem for question in questions]


def test_a_question_at_which_it_dies_twice_is_kept_as_failed_alone(tmp_path):
    """Those beside it are not blamed, the run goes on to its end, and the next one does not ask again."""
    questions = _questions(8)
    file = DraftFile(tmp_path, "model", ECHO)

    assert 8 == _draft_beside(file, questions, questions[2:3], times=99)
    again = DraftFile(tmp_path, "model", ECHO)
    assert [] == missing(questions, again, 1)
    answers = [again.get(key_of(question)) for question in questions]
    assert [number == 2 for number in range(8)] == [answer.has_failed for answer in answers]
    assert answers[2].problem.startswith("failed twice: ")
    table = tabulate(questions, again)
    assert (7, {"that the model broke at twice": 1}) == (len(table.rows), table.skipped)


@pytest.mark.parametrize("count", [4, 40], ids=["asked-again", "given-up-before"])
def test_a_model_that_breaks_at_everything_blames_no_question(tmp_path, count):
    """The run is given up with the reason, and all is asked anew by the next one."""
    questions = [Question(id=str(n), question=f"[fail] {n}", scorer="text", answer="x") for n in range(count)]
    file = DraftFile(tmp_path, "model", ECHO)
    with pytest.raises(LocalError):
        _draft(file, questions)
    assert count == len(missing(questions, DraftFile(tmp_path, "model", ECHO), 1))


def _broken(name: str, values: list[object]):
    return lambda kept: {**kept, name: values}


@pytest.mark.parametrize(
    "breaks",
    [
        pytest.param(_broken("logprobs", [None, -0.1]), id="not-a-number"),
        pytest.param(_broken("logprobs", [-1e300, -0.1]), id="beyond-what-can-be-fitted"),
        pytest.param(_broken("margins", [1e308, 1e308]), id="beyond-what-can-be-summed"),
        pytest.param(_broken("options", [-0.5]), id="one-option"),
    ],
)
def test_a_kept_answer_whose_numbers_are_none_is_asked_again(tmp_path, breaks):
    """What a bad disk or an earlier version left must not end the fit in words about none of it."""
    file = DraftFile(tmp_path, "model", ECHO)
    _draft(file, [CHOICE, *_questions(1)])
    first, *rest = file.path.read_text().splitlines()
    file.path.write_text("\n".join([json.dumps(breaks(json.loads(first))), *rest, ""]))

    again = DraftFile(tmp_path, "model", ECHO)
    assert [json.loads(first)["key"]] == [wish.key for wish in missing([CHOICE, *_questions(1)], again, 1)]
    assert 1 == _draft(again, [CHOICE, *_questions(1)])
    assert [] == missing([CHOICE, *_questions(1)], DraftFile(tmp_path, "model", ECHO), 1)


def test_a_question_that_stands_there_twice_counts_once(tmp_path):
    """Its copy has the same answer and proves nothing more; counted, it would break a promise of 10 % in 27 %."""
    questions = _questions(3)
    copies = [structs.replace(question, id=f"copy of {question.id}") for question in questions]
    file = DraftFile(tmp_path, "model", ECHO)
    _draft(file, questions)

    table = tabulate([*questions, *copies], file)
    assert (3, {"that stand there already, under another id": 3}) == (len(table.rows), table.skipped)


def test_an_option_that_cannot_be_said_is_kept_as_a_number(tmp_path):
    """Minus infinity would be nothing in JSON, and the question asked again at every run."""
    growing = _Growing(LocalRequest(request=ask(CHOICE, ECHO).request, facts=None), is_thinking=False)
    growing.hear(TextDelta("B", (TokenSignal(-0.1, 0.2, 0.9, (-math.inf, -0.1)),)))
    growing.hear(Finished(FinishReason.LENGTH, None))
    answer = growing.answer("key", 0, 10, 1.0)
    with DraftFile(tmp_path, "model", ECHO).appending() as append:
        append(answer)

    assert answer == DraftFile(tmp_path, "model", ECHO).get("key")
    assert (LEAST_LOGPROB, -0.1) == answer.options
