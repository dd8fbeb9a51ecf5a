"""Which clouds rest, and which of our API keys did they refuse? Kept over a restart. SQL on a connection, no threads.

No key is kept, only salted hashes, which tell whether a key is still the one that was refused.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from hybrid.store.db import from_us, to_us

MAX_AGE_US = 31 * 86_400_000_000
"""A month: what was refused or rested before is nobody's concern any more, and is deleted."""

_REST = """
INSERT INTO cloud_rests (provider, model, until_us, is_asked, openings, why, salt, fingerprint)
VALUES (:provider, :model, :until_us, :is_asked, :openings, :why, :salt, :fingerprint)
ON CONFLICT DO UPDATE SET until_us = excluded.until_us, is_asked = excluded.is_asked, openings = excluded.openings,
    why = excluded.why, salt = excluded.salt, fingerprint = excluded.fingerprint"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRest:
    """An open circuit. model: "" is the provider as a whole.

    is_asked: whether the provider named the time, else we chose it. openings: how often it opened in a row.
    why: the code of the failure. salt, fingerprint: of the cloud's address and keys at that time.
    """

    provider: str
    model: str
    until: datetime
    is_asked: bool
    openings: int
    why: str
    salt: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRefusal:
    """An API key that a provider refused with this HTTP status, told by its salted fingerprint."""

    provider: str
    salt: str
    fingerprint: str
    status: int
    refused_at: datetime


def upsert_rest(connection: sqlite3.Connection, rest: KeptRest) -> None:
    """Write down that a circuit is open, in the place of what was known of it."""
    connection.execute(
        _REST,
        {
            "provider": rest.provider,
            "model": rest.model,
            "until_us": to_us(rest.until),
            "is_asked": int(rest.is_asked),
            "openings": rest.openings,
            "why": rest.why,
            "salt": rest.salt,
            "fingerprint": rest.fingerprint,
        },
    )


def delete_rest(connection: sqlite3.Connection, provider: str, model: str) -> None:
    """Write down that a circuit is closed."""
    connection.execute("DELETE FROM cloud_rests WHERE provider = ? AND model = ?", (provider, model))


def insert_refusal(connection: sqlite3.Connection, refusal: KeptRefusal) -> None:
    """Write down a refusal, and forget those of over a month ago."""
    refused_at_us = to_us(refusal.refused_at)
    connection.execute("DELETE FROM refused_keys WHERE refused_at_us < ?", (refused_at_us - MAX_AGE_US,))
    connection.execute(
        "INSERT OR REPLACE INTO refused_keys (provider, salt, fingerprint, status, refused_at_us)"
        " VALUES (?, ?, ?, ?, ?)",
        (refusal.provider, refusal.salt, refusal.fingerprint, refusal.status, refused_at_us),
    )


def read_rests(connection: sqlite3.Connection) -> tuple[KeptRest, ...]:
    """All circuits that were open when the process that wrote them ended, over or not."""
    return tuple(
        KeptRest(
            provider=row["provider"],
            model=row["model"],
            until=from_us(row["until_us"]),
            is_asked=bool(row["is_asked"]),
            openings=row["openings"],
            why=row["why"],
            salt=row["salt"],
            fingerprint=row["fingerprint"],
        )
        for row in connection.execute("SELECT * FROM cloud_rests ORDER BY provider, model")
    )


def read_refusals(connection: sqlite3.Connection) -> tuple[KeptRefusal, ...]:
    """All refusals that are kept, the oldest first."""
    return tuple(
        KeptRefusal(
            provider=row["provider"],
            salt=row["salt"],
            fingerprint=row["fingerprint"],
            status=row["status"],
            refused_at=from_us(row["refused_at_us"]),
        )
        for row in connection.execute("SELECT * FROM refused_keys ORDER BY refused_at_us")
    )
