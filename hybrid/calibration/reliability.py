"""Does a score tell right from wrong, and does a probability mean what it says? AUROC, calibration, drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Binning: TypeAlias = Literal["width", "mass"]

BINS = 10
FLOOR_ROUNDS = 200
PSI_FLOOR = 1e-4
"""The least share a bin counts as having, so that an empty one is a large and not an infinite change."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One row of a reliability table: requests whose probability lies in [low, high]."""

    low: float
    high: float
    n: int
    mean_p: float
    share_correct: float


def auroc(score: ArrayLike, correct: ArrayLike) -> float | None:
    """The chance that a right answer outscores a wrong one; ties count half. None if all are right or all wrong.

    Source: Mann-Whitney U over the number of pairs; Hanley and McNeil 1982, Radiology 143(1).
    """
    values, labels = _checked(score, correct)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # The mean rank of each group of equal scores, ranks from 1.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def reliability(p: ArrayLike, correct: ArrayLike, bins: int = BINS, binning: Binning = "width") -> tuple[Bin, ...]:
    """Group by stated probability, and set the share of right answers beside it. Empty bins are left out.

    Args:
        p: probability of being right, in [0, 1], shape (n,).
        binning: `width` cuts [0, 1] into equal parts; `mass` cuts the rows into parts of equal size, never between
            equal probabilities (so there may be fewer).
    Raises: ValueError for shapes, probabilities out of range, or bins < 1.
    """
    values, labels = _checked(p, correct, is_probability=True)
    edges, index = _bins(values, bins, binning)
    n = np.bincount(index, minlength=len(edges) - 1)
    mass = np.bincount(index, weights=values, minlength=len(edges) - 1)
    right = np.bincount(index, weights=labels, minlength=len(edges) - 1)
    return tuple(
        Bin(float(edges[i]), float(edges[i + 1]), int(n[i]), float(mass[i] / n[i]), float(right[i] / n[i]))
        for i in np.flatnonzero(n)
    )


def ece(p: ArrayLike, correct: ArrayLike, bins: int = BINS, binning: Binning = "width") -> float:
    """Expected calibration error: the mean distance of stated and observed share, over bins weighted by size.

    What we report as "ECE" is this default, ten bins of equal width; equal mass stands beside it. A predictor of
    the mean has an ECE near 0 and says nothing, so it is never shown without `brier_skill`.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, arXiv:1706.04599.
    """
    table = reliability(p, correct, bins, binning)
    n = sum(row.n for row in table)
    return sum(row.n * abs(row.mean_p - row.share_correct) for row in table) / n


def ece_floor(p: ArrayLike, bins: int = BINS, binning: Binning = "width", seed: int = 0) -> float:
    """The ECE that chance alone would give these probabilities if they were exactly right, on as many rows.

    ECE is biased upwards on small samples; one at its floor cannot be told from perfect.
    """
    values, _ = _checked(p, np.zeros(np.shape(p)), is_probability=True)
    rng = np.random.default_rng(seed)
    draws = rng.random((FLOOR_ROUNDS, len(values))) < values
    return float(np.mean([ece(values, drawn, bins, binning) for drawn in draws]))


def brier(p: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared distance of probability and outcome; 0 is perfect, lower is better. Brier 1950."""
    values, labels = _checked(p, correct, is_probability=True)
    return float(np.mean((values - labels) ** 2))


def base_rate_brier(correct: ArrayLike) -> float:
    """What the constant prediction of the rows' own mean scores: the least a useful probability must beat."""
    rate = float(np.mean(np.asarray(correct, dtype=np.float64)))
    return rate * (1 - rate)


def brier_skill(p: ArrayLike, correct: ArrayLike) -> float | None:
    """The share of the base rate's Brier score that p removes: 1 perfect, 0 no better. None with one class only."""
    base = base_rate_brier(correct)
    return None if base == 0 else 1 - brier(p, correct) / base


def log_loss(p: ArrayLike, correct: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; a certain and wrong prediction counts as 1e-15."""
    values, labels = _checked(p, correct, is_probability=True)
    return float(-np.mean(np.log(np.clip(np.where(labels, values, 1 - values), 1e-15, 1.0))))


def psi(expected: ArrayLike, observed: ArrayLike, bins: int = BINS) -> float:
    """Population stability index: how far the observed values have drifted from the expected ones.

    Bins are the quantiles of `expected`, open at both ends; equal values are never cut apart. By custom below 0.1 is
    stable and above 0.25 a changed population, but small samples alone give about (bins - 1) * (1/n + 1/m).

    Source: Siddiqi, Credit Risk Scorecards, Wiley 2006; the size by chance: Yurdakul 2018 (chi-squared).
    Raises: ValueError if either is empty or holds NaN, or bins < 1.
    """
    before, now = np.asarray(expected, dtype=np.float64), np.asarray(observed, dtype=np.float64)
    if before.ndim != 1 or now.ndim != 1 or not len(before) or not len(now) or bins < 1:
        raise ValueError(f"drift needs values of both times and a bin; got {before.shape}, {now.shape}, {bins} bins")
    if np.isnan(before).any() or np.isnan(now).any():
        raise ValueError("drift of NaN cannot be told")
    cuts = np.unique(np.quantile(before, np.arange(1, bins) / bins, method="inverted_cdf"))
    shares = [
        np.maximum(np.bincount(np.searchsorted(cuts, values), minlength=len(cuts) + 1) / len(values), PSI_FLOOR)
        for values in (before, now)
    ]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _bins(values: Floats, bins: int, binning: Binning) -> tuple[Floats, NDArray[np.intp]]:
    """The edges, ascending, and the bin of each value. Bins are open below, except the first."""
    if bins < 1:
        raise ValueError(f"a table needs at least one bin; got {bins}")
    if binning == "width":
        edges = np.linspace(0, 1, bins + 1)
    else:
        inner = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")
        # A cut at the largest value would leave an empty bin above it.
        inner = np.unique(inner[inner < values.max()])
        edges = np.concatenate([[values.min()], inner, [values.max()]])
    return edges, np.searchsorted(edges[1:-1], values)


def _checked(score: ArrayLike, correct: ArrayLike, *, is_probability: bool = False) -> tuple[Floats, NDArray[np.bool_]]:
    values, labels = np.asarray(score, dtype=np.float64), np.asarray(correct)
    if values.ndim != 1 or not len(values) or values.shape != labels.shape:
        raise ValueError(
            f"need one score and one label for each of at least one row; got {values.shape}, {labels.shape}"
        )
    if broken := int(np.isnan(values).sum()):
        raise ValueError(f"{broken} of {len(values)} scores are NaN")
    if is_probability and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"a probability lies in [0, 1]; got {values.min():g} to {values.max():g}")
    if labels.dtype != np.bool_ and not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must hold only true and false")
    return values, labels.astype(np.bool_)
