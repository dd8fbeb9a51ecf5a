"""How is the store's file opened, brought to our schema, and its failure told in plain words?"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias, TypeVar
from urllib.parse import quote

from hybrid.errors import StoreError
from hybrid.store.migrations import MIGRATIONS, Migration

T = TypeVar("T")
SqlValue: TypeAlias = str | int | float | None

DATABASE_NAME = "hybrid.sqlite3"

_APPLICATION_ID = 0x48594252  # "HYBR", so that nobody's other database is taken for ours
_BUSY_PAUSE_S = 0.01
_CHUNK_ROWS = (1, 16, 128)
_BUSY_TIMEOUT_S = 5.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Primary result codes (https://www.sqlite.org/rescode.html) and what a person can do about each.
_ADVICE = {
    sqlite3.SQLITE_NOTADB: "it is not a hybrid ledger; move it away, or name another data folder",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; move it away to start afresh, or restore a copy of it",
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "it cannot be written; check the permissions of the file and its folder",
    sqlite3.SQLITE_PERM: "access was denied; check the permissions of the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that the folder exists and may be written",
    sqlite3.SQLITE_BUSY: "another process holds it; find who keeps a transaction open",
    sqlite3.SQLITE_LOCKED: "another process holds it; find who keeps a transaction open",
    sqlite3.SQLITE_IOERR: "the disk failed or is full; check the disk",
}


_SYSTEM_ADVICE = {
    errno.EACCES: "check the permissions of the file and its folder",
    errno.EPERM: "check the permissions of the file and its folder",
    errno.EROFS: "its file system is read-only; name another data folder",
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EISDIR: "a folder is in its place; move it away",
}


@contextlib.contextmanager
def store_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn SQLite's and the system's errors into a StoreError that says what failed on which file and what to do."""
    try:
        yield
    except sqlite3.Error as exc:
        raise StoreError(describe(exc, path, doing)) from exc
    except OSError as exc:
        advice = _SYSTEM_ADVICE.get(exc.errno or 0)
        why = f"{exc.strerror or exc}" + (f" ({advice})" if advice else "")
        raise StoreError(f"cannot {doing} {path}: {why}") from exc


def describe(exc: sqlite3.Error, path: Path, doing: str) -> str:
    """One sentence for a person: what could not be done, SQLite's words, and what to change."""
    # The low byte is the primary code; extended codes (SQLITE_IOERR_WRITE, ...) only refine it.
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    advice = _ADVICE.get(code)
    return f"cannot {doing} {path}: {exc}" + (f" ({advice})" if advice else "")


def connect_writer(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> sqlite3.Connection:
    """Open the store for writing, made and migrated as needed. The caller opens and closes transactions.

    Files are made readable by their owner only. One thread at a time may use the connection.

    Raises: StoreError when the file cannot be opened, is not ours, or was written by a newer version.
    """
    with store_errors(path, "open"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite would take the umask's permissions; its -wal and -shm files copy those of this one.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = _connect(path, "rw")
        try:
            _prepare(connection, path)
            migrate(connection, path, migrations)
        except BaseException:
            connection.close()
            raise
    return connection


def connect_reader(path: Path, migrations: Sequence[Migration] = MIGRATIONS) -> sqlite3.Connection | None:
    """Open the store for reading only; None when there is none yet. Works beside a running server.

    Raises: StoreError as `connect_writer`, and when the file still has an older schema than this version reads.
    """
    if not path.exists():
        return None
    with store_errors(path, "read"):
        connection = _connect(path, "ro")
        try:
            if _is_empty(connection):
                connection.close()
                return None
            _check_ours(connection, path)
            if _applied(connection, path, migrations) < len(migrations):
                raise StoreError(
                    f"{path} was written by an older hybrid; run `hybrid serve` once to bring it up to date"
                )
        except BaseException:
            connection.close()
            raise
    return connection


class Reader:
    """The reading side: one connection, opened when it is first needed, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def read(self, query: Callable[[sqlite3.Connection], T], empty: T) -> T:
        """Ask something, in one snapshot; `empty` where there is no file yet. Raises: StoreError."""
        with self._lock, store_errors(self._path, "read"):
            if self._connection is None:
                self._connection = connect_reader(self._path)
            if self._connection is None:
                return empty
            try:
                self._connection.execute("BEGIN")
                answer = query(self._connection)
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                self._connection.close()
                self._connection = None
                raise
        return answer

    def close(self) -> None:
        """Close the file; a later reading opens it anew."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """Apply the steps the file has not had, each in its own transaction with its record.

    Two processes may do this at once: the second waits for the write lock and then finds the step done.
    Raises: StoreError if the file has steps we do not know; sqlite3.Error if a step fails, which undoes it whole.
    """
    for number, migration in enumerate(migrations, start=1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _applied(connection, path, migrations) < number:
                _apply(connection, number, migration)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def in_chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut rows into what one statement takes."""
    for begin in range(0, len(rows), _CHUNK_ROWS[-1]):
        yield rows[begin : begin + _CHUNK_ROWS[-1]]


def as_values(rows: Sequence[Sequence[SqlValue]]) -> tuple[str, list[SqlValue]]:
    """Make one statement's `VALUES` of a chunk: its text, and its parameters.

    There are few such texts, as the connection keeps those it has read: rows without values fill up the last ones. So
    whoever takes them has to leave out those whose `column1` is null.
    """
    width, room = len(rows[0]), next(size for size in _CHUNK_ROWS if size >= len(rows))
    line = f"({', '.join('?' * width)})"
    parameters = [value for row in rows for value in row]
    return f"VALUES {', '.join([line] * room)}", parameters + [None] * (width * (room - len(rows)))


def to_us(moment: datetime) -> int:
    """A time as the store keeps it: whole microseconds since 1970 UTC.

    Raises: ValueError if it has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"a stored time needs a zone; got {moment.isoformat()}")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_us(us: int) -> datetime:
    """The UTC time of a stored number of microseconds."""
    return _EPOCH + timedelta(microseconds=us)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,  # no transaction we did not ask for
        check_same_thread=False,  # opened by one thread, owned by another; never used by two at once
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.create_function("casefold", 1, _casefold, deterministic=True)  # SQLite's lower() knows ASCII alone
    return connection


def _casefold(text: str | None) -> str | None:
    """A tag as it is told apart from others, in SQL as everywhere."""
    return None if text is None else text.casefold()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make an empty file ours, or see that it is, and put it into WAL mode."""
    if _is_empty(connection):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        connection.execute("COMMIT")
    _check_ours(connection, path)
    if _enter_wal(connection) != "wal":
        raise StoreError(f"{path} lies on a file system without shared memory; put the data folder on a local disk")


def _enter_wal(connection: sqlite3.Connection) -> str:
    """Switch to WAL and give the mode that came of it. SQLite does not wait for this switch's lock, so we do."""
    until_s = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as busy:
            if busy.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until_s:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return mode


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != _APPLICATION_ID:
        raise StoreError(f"{path} is another program's SQLite database, not a hybrid ledger; name another data folder")


def _apply(connection: sqlite3.Connection, number: int, migration: Migration) -> None:
    for statement in migration.statements:
        connection.execute(statement)
    connection.execute("INSERT INTO migrations VALUES (?, ?)", (number, migration.name))


def _applied(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> int:
    """How many steps the file has had.

    Raises: StoreError if they are not the first of ours: a newer version wrote the file.
    """
    names = [row["name"] for row in connection.execute("SELECT name FROM migrations ORDER BY number")]
    if names != [migration.name for migration in migrations[: len(names)]]:
        known = migrations[-1].name if migrations else "none"
        raise StoreError(
            f"{path} has schema {names[-1]}, this version knows {known}: a newer hybrid wrote it; upgrade hybrid, "
            "or name another data folder"
        )
    return len(names)
