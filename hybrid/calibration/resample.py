"""How far might a measured number be off by the luck of the sample? Paired percentile bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.intp]
Statistic: TypeAlias = Callable[[Rows], float | None]
"""Takes the rows of one draw, shape (n,), and gives the number of that sample; None where it has none."""

ROUNDS = 1_000
TAIL = 0.025
LEAST_DEFINED = 0.5


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval. undefined: the share of draws that had no such number, and were left out."""

    low: float
    high: float
    undefined: float = 0.0


def bootstrap(statistic: Statistic, n: int, rounds: int = ROUNDS, seed: int = 0) -> Interval | None:
    """Draw n rows with replacement, many times, and give the 2.5 % and 97.5 % quantile of the statistic.

    The percentile method: simple, and it keeps to the statistic's range. With few rows it is somewhat narrow. Two
    statistics of one seed see the same draws, so the interval of a difference is had by a statistic that subtracts.

    Returns: None if over half of the draws had no number.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    Raises: ValueError if there are no rows or rounds.
    """
    return bootstrap_all({"": statistic}, n, rounds, seed)[""]


def bootstrap_all(
    statistics: Mapping[str, Statistic], n: int, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Interval | None]:
    """As `bootstrap`, for several statistics of the same draws."""
    return {name: _interval(values) for name, values in draws(statistics, n, rounds, seed).items()}


def bootstrap_together(
    statistics: Callable[[Rows], Sequence[float | None]], n: int, rounds: int = ROUNDS, seed: int = 0
) -> list[Interval | None]:
    """As `bootstrap_all`, for numbers that are had from a draw at once."""
    [values] = draws({"": statistics}, n, rounds, seed).values()
    return [_interval(column) for column in values.T]


def band(
    curve: Callable[[Rows], NDArray[np.float64]], n: int, rounds: int = ROUNDS, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `bootstrap`, for a curve of shape (points,): its lower and upper end at each point."""
    [values] = draws({"": curve}, n, rounds, seed).values()
    low, high = np.quantile(values, (TAIL, 1 - TAIL), axis=0)
    return low, high


def draws(
    statistics: Mapping[str, Callable[[Rows], object]], n: int, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Every statistic of every draw, shape (rounds, values of the statistic); None becomes NaN."""
    if n < 1 or rounds < 1:
        raise ValueError(f"a bootstrap needs rows and rounds; got {n} and {rounds}")
    rng = np.random.default_rng(seed)
    found: dict[str, list[object]] = {name: [] for name in statistics}
    for _ in range(rounds):
        rows = rng.integers(n, size=n)
        for name, statistic in statistics.items():
            found[name].append(statistic(rows))
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def _interval(values: NDArray[np.float64]) -> Interval | None:
    defined = values[~np.isnan(values)]
    if len(defined) <= LEAST_DEFINED * len(values):
        return None
    low, high = np.quantile(defined, (TAIL, 1 - TAIL))
    return Interval(float(low), float(high), 1 - len(defined) / len(values))
