"""Is every name new, whoever asks for it and wherever?"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

from hybrid.ids import TIME_DIGITS, new_id


def ids(count):
    """So many of them."""
    return [new_id("x_", 12) for _ in range(count)]


def test_they_have_their_prefix_and_length():
    """Two hex digits a byte, of any number of bytes, after those of the time."""
    assert [2 + TIME_DIGITS + 24, 4 + TIME_DIGITS + 32] == [len(new_id("x_")), len(new_id("rsv_", 16))]
    assert new_id("x_").startswith("x_")
    assert set(new_id("")) <= set("0123456789abcdef")


def test_they_sort_by_time():
    """As an index keeps them: those of now lie behind all of earlier, so few pages change."""
    first = new_id("x_")
    time.sleep(0.002)
    assert first < new_id("x_")
    assert abs(int(first[2:][:TIME_DIGITS], 16) - time.time() * 1000) < 60_000


def test_threads_get_different_ones():
    """Over many readings of the system's source."""
    with ThreadPoolExecutor(8) as pool:
        made = [one for part in pool.map(ids, [2000] * 8) for one in part]
    assert len(made) == len(set(made))


def test_a_forked_process_does_not_go_on_with_the_same_ones():
    """What was read before the fork is the parent's."""
    new_id("x_")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        theirs = pool.apply(ids, (5,))
    assert not set(theirs) & set(ids(5))
