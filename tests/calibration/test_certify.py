"""Is a certified threshold the one the test allows, does the promise hold, and is a hopeless one refused?"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.artefact import Counts
from hybrid.calibration.certify import certify, counts_of, plug_in, probability_grid, regrets, trace, violations
from hybrid.policy.bounds import most_errors, upper_bound
from tests.test_artefact import TASK


def exact(value: object) -> object:
    """Shares of a few counts, exact but for rounding."""
    return pytest.approx(value, abs=1e-12)


def population(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A calibrated score, local right with that chance, a cloud right in 85 % whatever the score."""
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    return score, rng.random(n) < score, rng.random(n) < 0.85


def true_regret(threshold: float | None) -> float:
    """Of `population`: the integral of 0.85 (1 - s) from the threshold to 1."""
    return 0.0 if threshold is None else 0.85 * (1 - min(1.0, max(0.0, threshold))) ** 2 / 2


def test_by_hand():
    """Of 100 rows the ten of lowest score are regretted; the threshold lets as many of them pass as prove 9 %."""
    score = np.arange(100.0)
    local = score >= 10
    allowed = most_errors(100, 0.09, 0.1)
    found = certify(score, local, np.ones(100, dtype=bool), 0.09, 0.1)
    assert 10.0 - allowed == found.threshold
    assert allowed == found.errors
    assert exact(0.9 + allowed / 100) == found.local_share
    assert exact(0.1 - allowed / 100) == found.least_escalation
    assert exact(upper_bound(allowed, 100, 0.1)) == found.bound
    assert found.bound <= 0.09
    assert exact(0.01) == found.plug_in_escalation
    assert exact(0.01) == found.oracle_escalation
    assert exact(0.01 / 0.91) == found.selective_escalation
    assert found.is_feasible


def test_regret_needs_a_cloud_that_is_right():
    """Where neither is right nothing is regretted; without the cloud's labels it counts as right."""
    assert [True, False, False, False] == list(regrets([0, 0, 1, 1], [1, 0, 1, 0]))
    assert [True, True, False, False] == list(regrets([0, 0, 1, 1], None))


def test_gold_labels_alone_are_stricter_and_say_so():
    """A cloud taken to be always right leaves less to answer locally."""
    score, local, cloud = population(800, 1)
    with_cloud, without = certify(score, local, cloud, 0.05, 0.1), certify(score, local, None, 0.05, 0.1)
    assert ("cloud", "gold") == (with_cloud.labels, without.labels)
    assert without.local_share < with_cloud.local_share


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), min_size=1, max_size=120),
    st.floats(0.02, 0.6),
    st.floats(0.02, 0.5),
)
def test_it_is_the_loosest_that_passes(rows, max_regret, delta):
    """The threshold's own bound keeps to the limit, and every looser score's bound does not."""
    score, local, cloud = (np.array(column) for column in zip(*rows, strict=True))
    found = certify(score, local, cloud, max_regret, delta, least_local_share=0.0)
    bad = ~local & cloud
    for threshold in np.unique(score):
        bound = upper_bound(int((bad & (score >= threshold)).sum()), len(score), delta)
        passes = bound <= max_regret
        assert passes == (found.threshold is not None and threshold >= found.threshold)


def test_ties_stand_or_fall_together():
    """Rows of one score are kept or escalated as one."""
    score = np.array([0.9] * 100 + [0.5] * 100)
    local = np.array([True] * 100 + [True] * 60 + [False] * 40)
    found = certify(score, local, None, 0.05, 0.1)
    assert (0.9, 0, 0.5) == (found.threshold, found.errors, found.local_share)


def test_a_grid_gives_round_thresholds():
    """Only what was declared is chosen, and never looser than without."""
    score, local, cloud = population(600, 2)
    found = certify(score, local, cloud, 0.05, 0.1, grid=probability_grid(20))
    free = certify(score, local, cloud, 0.05, 0.1)
    assert found.threshold in probability_grid(20)
    assert free.threshold <= found.threshold < free.threshold + 0.051


def test_the_probability_grid():
    """From 1 to 0, in steps."""
    assert (1.0, 0.75, 0.5, 0.25, 0.0) == probability_grid(4)


def test_too_few_rows_prove_nothing_and_say_how_many_would():
    """44 rows without one error do not prove 5 % at 90 %; 45 do."""
    refused = certify(np.ones(44), np.ones(44), None, 0.05, 0.1)
    assert refused.threshold is None
    assert not refused.is_feasible
    assert "needs at least 45 labelled rows" in refused.why
    assert 1.0 == certify(np.ones(45), np.ones(45), None, 0.05, 0.1).threshold


def test_a_hopeless_score_is_infeasible_and_the_least_escalation_is_told():
    """Local wrong in 98 %, the cloud right in 98 %, a score at chance: almost all must be escalated."""
    rng = np.random.default_rng(0)
    score, local, cloud = rng.random(2_000), rng.random(2_000) < 0.02, rng.random(2_000) < 0.98
    found = certify(score, local, cloud, 0.015, 0.1)
    assert not found.is_feasible
    assert (None, 0.0, 0.0, 0) == (found.threshold, found.local_share, found.bound, found.errors)
    assert found.least_escalation > 0.98
    assert found.plug_in_escalation <= found.least_escalation
    mu = float((~local & cloud).mean())
    assert exact(mu - 0.015) == found.oracle_escalation
    assert exact((mu - 0.015) / 0.985) == found.selective_escalation
    assert "infeasible" in found.why
    assert f"{found.least_escalation:.1%}" in found.why


def test_next_to_nothing_is_a_matter_of_degree():
    """What counts as next to nothing can be said; with 0 any share does."""
    score, local, cloud = population(800, 3)
    share = certify(score, local, cloud, 0.05, 0.1).local_share
    assert certify(score, local, cloud, 0.05, 0.1, least_local_share=share).is_feasible
    assert not certify(score, local, cloud, 0.05, 0.1, least_local_share=share + 0.01).is_feasible


def test_a_model_without_regret_answers_everything():
    """Local always right: nothing needs escalating, by any measure."""
    found = certify(np.arange(100.0), np.ones(100), None, 0.05, 0.1)
    assert (1.0, 0.0, 0.0, 0.0) == (
        found.local_share,
        found.least_escalation,
        found.oracle_escalation,
        found.selective_escalation,
    )


def test_minus_infinity_never_stays_local():
    """What has no score is escalated even where everything may stay."""
    found = certify([-np.inf] * 10 + [1.0] * 90, np.ones(100), None, 0.05, 0.1)
    assert (1.0, exact(0.9)) == (found.threshold, found.local_share)
    assert certify([-np.inf] * 100, np.ones(100), None, 0.05, 0.1).threshold is None


def test_the_promise_holds_and_the_plug_in_breaks_it():
    """Over 1,000 calibration sets the true regret is above 5 % in at most delta of them, within 4 standard errors.

    The plug-in threshold breaks it about every second time.
    """
    broken = plug_ins = 0
    for seed in range(1_000):
        score, local, cloud = population(300, seed)
        broken += true_regret(certify(score, local, cloud, 0.05, 0.1).threshold) > 0.05
        found = trace(score, regrets(local, cloud))
        plug_ins += true_regret(float(found.thresholds[plug_in(found, 0.05)])) > 0.05
    assert broken <= 1_000 * 0.1 + 4 * np.sqrt(1_000 * 0.1 * 0.9)
    assert broken > 20, "so rare a break would mean that escalations are wasted"
    assert 350 < plug_ins < 650


def test_violations_over_random_halves():
    """Over ten samples of 1,000 what is deployed breaks in at most delta, the plug-in about every second time.

    The promise about the true regret lies between, since the served half has noise of its own. Splits of one sample
    are alike, so the tolerance is 4 standard errors of ten samples and not of 1,000 splits, at a spread of 0.05.
    """
    found = [violations(*population(1_000, seed), 0.05, 0.1, splits=100) for seed in range(10)]
    broken = {
        way: np.mean([getattr(one, way).broken for one in found]) for way in ("true_regret", "deployed", "plug_in")
    }
    assert broken["deployed"] <= 0.1 + 4 * 0.05 / np.sqrt(10)
    assert broken["deployed"] <= broken["true_regret"] <= 0.2
    assert broken["plug_in"] > 0.35
    one = found[0]
    assert one.plug_in.escalation < one.true_regret.escalation < one.deployed.escalation < 1
    assert (100, 500, 500, 0.0) == (one.splits, one.n_certify, one.n_served, one.deployed.refused)


def test_violations_are_of_what_calibrate_writes_and_serve_applies():
    """Each split by hand: an artefact's counts, through JSON and the promise it gives, against the served half."""
    score, local, cloud = population(400, 3)
    regretted = regrets(local, cloud)
    rng, broken, escalated = np.random.default_rng(0), [], []
    for _ in range(20):
        order = rng.permutation(400)
        first, other = order[:200], order[200:]
        counts = msgspec.json.decode(msgspec.json.encode(counts_of(score[first], regretted[first])), type=Counts)
        threshold = msgspec.structs.replace(TASK, counts=counts).promise(0.05, 0.1).threshold
        stays = score[other] >= threshold
        broken.append((regretted[other] & stays).mean() > 0.05)
        escalated.append(1 - stays.mean())
    found = violations(score, local, cloud, 0.05, 0.1, splits=20)
    assert (exact(np.mean(broken)), exact(np.mean(escalated))) == (found.deployed.broken, found.deployed.escalation)


def test_violations_know_what_is_never_served():
    """Drafts given up as they grow go to the cloud, and a kind at chance goes whole."""
    rows = population(400, 3)
    ended = np.arange(400) % 2 == 0
    plain, looked = violations(*rows, 0.05, 0.1), violations(*rows, 0.05, 0.1, given_up=ended)
    assert looked.deployed.escalation > 0.5 > 1 - plain.deployed.escalation > 1 - looked.deployed.escalation
    assert 1.0 == violations(*rows, 0.05, 0.1, is_at_chance=True).deployed.refused


def test_violations_are_the_same_for_the_same_seed():
    """A table that is printed twice is the same twice."""
    rows = population(200, 7)
    assert violations(*rows, 0.05, 0.1) == violations(*rows, 0.05, 0.1)
    assert violations(*rows, 0.05, 0.1) != violations(*rows, 0.05, 0.1, seed=1)


def test_violations_of_what_cannot_be_certified():
    """Forty rows prove nothing: all is escalated, and nothing breaks."""
    found = violations(*population(80, 7), 0.05, 0.1)
    assert (0.0, 1.0, 1.0) == (found.deployed.broken, found.deployed.escalation, found.deployed.refused)


def test_a_batch_promise_is_a_little_stricter():
    """It never answers more locally, and with a huge batch it is the promise about the true regret."""
    rows = population(500, 8)
    plain, small, huge = (certify(*rows, 0.05, 0.1, batch=batch) for batch in (None, 500, 10_000_000))
    assert small.local_share < plain.local_share
    assert plain == huge


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: certify([], [], None, 0.05, 0.1), "at least one row", id="empty"),
        pytest.param(lambda: certify([1.0], [1, 0], None, 0.05, 0.1), "shapes", id="lengths"),
        pytest.param(lambda: certify([np.nan], [1], None, 0.05, 0.1), "1 of 1 scores are NaN", id="nan"),
        pytest.param(lambda: certify([1.0], [2], None, 0.05, 0.1), "true or false", id="no-label"),
        pytest.param(lambda: certify([1.0], [1], [1, 0], 0.05, 0.1), "shapes", id="cloud-lengths"),
        pytest.param(lambda: certify([1.0], [1], None, 0.0, 0.1), "lie in", id="no-regret"),
        pytest.param(lambda: certify([1.0], [1], None, 0.05, 1.0), "lie in", id="no-confidence"),
        pytest.param(lambda: certify([1.0], [1], None, np.nan, 0.1), "lie in", id="nan-limit"),
        pytest.param(lambda: certify([1.0], [1], None, 0.05, 0.1, grid=[np.nan]), "threshold is NaN", id="nan-grid"),
        pytest.param(
            lambda: violations([1.0, 2.0], [1, 1], None, 0.05, 0.1, certify_share=0.1),
            "both sides",
            id="nothing-to-split",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    """No promise is made from what is not data."""
    with pytest.raises(ValueError, match=message):
        call()
