"""Are all connections accepted that wait, whatever the loop is busy with, and none any more after the end?"""

from __future__ import annotations

import asyncio
import errno
import socket

from hybrid.server import accepting
from hybrid.server.accepting import Acceptor
from hybrid.server.run import bind, run_loop

COUNT = 40


class Greeter(asyncio.Protocol):
    """Says hello and closes."""

    def connection_made(self, transport):
        transport.write(b"hello")
        transport.close()


class Crowded(socket.socket):
    """A listening socket for which the system has no room a few times."""

    refusals = 0

    def accept(self):
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def client(address):
    """A connection that waits in the backlog."""
    return socket.create_connection(address, timeout=10)


def test_all_that_wait_are_accepted_in_one_turn():
    """Forty connections, two turns of the loop: one that accepts them, one in which each has its protocol."""
    [listening] = bind("127.0.0.1", 0)
    clients = [client(listening.getsockname()) for _ in range(COUNT)]
    made = []

    async def serve():
        def make():
            made.append(Greeter())
            return made[-1]

        acceptor = Acceptor(listening, make)
        for _ in range(6):
            await asyncio.sleep(0)
        while len(made) < COUNT:  # noqa: ASYNC110 - the test's time limit bounds it
            await asyncio.sleep(0.001)
        answers = [await asyncio.to_thread(one.recv, 5) for one in clients]
        acceptor.close()
        acceptor.close()
        return answers

    assert [b"hello"] * COUNT == run_loop(serve())
    for one in (*clients, listening):
        one.close()


def test_at_most_so_many_at_once(monkeypatch):
    """What is left waits for the loop's next turn, and has it."""
    monkeypatch.setattr(accepting, "AT_ONCE", 3)
    test_all_that_wait_are_accepted_in_one_turn()


def test_without_room_it_pauses_and_goes_on(monkeypatch, caplog):
    """No file is free: that is logged once a pause, the loop is not kept busy, and then the connection is taken."""
    monkeypatch.setattr(accepting, "PAUSE_S", 0.05)
    listening = Crowded(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)
    listening.refusals = 2
    waiting = client(listening.getsockname())

    async def serve():
        acceptor = Acceptor(listening, Greeter)
        try:
            return await asyncio.to_thread(waiting.recv, 5)
        finally:
            acceptor.close()

    assert b"hello" == run_loop(serve())
    assert 2 == caplog.text.count("no connection is accepted for 0.05 s")
    waiting.close()
    listening.close()


def test_after_the_end_none_is_accepted():
    """A closed acceptor leaves connections to the socket's owner, also one that pauses."""
    [listening] = bind("127.0.0.1", 0)

    async def serve():
        made = []
        Acceptor(listening, lambda: made.append(1) or Greeter()).close()
        waiting = client(listening.getsockname())
        await asyncio.sleep(0.05)
        waiting.close()
        return made

    assert [] == run_loop(serve())
    listening.close()


def test_what_was_accepted_a_moment_before_the_end_is_closed():
    """Nobody else would close it: whoever ends the server looks through the connections that it knows."""
    [listening] = bind("127.0.0.1", 0)
    waiting = client(listening.getsockname())

    async def serve():
        acceptor = Acceptor(listening, asyncio.Protocol)
        while not acceptor._joining:  # noqa: ASYNC110 - the test's time limit bounds it
            await asyncio.sleep(0)
        acceptor.close()
        return await asyncio.to_thread(waiting.recv, 1)

    assert b"" == run_loop(serve())
    waiting.close()
    listening.close()
