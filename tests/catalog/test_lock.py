"""Does the lock let one in at a time, tell who waits, and leave nothing behind?"""

from __future__ import annotations

import threading

import pytest

from hybrid.catalog.lock import hold
from hybrid.errors import CatalogError


def test_the_second_waits_until_the_first_is_done(tmp_path):
    """The waiting one says so before it waits, and enters only after the holder has left."""
    lock, waits, order = tmp_path / "x.lock", threading.Event(), []

    def second() -> None:
        with hold(lock, on_wait=waits.set):
            order.append("second")

    with hold(lock):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join(10)
    assert ["first", "second"] == order
    assert not lock.exists()


def test_many_take_turns(tmp_path):
    """Removing the lock's file at the end never lets two in at once."""
    lock, inside, most = tmp_path / "x.lock", [], []

    def enter() -> None:
        for _ in range(50):
            with hold(lock, on_wait=lambda: None):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [1] * 200 == most


def test_who_must_not_wait_is_refused(tmp_path):
    """Without on_wait a held lock is an error, not a wait."""
    with hold(tmp_path / "x.lock"), pytest.raises(CatalogError, match="another process"), hold(tmp_path / "x.lock"):
        pass


def test_a_folder_that_cannot_be_written_is_explained(tmp_path):
    """The message names the folder and the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="--models-dir"), hold(tmp_path / "file" / "x.lock"):
        pass
