"""Which reservations wait for the disk, and when are blocks filled and given back? The ledger's side of the escrow."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future

from hybrid.errors import StoreError
from hybrid.store import escrow, money
from hybrid.store.records import Grant, Reservation
from hybrid.store.writer import NEEDS_DISK, NeedsDisk, Write

IDLE_S = 10.0
"""How long after the last reservation the blocks are given back."""


class Granter:
    """Makes the writes that reserve: out of a block where one is open, else by themselves, and then opening one.

    Args:
        submit: puts a write in line. owner_id: who writes; asked in the writer's thread.
        boot_id: of this boot of the machine; None: there are no blocks, each reservation waits for the disk.
    """

    def __init__(
        self,
        submit: Callable[[Write], None],
        owner_id: Callable[[], int],
        boot_id: str | None,
        *,
        idle_s: float = IDLE_S,
    ) -> None:
        self._submit, self._owner_id, self._boot_id, self._idle_s = submit, owner_id, boot_id, idle_s
        self._open: set[escrow.Whose] = set()  # a guess, of what this process last saw; the file decides
        self._filling: set[escrow.Whose] = set()
        self._used_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def write(self, wish: Reservation, answer: Future[Grant]) -> Write:
        """Make the write of one reservation. Called from the event loop."""
        what = f"reservation {wish.id}"
        if self._boot_id is None:
            return Write(
                lambda connection: money.reserve(connection, self._owner_id(), wish),
                what,
                answer,
                must_survive_power_cut=True,
            )
        boot_id = self._boot_id
        self._used_s = time.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._give_back_idle)
        is_open = escrow.whose_of(wish) in self._open
        return Write(
            lambda connection: self._reserve(connection, wish, boot_id),
            what,
            answer,
            must_survive_power_cut=not is_open,
            quick=(lambda connection: self._draw(connection, wish, boot_id)) if is_open else None,
        )

    def stop(self) -> None:
        """Look after idle blocks no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _reserve(self, connection: sqlite3.Connection, wish: Reservation, boot_id: str) -> Grant:
        whose = escrow.whose_of(wish)
        self._filling.discard(whose)
        grant, has_block = escrow.reserve(connection, self._owner_id(), wish, boot_id)
        if has_block:
            self._open.add(whose)
        return grant

    def _draw(self, connection: sqlite3.Connection, wish: Reservation, boot_id: str) -> Grant | NeedsDisk:
        drawn, whose = escrow.draw(connection, self._owner_id(), wish, boot_id), escrow.whose_of(wish)
        if drawn is None:
            self._open.discard(whose)
            return NEEDS_DISK
        if drawn.is_low and whose not in self._filling:
            # In line behind this batch: its callers have been told by then, and their calls are out meanwhile.
            self._filling.add(whose)
            self._submit_if_open(lambda connection: self._fill(connection, wish, boot_id), "filling a block ahead")
        return drawn.grant

    def _fill(self, connection: sqlite3.Connection, wish: Reservation, boot_id: str) -> None:
        self._filling.discard(escrow.whose_of(wish))
        escrow.fill(connection, self._owner_id(), wish, boot_id)

    def _give_back_idle(self) -> None:
        left_s = self._idle_s - (time.monotonic() - self._used_s)
        if left_s > 0:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._give_back_idle)
            return
        self._timer = None
        self._open.clear()
        self._submit_if_open(escrow.close, "giving idle blocks back")

    def _submit_if_open(self, apply: Callable[[sqlite3.Connection], None], what: str) -> None:
        try:
            self._submit(Write(apply, what, must_survive_power_cut=True))
        except StoreError:
            self._filling.clear()  # closing gives the blocks back itself
