"""Do the twin's own parts keep their promises: the point of a seed, the exponential, the grid, the parameters?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from hybrid.native.reference import SampleParams, exp32, uniform, weights_of


class TestUniform:
    """The point of [0, 1) that belongs to a seed and a position."""

    def test_it_is_splitmix64(self):
        """Seed s, position p is output p of splitmix64 started at the first output of splitmix64(s), top 53 bits."""

        def outputs(state: int, count: int) -> list[int]:
            found = []
            for _ in range(count):
                state = (state + 0x9E3779B97F4A7C15) % 2**64
                mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
                mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
                found.append(mixed ^ mixed >> 31)
            return found

        # The published test vector of splitmix64.
        assert [6457827717110365317, 3203168211198807973] == outputs(1234567, 2)
        expected = [value // 2**11 / 2**53 for value in outputs(outputs(1234567, 1)[0], 4)]
        assert expected == [uniform(1234567, position) for position in range(4)]

    @pytest.mark.parametrize(
        ("seed", "position", "expected"),
        [
            pytest.param(0, 0, "0x1.4e0dba5e9a32fp-1", id="zero"),
            pytest.param(42, 7, "0x1.782d47a99890cp-1", id="some"),
            pytest.param(2**64 - 1, 2**64 - 1, "0x1.1140638c16042p-2", id="largest"),
        ],
    )
    def test_a_seed_keeps_its_point(self, seed, position, expected):
        """A replayed request draws the same tokens in every release, so these values never change."""
        assert float.fromhex(expected) == uniform(seed, position)

    @pytest.mark.parametrize("axis", ["positions", "seeds"])
    def test_points_fill_the_interval(self, axis):
        """Along positions of one seed, and along neighbouring seeds, 100 bins of 20,000 points are evenly filled."""
        points = [uniform(3, n) if axis == "positions" else uniform(n, 3) for n in range(20_000)]
        assert 0 <= min(points) <= max(points) < 1
        counts = np.bincount((np.array(points) * 100).astype(int), minlength=100)
        # Mean plus five standard deviations of a chi-square with 99 degrees of freedom.
        assert float(((counts - 200.0) ** 2 / 200).sum()) < 99 + 5 * math.sqrt(2 * 99)


class TestExp32:
    """The exponential both implementations share."""

    def test_its_error_is_bounded(self):
        """Over [-87, 0] the relative error stays below 8.3e-8, found by trying every float32 there once in C++."""
        values = np.linspace(-87, 0, 2_000_001).astype(np.float32)
        exact = np.exp(values.astype(np.float64))
        assert float((np.abs(exp32(values) - exact) / exact).max()) < 8.3e-8

    def test_it_never_falls(self):
        """A larger argument never gives a smaller result, so order by logit is order by weight."""
        values = np.linspace(-87, 0, 2_000_001).astype(np.float32)
        assert bool((np.diff(exp32(values)) >= 0).all())

    def test_its_ends(self):
        """e^0 is exactly 1; far below -87 it is exactly 0; NaN stays NaN."""
        values = np.array([0.0, -0.0, -87.5, -1e38, -math.inf], dtype=np.float32)
        assert [1.0, 1.0, 0.0, 0.0, 0.0] == exp32(values).tolist()
        assert np.isnan(exp32(np.array([math.nan], dtype=np.float32))).all()


def test_sums_of_weights_do_not_depend_on_their_order():
    """2^20 weights, the longest row, sum to the same float64 forwards, backwards and sorted."""
    ratios = np.random.default_rng(1).random(1 << 20).astype(np.float32) ** 8
    weights = weights_of(ratios)
    sums = {float(np.cumsum(part)[-1]) for part in (weights, weights[::-1], np.sort(weights))}
    assert {math.fsum(weights)} == sums
    assert float(np.abs(weights - ratios).max()) <= 2.0**-34


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("temperature", -0.1, id="temperature-negative"),
        pytest.param("temperature", math.nan, id="temperature-nan"),
        pytest.param("temperature", math.inf, id="temperature-inf"),
        pytest.param("top_k", -1, id="top-k-negative"),
        pytest.param("top_p", 1.01, id="top-p-above-one"),
        pytest.param("min_p", -0.01, id="min-p-negative"),
        pytest.param("presence_penalty", math.nan, id="presence-nan"),
        pytest.param("frequency_penalty", math.inf, id="frequency-inf"),
        pytest.param("repetition_penalty", 0.0, id="repetition-zero"),
    ],
)
def test_parameters_out_of_range_are_named(name, value):
    """A parameter that is out of range is a ValueError with its name and value."""
    with pytest.raises(ValueError, match=name):
        SampleParams(**{name: value})
