"""Does one alarm break off what takes too long, by the limit that ran out, and nothing else?"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hybrid.errors import ProviderTimeout
from hybrid.providers.base import Timeouts
from hybrid.providers.deadline import Deadline
from hybrid.providers.failures import Failures
from hybrid.providers.keys import Credential, KeyRing

TIMEOUTS = Timeouts(first_token_s=0.05, between_tokens_s=0.05, total_s=10.0)


def deadline(*, is_stream=True, **changed):
    """One whose call begins now."""
    failures = Failures("c", KeyRing([Credential("sk-of-a-test")]))
    return Deadline(failures, replace(TIMEOUTS, **changed), is_stream=is_stream)


@pytest.mark.parametrize(
    ("is_stream", "changed", "said"),
    [
        (True, {}, "no token within first_token_s = 0.05 s"),
        (False, {"total_s": 0.05}, "no end of the answer within total_s = 0.05 s"),
        (True, {"first_token_s": 9.0, "total_s": 0.05}, "no end of the answer within total_s = 0.05 s"),
    ],
)
def test_the_nearest_limit_is_told(is_stream, changed, said):
    """By name and value."""

    async def scenario():
        await deadline(is_stream=is_stream, **changed).wait(asyncio.Event().wait())

    with pytest.raises(ProviderTimeout, match=said):
        asyncio.run(scenario())


def test_a_limit_that_moves_on_is_watched_further():
    """Five waits, each shorter than the limit and all together longer; the sixth is too long."""

    async def scenario():
        watched = deadline(first_token_s=1.0, between_tokens_s=1.0)
        for _ in range(5):
            await watched.wait(asyncio.sleep(0.3))
            watched.heard()
        with pytest.raises(ProviderTimeout, match="between_tokens_s"):
            await watched.wait(asyncio.Event().wait())

    asyncio.run(scenario())


def test_a_limit_that_comes_nearer_is_kept():
    """The first token may take long, the second not: the alarm that was set for the first is too late."""

    async def scenario():
        loop = asyncio.get_running_loop()
        watched = deadline(first_token_s=30.0)
        await watched.wait(asyncio.sleep(0))
        watched.heard()
        began_s = loop.time()
        with pytest.raises(ProviderTimeout, match="between_tokens_s"):
            await watched.wait(asyncio.Event().wait())
        return loop.time() - began_s

    assert asyncio.run(scenario()) < 5


def test_nothing_is_broken_off_while_nobody_waits():
    """Whoever takes the events may be slow, and what comes after has its own time."""

    async def scenario():
        watched = deadline(first_token_s=0.5, between_tokens_s=0.5)
        await watched.wait(asyncio.sleep(0))
        await asyncio.sleep(0.7)
        watched.heard()
        await watched.wait(asyncio.sleep(0.01))
        watched.close()
        await asyncio.sleep(0.7)

    asyncio.run(scenario())


@pytest.mark.parametrize("has_rung", [False, True])
def test_somebody_elses_cancellation_stays_one(has_rung):
    """Before the limit or in the same turn of the loop: the task is cancelled, not told of a timeout."""

    async def scenario():
        watched = deadline(first_token_s=0.02)
        task = asyncio.ensure_future(watched.wait(asyncio.Event().wait()))
        await asyncio.sleep(0)
        if has_rung:
            watched._ring_now()
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled()

    assert asyncio.run(scenario())


def test_a_timeout_leaves_no_cancellation_behind():
    """What awaits next in the same task goes on."""

    async def scenario():
        task = asyncio.current_task()
        with pytest.raises(ProviderTimeout):
            await deadline().wait(asyncio.Event().wait())
        assert 0 == task.cancelling()
        async with asyncio.timeout(5):
            await asyncio.sleep(0)

    asyncio.run(scenario())
