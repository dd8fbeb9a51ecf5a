"""How does something get a name that nothing else has? By the time, and random after it."""

from __future__ import annotations

import os
import threading
import time

TIME_DIGITS = 11
"""Hex digits that begin a name: milliseconds since 1970, until the year 2527."""

_BLOCK_BYTES = 4096

_lock = threading.Lock()
_left = bytearray()


def new_id(prefix: str, size_bytes: int = 12) -> str:
    """Give `prefix`, the time, and so many random bytes in hex, which nobody can guess.

    The time comes first, as in a UUID of version 7 (RFC 9562), so that rows made together lie together in an index.
    With names that are random from their start, each row of the ledger changed pages of its own, and three times the
    bytes were written.

    One reading of the system's source is enough for many: asking it each time lets another thread take the
    interpreter, and under load the wait to get it back was a fifth of what a gateway added to a request.
    """
    with _lock:
        if len(_left) < size_bytes:
            _left[:] = os.urandom(_BLOCK_BYTES)
        taken = _left[-size_bytes:]
        del _left[-size_bytes:]
    return f"{prefix}{time.time_ns() // 1_000_000:0{TIME_DIGITS}x}{taken.hex()}"


def _forget() -> None:
    """In a forked process: the parent goes on with the same bytes."""
    _left.clear()


os.register_at_fork(after_in_child=_forget)
