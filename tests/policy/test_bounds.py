"""Are the binomial bounds exact? Against closed forms, sums of the distribution, and values of another library."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.bounds import (
    allowed_errors,
    at_most,
    lower_bound,
    most_errors,
    most_errors_for_batch,
    regularised_beta,
    rows_needed,
    trials_needed,
    upper_bound,
)

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
DELTAS = st.floats(1e-6, 0.99)


@pytest.mark.parametrize(
    ("count", "n", "delta", "expected"),
    [
        (0, 10, 0.1, 0.2056717652757185),
        (5, 200, 0.1, 0.04587869036775376),
        (6, 200, 0.1, 0.05206436872949299),
        (15, 500, 0.1, 0.04231609667465094),
        (16, 500, 0.1, 0.04461260832557468),
        (3, 20, 0.025, 0.37892682654531396),
        (199, 200, 0.05, 0.9997435664127765),
        (25, 1_000, 0.05, 0.034742520099362566),
        (700, 7_100, 0.1, 0.10327824673111213),
        (0, 1, 0.5, 0.5),
        (1, 2, 0.1, 0.9486832980505138),
        (50, 1_000_000, 0.001, 7.59409069504417e-05),
    ],
)
def test_upper_bound_equals_scipy(count, n, delta, expected):
    """Recorded from scipy 1.17.1, `scipy.stats.beta.ppf(1 - delta, count + 1, n - count)`; 9 digits agree."""
    assert pytest.approx(expected, rel=1e-9) == upper_bound(count, n, delta)


@given(st.integers(1, 5_000), DELTAS)
def test_without_errors_the_bound_has_a_closed_form(n, delta):
    """(1 - u)^n = delta, to eight digits: a bound near 0 loses some to the rounding of 1 - u."""
    assert pytest.approx(-math.expm1(math.log(delta) / n), rel=1e-8) == upper_bound(0, n, delta)


@given(COUNTS, DELTAS)
def test_the_bound_solves_its_equation(counted, delta):
    """At the bound, so few errors have exactly the probability delta; summed term by term."""
    count, n = counted
    bound = upper_bound(count, n, delta)
    if count == n:
        assert 1.0 == bound
        return
    assert pytest.approx(delta, rel=1e-6, abs=1e-12) == _summed(count, n, bound)


def _summed(count: int, n: int, share: float) -> float:
    return math.fsum(
        math.comb(n, k) * math.exp(k * math.log(share) + (n - k) * math.log1p(-share))
        if n < 300
        else math.exp(
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(share)
            + (n - k) * math.log1p(-share)
        )
        for k in range(count + 1)
    )


@given(COUNTS, st.floats(0.001, 0.999))
def test_at_most_is_the_sum_of_its_terms(counted, share):
    """The incomplete beta function is the binomial's distribution."""
    count, n = counted
    assert pytest.approx(_summed(count, n, share), rel=1e-8, abs=1e-14) == at_most(count, n, share)


@given(COUNTS, st.floats(1e-6, 0.499))
def test_the_bounds_enclose_what_was_seen(counted, delta):
    """With delta below one half what was seen lies between the bounds, and they widen as delta falls."""
    count, n = counted
    assert lower_bound(count, n, delta) <= count / n <= upper_bound(count, n, delta)
    assert upper_bound(count, n, delta) <= upper_bound(count, n, delta / 2)


@given(st.integers(1, 600), st.floats(0, 0.999), DELTAS)
def test_most_errors_is_the_inverse_of_the_bound(n, share, delta):
    """That many errors still prove the share, one more does not."""
    most = most_errors(n, share, delta)
    if most >= 0:
        assert upper_bound(most, n, delta) <= share + 1e-9
    if most < n:
        assert upper_bound(most + 1, n, delta) > share - 1e-9


@pytest.mark.parametrize(("n", "expected"), [(44, -1), (45, 0), (76, 0), (77, 1), (200, 5), (500, 18), (1_000, 40)])
def test_most_errors_for_five_in_a_hundred(n, expected):
    """5 % at delta 10 %: 44 rows prove nothing, 45 prove it if none errs. Recorded from `scipy.stats.binom.cdf`."""
    assert expected == most_errors(n, 0.05, 0.1)


@pytest.mark.parametrize(
    ("n", "batch", "share", "delta", "expected"),
    [
        (500, 500, 0.05, 0.1, 16),
        (200, 1331, 0.05, 0.1, 5),
        (1000, 100, 0.1, 0.05, 60),
        (45, 45, 0.05, 0.1, -1),
        (100, 100, 0.05, 0.1, 1),
        (908, 908, 0.05, 0.1, 33),
    ],
)
def test_most_errors_for_a_batch(n, batch, share, delta, expected):
    """Recorded from scipy 1.17.1: `stats.hypergeom.cdf(k, n + batch, n, k + 1 + floor(share * batch)) <= delta`."""
    assert expected == most_errors_for_batch(n, batch, share, delta)


def test_a_batch_by_hand():
    """Two and two, a half may err: after none of one's own, both of two drawn are of the others: 1 of 6 chances."""
    assert 0 == most_errors_for_batch(2, 2, 0.5, 1 / 6 + 1e-9)
    assert -1 == most_errors_for_batch(2, 2, 0.5, 1 / 6 - 1e-9)


@given(st.integers(1, 300), st.floats(0.01, 0.6), st.floats(0.01, 0.4))
def test_a_large_batch_shows_the_true_share(n, share, delta):
    """The larger the batch the less noise it has, and the nearer its count is to that of the share itself."""
    assert abs(most_errors_for_batch(n, 10**7, share, delta) - most_errors(n, share, delta)) <= 1


def test_a_batch_may_always_err():
    """Where the batch may err in all trials, any count will do."""
    assert 7 == most_errors_for_batch(7, 3, 1.0, 0.1)


def test_a_share_of_one_is_always_proved_and_of_zero_never():
    """Anything errs at most always."""
    assert 10 == most_errors(10, 1.0, 0.1)
    assert -1 == most_errors(10, 0.0, 0.1)


@pytest.mark.parametrize(
    ("share", "delta", "expected"), [(0.05, 0.1, 45), (0.1, 0.1, 22), (0.5, 0.5, 1), (0.5, 0.25, 2)]
)
def test_trials_needed(share, delta, expected):
    """The least n with (1 - share)^n <= delta."""
    assert expected == trials_needed(share, delta)


@given(st.floats(0.001, 0.9), st.floats(0.001, 0.9))
def test_trials_needed_is_where_most_errors_begins(share, delta):
    """One trial fewer proves nothing; at the edge itself the two may round differently by one."""
    n = trials_needed(share, delta)
    assert most_errors(n + 1, share, delta) >= 0
    assert n < 3 or -1 == most_errors(n - 2, share, delta)


@pytest.mark.parametrize(
    ("a", "b", "x", "expected"),
    [
        pytest.param(1, 1, 0.3, 0.3, id="uniform"),
        pytest.param(3, 1, 0.5, 0.125, id="power"),
        pytest.param(1, 3, 0.5, 0.875, id="power-mirrored"),
        pytest.param(0.5, 0.5, 0.25, 1 / 3, id="arcsine"),
        pytest.param(2, 2, 0.5, 0.5, id="symmetric"),
        pytest.param(2, 5, 0.0, 0.0, id="zero"),
        pytest.param(2, 5, 1.0, 1.0, id="one"),
    ],
)
def test_regularised_beta(a, b, x, expected):
    """Closed forms of the incomplete beta function."""
    assert pytest.approx(expected, abs=1e-13) == regularised_beta(a, b, x)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: upper_bound(0, 0, 0.1), id="no-trials"),
        pytest.param(lambda: upper_bound(-1, 5, 0.1), id="negative"),
        pytest.param(lambda: upper_bound(6, 5, 0.1), id="more-than-all"),
        pytest.param(lambda: upper_bound(1, 5, 0.0), id="certain"),
        pytest.param(lambda: lower_bound(1, 5, 1.0), id="no-confidence"),
        pytest.param(lambda: upper_bound(1, 5, math.nan), id="nan"),
        pytest.param(lambda: at_most(1, 5, 1.5), id="no-chance"),
        pytest.param(lambda: most_errors(5, -0.1, 0.1), id="no-share"),
        pytest.param(lambda: most_errors_for_batch(5, 0, 0.1, 0.1), id="no-batch"),
        pytest.param(lambda: trials_needed(0.0, 0.1), id="nothing-to-prove"),
        pytest.param(lambda: regularised_beta(0.0, 1.0, 0.5), id="no-beta"),
    ],
)
def test_bad_input_is_refused(call):
    """What is no count, share or confidence has no bound."""
    with pytest.raises(ValueError, match=r"need|lie"):
        call()


@pytest.mark.parametrize(("count", "share", "expected"), [(-1, 0.5, 0.0), (5, 0.5, 1.0), (2, 0.0, 1.0), (2, 1.0, 0.0)])
def test_at_most_at_its_ends(count, share, expected):
    """Never fewer than none, always at most all."""
    assert expected == at_most(count, 5, share)


def test_what_is_allowed_holds_for_the_true_share_and_for_what_will_be_seen():
    """The stricter of the two; and as few rows as prove anything at all are found."""
    for n in (45, 59, 60, 200, 1_000):
        expected = min(most_errors(n, 0.05, 0.1), most_errors_for_batch(n, n, 0.05, 0.1))
        assert expected == allowed_errors(n, 0.05, 0.1)
    assert (60, 0, -1) == (rows_needed(0.05, 0.1), allowed_errors(60, 0.05, 0.1), allowed_errors(59, 0.05, 0.1))
