"""The nearest other number is found by asking, told in few digits, and really changes the answer."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.nearest import OVERSHOOT, nearest_change


@pytest.mark.parametrize(
    ("ask", "actual", "kind", "most", "expected"),
    [
        pytest.param(lambda x: x >= 0.618, 0.57, float, 1.0, (0.62, True), id="few-digits"),
        pytest.param(lambda x: x >= 0.35, 0.1496, float, 1.0, (0.35, True), id="the-edge-itself"),
        pytest.param(lambda x: x > 1.5, 0.9, float, None, (1.51, True), id="beyond-the-edge"),
        pytest.param(lambda x: x < 0.35, 0.4, float, 1.0, (0.349, False), id="down"),
        pytest.param(lambda x: x <= 7900, 9120, int, None, (7900, False), id="a-count-is-exact"),
        pytest.param(
            lambda x: x >= Decimal("0.014"), Decimal("0.01"), Decimal, None, (Decimal("0.014"), True), id="usd"
        ),
        pytest.param(lambda x: x >= 3 or x <= 1, 2.2, float, None, (3.0, True), id="the-nearer-side"),
        pytest.param(lambda x: x >= 3 or x <= 1, 1.6, float, None, (1.0, False), id="the-nearer-side-below"),
        pytest.param(lambda x: x > 1, 0.5, float, 1.0, None, id="beyond-what-there-is"),
        pytest.param(lambda _: False, 5, int, None, None, id="never"),
        pytest.param(lambda x: x is not None and x >= 10, None, int, None, (10, True), id="none-to-a-least"),
        pytest.param(lambda x: x is not None and x < 0.5, None, float, None, (0.49, False), id="none-to-a-most"),
        pytest.param(lambda x: x == 0, 3, int, None, (0, False), id="only-at-the-end"),
    ],
)
def test_the_nearest_change(ask, actual, kind, most, expected):
    """By size: a count exactly, others in few digits beyond the edge."""
    found = nearest_change(ask, False, actual, kind=kind, most=most)

    assert expected == (None if found is None else (found.value, found.is_rising))


@given(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5))
def test_what_is_told_changes_it_and_is_near(actual, edge):
    """Whatever the numbers: the told value has the other answer, and lies little beyond the edge."""

    def ask(value):
        return value >= edge

    found = nearest_change(ask, ask(actual), actual, kind=float)

    if found is not None:
        assert ask(found.value) != ask(actual)
        assert abs(found.value - edge) <= OVERSHOOT * abs(edge - actual) + 1e-9 * edge


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_count_is_the_very_next(actual, edge):
    """One less, or one more, and nothing would have changed."""

    def ask(value):
        return value >= edge

    found = nearest_change(ask, ask(actual), actual, kind=int)

    if found is not None:
        assert ask(found.value) != ask(actual)
        assert ask(found.value - 1 if found.is_rising else found.value + 1) == ask(actual)
