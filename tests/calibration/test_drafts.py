"""Answers to a dataset are asked once and kept, over breaks, torn files and a dead worker. Real process, fake model."""

import asyncio
import os
import signal

from hybrid.calibration.datasets import Question
from hybrid.calibration.drafts import DraftFile, draft_all, key_of, missing
from hybrid.calibration.recipes import RECIPES, Recipe
from hybrid.engine.process import SupervisorOptions
from hybrid.engine.supervisor import Supervisor
from hybrid.types import FinishReason

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


def test_a_worker_that_dies_costs_only_what_it_held(tmp_path):
    """It is started again, the others are asked, and what was lost is still missing afterwards."""
    questions = _questions(8)
    file = DraftFile(tmp_path, "model", ECHO)
    _draft(file, questions, kill_after=2)
    left = missing(questions, DraftFile(tmp_path, "model", ECHO), 1)

    assert len(left) <= 2
    _draft(file, questions)
    assert [] == missing(questions, DraftFile(tmp_path, "model", ECHO), 1)
