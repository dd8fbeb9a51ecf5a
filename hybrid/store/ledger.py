"""What happened to every request and every dollar, however the process ends? The gateway's side of the store."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from hybrid.errors import StoreError
from hybrid.store import kinds, labels, money, rows, samples
from hybrid.store.db import Reader, to_us
from hybrid.store.granting import IDLE_S, Granter
from hybrid.store.opening import take_over
from hybrid.store.records import (
    Balance,
    Grant,
    Recovery,
    Refused,
    RequestClosed,
    RequestOpened,
    Reservation,
    Reserved,
    StoreHealth,
)
from hybrid.store.samples import Sample
from hybrid.store.writer import Kind, Write, Writer, outcome
from hybrid.types import Cap, Window

__all__ = [
    "Balance",
    "Grant",
    "Ledger",
    "Recovery",
    "Refused",
    "RequestClosed",
    "RequestOpened",
    "Reservation",
    "Reserved",
    "StoreHealth",
]

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

SAMPLES_S = 1.0
"""How long measured numbers are gathered before they are written; each call makes one or two."""
WRITTEN_S = 1.0
"""How long a reading waits for what is in line before it."""
LINGER_S = 0.02
"""How long a write that nobody waits for waits for others, to be written with them."""


class Ledger:
    """Requests and money on disk. All methods are called from the event loop; one thread of its own does the writing.

    Writes keep their order. `reserve` returns when no death can make the caps forget what it granted; a request's row
    is written soon and not waited for. See this package's README for what survives which death.

    Args:
        has_escrow: reservations draw on blocks that the disk holds, and need not wait for it each.
        boot_id: of this boot of the machine; None where the system tells none, and then each waits.
        idle_s: how long after the last reservation blocks are given back.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_pending_writes: int = 10_000,
        retry_after_s: float = 1.0,
        has_escrow: bool = False,
        boot_id: str | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        self._path, self._clock = path, clock
        self._mark = rows.this_process()
        self._owner_id: int | None = None
        self._recovery: Recovery | None = None
        self._writer = Writer(
            path,
            on_open=self._take_over,
            on_end=lambda is_kept: self._granter.ended(is_kept=is_kept),
            max_pending=max_pending_writes,
            retry_after_s=retry_after_s,
        )
        self._boot_id = boot_id
        self._measured: list[Sample] = []
        self._arrived: dict[str, rows.SqlValues] = {}  # of requests that have not ended
        self._set_aside: dict[str, int] = {}  # nano-USD of calls that are out
        self._arrivals = kinds.arrivals(self._owner)
        self._wake_in_s: float | None = None  # how soon the writer is woken, if it is to be
        self._granter = Granter(
            path,
            submit=self._writer.submit,
            linger=self._submit,
            is_failing=lambda: self._writer.is_failing,
            owner_id=self._owner,
            boot_id=boot_id if has_escrow else None,
            idle_s=idle_s,
        )
        self._reader = Reader(path)

    async def start(self) -> Recovery:
        """Open the file, making or migrating it, and clean up after dead processes.

        Raises: StoreError if it cannot be used. The ledger may be kept all the same: it tries again at each write,
        keeps request rows in memory until then, and grants no reservation.
        """
        self._writer.start()
        await self._ask(lambda _connection: None, "its opening", is_never_refused=True)
        assert self._recovery is not None
        return self._recovery

    def open_request(self, row: RequestOpened) -> None:
        """Write down a request's arrival, soon and in order.

        Raises: ValueError if its time has no zone; StoreError if the ledger is closed.
        """
        self._arrived[row.id] = values = rows.opened_values(row)
        self._tell(
            lambda connection: rows.insert_opened(connection, self._owner(), values, is_known_ignored=True),
            f"the arrival of {row.id}",
            kind=self._arrivals,
            row=values,
        )

    def close_request(self, row: RequestClosed) -> None:
        """Write down how a request ended, soon and in order. Only the first time counts.

        Raises: ValueError if an amount is no amount; StoreError if the ledger is closed.
        """
        values = rows.closed_values(row, to_us(self._clock()))
        self._arrived.pop(row.id, None)

        def apply(connection: sqlite3.Connection) -> None:
            if not rows.update_closed(connection, values) and not rows.is_closed_so(connection, values):
                _LOG.warning("%s ended (%s), but no open row of it is in the ledger", row.id, row.outcome)

        self._tell(apply, f"the end of {row.id}", kind=kinds.ENDS, row=values)

    def append_samples(self, measured: Sequence[Sample]) -> None:
        """Write down measured numbers, within a second."""
        if not self._measured:
            asyncio.get_running_loop().call_later(SAMPLES_S, self._write_samples)
        self._measured += measured

    def _write_samples(self) -> None:
        measured, self._measured = self._measured, []
        if not measured:
            return
        now_us = to_us(self._clock())
        # What is lost with a closed ledger is learned again.
        with suppress(StoreError):
            self._tell(lambda connection: samples.insert(connection, measured, now_us), "what was measured")

    async def recent_samples(self) -> tuple[Sample, ...]:
        """Give the numbers that were measured lately, the oldest first. Raises: StoreError if the file fails."""
        self._write_samples()
        now_us = to_us(self._clock())
        return await self._ask(lambda connection: samples.recent(connection, now_us), "reading what was measured")

    def keep_label(self, label: labels.Label) -> None:
        """Write down whether local and cloud agreed on a request, soon and in order."""
        self._tell(lambda connection: labels.insert_label(connection, label), f"the label of {label.request_id}")

    def drop_label(self, request_id: str) -> None:
        """Forget a label that waited for an answer, soon and in order."""
        self._tell(lambda connection: labels.drop_unanswered(connection, request_id), f"the label of {request_id}")

    def keep_standing(self, standing: labels.KeptStanding) -> None:
        """Write down what is known of a promise, soon and in order."""
        self._tell(lambda connection: labels.upsert_standing(connection, standing), f"the state of {standing.task}")

    def write(self, apply: Callable[[sqlite3.Connection], Any], what: str) -> None:
        """Have something written that nobody waits for, soon and in order. Raises: StoreError if it is closed."""
        self._tell(apply, what)

    async def reserve(self, wish: Reservation) -> Grant:
        """Set aside the worst case of a cloud call, if every cap has room for it. Counted for good when this returns.

        Cancelled while it waits, it leaves no reservation behind.

        Raises: StoreError if it could not be written (then no call may leave) or its id is found used before;
            ValueError if it has no cap, no amount, or a cap's window does not hold its time.
        """
        if (drawn := self._granter.draw(wish, self._arrived.get(wish.request_id))) is not None:
            self._set_aside[wish.id] = money.cost_nusd(drawn.amount_usd)
            return drawn
        money.check(wish)
        answer: Future[Grant] = Future()
        self._submit(self._granter.write(wish, answer))
        try:
            grant = await outcome(answer)
            if isinstance(grant, Reserved):
                self._set_aside[wish.id] = money.cost_nusd(grant.amount_usd)
            return grant
        except asyncio.CancelledError:
            if not answer.cancel():
                self._settle_later(wish.id, 0, "release")
            raise
        except sqlite3.IntegrityError as exc:
            raise StoreError(f"reservation {wish.id!r} exists already: {exc}") from exc

    async def settle(self, reservation_id: str, amount_usd: Decimal, *, is_estimated: bool) -> bool:
        """Turn a reservation into what the call really cost; once only.

        The settlement is in line when this is first awaited, and a cancelled caller does not take it out. On a
        failing disk it stays in line after the StoreError and is written when that is possible; until then, and if
        it is lost with the process, the reservation counts in full.

        Args:
            is_estimated: the amount was counted by us, not reported by the provider.
        Returns: False if it was settled before, and nothing changed.
        Raises: StoreError if there is no such reservation or it could not be written yet; ValueError if the amount
            is no amount.
        """
        amount_nusd, by = money.cost_nusd(amount_usd), _settled_by(is_estimated=is_estimated)
        apply = self._settlement((reservation_id, amount_nusd, by, self._now_us()))
        return await self._ask(apply, f"the settlement of {reservation_id}", is_kept=True, is_never_refused=True)

    def settle_soon(self, reservation_id: str, amount_usd: Decimal, *, is_estimated: bool) -> None:
        """`settle` for a caller that may not wait, as in a `finally`: put in line, failures are logged.

        Raises: ValueError if the amount is no amount.
        """
        self._settle_later(reservation_id, money.cost_nusd(amount_usd), _settled_by(is_estimated=is_estimated))

    async def release(self, reservation_id: str) -> bool:
        """Give a reservation back whole: its call never left. Unknown or settled ones are left alone: False.

        Raises: StoreError as `settle`.
        """
        apply = self._settlement((reservation_id, 0, "release", self._now_us()))
        return await self._ask(apply, f"the release of {reservation_id}", is_kept=True, is_never_refused=True)

    def release_soon(self, reservation_id: str) -> None:
        """`release` for a caller that may not wait: put in line, failures are logged."""
        self._settle_later(reservation_id, 0, "release")

    async def flush(self) -> None:
        """Wait until everything put in line so far is written. Raises: StoreError if it cannot be now."""
        await self._ask(lambda _connection: None, "a flush", is_never_refused=True)

    async def balance(self, window: Window) -> Balance:
        """What the window's spend and the open reservations are, both at the same moment.

        Raises: StoreError if the file cannot be read; ValueError if the window has no zone.
        """
        [balance] = await self.balances((Cap("", window, Decimal(0)),))
        return balance

    async def balances(self, caps: Sequence[Cap]) -> tuple[Balance, ...]:
        """What each cap counts, settled and open, all at the same moment. Raises: as `balance`."""
        return await self.read(lambda connection: money.balances(connection, caps), empty=(Balance(),) * len(caps))

    async def read(self, query: Callable[[sqlite3.Connection], T], *, empty: T) -> T:
        """Ask the file something, in one snapshot and in a thread; what this process put in line before is in it, if
        it can be written within WRITTEN_S. Raises: StoreError if it cannot be read.

        Args:
            query: runs in another thread and may only read.
            empty: the answer where there is no file yet.
        """
        if self._writer.is_behind and self.health().is_ok:
            # Whoever answers locally must not wait for a lock that another process holds, or for a disk that hangs.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(WRITTEN_S):
                    await self.flush()
        return await asyncio.to_thread(self._reader.read, query, empty)

    async def spent_usd(self, window: Window) -> Decimal:
        """What was settled of the reservations made within the window. Raises: as `balance`."""
        return (await self.balance(window)).spent_usd

    async def reserved_usd(self) -> Decimal:
        """What is promised to calls that are still out, in all processes. Raises: as `balance`."""
        now = self._clock()
        return (await self.balance(Window(now, now))).reserved_usd

    def health(self) -> StoreHealth:
        """Whether writing works, and how much waits in memory."""
        return self._writer.health()

    async def aclose(self) -> None:
        """Write what waits and close the file. What is still open in it counts as left by a dead process."""
        self._granter.stop()
        self._write_samples()
        if self._owner_id is not None:
            owner_id, now_us = self._owner_id, to_us(self._clock())

            def leave(connection: sqlite3.Connection) -> None:
                rows.unregister(connection, owner_id, now_us)
                self._granter.close(connection)

            what = "the end of this process"
            try:
                self._writer.submit(
                    Write(leave, what, must_survive_power_cut=True, is_kept=True, is_never_refused=True)
                )
            except StoreError:
                return  # closed before
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._granter.remove_log()
        self._reader.close()

    def _owner(self) -> int:
        assert self._owner_id is not None  # the writer calls _take_over before any write
        return self._owner_id

    def _take_over(self, connection: sqlite3.Connection) -> None:
        """In the writer's thread, whenever the file was opened: register, and clean up after the dead."""
        now_us = to_us(self._clock())
        self._owner_id, recovery = take_over(
            connection, self._granter, self._mark, self._owner_id, boot_id=self._boot_id, now_us=now_us
        )
        self._recovery = self._recovery or recovery

    def _settlement(self, settlement: money.Settlement) -> Callable[[sqlite3.Connection], bool]:
        """Make what writes a settlement, and see that it does not cost more than was set aside."""
        reservation_id, amount_nusd, _, _ = settlement
        reserved_nusd = self._set_aside.pop(reservation_id, None)
        if reserved_nusd is not None and amount_nusd > reserved_nusd:
            _LOG.error(
                "reservation %s cost %s USD, more than the %s USD set aside: its bound is wrong",
                reservation_id,
                money.usd_of(amount_nusd),
                money.usd_of(reserved_nusd),
            )
        return lambda connection: money.settle(connection, *settlement) is not None

    def _tell(
        self,
        apply: Callable[[sqlite3.Connection], Any],
        what: str,
        *,
        kind: Kind | None = None,
        row: Any = None,
        is_never_refused: bool = False,
    ) -> None:
        """Put a write in line that is kept until it can be done, and wait for nothing."""
        self._submit(Write(apply, what, is_kept=True, is_never_refused=is_never_refused, kind=kind, row=row))

    def _submit(self, write: Write) -> None:
        """Put a write in line. The writer is woken once for all that come in the same turn of the event loop, and for
        those that nobody waits for a little later."""
        self._writer.submit(write, wakes=False)
        is_urgent = write.answer is not None
        if self._wake_in_s is not None and (self._wake_in_s == 0 or not is_urgent):
            return
        loop = asyncio.get_running_loop()
        if is_urgent:
            self._wake_in_s = 0.0
            loop.call_soon(self._wake)
        else:
            self._wake_in_s = LINGER_S
            loop.call_later(LINGER_S, self._wake)

    def _wake(self) -> None:
        self._wake_in_s = None
        self._writer.wake()

    def _settle_later(self, reservation_id: str, amount_nusd: int, by: str) -> None:
        what, settlement = f"the settlement of {reservation_id}", (reservation_id, amount_nusd, by, self._now_us())
        try:
            self._tell(
                self._settlement(settlement), what, kind=kinds.SETTLEMENTS, row=settlement, is_never_refused=True
            )
        except StoreError:
            _LOG.exception("%s came after the ledger was closed; it counts in full", what)

    def _now_us(self) -> int:
        return to_us(self._clock())

    async def _ask(
        self,
        apply: Callable[[sqlite3.Connection], T],
        what: str,
        *,
        is_kept: bool = False,
        is_never_refused: bool = False,
    ) -> T:
        answer: Future[T] = Future()
        self._submit(Write(apply, what, answer, is_kept=is_kept, is_never_refused=is_never_refused))
        return await outcome(answer)


def _settled_by(*, is_estimated: bool) -> str:
    return "estimate" if is_estimated else "usage"
