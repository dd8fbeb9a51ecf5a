"""Which drafts did the cloud answer as well, and do they agree? Labels and what they say of promises: SQL, no threads.

Neither prompts nor answers are kept, only the numbers that describe a draft.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from hybrid.store.db import connect_reader, from_us, store_errors, to_us
from hybrid.types import Json

_INSERT = """
INSERT INTO labels (request_id, made_at_us, origin, weight, rate, kind, task, calibration, fingerprint,
    template_fingerprint, provider, model, p_local, p_cloud, score, is_accepted, is_flawed, agrees, is_answered,
    features_json)
VALUES (:request_id, :made_at_us, :origin, :weight, :rate, :kind, :task, :calibration, :fingerprint,
    :template_fingerprint, :provider, :model, :p_local, :p_cloud, :score, :is_accepted, :is_flawed, :agrees,
    :is_answered, :features_json)"""

_DROP_UNANSWERED = "DELETE FROM labels WHERE request_id = :request_id AND NOT is_answered"

# The last ones, in the order in which they were written.
_SELECT = """
SELECT * FROM (SELECT * FROM labels WHERE (:fingerprint IS NULL OR fingerprint = :fingerprint)
    AND (:calibration IS NULL OR calibration = :calibration) ORDER BY id DESC LIMIT :most) ORDER BY id"""

_KEEP_STANDING = """
INSERT INTO standings (calibration, task, at_us, facts_json) VALUES (:calibration, :task, :at_us, :facts_json)
ON CONFLICT (calibration) DO UPDATE SET at_us = excluded.at_us, facts_json = excluded.facts_json"""

_PLAIN = (
    "request_id", "weight", "rate", "kind", "task", "calibration", "fingerprint", "template_fingerprint", "provider",
    "model", "p_local", "p_cloud", "score",
)  # fmt: skip
"""Columns that are stored as the label has them."""


class Origin(StrEnum):
    """Why both answers exist."""

    ESCALATION = "escalation"
    AUDIT = "audit"
    HEDGE = "hedge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One draft that the cloud answered as well. What is None was not known: no promise was in force.

    weight: inverse of the chance that it was looked at. rate: the least chance with which any draft was then.
    kind, task: of the task, and the promise's name of it. calibration: of which p_local, p_cloud and score are.
    fingerprint, template_fingerprint: of the local model. provider, model: of the cloud.
    is_accepted: whether local was released. is_flawed: whether a verifier, and no score, spoke against it.
    agrees: whether both said the same. features: of the draft, finite numbers.
    is_answered: whether the cloud gave an answer; of an audit it did not answer nothing is known, and nothing agrees.
    """

    request_id: str
    made_at: datetime
    origin: Origin
    weight: float
    rate: float
    kind: str
    task: str | None
    calibration: str | None
    fingerprint: str
    template_fingerprint: str
    provider: str
    model: str
    p_local: float | None
    p_cloud: float | None
    score: float | None
    is_accepted: bool
    is_flawed: bool
    agrees: bool
    features: Mapping[str, float]
    is_answered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStanding:
    """What was last known of a promise: `policy.watch.Standing` as plain values."""

    calibration: str
    task: str
    at: datetime
    facts: Mapping[str, Json]


def insert_label(connection: sqlite3.Connection, label: Label) -> None:
    """Write a label, in the place of one without an answer. Raises: sqlite3.IntegrityError if it has an answer."""
    drop_unanswered(connection, label.request_id)
    values: dict[str, str | float | None] = {name: getattr(label, name) for name in _PLAIN}
    flags = {name: int(getattr(label, name)) for name in ("is_accepted", "is_flawed", "agrees", "is_answered")}
    connection.execute(
        _INSERT,
        values
        | flags
        | {
            "made_at_us": to_us(label.made_at),
            "origin": label.origin.value,
            "features_json": msgspec.json.encode(label.features).decode(),
        },
    )


def drop_unanswered(connection: sqlite3.Connection, request_id: str) -> None:
    """Forget a request's label if it has no answer yet."""
    connection.execute(_DROP_UNANSWERED, {"request_id": request_id})


def upsert_standing(connection: sqlite3.Connection, standing: KeptStanding) -> None:
    """Write what is known of a promise now, in the place of what was."""
    connection.execute(
        _KEEP_STANDING,
        {
            "calibration": standing.calibration,
            "task": standing.task,
            "at_us": to_us(standing.at),
            "facts_json": msgspec.json.encode(standing.facts).decode(),
        },
    )


def read_labels(
    path: Path, *, fingerprint: str | None = None, calibration: str | None = None, most: int = 1_000_000
) -> tuple[Label, ...]:
    """Read the last labels in their order, of one model's file or one calibration where given; none without a ledger.

    Raises: StoreError if it cannot be read.
    """
    connection = connect_reader(path)
    if connection is None:
        return ()
    with closing(connection), store_errors(path, "read"):
        wanted = {"fingerprint": fingerprint, "calibration": calibration, "most": most}
        return tuple(_label(row) for row in connection.execute(_SELECT, wanted))


def read_standings(path: Path) -> tuple[KeptStanding, ...]:
    """Read what is known of all promises, the latest first. Raises: StoreError if it cannot be read."""
    connection = connect_reader(path)
    if connection is None:
        return ()
    with closing(connection), store_errors(path, "read"):
        rows = connection.execute("SELECT * FROM standings ORDER BY at_us DESC").fetchall()
    return tuple(
        KeptStanding(
            calibration=row["calibration"],
            task=row["task"],
            at=from_us(row["at_us"]),
            facts=msgspec.json.decode(row["facts_json"]),
        )
        for row in rows
    )


def _label(row: sqlite3.Row) -> Label:
    return Label(
        **{name: row[name] for name in _PLAIN},
        made_at=from_us(row["made_at_us"]),
        origin=Origin(row["origin"]),
        is_accepted=bool(row["is_accepted"]),
        is_flawed=bool(row["is_flawed"]),
        agrees=bool(row["agrees"]),
        is_answered=bool(row["is_answered"]),
        features=msgspec.json.decode(row["features_json"], type=dict[str, float]),
    )
