"""From marked answers to an artefact: what is fitted, what is promised, and what is refused."""

import dataclasses
import math

import msgspec
import numpy as np
import pytest

from hybrid.calibration.calibrate import Goal, calibrate
from hybrid.calibration.evaluate import Limits, _bare, evaluate
from hybrid.calibration.growing import given_up
from hybrid.calibration.recipes import RECIPES
from hybrid.calibration.table import Table
from hybrid.errors import CommandError
from hybrid.policy.promise import draft_features, judge_by
from hybrid.policy.watch import Watch
from tests.calibration.tables import choices, dataset, texts


def _calibrate(table: Table, **goal: object):
    questions = dataset(row.question for row in table.rows)
    return calibrate(table, questions, "choice", RECIPES["choice"], Goal(task="invented", **goal))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made():
    """A calibration of 600 questions by a model that knows how sure it is, compared with a cloud."""
    return _calibrate(choices(600, seed=1), cloud="big")


def test_a_model_that_knows_gets_a_promise_that_holds_on_other_rows(made):
    """The regret on 2,000 rows of the same kind stays under the limit, plus what 2,000 rows may be off by."""
    promise = made.task.promise(0.05, 0.1)
    other = choices(2000, seed=2)
    stays = np.array(
        [
            judge_by(promise, draft_features(row.draft, promise.option_prior)).score >= promise.threshold
            for row in other.rows
        ]
    )
    regretted = stays & ~other.local_right & other.cloud_right

    assert promise.is_feasible
    assert not promise.is_at_chance
    assert 0.1 < stays.mean() < 0.9
    assert regretted.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_stated_chances_are_true_on_other_rows(made):
    """ECE on rows that took no part is small, and the Brier score beats the base rate's."""
    report = evaluate(choices(2000, seed=3), made.task.promise(0.05, 0.1), Limits("option_margin")).report

    # 0.04 is what the design asks for; chance alone gives about 0.02 with 2,000 rows.
    assert report["ece"] <= 0.04
    assert report["brier"] < report["brier_base_rate"]
    assert report["auroc"]["p_local"] > 0.65


def test_a_model_at_chance_is_found_out():
    """Drafts that tell nothing: it is said, and nothing is promised that answers much."""
    found = _calibrate(choices(400, seed=4, knows=0.0), cloud="big")

    assert found.task.is_at_chance
    assert found.certified.local_share < 0.3


def test_without_a_cloud_every_wrong_answer_counts_as_regretted(made):
    """The conservative reading: fewer stay local than with the cloud's own mistakes known."""
    alone = _calibrate(Table(tuple(dataclasses.replace(r, cloud_right=None) for r in choices(600, seed=1).rows)))

    assert "gold" == alone.task.labels
    assert alone.task.cloud_rate is None
    assert alone.certified.local_share <= made.certified.local_share


def test_under_three_hundred_rows_one_feature_is_fitted_and_it_says_so():
    """Platt on a single feature."""
    report = _calibrate(choices(120, seed=6)).local.report

    assert 1 == len(report.features)
    assert "platt" in report.method


@pytest.mark.parametrize(
    ("table", "told"),
    [
        pytest.param(choices(8), "10", id="too-few"),
        pytest.param(
            Table(tuple(dataclasses.replace(row, is_right=True) for row in choices(50).rows)), "right", id="one-label"
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused(table, told):
    """With the number that is wanted, or what is missing."""
    with pytest.raises(CommandError, match=told):
        _calibrate(table)


def test_the_counts_of_the_artefact_are_those_of_the_rows(made):
    """What the promise follows from is out of fold, complete, and small enough to keep."""
    counts = made.task.counts

    assert 600 == counts.n
    assert len(counts.thresholds) <= 512
    assert counts.kept[-1] == 600
    table = choices(600, seed=1)
    assert counts.regretted[-1] == int((~table.local_right & table.cloud_right).sum())


def test_an_evaluation_tells_all_that_it_must(made):
    """The contract's keys, each a number, and the promise as it turned out."""
    report = evaluate(choices(500, seed=7), made.task.promise(0.05, 0.1), Limits("option_margin")).report

    for key in ("n", "accuracy_local", "accuracy_cloud", "apgr", "cpt50", "cpt80", "cpt95", "ece", "violations"):
        assert isinstance(report[key], int | float), key
    low, high = report["apgr_ci95"]
    assert low < report["apgr"] < high
    assert report["apgr"] > 0.55
    assert set(report["violations_by_method"]) >= {"certified", "plug_in", "splits"}
    assert report["sweep"][0]["accuracy"] == report["accuracy_local"]
    assert report["sweep"][-1]["accuracy"] == pytest.approx(report["accuracy_cloud"])
    assert report["promise"]["regret"] <= 0.1


def test_without_a_calibration_the_bare_signal_ranks_and_nothing_is_stated():
    """No probability is made up: ECE and Brier are unknown, the curve is there."""
    report = evaluate(choices(300, seed=8), None, Limits("option_margin")).report

    assert report["ranked_by"] == "option_margin"
    assert report["ece"] is None
    assert report["promise"] is None
    assert report["apgr"] > 0.5


def test_a_model_at_chance_keeps_nothing(made):
    """As `serve` does: such a kind goes to the cloud before any token, whatever threshold its rows would certify."""
    promise = msgspec.structs.replace(made.task, is_at_chance=True).promise(0.05, 0.1)
    report = evaluate(choices(300, seed=7), promise, Limits("option_margin")).report

    assert (True, 0.0) == (report["promise"]["is_at_chance"], report["promise"]["local_share"])


def test_ties_of_agreement_are_broken_by_the_tokens():
    """Five samples give five levels: among drafts of one level the surer one stays, and none passes a level."""
    rows = [
        {"agreement": agreement, "median_logprob": logprob, "weak_quarter_logprob": -9.0}
        for agreement in (0.2, 0.4)
        for logprob in (-3.0, -0.01)
    ]
    found = [_bare(row, "agreement") for row in rows]
    assert sorted(found) == found
    assert 4 == len(set(found))
    assert [-9.0] == [_bare({"weak_quarter_logprob": -9.0, "median_logprob": -1.0}, "agreement")]


def test_without_a_cloud_there_is_no_curve():
    """What compares with it is unknown, the rest is told."""
    report = evaluate(choices(300, seed=9, cloud=None), None, Limits("option_margin")).report

    assert report["apgr"] is None
    assert report["violations"] is None
    assert report["auroc"]["option_margin"] > 0.6


def test_drafts_given_up_as_they_grow_are_no_drift():
    """Fresh drafts of the same kind raise no alarm, though those that a look ends are never seen."""
    table = texts(400, seed=1)
    questions = dataset(row.question for row in table.rows)
    task = calibrate(table, questions, "text", RECIPES["text"], Goal(task="invented", max_regret=0.1)).task
    promise = task.promise(0.1, 0.1)
    drafts = [row.draft for row in texts(900, seed=2).rows]
    is_lost = given_up(drafts, promise.looks, promise.option_prior)
    watch = Watch(promise)
    for draft, is_given_up in zip(drafts, is_lost, strict=True):
        found = draft_features(draft, promise.option_prior)
        judged = judge_by(promise, found)
        if judged is not None and not is_given_up:
            watch.saw(found, judged.p_local)

    assert 0.2 < is_lost.mean() < 0.8
    assert {spread.n for spread in task.reference.values()} == {
        int((~given_up([row.draft for row in table.rows], promise.looks, promise.option_prior)).sum())
    }
    assert () == watch.alarms
