"""Is a recent figure used while it is plenty and fresh, and read anew in every other case?"""

from __future__ import annotations

import asyncio

import pytest

from hybrid.errors import StoreError
from hybrid.glance import MAX_KEPT, Glances


class World:
    """A figure that changes with each reading, and a clock that moves when it is told to."""

    def __init__(self):
        self.now_s, self.readings = 0.0, 0
        self.glances = Glances(fresh_s=1.0, max_age_s=2.0, now_s=lambda: self.now_s)

    def look(self, of="a", *, is_plenty=True):
        async def read():
            self.readings += 1
            return self.readings

        return asyncio.run(self.glances.look(of, read, is_plenty=lambda _: is_plenty))


def test_a_fresh_figure_that_is_plenty_is_not_read_again():
    """Until it is too old."""
    world = World()
    seen = [world.look(), world.look()]
    world.now_s = 0.9
    seen.append(world.look())
    world.now_s = 2.0
    assert [1, 1, 1, 2] == [*seen, world.look()]


async def read_behind(*, fails=False):
    """Look, and three times more when the figure is not fresh and yet not old; give what was seen, and readings."""
    now_s, readings, goes_on = 0.0, 0, asyncio.Event()

    async def read():
        nonlocal readings
        readings += 1
        number = readings
        if number > 1:
            await goes_on.wait()
            if fails and number == 2:
                raise StoreError("the disk is gone")
        return number

    glances = Glances(fresh_s=1.0, max_age_s=2.0, now_s=lambda: now_s)

    def look():
        return glances.look("a", read, is_plenty=lambda _: True)

    seen = [await look()]
    now_s = 1.5
    seen += [await look() for _ in range(3)]
    await asyncio.sleep(0)
    at_once = readings
    goes_on.set()
    for _ in range(3):
        await asyncio.sleep(0)
    return [*seen, await look()], at_once


def test_a_figure_that_is_no_longer_fresh_is_read_again_behind_those_who_see_it():
    """They get the one that is there and wait for nothing, and however many they are it is read once."""
    assert ([1, 1, 1, 1, 2], 2) == asyncio.run(read_behind())


def test_a_reading_that_fails_behind_them_is_made_again_by_who_comes_next():
    """That one is told if it fails again."""
    assert ([1, 1, 1, 1, 3], 2) == asyncio.run(read_behind(fails=True))


def test_a_figure_that_is_near_to_deciding_is_read_each_time():
    """The last dollar is counted, not remembered."""
    world = World()
    assert [1, 2, 3] == [world.look(is_plenty=False) for _ in range(3)]


def test_each_thing_has_its_own_figure():
    """One client's plenty is not another's."""
    world = World()
    assert [1, 2, 1] == [world.look("a"), world.look("b"), world.look("a")]


def test_a_failed_reading_is_no_figure():
    """It is raised, and the next look reads."""
    world = World()

    async def fail():
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - the one above
        asyncio.run(world.glances.look("a", fail, is_plenty=lambda _: True))
    assert 1 == world.look()


def test_what_is_kept_is_bounded():
    """However many clients there are."""
    world = World()
    for number in range(MAX_KEPT * 3):
        world.look(number)
    assert len(world.glances._seen) <= MAX_KEPT
