"""How is money kept so that sums are exact, and when is a reservation granted? SQL on a connection, no threads.

Amounts are whole nano-USD (1e-9 USD) in 64-bit integers: SQL adds them without rounding, up to 9 billion USD.
What may be spent rounds up and what limits it rounds down, so that rounding never helps spend past a cap.
"""

from __future__ import annotations

import sqlite3
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from hybrid.errors import StoreError
from hybrid.store.db import to_us
from hybrid.store.migrations import SPEND_BUCKET_US
from hybrid.store.records import Grant, Refused, Reservation, Reserved
from hybrid.types import Window

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


def spent_nusd(connection: sqlite3.Connection, window: Window) -> int:
    """What was settled of the reservations made within a window.

    Whole buckets are added up and only the window's two edges are counted row by row, so a day costs 96 rows
    however many calls it had.
    """
    start_us, end_us = to_us(window.start), to_us(window.end)
    first_us = -(-start_us // SPEND_BUCKET_US) * SPEND_BUCKET_US
    last_us = end_us // SPEND_BUCKET_US * SPEND_BUCKET_US
    if first_us >= last_us:
        return _rows_nusd(connection, start_us, end_us)
    (buckets,) = connection.execute(
        "SELECT COALESCE(SUM(settled_nusd), 0) FROM spend_buckets WHERE start_us >= ? AND start_us < ?",
        (first_us, last_us),
    ).fetchone()
    return int(buckets) + _rows_nusd(connection, start_us, first_us) + _rows_nusd(connection, last_us, end_us)


def open_nusd(connection: sqlite3.Connection) -> int:
    """What is promised to calls that are still out, in every process and whenever they began."""
    (total,) = connection.execute(
        "SELECT COALESCE(SUM(reserved_nusd), 0) FROM reservations WHERE settled_nusd IS NULL"
    ).fetchone()
    return int(total)


def check(wish: Reservation) -> None:
    """See that a reservation makes sense, before it gets in line.

    Raises: ValueError if it has no cap, no amount, or a cap whose window does not hold its time: that cap would never
        count it.
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


def reserve(connection: sqlite3.Connection, owner_id: int, wish: Reservation) -> Grant:
    """Grant a reservation if every cap has room for it, and write it. Runs inside the caller's write transaction.

    Raises: sqlite3.IntegrityError if the id was used before.
    """
    amount_nusd = cost_nusd(wish.amount_usd)
    open_total_nusd = open_nusd(connection)
    rooms = [
        (limit_nusd(cap.limit_usd) - spent_nusd(connection, cap.window) - open_total_nusd, cap) for cap in wish.caps
    ]
    room_nusd, tightest = min(rooms, key=lambda room: room[0])
    if amount_nusd > room_nusd:
        return Refused(tightest, usd_of(max(0, room_nusd)))
    connection.execute(
        "INSERT INTO reservations (id, request_id, owner_id, provider, model, reserved_at_us, reserved_nusd)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (wish.id, wish.request_id, owner_id, wish.provider, wish.model, to_us(wish.now), amount_nusd),
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
    row = connection.execute(
        "SELECT reserved_nusd, settled_nusd FROM reservations WHERE id = ?", (reservation_id,)
    ).fetchone()
    if row is None and by != "release":
        raise StoreError(f"no reservation {reservation_id!r} to settle")
    if row is None or row["settled_nusd"] is not None:
        return None
    connection.execute(
        "UPDATE reservations SET settled_nusd = ?, settled_at_us = ?, settled_by = ? WHERE id = ?",
        (amount_nusd, now_us, by, reservation_id),
    )
    return int(row["reserved_nusd"])


def _rows_nusd(connection: sqlite3.Connection, start_us: int, end_us: int) -> int:
    (total,) = connection.execute(
        "SELECT COALESCE(SUM(settled_nusd), 0) FROM reservations WHERE reserved_at_us >= ? AND reserved_at_us < ?",
        (start_us, end_us),
    ).fetchone()
    return int(total)


def _checked(usd: Decimal, rounding: str, *, least: int) -> int:
    if not usd.is_finite() or usd.copy_abs() >= _LIMIT_USD:
        raise ValueError(f"an amount of USD is a finite number below {_LIMIT_USD:.0e}; got {usd}")
    # quantize rounds once, from every digit; scaling first would round to the context's precision before.
    nusd = int(usd.quantize(_ONE_NUSD_IN_USD, rounding=rounding).scaleb(_NUSD_EXPONENT))
    if nusd < least:
        raise ValueError(f"an amount of USD is >= {usd_of(least)} here; got {usd}")
    return nusd
