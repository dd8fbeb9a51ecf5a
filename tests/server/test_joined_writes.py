"""Does what is written in one turn of the event loop leave at once, in order, and whole before a close?"""

from __future__ import annotations

import asyncio

from hybrid.server.protocol import JoinedWrites


class Transport:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def write(self, data):
        self.told.append(data)

    def close(self):
        self.told.append("closed")

    def abort(self):
        self.told.append("aborted")

    def is_closing(self):
        return "closed" in self.told


def told(scenario):
    """What the transport was told in a scenario that gets the joined one."""

    async def run():
        transport = Transport()
        await scenario(JoinedWrites(transport, asyncio.get_running_loop()))
        return transport.told

    return asyncio.run(run())


def test_a_turn_is_one_write():
    """A head and its body leave together; what comes in the next turn leaves by itself."""

    async def scenario(joined):
        joined.write(b"head ")
        joined.write(b"body")
        await asyncio.sleep(0)
        joined.write(b"more")
        await asyncio.sleep(0)

    assert [b"head body", b"more"] == told(scenario)


def test_a_close_writes_first():
    """Nothing that was written is lost, and nothing is written after."""

    async def scenario(joined):
        joined.write(b"last ")
        joined.write(b"words")
        joined.close()
        assert joined.is_closing()
        await asyncio.sleep(0)

    assert [b"last words", "closed"] == told(scenario)


def test_an_abort_drops_what_waits():
    """The client is to get nothing more."""

    async def scenario(joined):
        joined.write(b"too late")
        joined.abort()
        await asyncio.sleep(0)

    assert ["aborted"] == told(scenario)
