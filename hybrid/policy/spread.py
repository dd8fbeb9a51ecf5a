"""How is a time, a length or an error spread? Quantiles at fixed levels, and the chance that one is exceeded."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

LEVELS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""The shares of which a spread holds the quantiles: dense above, where deadlines are missed."""
MASSES = (0.06, 0.115, 0.2, 0.25, 0.2, 0.1, 0.045, 0.03)
"""The share that each level stands for, up to half way to its neighbours."""
MIDDLE = LEVELS.index(0.5)
LEAST = 1e-6
STEEPEST_TAIL = 50.0


@dataclass(frozen=True, slots=True)
class Spread:
    """The quantiles of a positive quantity at `LEVELS`, never falling. Above the last level a power law goes on."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(LEVELS):
            raise ValueError(f"a spread has {len(LEVELS)} quantiles; got {len(self.values)}")

    def at(self, level: float) -> float:
        """Give the quantile at a level in (0, 1): straight lines in the logarithm between those that are held."""
        values = self.values
        place = bisect_right(LEVELS, level)
        if place == 0:
            return values[0]
        below, low = LEVELS[place - 1], values[place - 1]
        if below == level:
            return low
        if place == len(LEVELS):
            return float(low * ((1 - below) / (1 - level)) ** (1 / self._tail()))
        share = (level - below) / (LEVELS[place] - below)
        return float(low * (values[place] / low) ** share)

    def chance_above(self, value: float) -> float:
        """Give the probability that it is larger than `value`."""
        values = self.values
        if value <= 0:
            return 1.0
        place = bisect_right(values, value)
        if place == 0:
            return 1.0 - LEVELS[0] * value / values[0]
        low, below = values[place - 1], LEVELS[place - 1]
        if place == len(values):
            return float((1 - below) * (low / value) ** self._tail())
        share = math.log(value / low) / math.log(values[place] / low)
        return 1.0 - below - share * (LEVELS[place] - below)

    def scaled(self, factor: float, floor: float = 0.0) -> Spread:
        """Multiply by a factor; with a floor, which was added to both sides of a ratio, take it off again."""
        values = [factor * value - floor for value in self.values]
        if values[0] < LEAST:
            values = [max(value, LEAST) for value in values]
        return Spread(tuple(values))

    def _tail(self) -> float:
        """The exponent of the power law by which the chance falls above the last level, as from 90 to 99 %."""
        ratio = self.values[-1] / self.values[-3]
        return min(STEEPEST_TAIL, math.log(10.0) / math.log(ratio)) if ratio > 1.0 else STEEPEST_TAIL


def spread_of(points: Iterable[tuple[float, float]], digits: int | None = None) -> Spread:
    """Find the quantiles of weighted values.

    Each value stands for the middle of its weight, and between two of them a quantile lies on a straight line.

    Args:
        points: value > 0 and weight > 0, at least one. digits: significant digits to keep; None keeps all.
    Raises: ValueError if there are none.
    """
    ordered = sorted(points)
    if not ordered:
        raise ValueError("a spread needs at least one value")
    total = sum([weight for _, weight in ordered])
    found: list[float] = []
    place, before = 0, 0.0
    value, weight = ordered[0]
    low, low_at = value, 0.0
    at = weight / 2
    last = len(ordered) - 1
    for level in LEVELS:
        wanted = level * total
        while at < wanted and place < last:
            low, low_at = value, at
            before += weight
            place += 1
            value, weight = ordered[place]
            at = before + weight / 2
        quantile = value if at <= wanted or at == low_at else low + (value - low) * (wanted - low_at) / (at - low_at)
        found.append(max(quantile, LEAST))
    return Spread(tuple(found if digits is None else [_rounded(value, digits) for value in found]))


def product(one: Spread, other: Spread) -> Spread:
    """Spread of the product of two independent quantities.

    The distances from the median are added as the legs of a right angle, in the logarithm: exact where both are
    log-normal, near it where they are skewed, and quick.
    """
    one_log, other_log = math.log(one.values[MIDDLE]), math.log(other.values[MIDDLE])
    middle = one_log + other_log
    values = []
    for index, (a, b) in enumerate(zip(one.values, other.values, strict=True)):
        distance = math.hypot(math.log(a) - one_log, math.log(b) - other_log)
        values.append(math.exp(middle - distance if index < MIDDLE else middle + distance))
    return Spread(tuple(values))


def total(one: Spread, other: Spread) -> Spread:
    """Spread of the sum of two independent quantities; as `product`, exact where both are normal."""
    one_middle, other_middle = one.values[MIDDLE], other.values[MIDDLE]
    middle = one_middle + other_middle
    values = []
    for index, (a, b) in enumerate(zip(one.values, other.values, strict=True)):
        distance = math.hypot(a - one_middle, b - other_middle)
        values.append(max(middle - distance, LEAST) if index < MIDDLE else middle + distance)
    return Spread(tuple(values))


def constant(value: float) -> Spread:
    """The spread of what is certain."""
    return Spread((value,) * len(LEVELS))


def lognormal(median: float, sigma: float) -> Spread:
    """The spread of a quantity whose logarithm is normal, with standard deviation `sigma`."""
    return Spread(tuple(median * math.exp(sigma * z) for z in _NORMAL_QUANTILES))


_NORMAL_QUANTILES = (-2.0537489, -1.2815516, -0.6744898, 0.0, 0.6744898, 1.2815516, 1.6448536, 2.3263479)
"""Of the standard normal distribution at `LEVELS`."""


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
