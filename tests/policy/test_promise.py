"""What a calibration lets one promise, and how a draft is judged by it."""

import math
import random
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.bounds import most_errors, upper_bound
from hybrid.policy.calibrated import LinearModel, Platt
from hybrid.policy.model import Basis, Check, Draft, Evidence, Limits, Reason, beginning, without_promise
from hybrid.policy.promise import (
    Counted,
    Look,
    Promise,
    at_most,
    certify,
    draft_features,
    grows_with_votes,
    is_worth_votes,
    judge,
    judge_by,
)
from hybrid.policy.review import look_at, review, review_by
from hybrid.policy.tasks import TaskKind
from hybrid.policy.votes import agreement_of, count
from hybrid.types import FinishReason

BY_MEAN = LinearModel(
    features=("mean_logprob",), means=(0.0,), scales=(1.0,), coefficients=(1.0,), intercept=0.0,
    calibration=Platt(1.0, 2.0),
)  # fmt: skip
"""p = 1 / (1 + exp(-(mean log-probability + 2)))."""


def _promise(**changes: object) -> Promise:
    given = {
        "task": "sums", "kind": TaskKind.NUMBER, "local": BY_MEAN, "threshold": 0.7, "max_regret": 0.05, "delta": 0.1,
        "local_share": 0.4, "bound": 0.049, "base_rate": 0.5, "cloud_rate": 0.9, **changes,
    }  # fmt: skip
    return Promise(**given)  # type: ignore[arg-type]


def _limits(**changes: object) -> Limits:
    return Limits(promise=_promise(**changes), kind=TaskKind.NUMBER)


def _draft(logprob: float, tokens: int = 4, finish: FinishReason | None = FinishReason.STOP) -> Draft:
    return Draft(logprobs=(logprob,) * tokens, finish_reason=finish)


def _counted(regretted: list[int], n: int = 200) -> Counted:
    steps = len(regretted)
    return Counted(
        thresholds=tuple(1 - place / steps for place in range(steps)),
        kept=tuple(round(n * (place + 1) / steps) for place in range(steps)),
        regretted=tuple(regretted),
        n=n,
    )


def test_the_loosest_threshold_before_the_first_failure_is_taken():
    """Of 200 rows 5 prove the true share (the bound of 5 is 0.0458, of 6 it is 0.0521), but only 4 the share that 200
    more will show; later is too late.
    """
    found = certify(_counted([0, 1, 3, 4, 5, 5]), 0.05, 0.1)

    assert (0.5, 4 / 6) == (found.threshold, pytest.approx(found.local_share, abs=0.01))
    assert found.bound == pytest.approx(upper_bound(4, 200, 0.1))
    assert upper_bound(5, 200, 0.1) <= 0.05 < upper_bound(6, 200, 0.1)


def test_what_is_promised_is_kept_by_what_is_counted():
    """Of 400 calibrations of a known world at most 10 % + 4 standard errors show more regret in as many requests after
    them than was promised; with the bound of the true share alone it would be more.
    """
    rng, broken, plain = random.Random(11), 0, 0  # noqa: S311 - a simulation
    most = most_errors(300, 0.05, 0.1)
    for _ in range(400):
        rows = sorted(((s := rng.random()), rng.random() < 0.3 * (1 - s)) for _ in range(300))[::-1]
        errors = list(accumulate(bad for _, bad in rows))
        counted = Counted(
            thresholds=tuple(s for s, _ in rows), kept=tuple(range(1, 301)), regretted=tuple(errors), n=300
        )
        served = [((s := rng.random()), rng.random() < 0.3 * (1 - s)) for _ in range(300)]
        loosest = rows[max(at for at, count in enumerate(errors) if count <= most)][0]
        for threshold, is_plain in ((certify(counted, 0.05, 0.1).threshold, False), (loosest, True)):
            is_broken = sum(bad for s, bad in served if s >= threshold) > 0.05 * 300
            broken, plain = broken + (is_broken and not is_plain), plain + (is_broken and is_plain)

    assert broken / 400 <= 0.1 + 4 * math.sqrt(0.1 * 0.9 / 400)
    assert broken < plain


@pytest.mark.parametrize(
    "counted",
    [
        pytest.param(_counted([9, 9]), id="already-the-first-fails"),
        pytest.param(_counted([0, 9], n=10), id="too-few-rows-prove-nothing"),
        pytest.param(Counted(thresholds=(), kept=(), regretted=(), n=0), id="no-rows"),
        pytest.param(Counted(thresholds=(1.0, 0.5), kept=(1, 100), regretted=(0, 30), n=100), id="next-to-nothing"),
    ],
)
def test_what_cannot_be_promised_has_an_infinite_threshold(counted):
    """Nothing is local then, and the reason says so."""
    found = certify(counted, 0.05, 0.1)

    assert math.isinf(found.threshold)
    assert 0.0 == found.local_share
    assert "no threshold" in found.why


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan])
def test_a_promise_of_nothing_or_everything_is_refused(bad):
    """A share is between 0 and 1."""
    with pytest.raises(ValueError, match="max_regret"):
        certify(_counted([0]), bad, 0.1)


@pytest.mark.parametrize(
    ("thresholds", "kept", "regretted"),
    [((0.5, 0.9), (1, 2), (0, 0)), ((0.9, 0.5), (2, 1), (0, 0)), ((0.9, 0.5), (1, 2), (1, 0)), ((0.9,), (300,), (0,))],
)
def test_counts_that_contradict_each_other_are_no_counts(thresholds, kept, regretted):
    """An artefact that was tampered with is found out."""
    with pytest.raises(ValueError, match="threshold"):
        Counted(thresholds=thresholds, kept=kept, regretted=regretted, n=200)


def test_a_certified_threshold_keeps_its_promise_in_nine_of_ten_samples():
    """Of 300 calibrations of a known world at most 10 % + 4 standard errors promise more than is true.

    The world: scores are even in [0, 1], and a draft of score s is regretted with chance 0.3 (1 - s). The true regret
    of answering all above t is then 0.15 (1 - t)^2.
    """
    rng, broken = random.Random(7), 0  # noqa: S311 - a simulation
    for _ in range(300):
        rows = sorted(((s := rng.random()), rng.random() < 0.3 * (1 - s)) for _ in range(400))[::-1]
        errors = list(accumulate(bad for _, bad in rows))
        counted = Counted(
            thresholds=tuple(s for s, _ in rows), kept=tuple(range(1, 401)), regretted=tuple(errors), n=400
        )
        threshold = certify(counted, 0.05, 0.1).threshold
        broken += not math.isinf(threshold) and 0.15 * (1 - threshold) ** 2 > 0.05

    assert broken / 300 <= 0.1 + 4 * math.sqrt(0.1 * 0.9 / 300)


def test_what_cannot_be_judged_is_escalated_under_a_promise():
    """The calibration counted it so. Without a promise its plain score decides, however that comes out."""
    unjudged = Evidence(tokens=3, score=0.99, finish_reason=FinishReason.STOP, features={"agreement": 1.0})
    held, free = (review_by(Basis(evidence=unjudged, limits=limits)) for limits in (_limits(), Limits()))

    assert (False, Reason.CONFIDENCE, False) == (held.is_accepted, held.reason, held.is_calibrated)
    assert "without what the calibration judges by" in held.checks[-1].detail
    assert free.is_accepted


def test_a_draft_is_judged_by_its_chance_and_says_so():
    """At -0.5 a token p is 0.8176: above 0.7. The verdict carries the numbers that were compared."""
    verdict = review(_draft(-0.5), _limits())

    assert verdict.is_accepted
    assert (Reason.DEFAULT, True, 0.7, 0.9) == (
        verdict.reason, verdict.is_calibrated, verdict.threshold, verdict.p_cloud
    )  # fmt: skip
    assert verdict.confidence == verdict.score == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert "regret <= 0.05 with confidence 0.9" in verdict.checks[-1].detail


def test_a_doubtful_draft_is_escalated():
    """At -1.5 a token p is 0.62: under 0.7."""
    verdict = review(_draft(-1.5), _limits())

    assert (False, Reason.CONFIDENCE, True) == (verdict.is_accepted, verdict.reason, verdict.is_calibrated)


def test_where_nothing_can_be_promised_no_draft_is_accepted():
    """However sure the model is; and the check names the threshold as none."""
    verdict = review(_draft(-0.001), _limits(threshold=math.inf))

    assert not verdict.is_accepted
    assert verdict.threshold is None
    assert "none that keeps the promise" in verdict.checks[-1].detail


def test_where_neither_would_be_right_local_abstains_from_paying():
    """With thresholds on the gain: p_local 0.27 and p_cloud 0.3 leave nothing worth paying for."""
    verdict = review(_draft(-3.0), _limits(ranks_by_gain=True, cloud_rate=0.3, threshold=-0.1))

    assert (True, Reason.ABSTAIN) == (verdict.is_accepted, verdict.reason)
    assert verdict.score == pytest.approx(1 / (1 + math.e) - 0.3)


@pytest.mark.parametrize(
    ("kind", "is_limit_own", "is_cut"),
    [
        pytest.param(TaskKind.NUMBER, False, True, id="its-answer-stands-at-its-end"),
        pytest.param(TaskKind.TEXT, False, False, id="the-client-wanted-so-much"),
        pytest.param(TaskKind.TEXT, True, True, id="our-own-limit"),
        pytest.param(TaskKind.CHOICE, False, False, id="a-letter-is-an-answer"),
    ],
)
def test_an_answer_that_a_limit_cut_off_is_a_reason_of_its_own(kind, is_limit_own, is_cut):
    """However sure its beginning was."""
    limits = Limits(kind=kind, is_limit_own=is_limit_own)
    verdict = review(_draft(-0.01, finish=FinishReason.LENGTH), limits)

    assert is_cut is not verdict.is_accepted
    if is_cut:
        assert verdict.reason is Reason.VERIFIER
        assert verdict.checks == (Check("cut_off", False, "the answer was cut off by its limit of 4 tokens"),)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_numbers_that_are_none_withdraw_the_promise(bad):
    """A model that broke is not judged by what it says of itself."""
    verdict = review(Draft(logprobs=(bad, -0.1)), _limits())

    assert not verdict.is_calibrated
    assert not verdict.is_accepted


def test_a_promise_that_is_taken_back_says_why():
    """In the check that everybody reads."""
    limits = without_promise(_limits(), "the first token was due")
    verdict = review(_draft(-0.01), limits)

    assert (True, False) == (verdict.is_accepted, verdict.is_calibrated)
    assert "no promise: the first token was due" in verdict.checks[-1].detail


LOOKS = (Look(tokens=4, threshold=0.5, model=BY_MEAN), Look(tokens=8, threshold=0.7, model=BY_MEAN))


@pytest.mark.parametrize(
    ("logprobs", "seen_tokens", "told"),
    [
        pytest.param((-3.0,) * 3, 0, None, id="too-early-to-look"),
        pytest.param((-3.0,) * 4, 0, "after 4 tokens", id="hopeless-at-the-first-look"),
        pytest.param((-1.5,) * 7, 4, None, id="between-looks"),
        pytest.param((-1.5,) * 9, 5, "after 8 tokens", id="the-second-line-is-higher"),
        pytest.param((-2.1,) * 4 + (-0.05,) * 6, 4, None, id="what-was-looked-at-is-past"),
        pytest.param((-3.0,) * 4 + (-0.1,) * 20, 0, "after 4 tokens", id="as-it-was-at-the-look"),
        pytest.param((-0.1,) * 9, 0, None, id="good"),
        pytest.param((math.nan,) * 4, 0, None, id="no-numbers"),
    ],
)
def test_a_growing_draft_is_looked_at_on_schedule(logprobs, seen_tokens, told):
    """At 4 and at 8 tokens, each by its own line, however many tokens came at once."""
    verdict = look_at(Draft(logprobs=logprobs), _limits(looks=LOOKS), seen_tokens=seen_tokens)

    assert (told is None) is (verdict is None)
    if verdict is not None:
        assert not verdict.is_accepted
        assert told in verdict.checks[0].detail


def test_the_beginning_of_a_draft_has_no_end():
    """As it was when it grew: fewer numbers, no finish."""
    draft = Draft(logprobs=(-1.0, -2.0), entropies=(0.1, 0.2), margins=(0.3, 0.4), finish_reason=FinishReason.STOP)

    assert beginning(draft, 1) == Draft(logprobs=(-1.0,), entropies=(0.1,), margins=(0.3,))


def test_a_draft_without_any_known_feature_is_not_judged():
    """The calibration asks for options, and the draft has none."""
    by_options = LinearModel(
        features=("option_margin",), means=(0.0,), scales=(1.0,), coefficients=(1.0,), intercept=0.0,
        calibration=Platt(1.0, 0.0),
    )  # fmt: skip

    assert judge_by(_promise(local=by_options), draft_features(_draft(-0.1))) is None


BY_VOTES = LinearModel(
    features=("vote_top", "option_margin"), means=(0.0, 0.0), scales=(1.0, 1.0), coefficients=(6.0, -1.0),
    intercept=-3.0, calibration=Platt(1.0, 0.0),
)  # fmt: skip


@given(
    st.lists(st.floats(-9.0, 0.0), min_size=2, max_size=6).flatmap(
        lambda options: st.tuples(
            st.just(tuple(options)), st.lists(st.sampled_from([None, *range(len(options))]), min_size=1, max_size=5)
        )
    )
)
def test_no_ballot_scores_higher_than_all_votes_for_the_letter(given_):
    """So a letter that even those would not lift needs no votes."""
    options, voted = given_
    promise = _promise(local=BY_VOTES, samples=len(voted) + 1, votes="words")
    draft = Draft(logprobs=(max(options),), options=options)
    ballot = count(len(options), voted, max(range(len(options)), key=options.__getitem__))
    with_votes = replace(draft, ballot=ballot, agreement=agreement_of(ballot, promise.samples))

    highest = at_most(promise, draft).score
    assert judge(promise, with_votes).score <= highest + 1e-12
    assert is_worth_votes(replace(promise, vote_floor=highest), draft)
    assert not is_worth_votes(replace(promise, vote_floor=math.nextafter(highest, 2)), draft)
    assert is_worth_votes(promise, draft)


@pytest.mark.parametrize(
    ("features", "coefficients", "grows"),
    [
        (("vote_top", "vote_margin"), (1.0, 0.0), True),
        (("vote_top", "option_margin"), (1.0, -1.0), True),
        (("vote_top", "vote_share"), (1.0, -0.1), False),
        (("agreement",), (-1.0,), False),
    ],
)
def test_a_floor_for_votes_needs_a_model_that_grows_with_them(features, coefficients, grows):
    """What the letter alone tells may count either way: no vote changes it."""
    zeros, ones = (0.0,) * len(features), (1.0,) * len(features)
    model = LinearModel(
        features=features, means=zeros, scales=ones, coefficients=coefficients, intercept=0.0,
        calibration=Platt(1.0, 0.0),
    )  # fmt: skip

    assert grows is grows_with_votes(model)
