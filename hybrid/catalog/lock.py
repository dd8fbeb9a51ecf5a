"""Who may write a model's files right now? One process at a time for each model, by an advisory file lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid.errors import CatalogError


@contextmanager
def hold(path: Path, *, on_wait: Callable[[], None] | None = None, busy: str | None = None) -> Iterator[None]:
    """Hold the lock, and remove its file at the end. The kernel frees it when the process dies, however it dies.

    Args:
        on_wait: called once if another process holds it, before waiting for it; None refuses to wait.
        busy: what to say when waiting is refused; None says that the model is being pulled.
    Raises: CatalogError if the lock is held and waiting is refused, or its file cannot be made.
    """
    handle = _acquire(path, on_wait, busy)
    try:
        yield
    finally:
        # Unlinked while still held: whoever waits on this file finds that its name is gone, and takes a new one.
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, on_wait: Callable[[], None] | None, busy: str | None) -> int:
    """Lock the file that the path names, and be sure that it still names it afterwards."""
    while True:
        handle = _open(path)
        try:
            on_wait = _wait_for(path, handle, on_wait, busy)
            is_ours = _is_still(path, handle)
        except BaseException:
            os.close(handle)
            raise
        if is_ours:
            return handle
        os.close(handle)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise CatalogError(
            f"cannot write in {path.parent}: {exc.strerror}; choose another with --models-dir or HYBRID_DATA_DIR"
        ) from exc


def _wait_for(
    path: Path, handle: int, on_wait: Callable[[], None] | None, busy: str | None
) -> Callable[[], None] | None:
    """Take the lock, waiting if need be; returns what to call before the next wait: it is said once only."""
    if _try_lock(handle):
        return on_wait
    if on_wait is None:
        raise CatalogError(busy or f"another process is pulling {path.stem} right now; wait for it or end it")
    on_wait()
    fcntl.flock(handle, fcntl.LOCK_EX)
    return _say_nothing


def _say_nothing() -> None:
    """Stand in for a note that was given already."""


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
