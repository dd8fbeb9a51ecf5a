"""How is the server started and stopped? The socket is bound first, then served until a signal, then drained."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, TypeVar, cast

import uvicorn
from starlette.types import ASGIApp

from hybrid.errors import CommandError
from hybrid.server.accepting import Acceptor
from hybrid.server.protocol import ConnectionLimits, GuardedProtocol

T = TypeVar("T")
OnReady = Callable[[str, int], None]

_BACKLOG = 1024
_YOUNG_OBJECTS = 20_000
_SWITCH_S = 0.001
_CLEAN_UP_S = 10.0
_FLUSH_S = 1.0
_POLL_S = 0.005


def bind(host: str, port: int) -> list[socket.socket]:
    """Take the address before anything slow is started; port 0 takes any free one.

    Returns: one listening socket for each address of `host`, all on one port. Pass them to `serve`, or close them.
    Raises: CommandError saying what to change.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in sorted(set(found), key=lambda entry: entry[0]):
            bound_port = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_listen(family, (address[0], bound_port, *address[2:])))
    except (OSError, OverflowError) as exc:
        for bound in sockets:
            bound.close()
        raise _cannot_bind(host, port, exc) from exc
    return sockets


async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    on_ready: OnReady,
    sockets: list[socket.socket] | None = None,
    limits: ConnectionLimits | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM or cancellation, then let running requests finish within `limits.drain_s`.

    Args:
        on_ready: called once with the host and the real port when requests are accepted.
        sockets: from `bind`, where it was called ahead of time; `host` and `port` are then only repeated.
    Raises: CommandError if the address cannot be bound.
    """
    limits = limits or ConnectionLimits()
    listening = bind(host, port) if sockets is None else sockets
    real_port: int = listening[0].getsockname()[1]
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", partial(GuardedProtocol, limits=limits)),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
    )
    server = _Server(config, limits, partial(on_ready, host, real_port))
    serving = asyncio.ensure_future(server.serve(sockets=listening))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.handle_exit(signal.SIGTERM, None)
        await serving
        raise
    finally:
        for bound in listening:
            bound.close()


def share_interpreter() -> None:
    """Have the interpreter change between threads as a server needs it. For a process that does nothing but serve.

    The ledger's thread gives the interpreter up at each statement, and waits for it while the event loop is busy: by
    Python's own setting 5 ms each time, and with it waits who waits for the ledger.
    """
    sys.setswitchinterval(_SWITCH_S)


def settle_collector() -> None:
    """Have garbage collected as a server needs it: what was loaded to start stays, and what a request leaves is little.

    For a process that does nothing but serve; call it once, when everything is loaded.

    Python's own settings look at the young objects after every 700 new ones, several times a request, and at all of
    the program again and again, which stops everybody for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where it is installed: it is about twice as fast."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


class _Server(uvicorn.Server):
    """uvicorn, but a signal only drains: the process is the caller's to end, after it closed what is behind the app.

    Its own loops also sleep a tenth of a second at a time; these wake when there is something to do.
    """

    def __init__(self, config: uvicorn.Config, limits: ConnectionLimits, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._limits = limits
        self._on_ready = on_ready
        self._is_stopping = asyncio.Event()
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # it listens on none: connections come in by `accepting`
        self._acceptors = [Acceptor(sock, self._protocol) for sock in sockets or ()]
        self._on_ready()

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = cast("Any", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # once a second: the date header
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), timeout=1.0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._is_stopping.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, let requests finish, cancel what still runs, and wait for its clean-up and last words."""
        for acceptor in self._acceptors:
            acceptor.close()
        for sock in sockets or ():
            sock.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._quiet(self._limits.drain_s)
        if tasks := set(self.server_state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CLEAN_UP_S)
        await self._quiet(_FLUSH_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _quiet(self, limit_s: float) -> None:
        """Wait until every request is answered and its connection flushed; a second SIGINT does not."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + limit_s
        while (self.server_state.tasks or self.server_state.connections) and loop.time() < end_s:
            if self.force_exit:
                return
            await asyncio.sleep(_POLL_S)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain on SIGINT and SIGTERM. Nothing is raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def _listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)  # now, not when serving starts: a second process must fail here
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _cannot_bind(host: str, port: int, exc: OSError | OverflowError) -> CommandError:
    code = exc.errno if isinstance(exc, OSError) else None
    if code == errno.EADDRINUSE:
        return CommandError(f"port {port} is taken: something (perhaps another hybrid) listens on it; use --port")
    if code == errno.EACCES:
        return CommandError(f"port {port} needs privileges this process lacks; use --port with 1024 or more")
    if isinstance(exc, OverflowError) or not 0 <= port <= 65535:
        return CommandError(f"port {port} is not a port; use --port with 0 to 65535")
    return CommandError(f"cannot listen on {host}: {exc}; use --host with an address of this machine")
