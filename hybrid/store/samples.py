"""What was measured, one number at a time, to be learned from after a restart? SQL on a connection, no threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 384
"""Newest samples of one kind and subject that are kept; the rest goes at the next start."""
MAX_AGE_US = 14 * 86_400_000_000
"""Two weeks: what a provider or this machine did before says little about now."""

_INSERT = "INSERT INTO samples (at_us, kind, subject, value) VALUES (?, ?, ?, ?)"

_PRUNE = """
DELETE FROM samples WHERE at_us < :oldest_us OR id IN (
    SELECT id FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY kind, subject ORDER BY id DESC) AS place FROM samples)
    WHERE place > :kept)"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured number. kind: of what, with its unit. subject: whose, such as a model."""

    kind: str
    subject: str
    value: float


def insert(connection: sqlite3.Connection, samples: Sequence[Sample], now_us: int) -> None:
    """Write some down."""
    connection.executemany(_INSERT, [(now_us, sample.kind, sample.subject, sample.value) for sample in samples])


def recent(connection: sqlite3.Connection, now_us: int) -> tuple[Sample, ...]:
    """Give what is kept, the oldest first, and delete what is not any more."""
    connection.execute(_PRUNE, {"oldest_us": now_us - MAX_AGE_US, "kept": KEPT})
    rows = connection.execute("SELECT kind, subject, value FROM samples ORDER BY id")
    return tuple(Sample(row["kind"], row["subject"], row["value"]) for row in rows)
