"""Is a cloud's record learned by its questions' words, judged out of fold, and left alone where it teaches nothing?"""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from hybrid.artefact import Task, words_of
from hybrid.calibration.calibrate import Goal, _fit_cloud, calibrate
from hybrid.calibration.datasets import Recorded
from hybrid.calibration.evaluate import Limits, evaluate
from hybrid.calibration.recipes import RECIPES
from hybrid.calibration.reliability import auroc
from hybrid.calibration.table import Table, taught
from hybrid.calibration.wordings import LEAST_MISTAKES, fit_wording
from hybrid.policy.promise import judge_by
from hybrid.policy.wording import CLOUD_WORDS, Wording, logit_of
from tests.calibration.tables import choices, dataset

HARD, EASY = ("prove the lemma", "compute the integral"), ("name the capital", "who wrote the novel")
RECIPE = RECIPES["choice"]


def asked(count, seed):
    """Questions of hard and easy words, and whether the cloud was right: seldom and mostly."""
    rng = np.random.default_rng(seed)
    is_hard = rng.random(count) < 0.5
    texts = [f"{(HARD if hard else EASY)[rng.integers(2)]} of {rng.integers(10_000)}" for hard in is_hard]
    return texts, rng.random(count) < np.where(is_hard, 0.3, 0.95)


def worded(count, seed, *, cloud="big"):
    """A table whose cloud fails at hard words; local's chances have nothing to do with them."""
    table = choices(count, seed=seed)
    texts, right = asked(count, seed + 100)
    rows = []
    for row, text, mark in zip(table.rows, texts, right, strict=True):
        question = msgspec.structs.replace(row.question, question=text, recorded={cloud: Recorded(correct=bool(mark))})
        rows.append(dataclasses.replace(row, question=question, cloud_right=bool(mark)))
    return Table(tuple(rows))


def calibrated(table, beside=()):
    """The calibration of a table."""
    questions = dataset(row.question for row in table.rows)
    return calibrate(table, questions, "choice", RECIPE, Goal(task="invented", cloud="big"), beside)


@pytest.fixture(scope="module")
def made():
    """Six hundred rows."""
    return calibrated(worded(600, 1))


def test_words_rank_what_the_cloud_gets_right():
    """On questions that took no part, and as well as it says out of fold."""
    texts, right = asked(600, 1)
    others, others_right = asked(2000, 2)
    found = fit_wording(texts, right)
    outside = auroc(np.array([logit_of(found.wording, text) for text in others]), others_right)
    assert outside > 0.75
    assert outside == pytest.approx(auroc(found.out_of_fold, right), abs=0.1)


def test_words_that_tell_nothing_are_not_believed_out_of_fold():
    """Marks by the toss of a coin: in the fold anything could be learned by heart."""
    texts, _ = asked(600, 1)
    right = np.random.default_rng(9).random(600) < 0.8
    assert 0.5 == pytest.approx(auroc(fit_wording(texts, right).out_of_fold, right), abs=0.08)


def test_questions_beside_the_rows_teach():
    """Few rows learn from the cloud's record of others."""
    texts, right = asked(60, 3)
    more, more_right = asked(2000, 4)
    outside, outside_right = asked(1000, 5)
    found = fit_wording(texts, right, more, more_right)
    assert auroc(np.array([logit_of(found.wording, text) for text in outside]), outside_right) > 0.75
    assert auroc(found.out_of_fold, right) > 0.65


@pytest.mark.parametrize("count", [0, LEAST_MISTAKES - 1])
def test_a_cloud_that_is_hardly_ever_wrong_teaches_nothing(count):
    """Thousands of weights of a handful of mistakes would be chance."""
    texts, _ = asked(600, 1)
    assert None is fit_wording(texts, np.arange(600) >= count)


def test_the_cloud_of_a_calibration_is_judged_by_words(made):
    """Where they pay, thresholds are set on the gain, and the artefact keeps the words."""
    assert made.task.ranks_by_gain
    assert CLOUD_WORDS in made.cloud.model.features
    assert CLOUD_WORDS not in made.local.model.features
    assert isinstance(made.task.wording(), Wording)


def test_it_lifts_what_escalation_gains(made):
    """On other rows, against the same calibration that does not know the words."""
    other, promise, wording = worded(2000, 7), made.task.promise(0.05, 0.1), made.task.wording()

    def of(text):
        return dataclasses.replace(promise, cloud_words=logit_of(wording, text))

    limits = Limits("option_margin")
    known = evaluate(other, promise, limits, of, other.texts(RECIPE)).report
    unknown = evaluate(other, dataclasses.replace(promise, ranks_by_gain=False), limits).report
    assert known["apgr"] > unknown["apgr"] + 0.03
    assert known["cpt80"] < unknown["cpt80"]
    assert known["promise"]["regret"] <= 0.06


def test_what_is_said_of_a_row_is_what_serve_says_of_its_question(made):
    """The same words, the same bytes in the artefact, the same chance."""
    kept = msgspec.json.decode(msgspec.json.encode(made.task), type=Task)
    text = "prove the lemma of 17"
    assert logit_of(made.task.wording(), text) == logit_of(kept.wording(), text)
    promise = dataclasses.replace(kept.promise(0.05, 0.1), cloud_words=logit_of(kept.wording(), text))
    easy = dataclasses.replace(promise, cloud_words=logit_of(kept.wording(), "name the capital of 17"))
    row = worded(600, 1).features(promise.option_prior)[0]
    hard_one, easy_one = judge_by(promise, row), judge_by(easy, row)
    assert hard_one.p_local == easy_one.p_local
    assert hard_one.p_cloud < easy_one.p_cloud - 0.2
    assert hard_one.score > easy_one.score


def test_other_words_are_another_calibration(made):
    """Labels of scores by the one say nothing of the other's."""
    other = words_of(Wording((0.5, 0.25), 1.0))
    assert made.task.id != msgspec.structs.replace(made.task, words=other).id
    assert made.task.id != msgspec.structs.replace(made.task, words=None).id


def test_weights_that_are_cut_off_are_no_calibration(made):
    """Half a number is found where the file is read."""
    cut = msgspec.structs.replace(made.task.words, weights=made.task.words.weights[:-1])
    with pytest.raises(ValueError, match="half"):
        msgspec.structs.replace(made.task, words=cut).wording()
    with pytest.raises(ValueError, match="large"):
        words_of(Wording((1e9,), 0.0))


def test_only_other_questions_of_the_kind_with_a_mark_teach():
    """Not the rows themselves, not those of another kind, nor those without a record."""
    table, beside = worded(50, 1), worded(5, 2)
    others = [row.question for row in beside.rows]
    others[0] = msgspec.structs.replace(others[0], scorer="text")
    others[1] = msgspec.structs.replace(others[1], recorded={})
    others[2] = msgspec.structs.replace(others[2], recorded={"big": Recorded(text="A")})
    texts, marks = taught([*[row.question for row in table.rows], *others], table, RECIPE, "big")
    assert [row.cloud_right for row in beside.rows[3:]] == marks.tolist()
    assert all(text.endswith(RECIPE.closing) for text in texts)
    assert ([], []) == tuple(map(list, taught(others, table, RECIPE, None)))


def test_the_cloud_is_not_judged_by_what_has_no_bounds():
    """A client's own wording moves the mass of the options by a thousand deviations, and doubt must not stay for it."""
    rng = np.random.default_rng(3)
    right = rng.random(400) < 0.7
    rows = [
        {"option_mass": -0.01 * mark + 1e-4 * noise, "option_margin": 0.5 + 0.1 * mark + 0.2 * noise}
        for mark, noise in zip(right, rng.normal(size=400), strict=True)
    ]
    assert ("option_margin",) == _fit_cloud(rows, right, "option_margin", 0).model.features
