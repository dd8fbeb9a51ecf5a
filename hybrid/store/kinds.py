"""Which rows are written together, and in which order? An arrival, a draw, a settlement and an end of one request may
wait at the same time; draws are the granter's (rank 1)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from hybrid.errors import StoreError
from hybrid.store import money, rows
from hybrid.store.writer import Kind


def arrivals(owner_id: Callable[[], int]) -> Kind:
    """Requests as they were opened, by `rows.opened_values`. owner_id: who writes."""

    def apply(connection: sqlite3.Connection, opened: Sequence[rows.SqlValues]) -> None:
        # Another process that read our log of draws has entered those of paid calls before.
        rows.insert_opened(connection, owner_id(), *opened, is_known_ignored=True)

    return Kind(0, apply)


def _settle(connection: sqlite3.Connection, settlements: Sequence[money.Settlement]) -> None:
    _check_once([reservation_id for reservation_id, *_ in settlements])
    if money.settle_all(connection, settlements) != len(settlements):
        raise StoreError("some were settled before, or there is no such reservation")


def _end(connection: sqlite3.Connection, closed: Sequence[rows.SqlValues]) -> None:
    _check_once([values["id"] for values in closed])
    if rows.update_closed(connection, *closed) != len(closed):
        raise StoreError("some had ended before, or there is no such request")


def _check_once(ids: Sequence[object]) -> None:
    """The first of two counts, which one statement would not see to."""
    if len(set(ids)) != len(ids):
        raise StoreError("one is there twice")


SETTLEMENTS = Kind(2, _settle)
"""Reservations as they are settled: `money.Settlement`."""

ENDS = Kind(3, _end)
"""Requests as they ended, by `rows.closed_values`."""
