"""How do a draft's features become the chance that it is good? Fitted on labelled drafts, with a report of how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.calibration.reliability import base_rate_brier, brier, ece, ece_floor, log_loss
from hybrid.calibration.training import (
    Bools,
    Candidate,
    Floats,
    Folds,
    Trained,
    auroc_error,
    folds_of,
    out_of_fold,
    placements,
    train,
)
from hybrid.errors import CommandError
from hybrid.policy.calibrated import Isotonic, LinearModel, probability

LEAST_ROWS = 10
LEAST_OF_EACH = 3
"""Right and wrong answers: so many can be parted, and their rest parted again."""
LEAST_FOR_SEVERAL = 300
"""Below this many labels one feature and Platt's two numbers: more of either fits the noise."""
MOST_MISSING = 0.5
"""A feature that is missing in more of the rows than this is left out."""
Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Choice:
    """A set of features that was tried: its cross-validated AUROC and log loss on all rows."""

    name: str
    features: tuple[str, ...]
    auroc: float
    log_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What was done, and how well the procedure does on rows that took no part in it.

    n: rows that were used; n_unknown: rows left out because no feature is known there.
    method: `logistic+isotonic`, `logistic+platt`, or `platt on one feature`; why: one sentence for people.
    features: of the chosen model. strength: scikit-learn's C. choices: all that was tried, the best first.
    dropped: features left out, each with its reason. missing: share of missing values of each kept feature.
    auroc, auroc_ci95: averaged over folds; the interval by DeLong's error. ece: ten bins of equal width, the one that
    is reported; ece_mass: of equal mass; ece_floor: what chance gives a perfect model of as many rows.
    base_brier: of always predicting the rows' own mean.
    """

    n: int
    n_right: int
    n_unknown: int
    method: str
    why: str
    features: tuple[str, ...]
    strength: float
    choices: tuple[Choice, ...]
    dropped: tuple[tuple[str, str], ...]
    missing: tuple[tuple[str, float], ...]
    auroc: float
    auroc_ci95: tuple[float, float]
    log_loss: float
    ece: float
    ece_mass: float
    ece_floor: float
    brier: float
    base_brier: float
    seed: int

    @property
    def is_at_chance(self) -> bool:
        """Whether the features tell nothing here: AUROC may be 0.5 or less, or the constant mean predicts as well."""
        return self.auroc_ci95[0] <= 0.5 or self.brier >= self.base_brier


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted model, its report, and for each row the probability by models that never saw it.

    out_of_fold: shape (n,); NaN where no feature of the model is known, which is to be escalated. Thresholds are
    certified on these, or on other rows, never on the model's own predictions for its rows.
    """

    model: LinearModel
    report: FitReport
    out_of_fold: Floats


def matrix(rows: Sequence[Mapping[str, float | None]], names: Sequence[str]) -> Floats:
    """Features of each row, shape (rows, names); NaN where missing or None."""
    table = [[np.nan if (value := row.get(name)) is None else float(value) for name in names] for row in rows]
    return np.array(table, dtype=np.float64).reshape(len(rows), len(names))


def fit(
    names: Sequence[str],
    values: ArrayLike,
    correct: ArrayLike,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    alone: Sequence[str] | None = None,
    bare: str | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
) -> Fit:
    """Fit the chance that an answer is good.

    With 300 rows or more: each feature alone, all together, and each group are tried as an L2-regularised logistic
    model on standardised features; the simplest within one standard error of the best wins; Platt or isotonic is put
    on top by Brier score. Below that: the best single feature and Platt. The report's numbers are from repeating
    all of it, choice included, five times without a fifth of the rows.

    A missing value (NaN) counts as the mean of its feature over the fitted rows, so it moves nothing. A feature that is
    missing in over half of the rows, or that never varies, is left out; rows without any feature are too.

    Args:
        values: shape (rows, names). correct: shape (rows,).
        groups: name to features, tried as sets of their own.
        alone: the features worth a try by themselves, such as all but a probe's hundred dimensions; all without it.
        bare: the feature to keep where nothing beats it by more than chance.
        weights: shape (rows,), > 0: how many requests each row stands for. The model is fitted with them; the report's
            figures count each row once.
    Raises: CommandError if there are too few rows, one label only, an infinite value, or no feature that varies;
        ValueError for shapes and names that do not fit.
    """
    table, labels = _checked(names, values, correct)
    kept, dropped = _usable(names, table)
    names, table = [names[at] for at in kept], table[:, kept]
    is_known = ~np.isnan(table).all(axis=1)
    known, right = table[is_known], labels[is_known]
    _check_labels(right)
    is_full = len(right) >= LEAST_FOR_SEVERAL
    candidates = _candidates(names, groups or {}, names if alone is None else alone, is_full=is_full)
    heavy = None if weights is None else np.asarray(weights, dtype=np.float64)[is_known]
    at_bare = names.index(bare) if bare in names else None
    how = partial(train, names, candidates=candidates, seed=seed, may_be_isotonic=is_full, bare=at_bare)

    def trained(rows: NDArray[np.intp]) -> Trained:
        return how(known[rows], right[rows], weights=None if heavy is None else heavy[rows])

    parts = folds_of(right, seed)
    p = out_of_fold(len(right), parts, lambda rows, held_out: predict(trained(rows).model, known[held_out], names))
    everything = trained(np.arange(len(right)))
    spread = np.full(len(labels), np.nan)
    spread[is_known] = p
    report = FitReport(
        dropped=dropped,
        missing=tuple(zip(names, np.isnan(table).mean(axis=0).tolist(), strict=True)),
        seed=seed,
        **_counted(right, len(labels)),
        **_said(everything, names, len(right)),
        **_measured(p, right, parts),
    )
    return Fit(everything.model, report, spread)


def predict(model: LinearModel, values: ArrayLike, names: Sequence[str]) -> Floats:
    """The model's probability of each row, as it is computed online; NaN where no feature of it is known."""
    table = np.asarray(values, dtype=np.float64)
    rows = (probability(model, dict(zip(names, row, strict=True))) for row in table.tolist())
    return np.array([np.nan if p is None else p for p in rows], dtype=np.float64)


def _counted(right: Bools, of: int) -> dict[str, Any]:
    """How many rows there were."""
    return {"n": len(right), "n_right": int(right.sum()), "n_unknown": of - len(right)}


def _measured(p: Floats, right: Bools, parts: Folds) -> dict[str, Any]:
    """How well out-of-fold probabilities do; rows without one are left out."""
    told = ~np.isnan(p)
    # Where a fold holds one class only there are no pairs in it to compare.
    inside = [(rows, held[told[held]]) for rows, held in parts]
    inside = [(rows, held) for rows, held in inside if 0 < right[held].sum() < len(held)]
    compared = np.concatenate([held for _, held in inside]) if inside else np.array([], dtype=np.intp)
    auroc, error = 0.5, np.inf
    if right[compared].sum() > 1 and (~right[compared]).sum() > 1:
        placed = placements(p, right, inside)[compared]
        auroc, error = float(placed[right[compared]].mean()), auroc_error(placed, right[compared])
    p, right = p[told], right[told]
    return {
        "auroc": auroc,
        "auroc_ci95": (max(0.0, auroc - Z_95 * error), min(1.0, auroc + Z_95 * error)),
        "log_loss": log_loss(p, right),
        "ece": ece(p, right),
        "ece_mass": ece(p, right, binning="mass"),
        "ece_floor": ece_floor(p),
        "brier": brier(p, right),
        "base_brier": base_rate_brier(right),
    }


def _said(trained: Trained, names: Sequence[str], n: int) -> dict[str, Any]:
    """What was chosen, from what, and why."""
    method, why = _method(trained, n)
    return {
        "method": method,
        "why": why,
        "features": trained.model.features,
        "strength": trained.chosen.strength,
        "choices": _choices(trained, names),
    }


def _method(trained: Trained, n: int) -> tuple[str, str]:
    """Name the method, and say why it is this one."""
    chosen, tried = trained.chosen, trained.tried
    best = max(tried, key=lambda one: one.auroc)
    if n < LEAST_FOR_SEVERAL:
        feature = trained.model.features[0]
        why = f"{n} labels are fewer than {LEAST_FOR_SEVERAL}: {feature} alone, chosen from {len(tried)}"
        return "platt on one feature", why
    kind = "isotonic" if isinstance(trained.model.calibration, Isotonic) else "platt"
    if chosen is best:
        why = f"{chosen.candidate.name} has the best AUROC of {len(tried)} sets of features, {chosen.auroc:.3f}"
    else:
        why = (
            f"{chosen.candidate.name} has AUROC {chosen.auroc:.3f}, and the best of {len(tried)} sets of features, "
            f"{best.candidate.name}, is better by no more than one standard error ({best.auroc:.3f})"
        )
    return f"logistic+{kind}", why


def _choices(trained: Trained, names: Sequence[str]) -> tuple[Choice, ...]:
    ranked = sorted(trained.tried, key=lambda one: -one.auroc)
    return tuple(
        Choice(one.candidate.name, tuple(names[at] for at in one.candidate.columns), one.auroc, one.log_loss)
        for one in ranked
    )


def _candidates(
    names: Sequence[str], groups: Mapping[str, Sequence[str]], alone: Sequence[str], *, is_full: bool
) -> list[Candidate]:
    """Single features and, with labels enough, each group's usable features and all of them; no set twice."""
    singles = set(alone) & set(names) or set(names)
    sets: dict[tuple[int, ...], str] = {(at,): name for at, name in enumerate(names) if name in singles}
    if is_full:
        for name, members in groups.items():
            if columns := tuple(at for at, feature in enumerate(names) if feature in set(members)):
                sets.setdefault(columns, name)
        sets.setdefault(tuple(range(len(names))), "all features")
    return [Candidate(name, columns) for columns, name in sets.items()]


def _usable(names: Sequence[str], table: Floats) -> tuple[list[int], tuple[tuple[str, str], ...]]:
    """The columns worth a try, and the others with the reason."""
    kept, dropped = [], []
    for at, name in enumerate(names):
        column = table[:, at]
        known = column[~np.isnan(column)]
        if len(known) < (1 - MOST_MISSING) * len(column):
            dropped.append((name, f"missing in {1 - len(known) / len(column):.0%} of the rows"))
        elif len(known) == 0 or known.min() == known.max():
            dropped.append((name, "the same in every row"))
        else:
            kept.append(at)
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dropped)
        raise CommandError(f"no feature can tell right answers from wrong ones: {reasons}")
    return kept, tuple(dropped)


def _checked(names: Sequence[str], values: ArrayLike, correct: ArrayLike) -> tuple[Floats, Bools]:
    table, labels = np.asarray(values, dtype=np.float64), np.asarray(correct)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"need at least one feature, and no name twice; got {list(names)}")
    if table.shape != (len(labels), len(names)) or labels.ndim != 1:
        raise ValueError(f"need one row of {len(names)} features a label; got {table.shape} and {labels.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must hold only true and false")
    if len(labels) < LEAST_ROWS:
        raise CommandError(f"{len(labels)} labelled rows are too few to calibrate on; at least {LEAST_ROWS} are needed")
    if np.isinf(table).any():
        row, column = np.argwhere(np.isinf(table))[0]
        raise CommandError(
            f"feature {names[column]} of row {row + 1} is infinite; a value that was not measured must be left out"
        )
    return table, labels.astype(np.bool_)


def _check_labels(right: Bools) -> None:
    n, n_right = len(right), int(right.sum())
    if n < LEAST_ROWS:
        raise CommandError(f"only {n} rows have a feature; at least {LEAST_ROWS} are needed")
    if n_right in (0, n):
        state = "right" if n_right else "wrong"
        raise CommandError(
            f"all {n} answers are {state}, so nothing can tell which are not; take questions of mixed difficulty"
        )
    if min(n_right, n - n_right) < LEAST_OF_EACH:
        raise CommandError(
            f"{n_right} answers are right and {n - n_right} wrong; at least {LEAST_OF_EACH} of each are needed"
        )
