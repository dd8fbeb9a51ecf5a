"""Which reservations wait for the disk, and when are blocks filled and given back? The ledger's side of the escrow.

Most draws on a block are made here, in memory, and written to a log beside the database (`draws`), which learns of
them soon after. Whatever looks at the blocks in the database first ends that and takes over what was drawn; when its
transaction is over, drawing in memory goes on from what the blocks hold then.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from hybrid.errors import StoreError
from hybrid.store import escrow, money, rows
from hybrid.store.db import to_us
from hybrid.store.draws import Arrival, Draw, DrawLog, Line, Log, logs_beside, revoke
from hybrid.store.holding import Fills, Held, Looked, caps_of, held_of
from hybrid.store.records import Grant, Reservation, Reserved
from hybrid.store.writer import NEEDS_DISK, Kind, NeedsDisk, Write

IDLE_S = 10.0
"""How long after the last reservation the blocks are given back."""
BURSTS = 4
"""A block is opened for so many times the reservations that wait in line for it, where they are many."""

T = TypeVar("T")


class Granter:
    """Grants reservations out of blocks in memory, and makes the writes of all others, which open and fill the blocks.

    Args:
        database: beside which the log lies. submit: puts a write in line, from any thread. linger: the same for one
            that may wait for others, from the event loop. is_failing: whether the database could not be written last.
        owner_id: who writes; asked in the writer's thread.
        boot_id: of this boot of the machine; None: there are no blocks, each reservation waits for the disk.
    """

    def __init__(
        self,
        database: Path,
        *,
        submit: Callable[[Write], None],
        linger: Callable[[Write], None],
        is_failing: Callable[[], bool],
        owner_id: Callable[[], int],
        boot_id: str | None,
        idle_s: float = IDLE_S,
    ) -> None:
        self._database, self._boot_id, self._idle_s = database, boot_id, idle_s
        self._submit, self._linger, self._is_failing, self._owner_id = submit, linger, is_failing, owner_id
        self._open: set[escrow.Whose] = set()  # a guess, of what this process last saw; the file decides
        self._filling: set[escrow.Whose] = set()
        self._fills: dict[escrow.Whose, Fills] = {}
        self._used_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()  # for all below: the event loop draws, the writer's thread does the rest
        self._draws = Kind(1, lambda connection, _: self._enter_in_line(connection))
        self._log = DrawLog(database)
        self._held: dict[escrow.Whose, Held] = {}
        self._pending: list[Draw] = []  # granted, and not in the database for certain; the oldest first
        self._entered = 0  # how many of them the present transaction has
        self._has_entered = False  # whether the present transaction has all of them that there were at some moment
        self._is_in_line = self._comes_back = False
        self._caps: dict[escrow.Whose, Looked] = {}  # that were found to hold a block beside all else
        self._next: dict[escrow.Whose, Held] | None = None  # what is held when the present transaction is over
        self._waiting: Counter[escrow.Whose] = Counter()
        self._added: list[tuple[Held, int]] = []  # to blocks that are drawn on meanwhile, by the transaction

    # ---- from the event loop

    def draw(self, wish: Reservation, arrival: Arrival | None) -> Reserved | None:
        """Grant a reservation at once, out of a block in memory, for good; None where that cannot be.

        arrival: the request's row, where the database may not have it yet.
        Raises: StoreError if the ledger is closed.
        """
        if not self._held or self._is_failing():
            return None
        grant = self._drawn(wish, arrival)
        if grant is None:
            return None
        if not self._is_in_line:
            self._is_in_line = True
            self._linger(self._entering())
        self._used()
        return grant

    def write(self, wish: Reservation, answer: Future[Grant]) -> Write:
        """Make the write of one reservation that `draw` did not grant."""
        what = f"reservation {wish.id}"
        if self._boot_id is None:
            return Write(lambda connection: self._alone(connection, wish), what, answer, must_survive_power_cut=True)
        boot_id = self._boot_id
        self._used()
        whose = escrow.whose_of(wish)
        is_open = whose in self._open
        self._wait(whose, 1)
        answer.add_done_callback(lambda _: self._wait(whose, -1))
        return Write(
            lambda connection: self._reserve(connection, wish, boot_id),
            what,
            answer,
            must_survive_power_cut=not is_open,
            quick=(lambda connection: self._draw_there(connection, wish, boot_id)) if is_open else None,
        )

    def stop(self) -> None:
        """Look after idle blocks no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _entering(self) -> Write:
        what = "what was drawn"
        return Write(self._enter_in_line, what, is_kept=True, is_never_refused=True, kind=self._draws)

    def _used(self) -> None:
        self._used_s = time.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._give_back_idle)

    def _give_back_idle(self) -> None:
        left_s = self._idle_s - (time.monotonic() - self._used_s)
        if left_s > 0:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._give_back_idle)
            return
        self._timer = None
        self._open.clear()
        self._fills.clear()
        self._submit_if_open(self.close, "giving idle blocks back")

    # ---- in the writer's thread, within a transaction

    def close(self, connection: sqlite3.Connection) -> None:
        """Give all blocks back. The transaction must wait for the disk."""

        def act() -> tuple[None, bool]:
            escrow.close(connection)
            return None, False

        self._with_blocks(connection, None, act)

    def take_over(self, connection: sqlite3.Connection, owner_id: int) -> list[Log]:
        """Enter what stands in all logs beside the database, at a start; nothing is drawn in memory any more.

        Returns: the logs of the dead, to be removed when the transaction is kept. Raises: OSError.
        """
        dead: list[Log] = []
        with self._lock:
            self._held.clear()
            self._entered = 0
        self._enter_pending(connection, owner_id)
        for log in logs_beside(self._database):
            mark = rows.ProcessMark(log.pid, log.started_s)
            if (log.owner_id, mark) == (owner_id, rows.this_process()):
                continue
            # One of another database that was here before says nothing of this one.
            if rows.is_registered(connection, log.owner_id, mark):
                escrow.enter_lines(connection, log.owner_id, revoke(log))
            if not rows.is_alive(mark):
                dead.append(log)
        return dead

    def ended(self, *, is_kept: bool) -> None:
        """Hear that the transaction is over: kept, or undone."""
        with self._lock:
            if is_kept:
                del self._pending[: self._entered]
                self._held = self._held if self._next is None else self._next
                for held, added_nusd in self._added:
                    held.left_nusd += added_nusd
                    held.size_nusd = max(held.size_nusd, held.left_nusd)
                if self._has_entered:
                    self._log.drop_old()
            else:
                self._held.clear()
                self._retry()
            self._entered, self._next, self._has_entered, self._comes_back = 0, None, False, False
            self._added.clear()

    def _enter_in_line(self, connection: sqlite3.Connection) -> None:
        """What is in line for that; the writer puts it back if the transaction fails."""
        # Before it looks what there is: who draws from now on puts another one in line.
        self._is_in_line, self._comes_back = False, True
        self._enter_pending(connection)

    def _retry(self) -> None:
        """Have what was drawn written by a later transaction, though whoever was to write it now may be gone."""
        self._is_in_line = self._is_in_line or self._comes_back
        if self._pending and not self._is_in_line:
            self._is_in_line = True
            with suppress(StoreError):  # it closes: the log is left for the next start
                self._submit(self._entering())

    def remove_log(self) -> None:
        """Remove the log at the end, if the database has all of it."""
        if not self._pending:
            self._log.remove()

    def _alone(self, connection: sqlite3.Connection, wish: Reservation) -> Grant:
        self._claim(connection)
        return money.reserve(connection, self._owner_id(), wish)

    def _reserve(self, connection: sqlite3.Connection, wish: Reservation, boot_id: str) -> Grant:
        whose = escrow.whose_of(wish)
        self._filling.discard(whose)
        calls = max(escrow.CALLS, BURSTS * self._waiting[whose])
        if (again := self._drawn_again(connection, wish)) is not None:
            return again
        act = partial(escrow.reserve, connection, self._owner_id(), wish, boot_id, calls)
        grant, has_block = self._with_blocks(connection, wish, act)
        if has_block:
            self._open.add(whose)
        return grant

    def _drawn(self, wish: Reservation, arrival: Arrival | None) -> Reserved | None:
        """Draw in memory, with a line in the log; whoever calls this has it entered later."""
        whose, amount_nusd = escrow.whose_of(wish), money.cost_nusd(wish.amount_usd)
        with self._lock:
            held = self._held.get(whose)
            if held is None or not held.serves(wish, amount_nusd):
                return None
            draw = _draw_of(wish, whose, amount_nusd)
            if not self._log.append(draw, arrival):
                self._held.clear()
                return None
            self._pending.append(draw)
            held.left_nusd -= amount_nusd
            self._count(whose)
        if (held.left_nusd < held.size_nusd // 2 or self._log.is_large) and whose not in self._filling:
            self._fill_ahead(wish, whose)
        return Reserved(money.usd_of(amount_nusd))

    def _drawn_again(self, connection: sqlite3.Connection, wish: Reservation) -> Reserved | None:
        """Draw on a block that was looked at for another call of this transaction; nobody is told before its end."""
        whose, amount_nusd = escrow.whose_of(wish), money.cost_nusd(wish.amount_usd)
        held = None if self._next is None else self._next.get(whose)
        if held is None or not held.serves(wish, amount_nusd):
            return None
        grant = money.insert(connection, self._owner_id(), wish)
        escrow.take(connection, whose, amount_nusd)
        held.left_nusd -= amount_nusd
        self._count(whose)
        if held.left_nusd < held.size_nusd // 2 and whose not in self._filling:
            self._fill_ahead(wish, whose)
        return grant

    def _wait(self, whose: escrow.Whose, change: int) -> None:
        """Take down that one more reservation waits in line, or one less."""
        with self._lock:
            self._waiting[whose] += change

    def _draw_there(self, connection: sqlite3.Connection, wish: Reservation, boot_id: str) -> Grant | NeedsDisk:
        whose, amount_nusd = escrow.whose_of(wish), money.cost_nusd(wish.amount_usd)
        if (grant := self._drawn_again(connection, wish)) is not None:
            return grant
        with self._lock:
            held = self._held.get(whose)  # while it was in line a block was opened or filled
            is_served = held is not None and self._log.is_open and held.serves(wish, amount_nusd)
            if held is not None and is_served:
                held.left_nusd -= amount_nusd
        if is_served:
            escrow.take(connection, whose, amount_nusd)
            return money.insert(connection, self._owner_id(), wish)

        def act() -> tuple[escrow.Drawn | None, bool]:
            drawn = escrow.draw(connection, self._owner_id(), wish, boot_id)
            return drawn, drawn is not None

        drawn, _ = self._with_blocks(connection, wish, act)
        if drawn is None:
            self._open.discard(whose)
            return NEEDS_DISK
        self._count(whose)
        if drawn.is_low and whose not in self._filling:
            self._fill_ahead(wish, whose)
        return drawn.grant

    def _count(self, whose: escrow.Whose) -> None:
        fills = self._fills.get(whose)
        if fills is None:
            fills = self._fills[whose] = Fills(time.monotonic())
        fills.calls += 1

    def _fill_ahead(self, wish: Reservation, whose: escrow.Whose) -> None:
        """Have a block filled behind what is in line: its callers have been told by then, and their calls are out."""
        assert self._boot_id is not None
        boot_id = self._boot_id
        self._filling.add(whose)
        now_s = time.monotonic()
        calls = (self._fills.get(whose) or Fills(now_s)).next_calls(now_s)

        def fill(connection: sqlite3.Connection) -> None:
            self._filling.discard(whose)
            if not self._top_up(connection, wish, boot_id, calls):
                act = partial(escrow.fill, connection, self._owner_id(), wish, boot_id, calls)
                self._with_blocks(connection, wish, lambda: (None, act()))

        self._submit_if_open(fill, "filling a block ahead")

    def _top_up(self, connection: sqlite3.Connection, wish: Reservation, boot_id: str, calls: int) -> bool:
        """Add to a block while it is drawn on; False where it must not be. What is added serves at the end."""
        whose = escrow.whose_of(wish)
        held = self._held.get(whose)
        if held is None or held.looked.caps != caps_of(wish) or not self._log.is_open:
            return False
        self._enter_pending(connection, has_new_log=self._log.is_large)
        self._claim(connection)
        added_nusd = escrow.top_up(connection, self._owner_id(), wish, boot_id, calls)
        if added_nusd is None:
            return False
        self._added.append((held, added_nusd))
        return True

    def _with_blocks(
        self, connection: sqlite3.Connection, wish: Reservation | None, act: Callable[[], tuple[T, bool]]
    ) -> tuple[T, bool]:
        """Do something with the blocks of the database: all that was drawn is in it, and nobody draws in memory.

        act: says, beside its answer, whether the caps of the reservation were found to hold all blocks.
        """
        with self._lock:
            self._held.clear()
        self._next = {}
        self._enter_pending(connection)
        self._claim(connection)
        with suppress(OSError):  # without a log nothing is drawn in memory
            self._log.ready(self._owner_id(), *_mark())
        answer, is_held = act()
        if wish is not None:
            whose = escrow.whose_of(wish)
            self._caps.pop(whose, None)
            self._caps |= {whose: Looked(caps_of(wish), wish.now)} if is_held else {}
        blocks = escrow.blocks_in(connection)
        self._next = {
            whose: held_of(block, self._caps[whose]) for whose, block in blocks.items() if whose in self._caps
        }
        return answer, is_held

    def _claim(self, connection: sqlite3.Connection) -> None:
        def lines_of(owner_id: int) -> Sequence[Line]:
            logs = [
                log
                for log in logs_beside(self._database, owner_id)
                if rows.is_registered(connection, owner_id, rows.ProcessMark(log.pid, log.started_s))
            ]
            return [line for log in logs for line in revoke(log)]

        if escrow.claim(connection, self._owner_id(), lines_of):
            self._caps.clear()

    def _enter_pending(
        self, connection: sqlite3.Connection, owner_id: int | None = None, *, has_new_log: bool = False
    ) -> None:
        """Write what was drawn. has_new_log: what is drawn from now on goes into another log."""
        with self._lock:
            draws = self._pending[self._entered :]
            self._entered, self._has_entered = len(self._pending), True
            if has_new_log:
                with suppress(OSError):
                    self._log.ready(self._owner_id(), *_mark())
        escrow.enter(connection, self._owner_id() if owner_id is None else owner_id, draws)

    def _submit_if_open(self, apply: Callable[[sqlite3.Connection], None], what: str) -> None:
        try:
            self._submit(Write(apply, what, must_survive_power_cut=True))
        except StoreError:
            self._filling.clear()  # closing gives the blocks back itself


def _draw_of(wish: Reservation, whose: escrow.Whose, amount_nusd: int) -> Draw:
    return Draw(
        id=wish.id,
        request_id=wish.request_id,
        provider=wish.provider,
        model=wish.model,
        reserved_at_us=to_us(wish.now),
        nusd=amount_nusd,
        client_key=wish.client_key,
        tag=wish.tag,
        block_key=whose[0],
        block_tag=whose[1],
    )


def _mark() -> tuple[int, float]:
    mark = rows.this_process()
    return mark.pid, mark.started_s
