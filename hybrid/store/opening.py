"""What does a process do first with the ledger? It says who it is, and cleans up after those that died."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import replace

from hybrid.store import escrow, money, rows
from hybrid.store.granting import Granter
from hybrid.store.records import Recovery

_LOG = logging.getLogger(__name__)


def take_over(
    connection: sqlite3.Connection,
    granter: Granter,
    mark: rows.ProcessMark,
    owner_id: int | None,
    *,
    boot_id: str | None,
    now_us: int,
) -> tuple[int, Recovery]:
    """Register as an owner, in a transaction of its own, with all that dead processes left open brought to its end.

    owner_id: what this process is registered as already, if this file knows it.
    Returns: what it is registered as, and what was cleaned up. Raises: sqlite3.Error, OSError.
    """
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    if owner_id is None or not rows.is_registered(connection, owner_id, mark):
        owner_id = rows.register(connection, mark, now_us)
    dead_logs = granter.take_over(connection, owner_id)
    charged_nusd = escrow.recover(connection, boot_id, now_us)
    recovery = replace(rows.recover(connection, now_us), power_cut_usd=money.usd_of(charged_nusd))
    connection.execute("COMMIT")
    granter.ended(is_kept=True)
    for log in dead_logs:
        log.path.unlink(missing_ok=True)
    if recovery.lost_requests or recovery.settled_reservations:
        _LOG.warning(
            "an earlier process died: %d requests marked lost, %d reservations settled at their worst case, %s USD",
            recovery.lost_requests,
            recovery.settled_reservations,
            recovery.settled_usd,
        )
    if charged_nusd:
        _LOG.warning(
            "the machine went down while money was set aside ahead: %s USD are charged, the most that calls can"
            " have cost which the ledger may have lost",
            recovery.power_cut_usd,
        )
    return owner_id, recovery
