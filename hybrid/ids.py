"""How does something get a name that nothing else has? Random, from one reading of the system's source for many."""

from __future__ import annotations

import os
import threading

_BLOCK_BYTES = 4096

_lock = threading.Lock()
_left = bytearray()


def new_id(prefix: str, size_bytes: int = 12) -> str:
    """Give `prefix` and so many random bytes in hex, which nobody can guess.

    Asking the system each time lets another thread take the interpreter, and under load the wait to get it back was a
    fifth of what a gateway added to a request.
    """
    with _lock:
        if len(_left) < size_bytes:
            _left[:] = os.urandom(_BLOCK_BYTES)
        taken = _left[-size_bytes:]
        del _left[-size_bytes:]
    return f"{prefix}{taken.hex()}"


def _forget() -> None:
    """In a forked process: the parent goes on with the same bytes."""
    _left.clear()


os.register_at_fork(after_in_child=_forget)
