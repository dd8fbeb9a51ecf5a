"""How does a request's row come and end, and who cleans up after a dead process? SQL on a connection, no threads."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import psutil

from hybrid.store.db import SqlValue, as_values, to_us
from hybrid.store.money import cost_nusd, saving_nusd, usd_of
from hybrid.store.records import Recovery, RequestClosed, RequestOpened

SqlValues: TypeAlias = dict[str, SqlValue]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_LABEL_CHARS = 500  # a client writes its own model name and tag; they are labels here, not an archive
_SAME_START_S = 0.5  # psutil adds a start in clock ticks to a boot time that moves a little as the clock is disciplined

_OPENED = ("id", "created_at_us", "dialect", "requested_model", "client_key", "tag", "is_stream")

# A row found lost by another process whose owner lives after all is put right by that owner.
_CLOSED = (
    *("closed_at_us", "outcome", "route", "model", "provider", "reason", "degraded", "error_code", "confidence"),
    *("is_calibrated", "prompt_tokens", "completion_tokens", "cached_tokens", "local_prompt_tokens"),
    *("local_completion_tokens", "cloud_prompt_tokens", "cloud_completion_tokens", "cost_nusd", "saved_nusd"),
    *("queue_s", "ttft_s", "total_s", "overhead_s", "decision_json", "hedge", "double_nusd"),
)
_OPEN = f"INSERT INTO requests (owner_id, {', '.join(_OPENED)}) SELECT * FROM ({{}}) WHERE column1 NOT NULL"  # noqa: S608
_OPEN_OR_KNOWN = f"{_OPEN} ON CONFLICT (id) DO NOTHING"
_CLOSE = (
    "UPDATE requests SET "  # noqa: S608
    + ", ".join(f"{name} = new.column{number}" for number, name in enumerate(_CLOSED, start=2))
    + " FROM ({}) AS new WHERE requests.id = new.column1 AND outcome IN ('open', 'lost')"
)

_SETTLE_AT_WORST = """
UPDATE reservations SET settled_nusd = reserved_nusd, settled_at_us = ?, settled_by = 'recovery'
WHERE owner_id = ? AND settled_nusd IS NULL"""

_MARK_LOST = """
UPDATE requests SET outcome = 'lost', closed_at_us = ?,
    cost_nusd = (SELECT SUM(settled_nusd) FROM reservations WHERE request_id = requests.id)
WHERE owner_id = ? AND outcome = 'open'"""

_OWNERS_WITH_OPEN_ENDS = """
SELECT id, pid, process_started_s, closed_at_us FROM owners
WHERE id IN (SELECT owner_id FROM requests WHERE outcome = 'open'
             UNION SELECT owner_id FROM reservations WHERE settled_nusd IS NULL)"""


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """What tells one process from a later one that got the same number: its pid and when it started (unix, s)."""

    pid: int
    started_s: float


def this_process() -> ProcessMark:
    """The mark of the running process."""
    pid = os.getpid()
    return ProcessMark(pid, process_start_s(pid))


def process_start_s(pid: int) -> float:
    """When a process started, unix seconds. Raises: psutil.NoSuchProcess."""
    return float(psutil.Process(pid).create_time())


def this_boot() -> str | None:
    """What tells this boot of the machine from every other; None where the system has no such name (not Linux)."""
    try:
        return BOOT_ID.read_text().strip() or None
    except OSError:
        return None


def is_alive(mark: ProcessMark) -> bool:
    """Whether the marked process still runs. A zombie does not; one we may not look at is taken to run.

    Being wrong costs no money either way: an owner taken for dead has its reservations counted at their worst case,
    one taken for alive keeps them open, and both count against the cap.
    """
    try:
        process = psutil.Process(mark.pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return abs(float(process.create_time()) - mark.started_s) <= _SAME_START_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def opened_values(row: RequestOpened) -> SqlValues:
    """The stored form of an opening. Raises: ValueError if its time has no zone."""
    return {
        "id": row.id,
        "created_at_us": to_us(row.created_at),
        "dialect": _label(row.dialect),
        "requested_model": _label(row.requested_model),
        "client_key": _label(row.client_key),
        "tag": _label(row.tag),
        "is_stream": int(row.is_stream),
    }


def closed_values(row: RequestClosed, now_us: int) -> SqlValues:
    """The stored form of a closing. Raises: ValueError if an amount is no amount."""
    return {
        "id": row.id,
        "closed_at_us": now_us,
        "outcome": row.outcome.value,
        "route": None if row.route is None else row.route.value,
        "model": _label(row.model),
        "provider": _label(row.provider),
        "reason": _label(row.reason),
        "degraded": _label(row.degraded),
        "error_code": _label(row.error_code),
        "confidence": row.confidence,
        "is_calibrated": int(row.is_calibrated),
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "cached_tokens": row.cached_tokens,
        "local_prompt_tokens": row.local_prompt_tokens,
        "local_completion_tokens": row.local_completion_tokens,
        "cloud_prompt_tokens": row.cloud_prompt_tokens,
        "cloud_completion_tokens": row.cloud_completion_tokens,
        "cost_nusd": None if row.cost_usd is None else cost_nusd(row.cost_usd),
        "saved_nusd": None if row.saved_usd is None else saving_nusd(row.saved_usd),
        "queue_s": row.queue_s,
        "ttft_s": row.ttft_s,
        "total_s": row.total_s,
        "overhead_s": row.overhead_s,
        "decision_json": _storable(row.decision_json),
        "hedge": _label(row.hedge),
        "double_nusd": None if row.double_usd is None else cost_nusd(row.double_usd),
    }


def insert_opened(
    connection: sqlite3.Connection, owner_id: int, *opened: SqlValues, is_known_ignored: bool = False
) -> None:
    """Write the arrivals of requests, by one statement.

    is_known_ignored: those that are there already are left alone.
    Raises: sqlite3.IntegrityError if an id was used before, and none is written.
    """
    values, parameters = as_values([[owner_id, *(one[name] for name in _OPENED)] for one in opened])
    connection.execute((_OPEN_OR_KNOWN if is_known_ignored else _OPEN).format(values), parameters)


def update_closed(connection: sqlite3.Connection, *closed: SqlValues) -> int:
    """Write the ends of requests, by one statement; how many were open. The others are left alone."""
    values, parameters = as_values([[one[name] for name in ("id", *_CLOSED)] for one in closed])
    return connection.execute(_CLOSE.format(values), parameters).rowcount


def is_closed_so(connection: sqlite3.Connection, values: SqlValues) -> bool:
    """Whether a request's row is as this end would leave it."""
    asked = "SELECT 1 FROM requests WHERE id = :id AND closed_at_us = :closed_at_us AND outcome = :outcome"
    return connection.execute(asked, values).fetchone() is not None


def register(connection: sqlite3.Connection, mark: ProcessMark, now_us: int) -> int:
    """Write down who opened the ledger; the id goes into every row it writes."""
    cursor = connection.execute(
        "INSERT INTO owners (pid, process_started_s, opened_at_us) VALUES (?, ?, ?)", (mark.pid, mark.started_s, now_us)
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def is_registered(connection: sqlite3.Connection, owner_id: int, mark: ProcessMark) -> bool:
    """Whether this file (it may have been replaced meanwhile) knows the owner under that id."""
    row = connection.execute("SELECT pid, process_started_s FROM owners WHERE id = ?", (owner_id,)).fetchone()
    return row is not None and mark == ProcessMark(row["pid"], row["process_started_s"])


def unregister(connection: sqlite3.Connection, owner_id: int, now_us: int) -> None:
    """Write down that the owner has closed the ledger; what it left open is then cleaned up like a dead one's."""
    connection.execute("UPDATE owners SET closed_at_us = ? WHERE id = ?", (now_us, owner_id))


def recover(connection: sqlite3.Connection, now_us: int) -> Recovery:
    """Mark what dead owners left open as lost and settle their reservations at the worst case.

    Runs inside the caller's write transaction. What living processes have open is left alone.
    """
    requests = reservations = nusd = 0
    for owner in connection.execute(_OWNERS_WITH_OPEN_ENDS).fetchall():
        if owner["closed_at_us"] is None and is_alive(ProcessMark(owner["pid"], owner["process_started_s"])):
            continue
        (owed,) = connection.execute(
            "SELECT COALESCE(SUM(reserved_nusd), 0) FROM reservations WHERE owner_id = ? AND settled_nusd IS NULL",
            (owner["id"],),
        ).fetchone()
        nusd += int(owed)
        reservations += connection.execute(_SETTLE_AT_WORST, (now_us, owner["id"])).rowcount
        requests += connection.execute(_MARK_LOST, (now_us, owner["id"])).rowcount
    return Recovery(requests, reservations, usd_of(nusd) if nusd else Decimal(0))


def _label(text: str | None) -> str | None:
    stored = _storable(text)
    if stored is None or len(stored) <= _LABEL_CHARS:
        return stored
    return stored[: _LABEL_CHARS - 1] + "…"


def _storable(text: str | None) -> str | None:
    """Text as UTF-8 can hold it: half a surrogate pair from a client's JSON must not cost the row."""
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")
