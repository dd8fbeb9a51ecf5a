"""Are labels weighted, bounded and watched as their statistics demand? Numbers worked out by hand, and chances held."""

import math
import random

import pytest

from hybrid.policy.drift import HORIZON_ROWS, Detector, Labelled, certified, spent, stated_error


def label(*, score=0.9, p=0.9, agrees=True, p_cloud=1.0, weight=1.0, rate=1.0, draw=0.0) -> Labelled:
    """Give a label."""
    return Labelled(score=score, p_local=p, p_cloud=p_cloud, agrees=agrees, weight=weight, rate=rate, draw=draw)


def test_stated_error_by_hand():
    """Two bins, 0.9 of weight 3 at 2/3 agreement and 0.2 of weight 1 at 0: 0.75 * 0.2333 + 0.25 * 0.2 = 0.225."""
    labels = [label(), label(), label(agrees=False), label(p=0.2, agrees=False)]
    found = stated_error(labels)

    assert found is not None
    assert pytest.approx(0.225) == found.ece
    assert 4 == found.n
    assert pytest.approx(4.0) == found.n_effective


def test_an_audit_counts_for_those_that_were_not_audited():
    """One audit of weight 9 beside one surely labelled draft: nine tenths of the error are its own."""
    found = stated_error([label(p=0.9, agrees=False, weight=9.0), label(p=0.1, agrees=False)])

    assert found is not None
    assert pytest.approx(0.9 * 0.9 + 0.1 * 0.1) == found.ece
    assert pytest.approx(100 / 82) == found.n_effective


def test_a_cloud_that_errs_is_no_error_of_ours():
    """p_local 0.8 and p_cloud 0.7 allow agreement from 0.5 to 0.9: 0.6 is none, 0.4 is 0.1 too low."""

    def of(agreeing: int) -> float:
        found = stated_error([label(p=0.8, p_cloud=0.7, agrees=at < agreeing) for at in range(10)])
        assert found is not None
        return found.ece

    assert pytest.approx((0.0, 0.1)) == (of(6), of(4))


def test_thinning_gives_a_plain_sample():
    """Audits of one accepted draft in 20 are all kept, and one surely labelled draft in 20."""
    rng = random.Random(1)  # noqa: S311 - a simulation
    sure = sum(label(rate=0.05, draw=rng.random()).is_uniform for _ in range(10_000))

    assert label(weight=20.0, rate=0.05, draw=0.999).is_uniform
    # Four standard deviations of Binomial(10_000, 0.05).
    assert abs(sure - 500) < 4 * math.sqrt(475)
    assert not label(rate=0.0).is_uniform


def test_looks_never_use_more_than_delta():
    """1 / (k (k + 1)) sums to 1 over all k."""
    assert pytest.approx(0.1, rel=1e-3) == sum(spent(0.1, look) for look in range(1, 5_000))


def test_false_alarms_are_as_rare_as_stated():
    """At a regret of exactly the limit, 1,000 rows alarm with chance <= 0.1: P(Binomial(60, 0.1) > 14) < 0.001."""
    alarms = 0
    for seed in range(60):
        rng, detector = random.Random(seed), Detector(0.05, 0.1)  # noqa: S311 - a simulation
        rows = (label(agrees=rng.random() >= 0.05) for _ in range(HORIZON_ROWS))
        alarms += any(detector.is_alarming(row, 0.5) for row in rows)

    assert alarms <= 14


def test_what_a_cloud_gets_wrong_raises_no_alarm():
    """Disagreement in 15 % where the cloud is known to err in 12 % is within regret <= 0.05."""
    rng, detector = random.Random(3), Detector(0.05, 0.1)  # noqa: S311 - a simulation
    rows = (label(p_cloud=0.88, agrees=rng.random() >= 0.15) for _ in range(HORIZON_ROWS))

    assert not any(detector.is_alarming(row, 0.5) for row in rows)


def test_certifying_takes_the_loosest_that_holds():
    """Errors only under 0.8 certify the first edge above them, and never one under the calibration's own."""
    labels = [label(score=0.95) for _ in range(120)] + [label(score=0.72, agrees=False) for _ in range(30)]
    found = certified(labels, 0.5, 0.05, 0.1)

    assert pytest.approx(0.725) == found.threshold
    assert 0.5 == certified([label() for _ in range(120)], 0.5, 0.05, 0.1).threshold
    assert math.inf == certified([label(agrees=False) for _ in range(120)], 0.5, 0.05, 0.1).threshold


def test_too_few_rows_certify_nothing():
    """59 rows without a mistake cannot prove 5 % at 90 %, of the share that 59 more will show; 60 can."""
    assert math.inf == certified([label() for _ in range(59)], 0.5, 0.05, 0.1).threshold
    assert 0.5 == certified([label() for _ in range(60)], 0.5, 0.05, 0.1).threshold
