"""What does the ledger say afterwards? Sums for `hybrid report` and whole requests for `hybrid explain`, read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import msgspec

from hybrid.store.db import connect_reader, from_us, store_errors, to_us
from hybrid.store.escrow import POWER_CUT_PREFIX
from hybrid.store.money import open_nusd, usd_of
from hybrid.types import Json, Route

GroupBy: TypeAlias = Literal["day", "model", "route", "reason", "key", "tag"]
GROUPINGS: tuple[GroupBy, ...] = get_args(GroupBy)
POWER_CUT, ROW_LOST, AUDITS = "power cut", "row lost", "audits"
"""Keys of groups without a request: what was charged for calls that a power cut may have taken from the ledger, what
was paid for a request whose row was lost, and for audits, which no client waits for."""

# Fixed texts, the only ones ever put into a statement. A day is one of this machine's time zone; tags are told apart
# without their case, as by budgets.
_GROUP_KEYS: Mapping[str, str] = {
    "day": "date(created_at_us / 1000000, 'unixepoch', 'localtime')",
    "model": "model",
    "route": "route",
    "key": "client_key",
    "tag": "casefold(tag)",
    "reason": "reason",
    "outcome": "outcome",
}

# Saved is what the cloud would have cost for the answers, less all that was spent. A row has that of its own spend,
# from which the first is found again; a cloud's answer that told no usage would have cost the same, no answer nothing.
_SUMS = """
WITH told AS (
    SELECT *, {key} AS group_key,
        COALESCE((SELECT SUM(settled_nusd) FROM reservations WHERE request_id = requests.id), 0) AS spent_nusd
    FROM requests
    WHERE created_at_us >= :since_us AND (:tag IS NULL OR casefold(tag) = :tag) AND dialect <> 'audit')
SELECT group_key, COUNT(*) AS requests,
    SUM(route IS 'local') AS local, SUM(route IS 'cloud') AS cloud, SUM(route IS 'cache') AS cache,
    SUM(local_prompt_tokens) AS local_prompt, SUM(local_completion_tokens) AS local_completion,
    SUM(cloud_prompt_tokens) AS cloud_prompt, SUM(cloud_completion_tokens) AS cloud_completion,
    SUM(spent_nusd) AS spent_nusd,
    SUM(COALESCE(saved_nusd + COALESCE(cost_nusd, 0), CASE route WHEN 'cloud' THEN spent_nusd ELSE 0 END) - spent_nusd)
        AS saved_nusd
FROM told GROUP BY group_key ORDER BY group_key"""

_HEDGES = """
SELECT hedge, COUNT(*) AS requests, COALESCE(SUM(double_nusd), 0) AS double_nusd FROM requests
WHERE hedge IS NOT NULL AND created_at_us >= :since_us AND (:tag IS NULL OR casefold(tag) = :tag)
GROUP BY hedge ORDER BY hedge"""

# A calibrated draft that was doubted and stayed: for want of money, or because no cloud could be had.
_UNCOVERED = """
SELECT degraded, COUNT(*) AS requests FROM requests
WHERE is_calibrated AND route = 'local' AND degraded IN ('budget', 'cloud_failure', 'capability')
    AND created_at_us >= :since_us AND (:tag IS NULL OR casefold(tag) = :tag) AND dialect <> 'audit'
GROUP BY degraded ORDER BY degraded"""

# No client waits for these calls, so they count as money and not as requests.
_AUDITS = """
SELECT date(created_at_us / 1000000, 'unixepoch', 'localtime') AS day, SUM(outcome = 'ok') AS audits,
    COALESCE(SUM((SELECT SUM(settled_nusd) FROM reservations WHERE request_id = requests.id)), 0) AS nusd
FROM requests WHERE created_at_us >= :since_us AND (:tag IS NULL OR casefold(tag) = :tag) AND dialect = 'audit'
GROUP BY day"""

# Money that no request's row stands for: what was charged after a power cut, and calls whose row was lost to a full
# backlog. A reservation's tag is folded already.
_ORPHANS = f"""
SELECT substr(id, 1, {len(POWER_CUT_PREFIX)}) = '{POWER_CUT_PREFIX}' AS is_power_cut,
    date(reserved_at_us / 1000000, 'unixepoch', 'localtime') AS day, SUM(settled_nusd) AS nusd
FROM reservations
WHERE reserved_at_us >= :since_us AND settled_nusd > 0 AND (:tag IS NULL OR tag = :tag)
    AND NOT EXISTS (SELECT 1 FROM requests WHERE id = reservations.request_id)
GROUP BY is_power_cut, day"""  # noqa: S608 - the prefix above

_RESERVED_FOR_TAG = """
SELECT COALESCE(SUM(reserved_nusd), 0) FROM reservations WHERE settled_nusd IS NULL AND tag = ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Sums over the requests that share a key; `key` is None for those that have none (no route: nothing answered).

    Token counts are all that either side spent, escalated drafts included. saved_usd: what the reference cloud would
    have cost for the answers, less `spent_usd`; below zero where more was paid than that.
    """

    key: str | None
    requests: int
    local: int
    cloud: int
    cache: int
    local_prompt_tokens: int
    local_completion_tokens: int
    cloud_prompt_tokens: int
    cloud_completion_tokens: int
    spent_usd: Decimal
    saved_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The requests that arrived since a moment. `reserved_usd` is what is out now, whenever it began.

    routes: answered requests by route; what nobody answered is in `outcomes` alone.
    hedges: requests that both sides were asked, by who won. double_usd: what the cloud cost where local did.
    uncovered: local answers that a promise would have sent to a cloud, by what kept them: it does not hold for these.
    power_cut_usd: of `spent_usd`, charged for calls that the ledger may have lost with the machine's power.
    audits: local answers that the cloud was asked about afterwards; `audits_usd` of `spent_usd` is for these.
    saved_usd: as a group's, less all that was spent for none of the requests: audits, power cuts, rows that are lost.
    """

    requests: int = 0
    routes: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Route), 0))
    outcomes: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    local_prompt_tokens: int = 0
    local_completion_tokens: int = 0
    cloud_prompt_tokens: int = 0
    cloud_completion_tokens: int = 0
    spent_usd: Decimal = Decimal(0)
    reserved_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)
    hedges: Mapping[str, int] = field(default_factory=dict)
    double_usd: Decimal = Decimal(0)
    groups: tuple[Group, ...] = ()
    uncovered: Mapping[str, int] = field(default_factory=dict)
    power_cut_usd: Decimal = Decimal(0)
    audits: int = 0
    audits_usd: Decimal = Decimal(0)


def read_report(path: Path, *, since: datetime | None, by: GroupBy, tag: str | None = None) -> Report | None:
    """Sum up the requests since a moment (None: all), grouped by one of their properties.

    tag: only of this one; tags are told apart without their case, as by budgets.

    Returns: None when there is no ledger yet.
    Raises: StoreError if it cannot be read.
    """
    connection = connect_reader(path)
    if connection is None:
        return None
    since_us, tag = 0 if since is None else to_us(since), None if tag is None else tag.casefold()
    with closing(connection), store_errors(path, "read"):
        connection.execute("BEGIN")  # one snapshot, so that the parts agree while a server writes
        routes, outcomes, reasons, groups = (
            _groups(connection, key, since_us, tag) for key in ("route", "outcome", "reason", by)
        )
        hedges = connection.execute(_HEDGES, {"since_us": since_us, "tag": tag}).fetchall()
        uncovered = connection.execute(_UNCOVERED, {"since_us": since_us, "tag": tag}).fetchall()
        audits = connection.execute(_AUDITS, {"since_us": since_us, "tag": tag}).fetchall()
        audits_usd = usd_of(sum(row["nusd"] for row in audits))
        orphans = connection.execute(_ORPHANS, {"since_us": since_us, "tag": tag}).fetchall()
        reserved_nusd = (
            open_nusd(connection) if tag is None else connection.execute(_RESERVED_FOR_TAG, (tag,)).fetchone()[0]
        )
    apart_usd = usd_of(sum(row["nusd"] for row in orphans)) + audits_usd
    return Report(
        requests=sum(group.requests for group in routes),
        routes={route.value: sum(g.requests for g in routes if g.key == route.value) for route in Route},
        outcomes={group.key: group.requests for group in outcomes if group.key is not None},
        reasons={group.key: group.requests for group in reasons if group.key is not None},
        local_prompt_tokens=sum(group.local_prompt_tokens for group in routes),
        local_completion_tokens=sum(group.local_completion_tokens for group in routes),
        cloud_prompt_tokens=sum(group.cloud_prompt_tokens for group in routes),
        cloud_completion_tokens=sum(group.cloud_completion_tokens for group in routes),
        spent_usd=sum((group.spent_usd for group in routes), apart_usd),
        reserved_usd=usd_of(reserved_nusd),
        saved_usd=sum((group.saved_usd for group in routes), -apart_usd),
        hedges={row["hedge"]: row["requests"] for row in hedges},
        double_usd=usd_of(sum(row["double_nusd"] for row in hedges)),
        groups=_with_apart(groups, by, orphans, audits),
        power_cut_usd=usd_of(sum(row["nusd"] for row in orphans if row["is_power_cut"])),
        uncovered={row["degraded"]: row["requests"] for row in uncovered},
        audits=sum(row["audits"] for row in audits),
        audits_usd=audits_usd,
    )


def find_requests(path: Path, prefix: str, *, limit: int = 5) -> tuple[str, ...] | None:
    """The ids that begin so, newest first; an empty prefix finds the most recent ones. None: no ledger yet.

    Raises: StoreError if it cannot be read.
    """
    connection = connect_reader(path)
    if connection is None:
        return None
    with closing(connection), store_errors(path, "read"):
        rows = connection.execute(
            "SELECT id FROM requests WHERE substr(id, 1, length(:prefix)) = :prefix"
            " AND (:prefix <> '' OR dialect <> 'audit')"
            " ORDER BY id = :prefix DESC, created_at_us DESC, rowid DESC LIMIT :limit",
            {"prefix": prefix, "limit": limit},
        )
        return tuple(row["id"] for row in rows)


def read_request(path: Path, request_id: str) -> dict[str, Json] | None:
    """Everything that is kept of one request, money in USD and times in ISO 8601, its `reservations` and `decision`.

    Returns: None if there is no such request.
    Raises: StoreError if the ledger cannot be read.
    """
    connection = connect_reader(path)
    if connection is None:
        return None
    with closing(connection), store_errors(path, "read"):
        row = connection.execute("SELECT * FROM requests WHERE id = ?", (request_id,)).fetchone()
        reservations = connection.execute(
            "SELECT id, provider, model, reserved_at_us, reserved_nusd, settled_at_us, settled_nusd, settled_by"
            " FROM reservations WHERE request_id = ? ORDER BY reserved_at_us, rowid",
            (request_id,),
        ).fetchall()
    if row is None:
        return None
    request = _plain(row)
    del request["owner_id"]
    request["decision"] = _decoded(request.pop("decision_json"))
    request["reservations"] = [_plain(reservation) for reservation in reservations]
    return request


def _groups(connection: sqlite3.Connection, by: str, since_us: int, tag: str | None) -> tuple[Group, ...]:
    rows = connection.execute(_SUMS.format(key=_GROUP_KEYS[by]), {"since_us": since_us, "tag": tag})
    return tuple(
        Group(
            key=row["group_key"],
            requests=row["requests"],
            local=row["local"],
            cloud=row["cloud"],
            cache=row["cache"],
            local_prompt_tokens=row["local_prompt"],
            local_completion_tokens=row["local_completion"],
            cloud_prompt_tokens=row["cloud_prompt"],
            cloud_completion_tokens=row["cloud_completion"],
            spent_usd=usd_of(row["spent_nusd"]),
            saved_usd=usd_of(row["saved_nusd"]),
        )
        for row in rows
    )


def _with_apart(
    groups: tuple[Group, ...], by: GroupBy, orphans: Sequence[sqlite3.Row], audits: Sequence[sqlite3.Row]
) -> tuple[Group, ...]:
    """Put money without a client's request where it can be seen: on its day, else in a row of its own."""
    apart = [(POWER_CUT if row["is_power_cut"] else ROW_LOST, row) for row in orphans]
    apart += [(AUDITS, row) for row in audits if row["nusd"]]
    spent = {group.key: group for group in groups}
    for name, row in apart:
        key = row["day"] if by == "day" else name
        # A model or tag may have that very name: then the money is in its row.
        group = spent.get(key) or _empty(key)
        usd = usd_of(row["nusd"])
        spent[key] = replace(group, spent_usd=group.spent_usd + usd, saved_usd=group.saved_usd - usd)
    days = sorted(spent.values(), key=lambda group: group.key or "")
    return tuple(days if by == "day" else spent.values())


def _empty(key: str) -> Group:
    counts = ("requests", "local", "cloud", "cache")
    tokens = ("local_prompt_tokens", "local_completion_tokens", "cloud_prompt_tokens", "cloud_completion_tokens")
    none = Decimal(0)
    return Group(key=key, **dict.fromkeys((*counts, *tokens), 0), spent_usd=none, saved_usd=none)


def _plain(row: sqlite3.Row) -> dict[str, Json]:
    """A row in units that people read: `*_nusd` becomes `*_usd`, `*_at_us` a time, a flag a bool."""
    plain: dict[str, Json] = {}
    for name in row.keys():  # noqa: SIM118 - iterating a Row gives its values
        value = row[name]
        if name.endswith("_nusd"):
            plain[name.removesuffix("_nusd") + "_usd"] = None if value is None else usd_of(value)
        elif name.endswith("_at_us"):
            plain[name.removesuffix("_us")] = None if value is None else from_us(value).isoformat()
        elif name.startswith("is_"):
            plain[name] = bool(value)
        else:
            plain[name] = value
    return plain


def _decoded(decision_json: str | None) -> Json:
    """The decision as JSON values; None where the request ended before one was made or it is not readable."""
    if decision_json is None:
        return None
    try:
        return msgspec.json.decode(decision_json)
    except msgspec.DecodeError:
        return None
