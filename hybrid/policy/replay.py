"""What did a decision take, and what does it make of that again? Pure: from recorded inputs to the same verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hybrid.policy.calibrated import around
from hybrid.policy.model import Basis, Decision, Limits, Review, RunLocal, Signals
from hybrid.policy.promise import Promise, of_cloud
from hybrid.policy.review import review_by
from hybrid.policy.route import route
from hybrid.policy.worth import weigh


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Everything the decisions about one request took. basis: what the draft was judged by; None if none was."""

    signals: Signals
    limits: Limits
    basis: Basis | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What was decided: before any token, and of the draft; None where no draft was judged."""

    decision: Decision
    review: Review | None


def replay(taken: Taken, *, assumed: float | None = None) -> Made:
    """Decide again, by the same functions as then.

    Args:
        assumed: a confidence to take in the place of the draft's own, to ask what would have been.
    """
    decision = route(taken.signals, taken.limits)
    review = None if taken.basis is None else review_by(taken.basis, assumed=assumed)
    return Made(decision, None if review is None else weighed(review, decision, taken.signals))


def weighed(review: Review, decision: Decision, signals: Signals) -> Review:
    """What a doubt about a whole draft comes to where the cloud it would go to has its price."""
    option = decision.fallback if isinstance(decision, RunLocal) else None
    basis = review.basis
    if option is None or basis is None or basis.look is not None:
        return review
    return weigh(review, option, signals.budget_lambda, basis.limits)


def taken_by(signals: Signals, limits: Limits, review: Review | None) -> Taken:
    """Gather what was taken, without what made no difference: features, knots and looks that were not used.

    What is left stays small whatever was calibrated, and `replay` makes the very same of it.
    """
    basis = None if review is None else review.basis
    found = {} if basis is None else basis.evidence.features or {}
    look = None if basis is None else basis.look
    if look is not None:
        # The look's own model judged; the promise's were not asked.
        look, found = replace(look, model=around(look.model, found)), {}
    lean = _lean(limits, found)
    if basis is not None:
        at_review = lean if basis.limits is limits else _lean(basis.limits, found)
        basis = replace(basis, limits=at_review, look=look)
    return Taken(signals=signals, limits=lean, basis=basis)


def _lean(limits: Limits, found: Mapping[str, float]) -> Limits:
    return limits if limits.promise is None else replace(limits, promise=_lean_promise(limits.promise, found))


def _lean_promise(promise: Promise, found: Mapping[str, float]) -> Promise:
    cloud = None if promise.cloud is None else around(promise.cloud, of_cloud(promise, found))
    # What a promise is watched by, a table a feature, decides nothing.
    tables: dict[str, Any] = {
        field.name: {} for field in fields(promise) if isinstance(getattr(promise, field.name), Mapping)
    }
    return replace(promise, local=around(promise.local, found), cloud=cloud, looks=(), **tables)
