"""How was money spent over time, and when do requests come? Sums for the budget's pace. SQL, no threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from hybrid.store.db import from_us, to_us
from hybrid.store.migrations import SPEND_WIDTHS_US
from hybrid.store.money import EVERYBODY, balances, spent_nusd, usd_of
from hybrid.store.records import Balance
from hybrid.types import Cap, Window

_QUARTER_US = SPEND_WIDTHS_US[-1]

_STEPS = """
SELECT start_us, settled_nusd FROM spend_sums
WHERE scope = ? AND width_us = ? AND start_us >= ? AND start_us < ? ORDER BY start_us"""

_BY_HOUR = """
SELECT (created_at_us / 1000000 + ?) % 86400 / 3600 AS hour, COUNT(*) AS requests
FROM requests WHERE created_at_us >= ? AND created_at_us < ? GROUP BY hour"""

_NOT_ADMITTED = ("rate_limit_exceeded", "forbidden", "invalid_api_key")
"""Codes of errors with which a client key's request was turned away before it counted."""

_OF_KEYS = f"""
SELECT client_key, created_at_us, closed_at_us,
    COALESCE(prompt_tokens + completion_tokens,
        MAX(local_prompt_tokens + local_completion_tokens, cloud_prompt_tokens + cloud_completion_tokens)) AS tokens
FROM requests
WHERE created_at_us >= ? AND client_key IS NOT NULL AND dialect <> 'audit'
    AND COALESCE(error_code, '') NOT IN {_NOT_ADMITTED}
ORDER BY created_at_us"""  # noqa: S608 - the codes above


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A request that a client key was let in with. ended_at: None while it is open. tokens: as far as known."""

    client_key: str
    arrived_at: datetime
    ended_at: datetime | None
    tokens: int


def requests_of_keys(connection: sqlite3.Connection, since: datetime) -> tuple[KeyRequest, ...]:
    """The requests of client keys that arrived since then, the oldest first."""
    return tuple(
        KeyRequest(
            row["client_key"],
            from_us(row["created_at_us"]),
            None if row["closed_at_us"] is None else from_us(row["closed_at_us"]),
            row["tokens"],
        )
        for row in connection.execute(_OF_KEYS, (to_us(since),))
    )


def spend_steps(connection: sqlite3.Connection, start: datetime, end: datetime) -> Mapping[datetime, Decimal]:
    """What was settled of the reservations of each quarter of an hour, by its beginning; where nothing was: none."""
    rows = connection.execute(_STEPS, (EVERYBODY, _QUARTER_US, to_us(start), to_us(end)))
    return {from_us(row["start_us"]): usd_of(row["settled_nusd"]) for row in rows}


def standing(connection: sqlite3.Connection, caps: Sequence[Cap], step: Window) -> tuple[tuple[Balance, ...], Decimal]:
    """What each cap counts now, and what everybody spent within a step, at one moment."""
    return balances(connection, caps), usd_of(spent_nusd(connection, step))


def requests_by_hour(connection: sqlite3.Connection, window: Window, offset: timedelta) -> tuple[int, ...]:
    """How many requests arrived in each hour of the day, on a clock that is `offset` ahead of UTC: 24 counts."""
    seconds = int(offset / timedelta(seconds=1))
    rows = connection.execute(_BY_HOUR, (seconds, to_us(window.start), to_us(window.end)))
    counts = {row["hour"]: row["requests"] for row in rows}
    return tuple(counts.get(hour, 0) for hour in range(24))
