"""What is the chance that this answer is good? A fitted model as plain numbers, applied without any library.

The fitting is done offline by hybrid/calibration; what it finds is these values. They refuse to exist broken, so that
an artefact that was tampered with or cut off is an error where it is read and never a wrong probability.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Platt:
    """p = 1 / (1 + exp(-(slope * z + offset))) for a linear score z; slope >= 0, so that p rises with z.

    Source: Platt 1999, Advances in Large Margin Classifiers.
    """

    slope: float
    offset: float

    def __post_init__(self) -> None:
        _finite("Platt's numbers", (self.slope, self.offset))
        if self.slope < 0:
            raise ValueError(f"a probability must not fall as its score rises; got slope {self.slope:g}")

    def __call__(self, z: float) -> float:
        return logistic(self.slope * z + self.offset)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """p by straight lines between knots, constant beyond the first and the last.

    x: linear scores, strictly ascending. y: probabilities, ascending, as many.

    Source: Zadrozny and Elkan, KDD 2002.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        _finite("the knots", (*self.x, *self.y))
        if not self.x or len(self.x) != len(self.y):
            raise ValueError(f"need as many probabilities as knots, at least one; got {len(self.x)} and {len(self.y)}")
        if any(a >= b for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ValueError("the knots must ascend strictly")
        if any(a > b for a, b in zip(self.y, self.y[1:], strict=False)) or not 0 <= self.y[0] <= self.y[-1] <= 1:
            raise ValueError("the knots' probabilities must ascend within [0, 1]")

    def __call__(self, z: float) -> float:
        right = bisect_right(self.x, z)
        if right == 0:
            return self.y[0]
        if right == len(self.x):
            return self.y[-1]
        low, high = self.x[right - 1], self.x[right]
        share = (z - low) / (high - low)
        # Held between the knots: rounding must not make p fall where z rises.
        return min(self.y[right], self.y[right - 1] + share * (self.y[right] - self.y[right - 1]))


CalibrationMap: TypeAlias = Platt | Isotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModel:
    """A logistic model on standardised features, and a map from its linear score to a probability.

    features: names, in the order of the numbers. means, scales: of each over the rows it was fitted on; scales > 0.
    coefficients: of the standardised features. intercept: in logits.
    calibration: from the linear score to p.
    """

    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    calibration: CalibrationMap

    def __post_init__(self) -> None:
        sizes = {len(self.features), len(self.means), len(self.scales), len(self.coefficients)}
        if len(sizes) != 1 or not self.features or len(set(self.features)) != len(self.features):
            raise ValueError(
                "need one mean, scale and coefficient for each of at least one feature, no name twice; got "
                f"{self.features}, {len(self.means)} means, {len(self.scales)} scales, "
                f"{len(self.coefficients)} coefficients"
            )
        _finite("the model's numbers", (*self.means, *self.scales, *self.coefficients, self.intercept))
        if min(self.scales) <= 0:
            raise ValueError(f"a scale must be above 0; got {min(self.scales):g}")


def linear_score(model: LinearModel, values: Mapping[str, float | None]) -> float | None:
    """The model's logit for one draft, before calibration.

    A feature that is missing, None or NaN counts as its mean and so moves nothing; features the model does not use are
    ignored. With all of the model's features missing there is nothing to judge by: None.

    Raises: ValueError if a value is infinite, which is no measurement, or so large that the score is.
    """
    z, is_known = model.intercept, False
    for name, mean, scale, weight in zip(model.features, model.means, model.scales, model.coefficients, strict=True):
        value = values.get(name)
        if value is None or math.isnan(value):
            continue
        if math.isinf(value):
            raise ValueError(f"feature {name} is infinite")
        is_known = True
        z += weight * ((value - mean) / scale)
    if not math.isfinite(z):
        raise ValueError("the features are too large for a finite score")
    return z if is_known else None


def probability(model: LinearModel, values: Mapping[str, float | None]) -> float | None:
    """The calibrated chance that the answer is good, in [0, 1]; None where no feature is known.

    Raises: ValueError as `linear_score`.
    """
    z = linear_score(model, values)
    return None if z is None else model.calibration(z)


def around(model: LinearModel, values: Mapping[str, float | None]) -> LinearModel:
    """The same model as far as one draft needs it: the features it has, and the two knots its score lies between.

    For these values it gives the very same probability, and None where the whole model does.
    """
    kept = [place for place, name in enumerate(model.features) if values.get(name) is not None] or [0]
    changed: dict[str, Any] = {}
    if len(kept) < len(model.features):
        for name in ("features", "means", "scales", "coefficients"):
            numbers = getattr(model, name)
            changed[name] = tuple([numbers[place] for place in kept])
    if isinstance(model.calibration, Isotonic):
        try:
            z = linear_score(model, values)
        except ValueError:
            z = None
        x, y = model.calibration.x, model.calibration.y
        right = bisect_right(x, model.intercept if z is None else z)
        near = slice(max(0, right - 1), right + 1)
        changed["calibration"] = Isotonic(x[near], y[near])
    return replace(model, **changed) if changed else model


def logistic(logit: float) -> float:
    """1 / (1 + exp(-logit)), without overflow at either end."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    # exp underflows to 0 far out, which is right.
    rising = math.exp(logit)
    return rising / (1.0 + rising)


def _finite(what: str, numbers: Iterable[float]) -> None:
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{what} must be finite")
