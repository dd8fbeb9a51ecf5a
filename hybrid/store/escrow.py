"""What is set aside ahead, so that a single reservation need not wait for the disk? SQL on a connection, no threads.

A block is money that the disk is known to hold as promised. A reservation that draws on one only moves money from it
to a row of its own; should a power cut take that row, the block as it was before stands in for it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import uuid4

from hybrid.store import money, rows
from hybrid.store.db import as_values, in_chunks, to_us
from hybrid.store.draws import Draw, Line
from hybrid.store.migrations import SPEND_WIDTHS_US
from hybrid.store.records import Grant, Reservation, Reserved
from hybrid.types import Cap

CALLS = 64
"""A block holds the worst cases of so many calls like the one that opens it, where there is money for it."""
MOST_CALLS = 4096
"""Or of up to so many, where calls come so quickly that they would use it up before it can be filled again."""
LEAST_CALLS = 4
"""One that could hold fewer is not opened: opening it waits for the disk as a call of its own does."""
SHARE = 20
"""All blocks together are at most one part in so many of what is left of the tightest cap."""

POWER_CUT_PREFIX = "rsv_power_cut_"
"""How the ids of charges begin that stand for calls which a power cut may have taken."""

QUARTER_US = SPEND_WIDTHS_US[-1]

Whose: TypeAlias = tuple[str, str]
"""Whose money a block is: a client key's name and a budgeted tag, each "" for nobody's in particular."""


@dataclass(frozen=True, slots=True)
class Block:
    """An open block, of one quarter of an hour.

    boot_id: the boot of the machine that it was opened in; its rows survive any process of that boot.
    size_nusd: what it held when it was last filled. left_nusd: what no reservation has drawn since.
    """

    boot_id: str
    start_us: int
    size_nusd: int
    left_nusd: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A reservation out of a block. is_low: the block wants to be filled again."""

    grant: Reserved
    is_low: bool


def block_nusd(amount_nusd: int, *, room_nusd: int, others_nusd: int, calls: int = CALLS) -> int:
    """How much a block is to hold; 0: none is worth while. Pure.

    Args:
        amount_nusd: the worst case of the call that asks.
        room_nusd: what is left of the tightest cap, of which all blocks together take a small share.
        others_nusd: what the other blocks hold.
        calls: how many like it the block is for.
    """
    most_nusd = min(calls * amount_nusd, room_nusd // SHARE - others_nusd)
    return most_nusd if most_nusd >= LEAST_CALLS * amount_nusd else 0


def whose_of(wish: Reservation) -> Whose:
    """Whose block a reservation draws on: what a lost row would have counted for is what the block is charged to.

    A tag without a budget of its own has no block of its own: clients invent tags freely.
    """
    return wish.client_key or "", next((cap.tag for cap in wish.caps if cap.tag is not None), "")


def draw(connection: sqlite3.Connection, owner_id: int, wish: Reservation, boot_id: str) -> Drawn | None:
    """Grant a reservation out of its block, in a transaction that need not wait for the disk.

    Every cap is looked at with all blocks counted as reserved.

    Returns: None where that cannot be, and nothing was changed: `reserve` decides then.
    Raises: sqlite3.IntegrityError if the id was used before.
    """
    whose, amount_nusd = whose_of(wish), money.cost_nusd(wish.amount_usd)
    blocks = blocks_in(connection)
    block = blocks.get(whose)
    if block is None or not _is_of(block, wish, boot_id) or block.left_nusd < amount_nusd:
        return None
    if any(room_nusd < _held_nusd(blocks, cap) for room_nusd, cap in money.rooms(connection, wish.caps)):
        return None
    grant = money.insert(connection, owner_id, wish)
    take(connection, whose, amount_nusd)
    return Drawn(grant, is_low=block.left_nusd - amount_nusd < block.size_nusd // 2)


def take(connection: sqlite3.Connection, whose: Whose, amount_nusd: int) -> None:
    """Move money out of a block that has it, for a reservation that is written."""
    connection.execute(
        "UPDATE escrow SET left_nusd = left_nusd - ? WHERE client_key = ? AND tag = ?", (amount_nusd, *whose)
    )


def reserve(
    connection: sqlite3.Connection, owner_id: int, wish: Reservation, boot_id: str, calls: int = CALLS
) -> tuple[Grant, bool]:
    """Grant a reservation by itself and fill its block. The transaction must wait for the disk.

    Blocks refuse nobody: those that a cap has no room for beside this reservation are given back.

    Returns: the grant, and whether the next reservation like it may draw on a block.
    Raises: sqlite3.IntegrityError if the id was used before.
    """
    grant = money.reserve(connection, owner_id, wish)
    return grant, isinstance(grant, Reserved) and fill(connection, owner_id, wish, boot_id, calls)


def fill(connection: sqlite3.Connection, owner_id: int, wish: Reservation, boot_id: str, calls: int = CALLS) -> bool:
    """Open or fill the block that calls like this one draw on. The transaction must wait for the disk.

    So it carries all rows that were drawn before, and the block need no longer stand in for them. A block of an
    earlier quarter of an hour, or of another boot's, is replaced.

    Returns: whether there is a block now.
    """
    blocks = blocks_in(connection)
    own = blocks.pop(whose_of(wish), None)
    kept_nusd = own.left_nusd if own is not None and _is_of(own, wish, boot_id) else 0
    free_nusd, wanted_nusd = _plan(connection, wish, blocks, calls)
    if free_nusd < 0:
        close(connection)
        kept_nusd, (_, wanted_nusd) = 0, _plan(connection, wish, {}, calls)
    left_nusd = max(wanted_nusd, min(kept_nusd, free_nusd)) if _may_have_block(wish) else 0
    _put(connection, owner_id, wish, boot_id, left_nusd)
    return left_nusd > 0


def top_up(
    connection: sqlite3.Connection, owner_id: int, wish: Reservation, boot_id: str, calls: int = CALLS
) -> int | None:
    """`fill` for a block that others draw on meanwhile: it only grows.

    Returns: by how much, in nano-USD; None where it would have to shrink or be replaced, and nothing was changed.
    """
    blocks = blocks_in(connection)
    own = blocks.pop(whose_of(wish), None)
    if own is None or not _is_of(own, wish, boot_id):
        return None
    free_nusd, wanted_nusd = _plan(connection, wish, blocks, calls)
    if free_nusd < own.left_nusd:
        return None
    left_nusd = max(own.left_nusd, wanted_nusd)
    _put(connection, owner_id, wish, boot_id, left_nusd)
    return left_nusd - own.left_nusd


def enter(connection: sqlite3.Connection, owner_id: int, draws: Sequence[Draw]) -> None:
    """Write reservations that their owner granted out of blocks before; those that are there already are left alone."""
    drawn_nusd: Counter[Whose] = Counter()
    for some in in_chunks(draws):
        for draw in _inserted(connection, owner_id, some):
            drawn_nusd[draw.block_key, draw.block_tag] += draw.nusd
    for (client_key, tag), nusd in drawn_nusd.items():
        connection.execute(
            "UPDATE escrow SET left_nusd = MAX(0, left_nusd - ?) WHERE client_key = ? AND tag = ?",
            (nusd, client_key, tag),
        )


def enter_lines(connection: sqlite3.Connection, owner_id: int, lines: Sequence[Line]) -> None:
    """`enter` for what stands in another process's log, with the rows of the requests."""
    for line in lines:
        if line.arrival is not None:
            rows.insert_opened(connection, owner_id, line.arrival, is_known_ignored=True)
    enter(connection, owner_id, [line.draw for line in lines])


def _inserted(connection: sqlite3.Connection, owner_id: int, draws: Sequence[Draw]) -> Sequence[Draw]:
    """Write reservations by one statement, or one by one where some are there already. Gives those that were not."""
    lines = [
        (
            *(draw.id, draw.request_id, owner_id, draw.provider, draw.model, draw.reserved_at_us, draw.nusd),
            *(draw.client_key, draw.tag),
        )
        for draw in draws
    ]
    into = (
        "INSERT INTO reservations"
        " (id, request_id, owner_id, provider, model, reserved_at_us, reserved_nusd, client_key, tag)"
        " SELECT * FROM ({}) WHERE column1 NOT NULL"
    )
    try:
        values, parameters = as_values(lines)
        connection.execute(into.format(values), parameters)
    except sqlite3.IntegrityError:
        once = into.format(as_values(lines[:1])[0]) + " ON CONFLICT (id) DO NOTHING"
        return [draw for draw, line in zip(draws, lines, strict=True) if connection.execute(once, line).rowcount]
    return draws


def claim(connection: sqlite3.Connection, owner_id: int, lines_of: Callable[[int], Sequence[Line]]) -> bool:
    """Make all blocks this owner's: others draw on them no more, and what they drew is in the file.

    lines_of: revokes an owner's logs, and gives what stands in them.
    Returns: whether any was another's. What the caps have room for is to be looked at anew then.
    """
    others = connection.execute("SELECT DISTINCT owner_id FROM escrow WHERE owner_id IS NOT ?", (owner_id,)).fetchall()
    for (other_id,) in others:
        enter_lines(connection, other_id, lines_of(other_id))
    if others:
        connection.execute("UPDATE escrow SET owner_id = ?", (owner_id,))
    return bool(others)


def close(connection: sqlite3.Connection) -> None:
    """Give every block back. The transaction must wait for the disk: it carries the rows that drew on them."""
    connection.execute("DELETE FROM escrow")


def recover(connection: sqlite3.Connection, boot_id: str | None, now_us: int) -> int:
    """Give back the blocks of this boot, of which every row is there, and charge those of another: the power was cut.

    What is left of such a block is all that reservations can have drawn whose rows are lost. It becomes spend of its
    last microsecond: in every window that would count a lost row, for as long at least. The transaction must wait for
    the disk.

    Args:
        boot_id: None where the system tells none; every block is another boot's then.
    Returns: nano-USD charged.
    """
    charged_nusd = 0
    blocks = connection.execute("SELECT * FROM escrow WHERE boot_id IS NOT ? AND left_nusd > 0", (boot_id,))
    for row in blocks.fetchall():
        charge_id = f"{POWER_CUT_PREFIX}{uuid4().hex}"
        connection.execute(
            "INSERT INTO reservations"
            " (id, request_id, owner_id, provider, model, reserved_at_us, reserved_nusd, client_key, tag)"
            " VALUES (?, ?, ?, 'unknown', 'unknown', ?, ?, NULLIF(?, ''), NULLIF(?, ''))",
            (
                *(charge_id, charge_id, row["owner_id"], row["start_us"] + QUARTER_US - 1, row["left_nusd"]),
                *(row["client_key"], row["tag"]),
            ),
        )
        money.settle(connection, charge_id, row["left_nusd"], "recovery", now_us)
        charged_nusd += row["left_nusd"]
    close(connection)
    return charged_nusd


def _plan(
    connection: sqlite3.Connection, wish: Reservation, others: Mapping[Whose, Block], calls: int
) -> tuple[int, int]:
    """What the caps leave free beside other blocks, below 0 if these hold too much, and how large one may be."""
    rooms = money.rooms(connection, wish.caps)
    free_nusd = min(room_nusd - _held_nusd(others, cap) for room_nusd, cap in rooms)
    wanted_nusd = block_nusd(
        money.cost_nusd(wish.amount_usd),
        room_nusd=min(room_nusd for room_nusd, _ in rooms),
        others_nusd=sum(block.left_nusd for block in others.values()),
        calls=calls,
    )
    return free_nusd, wanted_nusd


def _put(connection: sqlite3.Connection, owner_id: int, wish: Reservation, boot_id: str, left_nusd: int) -> None:
    """Have the block that a reservation draws on hold so much."""
    whose = whose_of(wish)
    if left_nusd == 0:
        connection.execute("DELETE FROM escrow WHERE client_key = ? AND tag = ?", whose)
        return
    connection.execute(
        "INSERT OR REPLACE INTO escrow (client_key, tag, owner_id, boot_id, start_us, size_nusd, left_nusd)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*whose, owner_id, boot_id, _quarter_us(wish), left_nusd, left_nusd),
    )


def blocks_in(connection: sqlite3.Connection) -> dict[Whose, Block]:
    """Give the open blocks, as the file has them."""
    found: Sequence[sqlite3.Row] = connection.execute(
        "SELECT client_key, tag, boot_id, start_us, size_nusd, left_nusd FROM escrow"
    ).fetchall()
    return {(row[0], row[1]): Block(row[2], row[3], row[4], row[5]) for row in found}


def _held_nusd(blocks: Mapping[Whose, Block], cap: Cap) -> int:
    """What the blocks hold of the money that a cap counts."""
    return sum(
        block.left_nusd
        for (client_key, tag), block in blocks.items()
        if cap.client_key in (None, client_key) and cap.tag in (None, tag)
    )


def _is_of(block: Block, wish: Reservation, boot_id: str) -> bool:
    return block.boot_id == boot_id and block.start_us == _quarter_us(wish) and _may_have_block(wish)


def _may_have_block(wish: Reservation) -> bool:
    """Whether each cap's window holds the whole quarter: then it counts the block's charge as it counts the call."""
    start_us = _quarter_us(wish)
    return all(
        to_us(cap.window.start) <= start_us and start_us + QUARTER_US <= to_us(cap.window.end) for cap in wish.caps
    )


def _quarter_us(wish: Reservation) -> int:
    return to_us(wish.now) // QUARTER_US * QUARTER_US
