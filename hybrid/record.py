"""How is a decision's input written into its ledger row, so that the decision can be made again from there?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from hybrid import __version__
from hybrid.plain import Unreadable, from_plain
from hybrid.policy.model import Basis, Decision, Escalate, Evidence, Limits, Reject, Review, RunLocal, Signals
from hybrid.policy.promise import Look
from hybrid.policy.replay import Taken, taken_by
from hybrid.types import Json

FORMAT = 2
"""Of the record; raised when an input is written in another way. Rows without one were written before inputs were."""

_KINDS = {RunLocal: "run_local", Escalate: "escalate", Reject: "reject"}


class NotReplayable(Exception):
    """The inputs of this decision are not there, or not in a form this version understands."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a row holds of the inputs, and which version of this program wrote it."""

    taken: Taken
    program: str


def write_inputs(signals: Signals, limits: Limits, review: Review | None) -> dict[str, object]:
    """Give the part of a row that `read_inputs` needs, as values for `plain.to_json`.

    facts, limits: of the decision before any token. reviewed: what was found of the draft, the limits that had changed
    by then, and the look it was given up at.
    """
    taken = taken_by(signals, limits, review)
    return {
        "format": FORMAT,
        "program": __version__,
        "facts": taken.signals,
        "limits": taken.limits,
        "reviewed": None if taken.basis is None else _reviewed(taken.basis, taken.limits),
    }


def write_outcome(decision: Decision, review: Review | None) -> dict[str, object]:
    """Give the part of a row that says what was decided, as values: `decision`, its `checks`, and `review`."""
    return {
        "decision": {"kind": kind_of_decision(decision), **_all_but(decision, "checks")},
        "checks": decision.checks,
        "review": None if review is None else _all_but(review, "basis"),
    }


def kind_of_decision(decision: Decision) -> str:
    """Name a decision as rows do."""
    return _KINDS[type(decision)]


def read_inputs(record: Mapping[str, Json]) -> Recorded:
    """Read the inputs of a row's decision.

    Raises: NotReplayable with the reason, for people.
    """
    version, program = record.get("format"), str(record.get("program", "an unknown version"))
    if not record.get("facts"):
        raise NotReplayable("nothing was decided")
    if version is None:
        raise NotReplayable("it was recorded by a version that did not keep the limits and the draft's features")
    if version != FORMAT:
        raise NotReplayable(f"it was recorded in format {version} by {program}; {__version__} reads format {FORMAT}")
    try:
        signals = from_plain(Signals, record["facts"])
        limits = from_plain(Limits, record["limits"])
        reviewed = record.get("reviewed")
        basis = None if reviewed is None else _basis(reviewed, record["limits"])
    except (Unreadable, KeyError, TypeError) as broken:
        raise NotReplayable(f"the record of {program} does not fit {__version__}: {broken}") from broken
    return Recorded(Taken(signals=signals, limits=limits, basis=basis), program)


def _all_but(value: Decision | Review, left_out: str) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__ if name != left_out}


def _reviewed(basis: Basis, limits: Limits) -> dict[str, object]:
    changed = [
        field.name for field in fields(Limits) if getattr(basis.limits, field.name) != getattr(limits, field.name)
    ]
    return {
        "evidence": basis.evidence,
        "limits": {name: getattr(basis.limits, name) for name in changed},
        "look": basis.look,
    }


def _basis(reviewed: Mapping[str, Json], limits: Mapping[str, Json]) -> Basis:
    look = reviewed["look"]
    return Basis(
        evidence=from_plain(Evidence, reviewed["evidence"]),
        limits=from_plain(Limits, {**limits, **reviewed["limits"]}),
        look=None if look is None else from_plain(Look, look),
    )
