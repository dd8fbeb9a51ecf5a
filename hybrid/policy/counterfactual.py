"""What would have changed it? For each fact by itself, the nearest other value with which the request goes elsewhere.

No rule is repeated here: every question is put to the functions that decide, with one fact changed. So a new fact or a
new rule is found without a change here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, TypeAlias, get_args, get_type_hints

from hybrid.policy.model import CloudOption, Escalate, Evidence, Limits, Reject, Signals
from hybrid.policy.nearest import Change, nearest_change
from hybrid.policy.promise import Look, Promise
from hybrid.policy.replay import Made, Taken, replay

Value: TypeAlias = Any
"""Of a fact: a number, a word, a flag, a set of words, or None where it is unknown or not set."""

FLIPPED = 0.95
"""The distance of what has no size: a flag, a word. A number that must grow twentyfold is as far."""
UNSET = 0.97
"""The distance of a number where there was none."""
BROKEN = 2.0
"""The distance of what works and then would not: true of every request, and nobody's wish."""
WORKING = ("is_local_configured", "is_local_ready")
SHARES = ("confidence", "_chance", "_rate", "_share", "_regret", "delta", "p_cloud", "p_local", "quality")
"""How the names of facts end that lie in [0, 1]."""


class Bound(StrEnum):
    """Whether a needed value is the least, the most, or the only one."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    IS = "is"


class Where(StrEnum):
    """Where a request ends. DRAFT: a local draft is made, or made longer, and judged then, which nobody did yet."""

    LOCAL = "local"
    DRAFT = "draft"
    CLOUD = "cloud"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request ends, and with which cloud model."""

    where: Where
    cloud: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """One fact, and the nearest value of it that sends the request elsewhere.

    fact: its place in what was recorded, such as `signals.prompt_tokens`; `draft.confidence` is what was compared with
    a threshold. cloud: whose fact it is, of a cloud's. distance: as a share, 0 is nearest.
    """

    fact: str
    actual: Value
    needed: Value
    bound: Bound
    place: Place
    distance: float
    cloud: str | None = None


@dataclass(frozen=True, slots=True)
class _Fact:
    """A fact that may be changed: its value, its type, and what happens with another value."""

    name: str
    actual: Value
    kind: Any
    ask: Callable[[Value], Place]
    cloud: str | None = None


def place_of(made: Made) -> Place:
    """Where the request goes by what was decided of it."""
    decision = made.decision
    if isinstance(decision, Reject):
        return Place(Where.NOBODY)
    if isinstance(decision, Escalate):
        return Place(Where.CLOUD, _name(decision.option))
    if decision.fallback is None:
        return Place(Where.LOCAL)
    basis = None if made.review is None else made.review.basis
    if made.review is None or (made.review.is_accepted and basis is not None and basis.look is not None):
        return Place(Where.DRAFT)
    return Place(Where.LOCAL) if made.review.is_accepted else Place(Where.CLOUD, _name(decision.fallback))


def counterfactuals(taken: Taken) -> list[Counterfactual]:
    """Find what would have changed where a request went, one change a fact.

    Returns: the nearest first; those with which nobody would have answered come last.
    """
    here = place_of(replay(taken))
    found = [change for fact in _facts(taken) if (change := _changed(fact, here)) is not None]
    return sorted(found, key=lambda change: (change.place.where is Where.NOBODY, change.distance))


def place_with(taken: Taken, fact: str, value: Value) -> Place:
    """Where the request goes with another value of one fact. Raises: KeyError for a fact there is not."""
    asked = {one.name: one for one in _facts(taken)}
    return asked[fact].ask(value)


# ---- the facts


def _facts(taken: Taken) -> Iterator[_Fact]:
    yield from _of_draft(taken)
    yield from _of_signals(taken)
    for place in range(len(taken.signals.clouds)):
        yield from _of_cloud(taken, place)
    yield from _of_limits(taken)


def _of_draft(taken: Taken) -> Iterator[_Fact]:
    basis, made = taken.basis, replay(taken)
    if basis is None or made.review is None:
        return
    confidence = made.review.confidence
    if confidence is not None and 0 <= confidence <= 1:
        yield _Fact("draft.confidence", confidence, float, lambda value: place_of(replay(taken, assumed=value)))
    for name in ("flaw", "finish_reason"):

        def ask(value: Value, name: str = name) -> Place:
            evidence = replace(basis.evidence, **{name: value})
            return place_of(replay(replace(taken, basis=replace(basis, evidence=evidence))))

        yield _Fact(f"draft.{name}", getattr(basis.evidence, name), _kinds(Evidence)[name], ask)


def _of_signals(taken: Taken) -> Iterator[_Fact]:
    for name, kind in _kinds(Signals).items():

        def ask(value: Value, name: str = name) -> Place:
            return place_of(replay(replace(taken, signals=replace(taken.signals, **{name: value}))))

        yield _Fact(f"signals.{name}", getattr(taken.signals, name), kind, ask)


def _of_cloud(taken: Taken, place: int) -> Iterator[_Fact]:
    clouds = taken.signals.clouds
    for name, kind in _kinds(CloudOption).items():
        if name in ("provider", "model"):
            continue

        def ask(value: Value, name: str = name) -> Place:
            changed = (*clouds[:place], replace(clouds[place], **{name: value}), *clouds[place + 1 :])
            return place_of(replay(replace(taken, signals=replace(taken.signals, clouds=changed))))

        actual = getattr(clouds[place], name)
        yield _Fact(f"signals.clouds[{place}].{name}", actual, kind, ask, _name(clouds[place]))


def _of_limits(taken: Taken) -> Iterator[_Fact]:
    for name, kind in _kinds(Limits).items():
        actual = getattr(taken.limits, name)

        def ask(value: Value, name: str = name, actual: Value = actual) -> Place:
            basis = taken.basis
            # A limit that had changed by the time of the review is another one there.
            if basis is not None and getattr(basis.limits, name) == actual:
                basis = replace(basis, limits=replace(basis.limits, **{name: value}))
            return place_of(replay(replace(taken, limits=replace(taken.limits, **{name: value}), basis=basis)))

        yield _Fact(f"limits.{name}", actual, kind, ask)


def _kinds(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, localns={"Promise": Promise, "Look": Look})
    return {field.name: hints[field.name] for field in fields(kind)}


def _name(option: CloudOption) -> str:
    return f"{option.provider}/{option.model}"


# ---- their other values


def _changed(fact: _Fact, here: Place) -> Counterfactual | None:
    is_number = isinstance(fact.actual, int | float | Decimal) and not isinstance(fact.actual, bool)
    if is_number or (fact.actual is None and _number_of(fact.kind) is not None):
        change = nearest_change(
            fact.ask,
            here,
            fact.actual,
            kind=type(fact.actual) if is_number else _number_of(fact.kind) or float,
            most=1.0 if fact.name.endswith(SHARES) else None,
        )
        if change is not None:
            return _told(fact, change)
    for other in _others(fact):
        place = fact.ask(other)
        if place != here:
            return _counterfactual(fact, other, Bound.IS, place, BROKEN if _is_broken(fact) else FLIPPED)
    return None


def _is_broken(fact: _Fact) -> bool:
    return fact.actual is True and fact.name.endswith(WORKING)


def _told(fact: _Fact, change: Change[Place]) -> Counterfactual:
    if fact.actual is None:
        distance = UNSET
    else:
        gap = abs(float(change.value) - float(fact.actual))
        whole = 1.0 if fact.name.endswith(SHARES) else max(abs(float(change.value)), abs(float(fact.actual)))
        distance = gap / whole
    bound = Bound.AT_LEAST if change.is_rising else Bound.AT_MOST
    return _counterfactual(fact, change.value, bound, change.result, distance)


def _counterfactual(fact: _Fact, needed: Value, bound: Bound, place: Place, distance: float) -> Counterfactual:
    return Counterfactual(
        fact=fact.name,
        actual=fact.actual,
        needed=needed,
        bound=bound,
        place=place,
        distance=distance,
        cloud=fact.cloud,
    )


def _others(fact: _Fact) -> Iterator[Value]:
    """Give the values that have no size and may be tried in the place of this one."""
    actual = fact.actual
    kinds = get_args(fact.kind) or (fact.kind,)
    words = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)), None)
    if isinstance(actual, bool):
        yield not actual
    elif words is not None and not isinstance(actual, frozenset):
        yield from (word for word in words if word is not actual)
    elif isinstance(actual, frozenset):
        yield from (actual - {one} for one in sorted(actual))
        if len(actual) > 1:
            yield frozenset()
    if actual is not None and type(None) in kinds and (not isinstance(actual, bool) or is_dataclass(actual)):
        yield None


def _number_of(kind: Any) -> type | None:
    """The number that an optional fact is where it is known; None for any other."""
    kinds = [one for one in get_args(kind) if one is not type(None)]
    return kinds[0] if len(kinds) == 1 and kinds[0] in (int, float, Decimal) else None
