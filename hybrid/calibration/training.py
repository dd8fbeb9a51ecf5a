"""Which features tell right from wrong, and how are they weighted? Chosen and fitted by cross-validation.

Everything here is done inside a given set of rows, so that it can be repeated on parts of them: what `fit.py` reports
comes from rows that took no part in choosing features, strength of regularisation or calibration map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedKFold

from hybrid.calibration.logistic import fit_logistic
from hybrid.calibration.reliability import log_loss
from hybrid.policy.calibrated import CalibrationMap, Isotonic, LinearModel, Platt, logistic

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Folds: TypeAlias = list[tuple[NDArray[np.intp], NDArray[np.intp]]]

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
"""Inverse strengths of the L2 penalty (scikit-learn's C) that are tried for several features."""
SINGLE_STRENGTH = 1.0
"""For one standardised feature: it hardly shrinks, and keeps ten perfectly separated rows finite."""
UNPENALISED = 1e6
MAX_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set of features that may become the model; columns of the matrix."""

    name: str
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """A candidate as cross-validation saw it.

    logits: of each row by the model of the other folds, shape (n,). placements: see `placements`.
    """

    candidate: Candidate
    strength: float
    logits: Floats
    placements: Floats
    auroc: float
    log_loss: float


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """The chosen model, and all that was tried."""

    model: LinearModel
    chosen: Tried
    tried: tuple[Tried, ...]


def folds_of(correct: Bools, seed: int) -> Folds:
    """Part the rows into folds that each hold both classes; fewer than `MAX_FOLDS` where one class is rare.

    Raises: ValueError with fewer than 2 rows of a class, which cannot be parted.
    """
    rarer = int(min(correct.sum(), (~correct).sum()))
    if rarer < 2:
        raise ValueError(f"cross-validation needs two rows of each class; the rarer one has {rarer}")
    parts = StratifiedKFold(min(MAX_FOLDS, rarer), shuffle=True, random_state=seed)
    return list(parts.split(np.zeros(len(correct)), correct))


def train(
    names: Sequence[str],
    values: Floats,
    correct: Bools,
    candidates: Sequence[Candidate],
    seed: int,
    *,
    may_be_isotonic: bool,
    bare: int | None = None,
    weights: Floats | None = None,
) -> Trained:
    """Choose among candidates, fit the winner on all rows, and calibrate it on its out-of-fold scores.

    Args:
        values: shape (n, features), NaN where missing.
        bare: the column to keep where nothing beats it.
        weights: of the rows, such as the inverse of the chance that each is among them. Sets of
            features are compared by ranking, for which each row counts once.
    """
    # To mean 1, so that the penalty weighs as much as without them.
    weights = None if weights is None else weights / weights.mean()
    parts = folds_of(correct, seed)
    tried = tuple(_try(values, correct, candidate, parts, weights) for candidate in candidates)
    chosen = simplest_of_the_best(tried, correct, bare)
    means, scales = standards(values[:, chosen.candidate.columns])
    columns = standardised(values[:, chosen.candidate.columns], means, scales)
    inner = fit_logistic(columns, correct, chosen.strength, weights)
    model = LinearModel(
        features=tuple(names[column] for column in chosen.candidate.columns),
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        coefficients=tuple(inner.coefficients.tolist()),
        intercept=inner.intercept,
        calibration=_calibrate(chosen.logits, correct, seed, weights, may_be_isotonic=may_be_isotonic),
    )
    return Trained(model, chosen, tried)


def simplest_of_the_best(tried: Sequence[Tried], correct: Bools, bare: int | None = None) -> Tried:
    """The fewest features within one standard error of the best AUROC; among as many, `bare`, then the better.

    The standard error is that of the difference on the same rows, which is far smaller than either's own.

    Source: one-standard-error rule, Breiman et al., CART, 1984; errors of paired AUROCs, DeLong, Biometrics 1988.
    """
    best = max(tried, key=lambda one: one.auroc)
    near = [one for one in tried if best.auroc - one.auroc <= auroc_error(best.placements - one.placements, correct)]
    return min(near, key=lambda one: (len(one.candidate.columns), one.candidate.columns != (bare,), -one.auroc))


def placements(scores: Floats, correct: Bools, parts: Folds) -> Floats:
    """How each row stands against those of the other class in its own fold: the share it is on the right side of.

    Their mean over either class is the AUROC, averaged over folds; scores of different folds come from different
    models and are not compared.
    """
    placed = np.empty(len(scores))
    for _, held_out in parts:
        right, wrong = held_out[correct[held_out]], held_out[~correct[held_out]]
        above = np.sign(scores[right][:, None] - scores[wrong][None, :]) / 2 + 0.5
        placed[right], placed[wrong] = above.mean(axis=1), above.mean(axis=0)
    return placed


def auroc_error(placed: Floats, correct: Bools) -> float:
    """The standard error of an AUROC, or of the difference of two, from (differences of) placements. DeLong 1988."""
    return float(np.sqrt(sum(placed[part].var(ddof=1) / part.sum() for part in (correct, ~correct))))


def standards(values: Floats) -> tuple[Floats, Floats]:
    """Mean and scale of each column over what is known; a column that never varies, or is never known, has scale 1."""
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=0), 1)
    means = np.where(known, values, 0.0).sum(axis=0) / count
    scales = np.sqrt(np.where(known, (values - means) ** 2, 0.0).sum(axis=0) / count)
    # What only rounding varies does not vary.
    return means, np.where(scales > 1e-12 * np.maximum(1.0, np.abs(means)), scales, 1.0)


def standardised(values: Floats, means: Floats, scales: Floats) -> Floats:
    """Columns in standard units; what is missing is at the mean, 0."""
    return np.nan_to_num((values - means) / scales, nan=0.0)


def fit_platt(scores: Floats, correct: Bools, weights: Floats | None = None) -> Platt:
    """Fit p = logistic(slope * score + offset) to Platt's smoothed targets, which keeps p off 0 and 1.

    A slope below 0 says that the score misleads; then p is the (smoothed) mean, whatever the score.
    """
    n_right, n_wrong = int(correct.sum()), int((~correct).sum())
    targets = np.where(correct, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    twice = np.concatenate([scores, scores])[:, None]
    classes = np.repeat([True, False], len(scores))
    whole = np.ones(len(scores)) if weights is None else weights
    inner = fit_logistic(twice, classes, UNPENALISED, np.concatenate([targets * whole, (1 - targets) * whole]))
    slope = float(inner.coefficients[0])
    if slope < 0:
        mean = float(np.average(targets, weights=whole))
        return Platt(0.0, float(np.log(mean / (1 - mean))))
    return Platt(slope, inner.intercept)


def fit_isotonic(scores: Floats, correct: Bools, weights: Floats | None = None) -> Isotonic:
    """Fit the rising step-and-line function nearest to the labels, kept off 0 and 1 by one row in n + 2."""
    edge = 1 / (len(scores) + 2)
    inner = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(scores, correct, weights)
    knots, heights = np.unique(inner.X_thresholds_, return_index=True)
    rising = np.maximum.accumulate(inner.y_thresholds_[heights])
    return Isotonic(tuple(knots.tolist()), tuple(np.clip(rising, 0.0, 1.0).tolist()))


def _try(values: Floats, correct: Bools, candidate: Candidate, parts: Folds, weights: Floats | None) -> Tried:
    """Cross-validate a candidate at each strength, and keep the one of the least log loss."""
    columns = values[:, candidate.columns]
    strengths = STRENGTHS if len(candidate.columns) > 1 else (SINGLE_STRENGTH,)
    found = []
    for strength in strengths:
        logits = out_of_fold(len(correct), parts, partial(_logits, columns, correct, strength, weights))
        p = [logistic(logit) for logit in logits]
        found.append(
            (log_loss(p, correct) if weights is None else _weighted_loss(p, correct, weights), strength, logits)
        )
    loss, strength, logits = min(found, key=lambda one: one[0])
    placed = placements(logits, correct, parts)
    return Tried(candidate, strength, logits, placed, float(placed[correct].mean()), loss)


def _weighted_loss(p: Sequence[float], correct: Bools, weights: Floats) -> float:
    said = np.clip(np.where(correct, p, 1 - np.asarray(p)), 1e-15, 1.0)
    return float(-np.average(np.log(said), weights=weights))


def out_of_fold(n: int, parts: Folds, predict: Callable[[NDArray[np.intp], NDArray[np.intp]], Floats]) -> Floats:
    """Let each fold be predicted from the others: predict(rows, held_out) gives one number a held-out row."""
    found = np.empty(n)
    for rows, held_out in parts:
        found[held_out] = predict(rows, held_out)
    return found


def _logits(
    columns: Floats,
    correct: Bools,
    strength: float,
    weights: Floats | None,
    rows: NDArray[np.intp],
    held_out: NDArray[np.intp],
) -> Floats:
    means, scales = standards(columns[rows])
    inner_weights = None if weights is None else weights[rows]
    inner = fit_logistic(standardised(columns[rows], means, scales), correct[rows], strength, inner_weights)
    return inner.logits(standardised(columns[held_out], means, scales))


def _calibrate(
    logits: Floats, correct: Bools, seed: int, weights: Floats | None, *, may_be_isotonic: bool
) -> CalibrationMap:
    """Platt, unless isotonic's cross-validated Brier score is better by more than one standard error."""
    if not may_be_isotonic:
        return fit_platt(logits, correct, weights)
    parts = folds_of(correct, seed + 1)
    errors = []
    for fit in (fit_platt, fit_isotonic):
        p = out_of_fold(len(correct), parts, partial(_mapped, fit, logits, correct, weights))
        errors.append((p - correct) ** 2 * (1.0 if weights is None else weights))
    worse = errors[0] - errors[1]
    is_isotonic = worse.mean() > worse.std(ddof=1) / np.sqrt(len(worse))
    return fit_isotonic(logits, correct, weights) if is_isotonic else fit_platt(logits, correct, weights)


def _mapped(
    fit: Callable[[Floats, Bools, Floats | None], CalibrationMap],
    logits: Floats,
    correct: Bools,
    weights: Floats | None,
    rows: NDArray[np.intp],
    held_out: NDArray[np.intp],
) -> Floats:
    calibration = fit(logits[rows], correct[rows], None if weights is None else weights[rows])
    return np.array([calibration(logit) for logit in logits[held_out].tolist()])
