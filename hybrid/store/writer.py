"""Who writes to the file, in which order, and what happens while the disk refuses? One thread, in batches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hybrid.errors import StoreError
from hybrid.store.db import connect_writer, in_chunks, store_errors
from hybrid.store.records import StoreHealth

_LOG = logging.getLogger(__name__)
_BATCH_WRITES = 256
T = TypeVar("T")

# Raised by one statement about its own values: it alone is undone, and the batch around it goes on.
_ONE_WRITES_FAULT = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
    StoreError,
)


class NeedsDisk:
    """What a quick write answers that has to be done in a transaction that waits for the disk; nothing was changed."""


NEEDS_DISK = NeedsDisk()


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Rows that are written together where several of them wait: a statement each would take the interpreter from
    everybody else, and be kept from it by them, as often as there are rows.

    rank: of the kinds in a transaction, the lower ones come first, and all before what has no kind.
    apply: writes several by one statement, so all or none. Whatever it raises that is the values' fault has them
        written one by one; that must do no harm to those which are written.
    """

    rank: int
    apply: Callable[[sqlite3.Connection, Sequence[Any]], None]


@dataclass(slots=True, eq=False)
class Write:
    """One thing to write. `apply` runs in the writer's thread, within a transaction shared with its neighbours.

    apply: of its statements only the first to change the file may fail by its own values, so that its failure leaves
        nothing half done.
    what: for the log, when nobody waits for the answer.
    answer: told the result after the commit; None when nobody waits.
    must_survive_power_cut: the commit waits for the disk (synchronous=FULL).
    is_kept: on a failing disk it stays in line, in order, until it can be written.
    is_never_refused: it joins even a full line. For settlements: they are no more than the reservations granted,
        and give room back.
    quick: tried before `apply`, and enough in a transaction that does not wait for the disk; where it answers
        NEEDS_DISK, `apply` has its turn in one that does.
    kind, row: what may be written with others of its kind instead of by `apply`; nobody waits for it.
    """

    apply: Callable[[sqlite3.Connection], Any]
    what: str
    answer: Future[Any] | None = None
    must_survive_power_cut: bool = False
    is_kept: bool = False
    is_never_refused: bool = False
    quick: Callable[[sqlite3.Connection], Any] | None = None
    kind: Kind | None = None
    row: Any = None


class Writer:
    """The one thread that owns the writing connection.

    Whatever waits when it is free goes into one transaction, so sixty-four reservations at once cost one wait for
    the disk and not sixty-four. The line is bounded. After a failure the connection is opened anew.

    Args:
        on_end: told of each transaction, in the writer's thread, whether it was kept, before whoever waits is.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_open: Callable[[sqlite3.Connection], None],
        on_end: Callable[[bool], None] = lambda _: None,
        max_pending: int,
        retry_after_s: float,
    ) -> None:
        self._path, self._on_open, self._on_end = path, on_open, on_end
        self._max_pending, self._retry_after_s = max_pending, retry_after_s
        self._line: deque[Write] = deque()
        self._wake = threading.Condition()
        self._asking = 0  # writes in line whose caller wants to know at once whether the disk works
        self._is_due = False  # until somebody wakes us what is in line waits for more
        self._is_closing = False
        self._is_writing = False
        self._error: str | None = None
        self._retry_at_s = 0.0  # on time.monotonic()
        self._dropped = 0
        self._connection: sqlite3.Connection | None = None
        self._waits_for_disk: bool | None = None
        self._thread = threading.Thread(target=self._run, name="hybrid-ledger", daemon=True)

    def start(self) -> None:
        """Start the thread. It opens the file at the first write."""
        self._thread.start()

    def submit(self, write: Write, *, wakes: bool = True) -> None:
        """Put a write in line; never blocks.

        wakes: else the caller calls `wake` soon. To wake a thread for each write costs more than most writes: it
            takes the interpreter from whoever submits, and a transaction of its own.

        Raises: StoreError when the writer is closed, or the line is full and somebody waits for the answer. A write
            that nobody waits for is dropped then, counted and logged.
        """
        with self._wake:
            if self._is_closing:
                raise StoreError(f"the ledger {self._path} is closed")
            if len(self._line) >= self._max_pending and not write.is_never_refused:
                if write.answer is None:
                    self._drop(write)
                    return
                raise StoreError(f"the ledger {self._path} is {len(self._line)} writes behind: {self._error or 'busy'}")
            self._line.append(write)
            self._asking += write.answer is not None
            if wakes:
                self._is_due = True
                self._wake.notify()

    def wake(self) -> None:
        """Have what is in line written now."""
        with self._wake:
            if self._line:
                self._is_due = True
                self._wake.notify()

    def health(self) -> StoreHealth:
        """The last failure, if any is still unmended, and how much waits."""
        with self._wake:
            return StoreHealth(self._error, len(self._line), self._dropped)

    @property
    def is_failing(self) -> bool:
        """Whether the last write failed."""
        return self._error is not None

    @property
    def is_behind(self) -> bool:
        """Whether something that was put in line is not in the file yet."""
        with self._wake:
            return bool(self._line) or self._is_writing

    def close(self) -> None:
        """Write what waits, try once more if the disk fails, close the file. Blocks; calling it again is harmless."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            # A caller that gave up before its turn gets nothing written; from here on it can no longer withdraw.
            taken = [write for write in batch if write.answer is None or write.answer.set_running_or_notify_cancel()]
            waits = any(write.must_survive_power_cut for write in taken)
            if unsafe := self._write(taken, waits_for_disk=waits):
                self._write(unsafe, waits_for_disk=True)
            self._is_writing = False
        self._disconnect()

    def _write(self, batch: list[Write], *, waits_for_disk: bool) -> list[Write]:
        """Write and tell those who wait, whatever happens. Gives those that need a transaction that waits."""
        try:
            done = self._commit(batch, waits_for_disk=waits_for_disk)
        except StoreError as exc:
            self._fail(batch, exc)
        except Exception as exc:  # noqa: BLE001 - the thread's boundary: whoever waits must hear of it
            _LOG.exception("the ledger's writer failed")
            self._fail(batch, StoreError(f"cannot write {self._path}: {exc}"))
        else:
            self._deliver([one for one in done if one[1] is not NEEDS_DISK])
            return [write for write, result, _ in done if result is NEEDS_DISK]
        return []

    def _take(self) -> list[Write]:
        """Wait for something to write, and for the disk's pause to end unless somebody asks. Empty: closed."""
        with self._wake:
            while not self._is_closing:
                pause_s = self._retry_at_s - time.monotonic() if self._error else 0.0
                if self._line and self._is_due and (pause_s <= 0 or self._asking):
                    break
                self._wake.wait(pause_s if self._line and self._is_due else None)
            # While the disk fails, who asks is told, however much that is kept stands before him.
            most = len(self._line) if self._error else _BATCH_WRITES
            batch = [self._line.popleft() for _ in range(min(len(self._line), most))]
            self._asking -= sum(write.answer is not None for write in batch)
            self._is_due = bool(self._line)
            self._is_writing = True
            return batch

    def _commit(self, batch: list[Write], *, waits_for_disk: bool) -> list[tuple[Write, Any, Exception | None]]:
        with store_errors(self._path, "write"):
            connection = self._connect()
            self._set_durability(connection, waits_for_disk)
            connection.execute("BEGIN IMMEDIATE")
            done = _apply_kinds([write for write in batch if write.kind is not None], connection)
            others = [write for write in batch if write.kind is None]
            done += [(write, *_apply(write, connection, waits_for_disk=waits_for_disk)) for write in others]
            connection.execute("COMMIT")
            self._on_end(True)
        with self._wake:
            if self._error:
                _LOG.warning("the ledger %s can be written again", self._path)
            self._error = None
        return done

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = connect_writer(self._path)
            try:
                self._on_open(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._waits_for_disk = connection, None
        return self._connection

    def _set_durability(self, connection: sqlite3.Connection, waits_for_disk: bool) -> None:  # noqa: FBT001
        """Choose for the next transaction. SQLite allows the change between two; in WAL mode a commit that waits
        also carries every earlier one to the disk, as they are frames of one file."""
        if self._waits_for_disk is not waits_for_disk:
            connection.execute("PRAGMA synchronous = FULL" if waits_for_disk else "PRAGMA synchronous = NORMAL")
            self._waits_for_disk = waits_for_disk

    def _deliver(self, done: list[tuple[Write, Any, Exception | None]]) -> None:
        for write, result, error in done:
            if write.answer is None:
                if error is not None:
                    _LOG.error("the ledger could not take %s: %s", write.what, error)
            elif error is None:
                write.answer.set_result(result)
            else:
                write.answer.set_exception(error)

    def _fail(self, batch: list[Write], error: StoreError) -> None:
        """Tell those who wait, put back what is kept, and start afresh: a broken connection may stay broken."""
        self._disconnect()
        self._on_end(False)
        with self._wake:
            if self._error is None:
                _LOG.error("%s; cloud calls are refused until it works again", error)
            self._error, self._retry_at_s = str(error), time.monotonic() + self._retry_after_s
            answers = [write.answer for write in batch if write.answer is not None]
            for write in reversed(batch):
                write.answer = None
                if write.is_kept and not self._is_closing:
                    self._line.appendleft(write)
                    self._is_due = True
                elif write.is_kept:
                    self._drop(write)
        for answer in answers:
            answer.set_exception(StoreError(str(error)))

    def _drop(self, write: Write) -> None:
        self._dropped += 1
        _LOG.error("the ledger lost %s: %s", write.what, self._error or "too many writes wait")

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _apply_kinds(writes: list[Write], connection: sqlite3.Connection) -> list[tuple[Write, Any, Exception | None]]:
    done: list[tuple[Write, Any, Exception | None]] = []
    for kind in sorted({write.kind for write in writes if write.kind is not None}, key=lambda kind: kind.rank):
        for some in in_chunks([write for write in writes if write.kind is kind]):
            try:
                kind.apply(connection, [write.row for write in some])
                done += [(write, None, None) for write in some]
            except _ONE_WRITES_FAULT:
                done += [(write, *_apply(write, connection, waits_for_disk=False)) for write in some]
    return done


def _apply(write: Write, connection: sqlite3.Connection, *, waits_for_disk: bool) -> tuple[Any, Exception | None]:
    try:
        answer = NEEDS_DISK if write.quick is None else write.quick(connection)
        if answer is NEEDS_DISK and (waits_for_disk or write.quick is None):
            answer = write.apply(connection)
        return answer, None
    except _ONE_WRITES_FAULT as exc:
        return None, exc


async def outcome(answer: Future[T]) -> T:
    """Wait in the event loop for a write, without letting the waiter's cancellation reach it."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def tell() -> None:
        if not done.done():
            done.set_result(None)

    # Called in the writer's thread, or here if the answer is there already.
    answer.add_done_callback(lambda _: _tell_loop(loop, tell))
    await done
    return answer.result()


def _tell_loop(loop: asyncio.AbstractEventLoop, tell: Callable[[], None]) -> None:
    # A loop that is closed has nobody left who waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(tell)
