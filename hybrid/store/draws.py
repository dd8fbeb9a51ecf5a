"""How does a reservation outlive its process before the database has it? A log beside the database, a line a draw.

What is put into a mapped file survives the death of the process that put it there, whenever the disk gets it. So a draw
on a block costs a copy into memory, and the database learns of it a little later. After a power cut the log may lack
its end, or all of it: the block stands in for that, as `escrow` has it.

A log has one writer, who owns the blocks that are drawn on. Another process that wants them reads the log and marks it:
under the log's lock, and from then on its writer adds nothing more.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

SIZE_BYTES = 1024 * 1024
"""A log is mapped whole. When it is half full, a new one follows it as the blocks are next filled."""
_HEAD_BYTES = 128
"""The first line, padded, which says whose log it is; behind it the state, then the lines of draws."""
_STATE = struct.Struct("<QQ")
"""Whether it was revoked, and how many bytes of lines there are."""
_LINES_AT = _HEAD_BYTES + _STATE.size

_flock = ctypes.PyDLL(None).flock
"""flock(2) without giving up the interpreter, which `fcntl.flock` does: another thread would keep it for a while."""

Arrival: TypeAlias = dict[str, str | int | float | None]
"""A request's row as it was opened."""


class Draw(msgspec.Struct, frozen=True):
    """A reservation that was granted out of a block. block_key, block_tag: whose block, as `escrow.Whose`."""

    id: str
    request_id: str
    provider: str
    model: str
    reserved_at_us: int
    nusd: int
    client_key: str | None
    tag: str | None
    block_key: str
    block_tag: str


class Line(msgspec.Struct, frozen=True):
    """A draw in a log, with its request's row, which the database may not have yet either."""

    draw: Draw
    arrival: Arrival | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """A log that lies beside a database: whose it is, and the process that says so in its first line."""

    path: Path
    owner_id: int
    pid: int
    started_s: float


class DrawLog:
    """The log of this process. Not for two threads at once: its user has a lock."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path: Path | None = None
        self._file = -1
        self._map: mmap.mmap | None = None
        self._used_bytes = 0
        self._owner_id, self._number = -1, 0
        self._old: list[Path] = []

    @property
    def is_open(self) -> bool:
        """Whether draws may be added. Within a transaction that stays so until its end."""
        return self._map is not None and _STATE.unpack_from(self._map, _HEAD_BYTES)[0] == 0

    @property
    def is_large(self) -> bool:
        """Whether a new one should follow it."""
        return self._used_bytes >= SIZE_BYTES // 2

    def ready(self, owner_id: int, pid: int, started_s: float) -> None:
        """See that there is a log that may be written, a new one where there is none, it was revoked or is large.

        To be called within a transaction that has all draws of the present one, as another process looks for logs
        within one of its own. The old log is kept until `drop_old`. Raises: OSError.
        """
        if self.is_open and not self.is_large and owner_id == self._owner_id:
            return
        self._retire()
        self._owner_id, self._number = owner_id, self._number + 1
        # The same number may be an owner in another file that lay here.
        path = self._database.with_name(f"{self._database.name}-draws-{owner_id}-{pid}-{self._number}")
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._old.append(path)  # until it is whole
        # The room is taken now: a disk that is full would end the process at a copy into the map.
        os.posix_fallocate(self._file, 0, SIZE_BYTES)
        head = msgspec.json.encode([owner_id, pid, started_s]) + b"\n"
        os.pwrite(self._file, head.ljust(_HEAD_BYTES), 0)
        self._map, self._used_bytes = mmap.mmap(self._file, SIZE_BYTES), 0
        self._path = self._old.pop()

    def append(self, draw: Draw, arrival: Arrival | None) -> bool:
        """Write a draw down; False if the log was revoked or has no room, and it must not be granted."""
        if self._map is None:
            return False
        line = msgspec.json.encode({"draw": draw, "arrival": arrival}) + b"\n"
        begin = _LINES_AT + self._used_bytes
        if begin + len(line) > SIZE_BYTES:
            return False
        if _flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB) != 0:
            return False  # somebody reads it, to revoke it
        try:
            if not self.is_open:
                return False
            self._map[begin : begin + len(line)] = line
            self._used_bytes += len(line)
            _STATE.pack_into(self._map, _HEAD_BYTES, 0, self._used_bytes)  # last: until now it is no draw
            return True
        finally:
            _flock(self._file, fcntl.LOCK_UN)

    def drop_old(self) -> None:
        """Remove the logs before the present one, as all that they hold is in the database."""
        while self._old:
            with suppress(OSError):  # what is left is read again at the next start, and changes nothing
                self._old[-1].unlink()
            self._old.pop()

    def remove(self) -> None:
        """Remove all logs of this process, as all that they hold is in the database."""
        self._retire()
        self.drop_old()

    def _retire(self) -> None:
        """Write no more to the present log."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._path is not None:
            self._old.append(self._path)
            self._path = None


def logs_beside(database: Path, owner_id: int | None = None) -> Iterator[Log]:
    """Find the logs of a database, or those of one owner. One whose head is broken has no draws, and is passed over."""
    whose = "*" if owner_id is None else f"{owner_id}-*"
    for path in sorted(database.parent.glob(f"{database.name}-draws-{whose}")):
        with suppress(msgspec.MsgspecError, FileNotFoundError), path.open("rb") as handle:
            owner, pid, started_s = msgspec.json.decode(handle.read(_HEAD_BYTES), type=tuple[int, int, float])
            yield Log(path, owner, pid, started_s)


def revoke(log: Log) -> list[Line]:
    """Read a log, and have its writer add nothing more. Within a write transaction of the database. Raises: OSError."""
    try:
        file = os.open(log.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    with os.fdopen(file, "r+b", buffering=0) as handle, _locked(file):
        content = handle.read()
        if len(content) < _LINES_AT:
            return []
        _, used_bytes = _STATE.unpack_from(content, _HEAD_BYTES)
        os.pwrite(file, _STATE.pack(1, used_bytes), _HEAD_BYTES)
    lines = content[_LINES_AT : _LINES_AT + used_bytes].splitlines()
    return [line for text in lines if (line := _read(text)) is not None]


def _read(text: bytes) -> Line | None:
    """A line of a log; None for what a power cut made of one."""
    try:
        return msgspec.json.decode(text, type=Line)
    except msgspec.MsgspecError:
        return None


@contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
