"""Which is the nearest other value of a number at which an answer changes? Found by asking, whatever is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any, Generic, TypeAlias, TypeVar

Number: TypeAlias = int | float | Decimal
_R = TypeVar("_R")

SMALLEST_STEP = 2.0**-10
"""The first step away from a value, as a share of it."""
LARGEST_FACTOR = 2.0**13
"""How many times larger a value may have to be: beyond that, nobody would call it a change of this number."""
HALVINGS = 48
OVERSHOOT = 0.05
"""A told value may lie so much beyond the nearest, as a share of the way to it, to be a short number."""
FROM_NOTHING = tuple(2.0**exponent for exponent in range(-14, 21))
"""What is tried where there was no number at all."""


@dataclass(frozen=True, slots=True)
class Change(Generic[_R]):
    """The nearest value with another answer, that answer, and whether larger values than it are on its side."""

    value: Number
    result: _R
    is_rising: bool


def nearest_change(
    ask: Callable[[Any], _R], here: _R, actual: Number | None, *, kind: type, most: float | None = None
) -> Change[_R] | None:
    """Find the nearest value whose answer is not `here`, by steps that double, then by halving.

    An answer that changes and changes back within one step is not seen.

    Args:
        ask: gives the answer at a value of type `kind`. actual: None where there was no number.
        kind: int, float or Decimal. most: the largest value there is; None for any. The least is 0, but for what is
            below it already.
    """
    at = _typed(ask, kind)
    if actual is None:
        return _from_nothing(at, here, kind, most)
    start = float(actual)
    found = [
        change
        for is_rising in (False, True)
        if (change := _toward(at, here, start, kind, most, is_rising=is_rising)) is not None
    ]
    return min(found, key=lambda change: abs(float(change.value) - start), default=None)


def _typed(ask: Callable[[Any], _R], kind: type) -> Callable[[float], _R]:
    return lambda value: ask(_as(kind, value))


def _as(kind: type, value: float) -> Number:
    if kind is int:
        return round(value)
    return Decimal(repr(value)) if kind is Decimal else float(value)


def _toward(
    at: Callable[[float], _R], here: _R, start: float, kind: type, most: float | None, *, is_rising: bool
) -> Change[_R] | None:
    before = start
    for value in _steps(start, kind, most, is_rising=is_rising):
        if at(value) != here:
            beyond = _halved(at, here, before, value, kind)
            return _short(at, start, beyond, kind, most, is_rising=is_rising)
        before = value
    return None


def _steps(start: float, kind: type, most: float | None, *, is_rising: bool) -> Iterator[float]:
    """Values ever farther from the start, the last one the end of what is possible."""
    unit = 1.0 if kind is int else abs(start) * SMALLEST_STEP or 2.0**-20
    end = _end(start, most, is_rising=is_rising)
    step = unit
    while step < abs(end - start):
        yield start + step if is_rising else start - step
        step *= 2
    if end != start:
        yield end


def _end(start: float, most: float | None, *, is_rising: bool) -> float:
    if is_rising:
        return max(abs(start), 1.0) * LARGEST_FACTOR if most is None else max(start, most)
    return 0.0 if start >= 0 else start * LARGEST_FACTOR


def _halved(at: Callable[[float], _R], here: _R, near: float, far: float, kind: type) -> float:
    """Of two values with the answer `here` and another, move them together; give the one with the other answer."""
    for _ in range(HALVINGS):
        if kind is int and abs(far - near) <= 1:
            break
        middle = (near + far) / 2
        if kind is int:
            middle = float(int(middle))
        if middle in (near, far):
            break
        if at(middle) == here:
            near = middle
        else:
            far = middle
    return far


def _short(
    at: Callable[[float], _R], start: float, beyond: float, kind: type, most: float | None, *, is_rising: bool
) -> Change[_R]:
    """Round away from the start, to as few digits as stay near; a count is not rounded."""
    result = at(beyond)
    if kind is int:
        return Change(round(beyond), result, is_rising)
    exact = Decimal(repr(beyond))
    gap = abs(exact - Decimal(repr(start)))
    end = _end(start, most, is_rising=is_rising)
    away = ROUND_CEILING if is_rising else ROUND_FLOOR
    for exponent in range(gap.adjusted(), gap.adjusted() - 6, -1):
        # To the nearest first: where the edge itself is on the other side, it is the number people know.
        for rounding in (ROUND_HALF_EVEN, away):
            rounded = exact.quantize(Decimal(1).scaleb(exponent), rounding=rounding)
            is_inside = float(rounded) <= end if is_rising else float(rounded) >= end
            if is_inside and abs(rounded - exact) <= Decimal(OVERSHOOT) * gap and at(float(rounded)) == result:
                return Change(_as(kind, float(rounded)), result, is_rising)
    return Change(_as(kind, beyond), result, is_rising)


def _from_nothing(at: Callable[[float], _R], here: _R, kind: type, most: float | None) -> Change[_R] | None:
    """Find the edge of the values with another answer, where there was no number: the most of them, or the least."""
    tried = [value for value in FROM_NOTHING if (most is None or value <= most) and (kind is not int or value >= 1)]
    answers = [at(value) for value in tried]
    first = next((place for place, answer in enumerate(answers) if answer != here), None)
    if first is None:
        return None
    if first > 0:
        edge = _halved(at, here, tried[first - 1], tried[first], kind)
        return _short(at, 0.0, edge, kind, most or 2 * FROM_NOTHING[-1], is_rising=True)
    last = next((place for place, answer in enumerate(answers) if answer == here), None)
    if last is None:
        # Any number at all changes it: the fact alone that there is one.
        return Change(_as(kind, tried[0]), answers[0], is_rising=True)
    edge = _halved(at, here, tried[last], tried[last - 1], kind)
    return _short(at, 0.0, edge, kind, most, is_rising=False)
