"""How do connections come in? All that wait at once: a loop that takes one at each of its turns keeps the others out.

libuv, under uvloop, accepts one connection a turn. Where a turn is long, because many requests are served in it, the
last of 64 that came together waited a second.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

_LOG = logging.getLogger(__name__)

AT_ONCE = 256
"""So many are accepted in one turn of the loop."""
PAUSE_S = 1.0
"""How long none is accepted after one could not be: mostly too many files are open."""


class Acceptor:
    """Accepts what comes on a listening socket, and gives each connection to a protocol of its own. Runs at once."""

    def __init__(self, sock: socket.socket, make_protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._sock, self._make_protocol = sock, make_protocol
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._joining: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._listen()

    def close(self) -> None:
        """Accept no more, and close what was just accepted; the socket is the caller's to close."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._sock)
            if self._pause is not None:
                self._pause.cancel()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                _LOG.error("no connection is accepted for %g s: %s", PAUSE_S, exc)
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(PAUSE_S, self._listen)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._join(connection), name="accept")
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    async def _join(self, connection: socket.socket) -> None:
        if self._is_closed:
            connection.close()
            return
        try:
            transport, _ = await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()  # it went away before anything was read
            return
        if self._is_closed:
            transport.close()
