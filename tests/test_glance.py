"""Is a recent figure used while it is plenty and fresh, and read anew in every other case?"""

from __future__ import annotations

import asyncio

import pytest

from hybrid.glance import MAX_KEPT, Glances


class World:
    """A figure that changes with each reading, and a clock that moves when it is told to."""

    def __init__(self):
        self.now_s, self.readings = 0.0, 0
        self.glances = Glances(max_age_s=1.0, now_s=lambda: self.now_s)

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
    world.now_s = 1.0
    assert [1, 1, 1, 2] == [*seen, world.look()]


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
