"""A spread gives chances and quantiles that fit each other, and a tracker learns one from what it is shown."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.spread import LEVELS, MASSES, Spread, lognormal, product, spread_of, total
from hybrid.policy.tracker import WINDOW, Tracker

VALUES = st.floats(1e-3, 1e4)
SPREADS = st.lists(VALUES, min_size=len(LEVELS), max_size=len(LEVELS)).map(lambda values: Spread(tuple(sorted(values))))


@given(SPREADS, VALUES, VALUES)
def test_a_larger_value_is_never_likelier_exceeded(spread, one, other):
    """The chance lies in [0, 1] and never rises."""
    low, high = sorted((one, other))

    assert 1.0 >= spread.chance_above(low) >= spread.chance_above(high) >= 0.0


@given(SPREADS, st.floats(0.02, 0.98))
def test_quantiles_never_fall(spread, level):
    """A higher level has no smaller quantile."""
    assert spread.at(level) <= spread.at(level + 0.01) * (1 + 1e-9)


@pytest.mark.parametrize("level", [0.02, 0.06, 0.3, 0.5, 0.8, 0.97, 0.99, 0.999])
def test_the_chance_to_exceed_a_quantile_is_the_rest(level):
    """`chance_above` undoes `at`, between the levels and in the tail beyond them."""
    spread = lognormal(2.0, 0.5)

    # Both lie on the same straight line in the logarithm.
    assert spread.chance_above(spread.at(level)) == pytest.approx(1 - level, abs=1e-9)


@given(st.lists(st.tuples(VALUES, st.floats(1e-3, 1e3)), min_size=1, max_size=60))
def test_quantiles_of_weighted_values_lie_among_them(points):
    """Never falling, never outside of what was given."""
    spread = spread_of(points)
    low, high = min(value for value, _ in points), max(value for value, _ in points)

    assert list(spread.values) == sorted(spread.values)
    assert low * (1 - 1e-9) <= spread.values[0] <= spread.values[-1] <= high * (1 + 1e-9)


def test_levels_and_masses_fit():
    """Each level stands for the share up to half way to its neighbours; all of them together for everything."""
    edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(LEVELS)), 1.0]

    assert [round(b - a, 9) for a, b in itertools.pairwise(edges)] == pytest.approx(list(MASSES))


def test_a_product_and_a_sum_are_near_those_of_many_draws():
    """Of two independent spreads, one of them skewed; the product of log-normal ones is exact."""
    draws = random.Random(7)  # noqa: S311 - repeatable, no secret
    lengths = [draws.lognormvariate(math.log(80), 0.5) for _ in range(40_000)]
    errors = [draws.lognormvariate(0, 0.3) for _ in lengths]
    products = sorted(length * error for length, error in zip(lengths, errors, strict=True))
    sums = sorted(length + 50 * error for length, error in zip(lengths, errors, strict=True))
    length, error = lognormal(80.0, 0.5), lognormal(1.0, 0.3)

    for level in (0.1, 0.5, 0.9, 0.95):
        # Of 40,000 draws the outer quantiles vary by a hundredth; a sum of skewed ones is off by a few.
        assert product(length, error).at(level) == pytest.approx(products[int(level * len(products))], rel=0.02)
        assert total(length, error.scaled(50.0)).at(level) == pytest.approx(sums[int(level * len(sums))], rel=0.06)


@given(SPREADS, SPREADS)
def test_products_and_sums_are_spreads(one, other):
    """Positive, never falling, and the same whichever is first."""
    for combine in (product, total):
        spread = combine(one, other)
        assert list(spread.values) == sorted(spread.values)
        assert spread.values[0] > 0
        assert spread.values == pytest.approx(combine(other, one).values)


def test_a_tracker_starts_from_its_guess_and_leaves_it_for_what_it_sees():
    """The guess holds before the first value; after many it is forgotten."""
    tracker = Tracker(lognormal(1.0, 0.3))
    assert lognormal(1.0, 0.3) == tracker.spread

    draws = random.Random(3)  # noqa: S311 - repeatable, no secret
    for _ in range(400):
        tracker.add(draws.lognormvariate(math.log(3), 0.1))

    # 150 values or so weigh: the median of them varies by a hundredth, the outer quantiles by a few.
    assert tracker.spread.at(0.5) == pytest.approx(3.0, rel=0.03)
    assert tracker.spread.at(0.9) == pytest.approx(3.0 * math.exp(0.1 * 1.2816), rel=0.06)


def test_a_tracker_follows_a_change():
    """A quantity that doubles is followed within as many values as weigh."""
    tracker = Tracker()
    for _ in range(300):
        tracker.add(1.0)
    for _ in range(100):
        tracker.add(2.0)

    assert 2.0 == tracker.spread.at(0.5)


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -1.0])
def test_what_is_no_time_is_not_learned(absurd):
    """It would stay in the memory and say nothing."""
    tracker = Tracker()
    tracker.add(absurd)

    assert (0, None) == (tracker.count, tracker.spread)


def test_one_absurd_value_moves_no_quantile_but_the_last():
    """An answer that took an hour, once, is no reason to distrust the median."""
    tracker = Tracker()
    for _ in range(99):
        tracker.add(1.0)
    tracker.add(3600.0)

    assert [1.0] * 7 == list(tracker.spread.values[:7])


def test_the_losers_of_races_count_as_slow():
    """Values that were only seen to be larger than something keep the spread from following the quick ones alone."""
    draws = random.Random(5)  # noqa: S311 - repeatable, no secret
    all_seen, quick_only, censored = Tracker(), Tracker(), Tracker()
    for _ in range(300):
        value = draws.lognormvariate(0.0, 0.6)
        all_seen.add(value)
        if value < 1.5:
            quick_only.add(value)
            censored.add(value)
        else:
            censored.add(censored.beyond(1.5))

    truth = all_seen.spread.at(0.75)
    assert abs(censored.spread.at(0.75) - truth) < abs(quick_only.spread.at(0.75) - truth)
    assert censored.spread.at(0.9) >= 1.5


def test_the_memory_is_bounded():
    """However much is learned, so many values are kept, and the count goes on."""
    tracker = Tracker()
    for number in range(2 * WINDOW):
        tracker.add(1.0 + number)

    assert 2 * WINDOW == tracker.count
    assert tracker.spread.values[0] > WINDOW
