"""Where does money go: on which days, for which reasons and tags, and at what price at last? Read-only."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

from hybrid.store.db import connect_reader, store_errors, to_us
from hybrid.store.money import usd_of

# A day is one of this machine's time zone, as in the report's groups. A reservation's tag is folded already, and known
# also where the request's row was lost.
_DAYS = """
SELECT date(reserved_at_us / 1000000, 'unixepoch', 'localtime') AS day, SUM(settled_nusd) AS nusd
FROM reservations
WHERE settled_nusd IS NOT NULL AND reserved_at_us >= :since_us AND (:tag IS NULL OR tag = :tag)
GROUP BY day"""

_FIRST_DAY = """
SELECT date(MIN(created_at_us) / 1000000, 'unixepoch', 'localtime') AS day FROM requests
WHERE :tag IS NULL OR casefold(tag) = :tag"""

_REASONS = """
SELECT reason, COUNT(*) AS requests,
    COALESCE(SUM((SELECT SUM(settled_nusd) FROM reservations WHERE request_id = requests.id)), 0) AS nusd
FROM requests
WHERE created_at_us >= :since_us AND (:tag IS NULL OR casefold(tag) = :tag)
GROUP BY reason HAVING nusd > 0 ORDER BY nusd DESC, reason"""

# Escalated drafts have the confidence they were judged by; so have those that stayed for want of money.
_TAGS = """
SELECT casefold(tag) AS folded, route IS 'cloud' AS is_paid, COUNT(*) AS requests, AVG(confidence) AS confidence,
    COALESCE(SUM((SELECT SUM(settled_nusd) FROM reservations WHERE request_id = requests.id)), 0) AS nusd
FROM requests
WHERE created_at_us >= :since_us AND (:tag IS NULL OR casefold(tag) = :tag) AND confidence IS NOT NULL
    AND ((route = 'cloud' AND reason = 'confidence') OR (route = 'local' AND degraded = 'budget'))
GROUP BY folded, is_paid ORDER BY folded, is_paid"""

_LAMBDA = """
SELECT json_extract(decision_json, '$.facts.budget_lambda') AS price FROM (
    SELECT decision_json FROM requests WHERE decision_json IS NOT NULL ORDER BY created_at_us DESC LIMIT 1000)
WHERE json_valid(decision_json) AND price IS NOT NULL LIMIT 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonCost:
    """What one reason's requests cost; `reason` is None for those that ended before one was found."""

    reason: str | None
    requests: int
    spent_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtOfTag:
    """Doubted drafts of one tag, escalated (`is_paid`) or kept for want of money; None: those without a tag.

    tag: case-folded.
    confidence: the mean of the scores their local drafts had.
    """

    tag: str | None
    is_paid: bool
    requests: int
    confidence: float
    spent_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Insights:
    """Where money went.

    first_day: of the first request; None without any. days: spend of those that had some.
    lambda_: the budget's shadow price when it was last looked at; None where nothing was paced.
    """

    first_day: date | None = None
    days: tuple[tuple[date, Decimal], ...] = ()
    reasons: tuple[ReasonCost, ...] = ()
    tags: tuple[DoubtOfTag, ...] = ()
    lambda_: float | None = None


def read_insights(
    path: Path, *, since: datetime | None, days_since: datetime, tag: str | None = None
) -> Insights | None:
    """Read what there is since a moment (None: all); of days, since another.

    Returns: None when there is no ledger yet.
    Raises: StoreError if it cannot be read.
    """
    connection = connect_reader(path)
    if connection is None:
        return None
    tag = None if tag is None else tag.casefold()
    scope = {"since_us": 0 if since is None else to_us(since), "tag": tag}
    with closing(connection), store_errors(path, "read"):
        connection.execute("BEGIN")  # one snapshot
        (first_day,) = connection.execute(_FIRST_DAY, {"tag": tag}).fetchone()
        days = connection.execute(_DAYS, {"since_us": to_us(days_since), "tag": tag}).fetchall()
        return Insights(
            first_day=None if first_day is None else date.fromisoformat(first_day),
            days=tuple((date.fromisoformat(row["day"]), usd_of(row["nusd"])) for row in days),
            reasons=tuple(
                ReasonCost(reason=row["reason"], requests=row["requests"], spent_usd=usd_of(row["nusd"]))
                for row in connection.execute(_REASONS, scope)
            ),
            tags=tuple(_doubt(row) for row in connection.execute(_TAGS, scope)),
            lambda_=next((row["price"] for row in connection.execute(_LAMBDA)), None),
        )


def _doubt(row: sqlite3.Row) -> DoubtOfTag:
    return DoubtOfTag(
        tag=row["folded"],
        is_paid=bool(row["is_paid"]),
        requests=row["requests"],
        confidence=row["confidence"],
        spent_usd=usd_of(row["nusd"]),
    )
