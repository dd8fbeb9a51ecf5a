"""What do labels of what was served make? Weighted fits, promises from plain samples only, and clear refusals."""

import math
import random
from datetime import UTC, datetime

import pytest

from hybrid.calibration.calibrate import Goal
from hybrid.calibration.from_ledger import calibrate_labels, groups_of
from hybrid.errors import CommandError
from hybrid.store.labels import Label, Origin

SHARE = 0.2


def label(number: int, *, margin=0.5, agrees=True, origin=Origin.ESCALATION, share=SHARE, **more) -> Label:
    """Give a label of a question with options."""
    facts = {
        "request_id": f"req_{number}", "made_at": datetime(2026, 6, 1, tzinfo=UTC), "origin": origin,
        "weight": 1 / share if origin is Origin.AUDIT else 1.0, "rate": share, "kind": "choice", "task": "quiz",
        "calibration": None, "fingerprint": "f", "template_fingerprint": "t", "provider": "big", "model": "m",
        "p_local": None, "p_cloud": None, "score": None, "is_accepted": origin is Origin.AUDIT, "is_flawed": False,
        "agrees": agrees, "features": {"option_margin": margin, "mean_logprob": margin - 1, "fair_top": 0.5},
    }  # fmt: skip
    return Label(**(facts | more))


def served(requests: int, *, share: float = SHARE, seed: int = 0) -> list[Label]:
    """Serve so many whose margin is uniform: accepted from 0.3 on, where local agrees in 98 %, else in half."""
    rng, labels = random.Random(seed), []  # noqa: S311 - a simulation
    for number in range(requests):
        margin = rng.random()
        agrees = rng.random() < (0.98 if margin >= 0.3 else 0.5)
        if margin < 0.3:
            labels.append(label(number, margin=margin, agrees=agrees, share=share))
        elif rng.random() < share:
            labels.append(label(number, margin=margin, agrees=agrees, origin=Origin.AUDIT, share=share))
    return labels


def test_the_fit_stands_for_all_that_was_served():
    """Escalations are a third of 2,000 requests and two thirds of the labels; weighted, local agrees in 84 %."""
    (group,) = groups_of(served(2_000))
    made = calibrate_labels(group, Goal(task="quiz"))

    # 0.7 * 0.98 + 0.3 * 0.5 = 0.836, with four standard deviations of some 280 audits and 600 escalations.
    assert pytest.approx(0.836, abs=0.05) == made.task.base_rate
    assert ("big/m", 1.0, "ledger") == (made.task.labels, made.task.cloud_rate, made.task.dataset)
    assert made.task.report["audits"] == group.audits > 200
    assert math.isfinite(made.certified.threshold)
    assert 0.4 < made.certified.local_share <= 0.9
    assert "p_local" in made.task.reference
    assert "fair_top" not in made.task.local.features
    # It reads back as a promise.
    assert made.task.promise(0.05, 0.1).threshold == made.certified.threshold


def test_few_labels_give_one_feature():
    """Under 300 labels it is Platt on one, and says so."""
    (group,) = groups_of(served(300))
    made = calibrate_labels(group, Goal(task="quiz"))

    assert len(group.labels) < 300
    assert "platt on one feature" == made.local.report.method


def test_without_audits_nothing_is_promised():
    """What was accepted is unknown, however well escalated drafts did."""
    labels = [one for one in served(2_000) if one.origin is Origin.ESCALATION]
    (group,) = groups_of(labels)
    made = calibrate_labels(group, Goal(task="quiz"))

    assert 0 == made.task.counts.n
    assert math.inf == made.certified.threshold


def test_what_a_verifier_found_flawed_stays_local_nowhere():
    """A flawed draft counts as a request and never as an answer, whatever its score."""
    labels = served(2_000)
    flawed = [label(10_000 + at, margin=0.9, agrees=False, is_flawed=True, share=1.0) for at in range(40)]
    (group,) = groups_of([*labels, *flawed])
    made = calibrate_labels(group, Goal(task="quiz"))

    assert made.task.counts.n - 40 == made.task.counts.kept[-1]


def test_answers_picked_among_several_teach_nothing_of_one():
    """The majority is right more often than the single answers that a calibration on labels is served with."""
    compared = [label(10_000 + at, features={"option_margin": 0.5, "agreement": 0.8}) for at in range(40)]
    (group,) = groups_of([*served(300), *compared])

    assert not any("agreement" in one.features for one in group.labels)


def test_answers_that_were_sent_away_before_they_were_compared_teach_nothing():
    """Votes that could not lift them were not drawn, so they are the doubtful ones of their kind."""
    alone = [label(10_000 + at, features={}, calibration="voted") for at in range(40)]
    (group,) = groups_of([*served(300), *alone])

    assert all(one.features for one in group.labels)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        pytest.param([], "the ledger has none", id="none"),
        pytest.param([label(at) for at in range(9)], "9 of quiz", id="nine"),
    ],
)
def test_too_few_labels_are_a_clear_error(labels, says):
    """Fewer than ten of one task say how many there are, and where labels come from."""
    with pytest.raises(CommandError, match=says):
        groups_of(labels)


def test_one_kind_of_label_is_a_clear_error():
    """Where all agree nothing can tell which do not."""
    (group,) = groups_of([label(at, margin=at / 40) for at in range(40)])
    with pytest.raises(CommandError, match="all 40 answers are right"):
        calibrate_labels(group, Goal(task="quiz"))


def test_two_clouds_are_two_truths():
    """A group takes the cloud of most of its labels, or the one that was asked for."""
    labels = [*served(200), *(label(9_000 + at, provider="other") for at in range(12))]

    assert ["big/m"] == [group.cloud for group in groups_of(labels)]
    assert ["other/m"] == [group.cloud for group in groups_of(labels, cloud="other")]
    assert {"big"} == {one.provider for one in groups_of(labels)[0].labels}


def test_audits_that_the_cloud_did_not_answer_count_as_regretted():
    """Left out, they would hide that fewer of what stays were looked at; taken as they stand they spoil no fit."""
    labels = served(2_000)
    failed = [label(10_000 + at, margin=0.9, agrees=False, origin=Origin.AUDIT, is_answered=False) for at in range(60)]
    made = calibrate_labels(groups_of(labels)[0], Goal(task="quiz"))
    (group,) = groups_of([*labels, *failed])
    missing = calibrate_labels(group, Goal(task="quiz"))

    assert 60 == missing.task.report["unanswered"]
    assert missing.task.counts.n == made.task.counts.n + 60
    assert missing.task.counts.regretted[-1] == made.task.counts.regretted[-1] + 60
    assert (made.task.local, made.task.base_rate) == (missing.task.local, missing.task.base_rate)
    assert math.isfinite(made.certified.threshold)
    # They look like the best, so that much less is certified.
    assert missing.certified.local_share < made.certified.local_share / 2


def test_labels_without_a_promise_need_audits_even_where_all_were_to_be_asked():
    """Of those drawn to teach, the doubted have a label whatever comes; the accepted ones are not among them."""
    labels = [label(at, margin=at / 400, agrees=bool(at % 9), share=1.0) for at in range(400)]
    (group,) = groups_of(labels)

    assert 0 == calibrate_labels(group, Goal(task="quiz")).task.counts.n
