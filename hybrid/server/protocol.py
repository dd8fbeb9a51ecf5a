"""What may one connection do to us? Deadlines and bounds that uvicorn lacks, on top of its HTTP protocol.

uvicorn bounds neither the time nor the size of a request's head, waits for ever on a client that does not read, and
answers malformed HTTP in plain text. Each method here closes one of these; `README.md` has the list.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from hybrid.errors import HybridError, InvalidRequest
from hybrid.server.errors import Overloaded, envelope, error_headers
from hybrid.server.exchange import WHOLE, HangUp, Reply

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds on one connection, and on how many there are.

    head_s: a request line and its headers must be complete this long after the connection opened or they began.
    head_bytes: and no larger than this.
    linger_s: how long the rest of a body is read and dropped after it was refused, so that the client sees why.
    write_stall_s: a client that takes less than about 1 KB/s off a full send buffer is cut off after this.
    max_connections: past this a request gets a 503; past twice this a connection is dropped.
    keep_alive_s: an idle connection is closed after this.
    drain_s: on shutdown running requests get this long to finish.
    """

    head_s: float = 10.0
    head_bytes: int = 64 * 1024
    linger_s: float = 5.0
    write_stall_s: float = 60.0
    max_connections: int = 512
    keep_alive_s: int = 75
    drain_s: float = 10.0


class HeadTooLarge(InvalidRequest):
    """The request line and headers are larger than we read."""

    status = 431


class JoinedWrites:
    """A transport that writes what comes in one turn of the event loop at once: mostly a head and its body.

    Each write is a system call and lets another thread take the interpreter meanwhile.
    """

    __slots__ = ("_loop", "_parts", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self.is_closing = transport.is_closing
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write soon, in order."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Close when all is written."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._parts.clear()
        self._transport.abort()

    def _flush(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(data)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with the limits applied."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._is_in_head = False
        self._is_in_body = False
        self._is_refusing = False
        self._closes_after_body = False
        self._head_bytes = 0
        self._heads_begun = 0
        self._read_deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection and start the clock on its first head."""
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))
        open_count = len(self.connections)
        if open_count > 2 * self._limits.max_connections:
            transport.abort()
            return
        if open_count > self._limits.max_connections:
            self._refuse_all(Overloaded(f"{open_count - 1} connections are open; try again"))
        self._set_read_deadline(self._limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and tell the running request: uvicorn tells only the last one that was pipelined."""
        self._clear_read_deadline()
        self._clear_write_deadline()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
            if (hang_up := HangUp.of(self._running.scope)) is not None:
                hang_up.happened()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; while a head is incomplete it is on the clock, and on the scales."""
        was_in_head, heads_begun = not self._is_in_body, self._heads_begun
        super().data_received(_without_upgrade(data) if was_in_head else data)
        if self._is_in_body or self.transport.is_closing():
            return
        if self._is_idle():
            self._head_bytes += len(data) if was_in_head else 0
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(self._head_too_large())
            elif self._read_deadline is None:
                self._set_read_deadline(self._limits.head_s)
        elif self._is_in_head and heads_begun == self._heads_begun:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                self.transport.abort()  # in the middle of an answer nothing else can be told

    def on_message_begin(self) -> None:
        """Note that a head began, perhaps behind a request that still runs."""
        self._is_in_head = True
        self._heads_begun += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, or refuse one whose head came in one piece and is too large."""
        self._clear_read_deadline()
        self._head_bytes, self._is_in_head, self._is_in_body = 0, False, True
        size_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size_bytes > self._limits.head_bytes:
            self.url = b"/"  # the parser takes no URL over 64 KiB
            self._refuse_all(self._head_too_large())
        super().on_headers_complete()
        if self._is_refusing or not self.cycle.keep_alive:
            # Closing with some of the body unread would reset the connection under the answer that refuses it.
            self.cycle.keep_alive, self._closes_after_body = True, True

    def on_message_complete(self) -> None:
        """The body is all here, read or dropped."""
        self._is_in_body = False
        self._clear_read_deadline()
        if self._closes_after_body:
            self._closes_after_body = False
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A refused body's rest may still come, and a head that began meanwhile, but not for ever."""
        super().on_response_complete()
        if not self.transport.is_closing() and (self._is_in_body or self._is_in_head):
            self._set_read_deadline(self._limits.linger_s if self._is_in_body else self._limits.head_s)

    def pause_writing(self) -> None:
        """The send buffer is full: the client has `write_stall_s` to read it down."""
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(self._limits.write_stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It did."""
        self._clear_write_deadline()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, and not wait for ever on one that has yet to read the end of its answer."""
        super().timeout_keep_alive_handler()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(self._limits.write_stall_s, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Malformed HTTP gets the envelope too."""
        self._refuse(InvalidRequest(f"malformed HTTP: {msg}", code="malformed_http"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        HangUp(self.flow.resume_reading, lambda: not cycle.more_body).put(cycle.scope)
        if cycle.scope["http_version"] == "1.0":
            app = _unchunked(app, cycle)
        app = _taking_whole(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade we do not offer is ignored, as HTTP wants; it is no event for the log."""

    def _refuse_all(self, error: HybridError) -> None:
        """Answer whatever comes on this connection with one error, and close it after."""
        self._is_refusing = True
        self.app = _refusing(error)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _head_too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"the request's headers are larger than {self._limits.head_bytes} bytes", code="head_too_large"
        )

    def _head_timed_out(self) -> None:
        self._read_deadline = None
        self.transport.close()

    def _refuse(self, error: HybridError) -> None:
        """Answer outside of any request, and close."""
        body = envelope(error)
        headers = [*error_headers(error), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"HTTP/1.1 %d Refused\r\n%s\r\n%s" % (error.status, lines, body))
        self.transport.close()

    def _set_read_deadline(self, delay_s: float) -> None:
        self._clear_read_deadline()
        self._read_deadline = self.loop.call_later(delay_s, self._head_timed_out)

    def _clear_read_deadline(self) -> None:
        if self._read_deadline is not None:
            self._read_deadline.cancel()
            self._read_deadline = None

    def _clear_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None


def _without_upgrade(data: bytes) -> bytes:
    """Hide an offer to upgrade that arrives in one piece with its head; the parser would drop the body after it.

    HTTP lets a server ignore the offer. Java's HttpClient makes it (to h2c) on every first request over plain HTTP.
    """
    head_bytes = data.find(b"\r\n\r\n")
    if _UPGRADE.search(data, 0, head_bytes if head_bytes >= 0 else len(data)) is None:
        return data
    head, body = (data, b"") if head_bytes < 0 else (data[:head_bytes], data[head_bytes:])
    return _UPGRADE.sub(b"\r\nx-upgrade-ignored:", head) + body


def _unchunked(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """Answer a client of HTTP/1.0, which knows no chunks: a body of unknown length ends with its connection.

    Source: RFC 9112, section 6.1.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_endless = False

        async def plain(message: Message) -> None:
            nonlocal is_endless
            if message["type"] == "http.response.start":
                is_endless = all(name != b"content-length" for name, _ in message["headers"])
                cycle.chunked_encoding = False if is_endless else None
            elif is_endless:
                cycle.expected_content_length = len(message["body"])  # or the cycle would count it as too long
            await send(message)

        await app(scope, receive, plain)

    return answer


def _taking_whole(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """Let the app send an answer in one message, `exchange.WHOLE`."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        def sent(message: Message) -> Awaitable[None]:
            return _send_whole(cycle, message) if message["type"] == WHOLE else send(message)

        await app(scope, receive, sent)

    return answer


async def _send_whole(cycle: RequestResponseCycle, message: Message) -> None:
    """Do what `RequestResponseCycle.send` does of the two messages that this one stands for.

    Raises: RuntimeError for a header with a line end in it.
    """
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    cycle.response_started, cycle.waiting_for_100_continue = True, False
    headers: list[tuple[bytes, bytes]] = [*cycle.default_headers, *message["headers"]]
    if not cycle.keep_alive:
        headers.append((b"connection", b"close"))
    head = b"\r\n".join([b": ".join(header) for header in headers])
    if head.count(b"\n") + head.count(b"\r") != 2 * (len(headers) - 1):
        raise RuntimeError("a header of an answer holds a line end")
    cycle.transport.write(b"%b%b\r\n\r\n%b" % (STATUS_LINE[message["status"]], head, message["body"]))
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def _refusing(error: HybridError) -> ASGIApp:
    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        await Reply(send).error(error)

    return refuse
