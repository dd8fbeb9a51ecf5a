"""How is money kept so that sums are exact, and when is a reservation granted? SQL on a connection, no threads.

Amounts are whole nano-USD (1e-9 USD) in 64-bit integers: SQL adds them without rounding, up to 9 billion USD.
What may be spent rounds up and what limits it rounds down, so that rounding never helps spend past a cap.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TypeAlias

from hybrid.errors import StoreError
from hybrid.store.db import as_values, to_us
from hybrid.store.migrations import SPEND_WIDTHS_US
from hybrid.store.records import Balance, Grant, Refused, Reservation, Reserved
from hybrid.types import Cap, Window

Settlement: TypeAlias = tuple[str, int, str, int]
"""A reservation's id, its amount in nano-USD, by what it is settled, and when in microseconds; as for `settle`."""

EVERYBODY = ""
"""The scope of all spend; a client key's is `key:NAME`, a tag's `tag:TAG`."""

_SETTLE_ALL = (
    "UPDATE reservations SET settled_nusd = new.column2, settled_by = new.column3, settled_at_us = new.column4"
    " FROM ({}) AS new WHERE reservations.id = new.column1 AND settled_nusd IS NULL"
)
_NUSD_EXPONENT = 9
_ONE_NUSD_IN_USD = Decimal("1e-9")
_LIMIT_USD = Decimal("9e9")  # 9e18 nano-USD, just within 64 bits


def cost_nusd(usd: Decimal) -> int:
    """Nano-USD of something paid or promised, rounded up.

    Raises: ValueError if it is negative, not finite or 9e9 or more.
    """
    return _checked(usd, ROUND_CEILING, least=0)


def limit_nusd(usd: Decimal) -> int:
    """Nano-USD of a cap, rounded down. Raises as `cost_nusd`."""
    return _checked(usd, ROUND_FLOOR, least=0)


def saving_nusd(usd: Decimal) -> int:
    """Nano-USD of a saving, rounded down; it may be negative. Raises: ValueError if not finite or 9e9 or more."""
    return _checked(usd, ROUND_FLOOR, least=-int(_LIMIT_USD) * 10**_NUSD_EXPONENT)


def usd_of(nusd: int) -> Decimal:
    """USD of a stored amount, exactly, without trailing zeros."""
    # Text and not arithmetic: it cannot meet the context's precision.
    sign, digits = ("-" if nusd < 0 else ""), str(abs(nusd)).rjust(_NUSD_EXPONENT + 1, "0")
    whole, part = digits[:-_NUSD_EXPONENT], digits[-_NUSD_EXPONENT:].rstrip("0")
    return Decimal(f"{sign}{whole}.{part}" if part else f"{sign}{whole}")


def spent_nusd(connection: sqlite3.Connection, window: Window, scope: str = EVERYBODY) -> int:
    """What was settled of the reservations made within a window.

    Whole days and quarters of an hour are added up and only the window's two edges are counted row by row, so a
    month costs some two hundred rows however many calls it had.
    """
    return _spent_nusd(connection, scope, to_us(window.start), to_us(window.end), SPEND_WIDTHS_US)


def open_nusd(connection: sqlite3.Connection, scope: str = EVERYBODY) -> int:
    """What is promised to calls that are still out, in every process and whenever they began."""
    where, name = _rows_of(scope)
    (total,) = connection.execute(
        f"SELECT COALESCE(SUM(reserved_nusd), 0) FROM reservations WHERE settled_nusd IS NULL{where}",  # noqa: S608
        name,
    ).fetchone()
    return int(total)


def balances(connection: sqlite3.Connection, caps: Sequence[Cap]) -> tuple[Balance, ...]:
    """What each cap counts now, settled within its window and open."""
    still_open = _open_by_scope(connection, caps)
    return tuple(
        Balance(usd_of(spent_nusd(connection, cap.window, scope_of(cap))), usd_of(still_open[scope_of(cap)]))
        for cap in caps
    )


def scope_of(cap: Cap) -> str:
    """Whose money a cap counts, as `spend_sums` has it. Raises: ValueError if it is of a key and a tag at once."""
    if cap.client_key is not None and cap.tag is not None:
        raise ValueError(f"{cap.name} counts a key's money or a tag's, not both")
    if cap.client_key is not None:
        return f"key:{cap.client_key}"
    return EVERYBODY if cap.tag is None else f"tag:{cap.tag}"


def check(wish: Reservation) -> None:
    """See that a reservation makes sense, before it gets in line.

    Raises: ValueError if it has no cap, no amount, or a cap whose window does not hold its time or that is for another
        key or tag: that cap would never count it.
    """
    cost_nusd(wish.amount_usd)
    if not wish.caps:
        raise ValueError(f"reservation {wish.id} names no cap; without a budget nothing may be spent")
    now_us = to_us(wish.now)
    for cap in wish.caps:
        limit_nusd(cap.limit_usd)
        if not to_us(cap.window.start) <= now_us < to_us(cap.window.end):
            raise ValueError(
                f"the window of {cap.name} does not hold {wish.now.isoformat()}, when {wish.id} is reserved"
            )
        if scope_of(cap) not in _scopes(wish):
            raise ValueError(f"{cap.name} does not count {wish.id}, which is another's spend")


def reserve(connection: sqlite3.Connection, owner_id: int, wish: Reservation) -> Grant:
    """Grant a reservation if every cap has room for it, and write it. Runs inside the caller's write transaction.

    Raises: sqlite3.IntegrityError if the id was used before.
    """
    room_nusd, tightest = min(rooms(connection, wish.caps), key=lambda room: room[0])
    if cost_nusd(wish.amount_usd) > room_nusd:
        return Refused(tightest, usd_of(max(0, room_nusd)))
    return insert(connection, owner_id, wish)


def rooms(connection: sqlite3.Connection, caps: Sequence[Cap]) -> list[tuple[int, Cap]]:
    """What each cap has left beside all that is settled in its window and all that is open."""
    still_open = _open_by_scope(connection, caps)
    return [
        (
            limit_nusd(cap.limit_usd) - spent_nusd(connection, cap.window, scope_of(cap)) - still_open[scope_of(cap)],
            cap,
        )
        for cap in caps
    ]


def insert(connection: sqlite3.Connection, owner_id: int, wish: Reservation) -> Reserved:
    """Write a reservation that was found to fit.

    Raises: sqlite3.IntegrityError if the id was used before.
    """
    amount_nusd = cost_nusd(wish.amount_usd)
    connection.execute(
        "INSERT INTO reservations"
        " (id, request_id, owner_id, provider, model, reserved_at_us, reserved_nusd, client_key, tag)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(wish.id, wish.request_id, owner_id, wish.provider, wish.model, to_us(wish.now), amount_nusd),
            *(wish.client_key, wish.tag),
        ),
    )
    return Reserved(usd_of(amount_nusd))


def settle(connection: sqlite3.Connection, reservation_id: str, amount_nusd: int, by: str, now_us: int) -> int | None:
    """Turn a reservation into spend, once. Runs inside the caller's write transaction.

    Args:
        by: 'usage' (the provider said), 'estimate' (we counted) or 'release' (the call never left).
    Returns: the amount that had been reserved; None if it was settled before, or a release finds no reservation
        (it was never written), and nothing changed.
    Raises: StoreError if there is no such reservation to settle.
    """
    settled = connection.execute(
        "UPDATE reservations SET settled_nusd = ?, settled_at_us = ?, settled_by = ?"
        " WHERE id = ? AND settled_nusd IS NULL RETURNING reserved_nusd",
        (amount_nusd, now_us, by, reservation_id),
    ).fetchall()
    if settled:
        return int(settled[0][0])
    is_there = connection.execute("SELECT 1 FROM reservations WHERE id = ?", (reservation_id,)).fetchone()
    if is_there is None and by != "release":
        raise StoreError(f"no reservation {reservation_id!r} to settle")
    return None


def settle_all(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> int:
    """`settle` for several at once, by one statement; how many were open. The others are left alone."""
    values, parameters = as_values(settlements)
    return connection.execute(_SETTLE_ALL.format(values), parameters).rowcount


def _open_by_scope(connection: sqlite3.Connection, caps: Sequence[Cap]) -> dict[str, int]:
    """What is open of each scope that the caps count; most of them count everybody's."""
    return {scope: open_nusd(connection, scope) for scope in {scope_of(cap) for cap in caps}}


def _scopes(wish: Reservation) -> tuple[str, ...]:
    """Every scope that counts a reservation, as m004's trigger has them."""
    return (EVERYBODY, f"key:{wish.client_key}", f"tag:{wish.tag}")


def _spent_nusd(
    connection: sqlite3.Connection, scope: str, start_us: int, end_us: int, widths_us: tuple[int, ...]
) -> int:
    if not widths_us:
        return _rows_nusd(connection, scope, start_us, end_us)
    width_us, *narrower = widths_us
    first_us, last_us = -(-start_us // width_us) * width_us, end_us // width_us * width_us
    if first_us >= last_us:
        return _spent_nusd(connection, scope, start_us, end_us, tuple(narrower))
    (whole,) = connection.execute(
        "SELECT COALESCE(SUM(settled_nusd), 0) FROM spend_sums"
        " WHERE scope = ? AND width_us = ? AND start_us >= ? AND start_us < ?",
        (scope, width_us, first_us, last_us),
    ).fetchone()
    edges = ((start_us, first_us), (last_us, end_us))
    return int(whole) + sum(_spent_nusd(connection, scope, *edge, tuple(narrower)) for edge in edges)


def _rows_nusd(connection: sqlite3.Connection, scope: str, start_us: int, end_us: int) -> int:
    if start_us >= end_us:
        return 0
    where, name = _rows_of(scope)
    (total,) = connection.execute(
        "SELECT COALESCE(SUM(settled_nusd), 0) FROM reservations"  # noqa: S608 - fixed texts
        f" WHERE reserved_at_us >= ? AND reserved_at_us < ?{where}",
        (start_us, end_us, *name),
    ).fetchone()
    return int(total)


def _rows_of(scope: str) -> tuple[str, tuple[str, ...]]:
    """A scope as a condition on reservations, one of three fixed texts, and its parameter."""
    kind, _, name = scope.partition(":")
    column = {"key": "client_key", "tag": "tag"}.get(kind)
    return ("", ()) if column is None else (f" AND {column} = ?", (name,))


def _checked(usd: Decimal, rounding: str, *, least: int) -> int:
    if not usd.is_finite() or usd.copy_abs() >= _LIMIT_USD:
        raise ValueError(f"an amount of USD is a finite number below {_LIMIT_USD:.0e}; got {usd}")
    # quantize rounds once, from every digit; scaling first would round to the context's precision before.
    nusd = int(usd.quantize(_ONE_NUSD_IN_USD, rounding=rounding).scaleb(_NUSD_EXPONENT))
    if nusd < least:
        raise ValueError(f"an amount of USD is >= {usd_of(least)} here; got {usd}")
    return nusd
