"""Who may write a model's files right now? One process at a time for each model, by an advisory file lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid.errors import CatalogError


@contextmanager
def hold(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock, and remove its file at the end. The kernel frees it when the process dies, however it dies.

    Args:
        on_wait: called once if another process holds it, before waiting for it; None refuses to wait.
    Raises: CatalogError if the lock is held and waiting is refused, or its file cannot be made.
    """
    handle = _acquire(path, on_wait)
    try:
        yield
    finally:
        # Unlinked while still held: whoever waits on this file finds that its name is gone, and takes a new one.
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, on_wait: Callable[[], None] | None) -> int:
    has_said = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise CatalogError(
                f"cannot write in {path.parent}: {exc.strerror}; choose another folder with --models-dir or HYBRID_DATA_DIR"
            ) from exc
        try:
            if not _try_lock(handle):
                if on_wait is None:
                    raise CatalogError(f"another process is pulling {path.stem} right now; wait for it or end it")
                if not has_said:
                    on_wait()
                has_said = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_still(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, handle: int) -> bool:
    """Whether the path still names the file that was locked; its last holder may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
