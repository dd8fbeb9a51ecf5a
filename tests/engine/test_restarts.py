"""A worker that has many prompts in line is none that is stuck."""

import asyncio

import pytest

from hybrid.engine.restarts import PromptLine

LIMIT_S = 0.4


async def waiting(line: PromptLine, *, takes: int) -> str:
    """Wait behind so many other prompts, each of which takes half the limit."""
    inbox: asyncio.Queue[str] = asyncio.Queue()
    answer = asyncio.create_task(line.wait(inbox))
    for _ in range(takes):
        await asyncio.sleep(line.limit_s / 2)
        line.took()
    inbox.put_nowait("taken")
    return await answer


def test_one_that_takes_others_first_is_waited_for():
    assert "taken" == asyncio.run(waiting(PromptLine(LIMIT_S), takes=5))


def test_one_that_takes_none_is_stuck():
    async def scenario():
        line = PromptLine(LIMIT_S)
        line.took()
        await asyncio.sleep(LIMIT_S)
        await line.wait(asyncio.Queue())

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(scenario(), timeout=60))


def test_what_was_taken_before_it_came_says_nothing_of_it():
    """It has the whole limit from its own arrival on, after a long quiet too."""
    line = PromptLine(LIMIT_S)

    async def scenario():
        line.took()
        await asyncio.sleep(LIMIT_S * 2)
        return await waiting(line, takes=1)

    assert "taken" == asyncio.run(scenario())


def test_an_answer_that_came_at_the_limit_is_not_lost():
    async def scenario():
        inbox: asyncio.Queue[str] = asyncio.Queue()
        inbox.put_nowait("taken")
        return await PromptLine(0.0).wait(inbox)

    assert "taken" == asyncio.run(scenario())
