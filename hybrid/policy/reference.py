"""How far has a number drifted from what it was when the model was calibrated? Bins kept then, shares compared now."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BINS = 10
SHARE_FLOOR = 1e-4
"""The least share a bin counts as having, so that an empty one is a large and not an infinite change."""
Z_SURE = 3.09
"""Of the normal distribution: one thousandth lies beyond."""


@dataclass(frozen=True, slots=True)
class Reference:
    """How one number was spread over the rows of a calibration.

    cuts: between the bins, ascending; a value at a cut is below it. shares: of the rows in each bin, one more than
    cuts. n: rows.
    """

    cuts: tuple[float, ...]
    shares: tuple[float, ...]
    n: int

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.cuts) + 1 or self.n < 1:
            raise ValueError(f"need one share more than cuts, of at least one row; got {len(self.shares)}, {self.n}")
        if not all(map(math.isfinite, self.cuts)) or any(low >= high for low, high in pairwise(self.cuts)):
            raise ValueError("the cuts must be finite and ascend")
        if not all(0 <= share <= 1 for share in self.shares) or abs(math.fsum(self.shares) - 1) > 1e-6:
            raise ValueError("the shares must lie in [0, 1] and sum to 1")


def reference_of(values: Sequence[float]) -> Reference | None:
    """Keep the deciles of finite values, equal ones never cut apart; None where they are all the same."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered or ordered[0] == ordered[-1]:
        return None
    places = (math.ceil(place * len(ordered) / BINS) - 1 for place in range(1, BINS))
    cuts = tuple(sorted({ordered[place] for place in places} - {ordered[-1]}))
    return Reference(cuts, _shares(cuts, ordered), len(ordered)) if cuts else None


def psi(reference: Reference, values: Sequence[float]) -> float:
    """The population stability index of values against a reference.

    Source: Siddiqi, Credit Risk Scorecards, Wiley 2006: under 0.1 stable, above 0.25 another population.
    Raises: ValueError without values.
    """
    if not values:
        raise ValueError("drift of nothing cannot be told")
    pairs = zip(reference.shares, _shares(reference.cuts, values), strict=True)
    floored = [(max(was, SHARE_FLOOR), max(now, SHARE_FLOOR)) for was, now in pairs]
    return math.fsum((now - was) * math.log(now / was) for was, now in floored)


def psi_by_chance(reference: Reference, n: int) -> float:
    """The index that n values of an unchanged population stay under in 999 of 1,000 cases.

    It is about chi-squared with a degree of freedom less than bins, times 1/n + 1/m; its quantile by cubes.

    Source: Yurdakul, Statistical Properties of the Population Stability Index, 2018; Wilson and Hilferty 1931.
    """
    freedom = len(reference.cuts)
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + Z_SURE * math.sqrt(part)) ** 3 * (1 / n + 1 / reference.n))


def _shares(cuts: Sequence[float], values: Sequence[float]) -> tuple[float, ...]:
    counts = [0] * (len(cuts) + 1)
    for value in values:
        counts[bisect_left(cuts, value)] += 1
    return tuple(count / len(values) for count in counts)
