"""What has been seen of a quantity lately? A bounded memory of values in which newer ones weigh more."""

from __future__ import annotations

import math
from collections import deque

from hybrid.policy.spread import LEAST, MASSES, Spread, spread_of

HALF_LIFE = 64
"""After so many newer values an old one weighs half: a machine or a provider changes."""
WINDOW = 384
"""Values that are kept: what falls out weighs less than a 60th of the newest."""
PRIOR_WEIGHT = 8.0
"""How many values a first guess weighs as long as nothing was seen."""
PRIOR_HALF_LIFE = 16
"""After so many values it weighs half: its tail must not stay for long where none was seen."""
FEW = 64
"""One part in so many of what is known may be newer than the spread that was made of it."""
DIGITS = 4
"""Significant digits of a spread: it is written down with every decision, and knows no more than that."""
LARGEST = 1e6


class Tracker:
    """Learns the spread of a positive quantity from its values one by one, starting from a guess if there is one.

    A quantile moves little for one absurd value, however large, unlike a mean and a deviation.
    """

    def __init__(self, prior: Spread | None = None, *, half_life: int = HALF_LIFE, window: int = WINDOW) -> None:
        self._prior = prior
        self._weights = [0.5 ** (age / half_life) for age in range(window)]
        self._values: deque[float] = deque(maxlen=window)
        self.count = 0
        self._spread: Spread | None = prior
        self._seen = 0  # values that `_spread` knows of

    def add(self, value: float) -> None:
        """Learn a value. What is no positive number says nothing and is left out."""
        if not math.isfinite(value) or value < 0:
            return
        self._values.append(min(max(value, LEAST), LARGEST))
        self.count += 1

    def beyond(self, least: float) -> float:
        """Stand in for a value that is only known to be larger than `least`: nobody waited for it.

        Leaving these out would learn only from the quick ones: who loses a race is the slow one. What is known now
        says how much larger: the middle of the part of the spread above `least`.
        """
        known = self.spread
        return max(least, LEAST) if known is None else beyond(known, least)

    @property
    def spread(self) -> Spread | None:
        """What is known now; None before the first value where there is no guess either.

        Of many values a few new ones may be left out until there are more of them: one in a hundred moves little, and
        sorting all of them for each costs more than it tells.
        """
        if self.count - self._seen > len(self._values) // FEW:
            self._seen = self.count
            self._spread = self._weighed()
        return self._spread

    def _weighed(self) -> Spread:
        points = list(zip(reversed(self._values), self._weights, strict=False))
        if self._prior is not None:
            left = PRIOR_WEIGHT * 0.5 ** (self.count / PRIOR_HALF_LIFE)
            points += [(value, left * mass) for value, mass in zip(self._prior.values, MASSES, strict=True)]
        return spread_of(points, DIGITS)


def beyond(known: Spread, least: float) -> float:
    """The middle of the part of a spread above `least`, or that itself."""
    value = max(least, LEAST)
    return max(value, known.at(1 - max(known.chance_above(value), 1e-3) / 2))
