"""How does one HTTP exchange go? The body is read within limits, the answer written, and a hang-up stops everything."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from hybrid.errors import HybridError, InvalidRequest, RequestTooLarge
from hybrid.server.errors import BodyTimeout, ShuttingDown, UnsupportedMedia, envelope, error_headers
from hybrid.server.gateway import ServerOptions

_LOG = logging.getLogger(__name__)
_SCOPE_KEY = "hybrid.exchange"
_HANG_UP_KEY = "hybrid.hang_up"
_JSON_CHARSETS = (b"", b"charset=utf-8", b'charset="utf-8"')

WHOLE = "hybrid.response.whole"
"""An ASGI message of ours: a status, headers and the whole body. Only a connection that attaches a `HangUp` takes it.

uvicorn asks of each header whether it is well-formed and what it means; of ours all that is known.
"""

WRITES_A_TURN = 8
"""How many events that are there at once are written before others get a turn."""

Headers = Sequence[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client hung up; nothing is to be sent."""


@dataclass(slots=True)
class Exchange:
    """What the guards know of a request, for the route behind them. Lives in the ASGI scope.

    arrived_s: when its head was read, by `time.monotonic()`.
    client_key: name of the key it came with, None where none is required.
    """

    arrived_s: float
    client_key: str | None = None

    def put(self, scope: Scope) -> None:
        """Attach it to the request."""
        scope[_SCOPE_KEY] = self

    @staticmethod
    def is_in(scope: Scope) -> bool:
        """Whether a guard further out attached one."""
        return _SCOPE_KEY in scope

    @staticmethod
    def of(scope: Scope) -> Exchange:
        """The exchange that the outermost guard attached."""
        exchange = scope[_SCOPE_KEY]
        assert isinstance(exchange, Exchange)
        return exchange


class HangUp:
    """Tells whoever serves a request the moment its client is gone. The connection puts one into the ASGI scope.

    ASGI's own way, to await `receive` beside the work, takes two tasks more for each request.
    """

    __slots__ = ("_serving", "has_body", "has_happened", "reads_on")

    def __init__(self, reads_on: Callable[[], None], has_body: Callable[[], bool]) -> None:
        """`reads_on`: has the connection read again if it stopped for its buffer; a hang-up is seen only by reading.

        `has_body`: whether the connection has all of the request's body, so that `receive` waits for nothing.
        """
        self.reads_on, self.has_body = reads_on, has_body
        self.has_happened = False
        self._serving: asyncio.Task[Any] | None = None

    def put(self, scope: Any) -> None:
        """Attach it to the request: to its ASGI scope, whichever of the types for one it has."""
        scope[_HANG_UP_KEY] = self

    @staticmethod
    def of(scope: Any) -> HangUp | None:
        """The one that the connection attached, if it is one of ours."""
        hang_up: HangUp | None = scope.get(_HANG_UP_KEY)
        return hang_up

    def happened(self) -> None:
        """Cancel what serves the client."""
        self.has_happened = True
        if self._serving is not None:
            self._serving.cancel()

    def cancels(self, serving: asyncio.Task[Any] | None) -> None:
        """Cancel this task when it happens, at once if it did; None: no task any more."""
        self._serving = serving
        if serving is not None and self.has_happened:
            serving.cancel()


class Reply:
    """One answer on its way out. Knows how far it got, so that a failure is told in the form that is left."""

    __slots__ = ("_send", "_takes_whole", "_writes", "is_finished", "is_started", "last_write_s")

    def __init__(self, send: Send, scope: Scope | None = None) -> None:
        """scope: of the request, for an answer that is not to HEAD and has a body and no connection headers."""
        self._send = send
        self._takes_whole = scope is not None and HangUp.of(scope) is not None
        self.is_started = False
        self.is_finished = False
        self.last_write_s = 0.0
        self._writes = 0

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete response."""
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        if self._takes_whole:
            self.is_started = self.is_finished = True
            await self._send({"type": WHOLE, "status": status, "headers": headers, "body": body})
            return
        await self.start(status, headers)
        await self.finish(body)

    async def start(self, status: int, headers: Headers) -> None:
        """Send the status and the headers."""
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self.last_write_s = time.monotonic()

    async def write(self, data: bytes) -> None:
        """Send some of the body. Returns when the connection took it, which a slow reader delays."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        # Neither that nor the next event need to wait for anything, and then nobody else would get a turn, not even
        # the one who tells of the hang-up. What is written within a turn leaves together.
        self._writes += 1
        if self._writes % WRITES_A_TURN == 0:
            await asyncio.sleep(0)
        self.last_write_s = time.monotonic()

    async def finish(self, data: bytes = b"") -> None:
        """Send the last of the body."""
        self.is_finished = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def error(self, error: HybridError) -> None:
        """Send an error as the whole response."""
        await self.whole(error.status, error_headers(error), envelope(error))


async def read_json_body(scope: Scope, receive: Receive, options: ServerOptions) -> bytes:
    """Read a request body that claims to be JSON, within the size and time limits.

    Requiring the content type also keeps foreign web pages out: a browser cannot send it across origins without a
    preflight, which we do not answer.

    Raises: UnsupportedMedia, RequestTooLarge, BodyTimeout, InvalidRequest; ClientGone if it hung up half-way.
    """
    _check_content_type(scope["headers"])
    _check_length(scope["headers"], options.max_body_bytes)
    hang_up = HangUp.of(scope)
    if hang_up is not None and hang_up.has_body():
        return await _read(receive, options.max_body_bytes)
    try:
        async with asyncio.timeout(options.body_deadline_s):
            return await _read(receive, options.max_body_bytes)
    except TimeoutError as exc:
        raise BodyTimeout(f"the body did not arrive within {options.body_deadline_s:g} s") from exc


async def until_gone(scope: Scope, receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and cancel it and wait for its clean-up the moment the client hangs up.

    Call it when the body was read: what `receive` yields from then on is the hang-up.

    Raises: ClientGone; ShuttingDown if the server took the request back; whatever `work` raises.
    """
    hang_up = HangUp.of(scope)
    if hang_up is None:
        await _until_received(receive, work)
        return
    hang_up.reads_on()
    task = asyncio.current_task()
    assert task is not None
    try:
        hang_up.cancels(task)
        try:
            await work
        finally:
            hang_up.cancels(None)
    except asyncio.CancelledError as exc:
        if not hang_up.has_happened:
            raise _taken_back() from exc
        task.uncancel()
        raise ClientGone from exc
    except Exception as exc:
        if not hang_up.has_happened:
            raise
        _log_failed_clean_up(exc)
        raise ClientGone from exc


async def _until_received(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """`until_gone` behind a server that tells of a hang-up by ASGI alone."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        await _cancelled(task)
        raise ClientGone
    except asyncio.CancelledError as exc:
        await _cancelled(task)
        raise _taken_back() from exc
    finally:
        watcher.cancel()


def _taken_back() -> ShuttingDown:
    """What is said of a cancelled request: only the server cancels one, when its time to drain is over."""
    return ShuttingDown("the server is shutting down; send the request again")


class Pinging:
    """Sends `ping` whenever `ping_s` passed without a write, so that proxies keep a quiet stream open.

    A timer and not a task: most streams are never quiet for so long.
    """

    def __init__(self, reply: Reply, ping: bytes, ping_s: float | None) -> None:
        """`ping_s`: None: never."""
        self._reply, self._ping, self._ping_s = reply, ping, ping_s
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        if self._ping_s is not None:
            self._timer = asyncio.get_running_loop().call_later(self._ping_s, self._look, self._ping_s)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            self._writing.cancel()

    def _look(self, ping_s: float) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._reply.last_write_s + ping_s - time.monotonic()
        if left_s <= 0 and (self._writing is None or self._writing.done()):
            self._writing = loop.create_task(self._reply.write(self._ping))
        self._timer = loop.call_later(left_s if left_s > 0 else ping_s, self._look, ping_s)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled() and (error := task.exception()) is not None:
        _log_failed_clean_up(error)


def _log_failed_clean_up(error: BaseException) -> None:
    if not isinstance(error, HybridError):
        _LOG.error("a request failed while it was being cancelled", exc_info=error)


async def _read(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        size_bytes += len(part)
        if size_bytes > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _check_content_type(headers: Headers) -> None:
    types = [value for name, value in headers if name == b"content-type"]
    if types != [b"application/json"]:
        kind, _, charset = types[0].lower().replace(b" ", b"").partition(b";") if len(types) == 1 else (b"", b"", b"")
        if kind != b"application/json" or charset not in _JSON_CHARSETS:
            raise UnsupportedMedia("send the body as UTF-8 JSON with the header content-type: application/json")
    encodings = [value.lower() for name, value in headers if name == b"content-encoding"]
    if any(encoding not in (b"", b"identity") for encoding in encodings):
        raise UnsupportedMedia("send the body without a content-encoding: compressed bodies are not taken")


def _check_length(headers: Headers, max_bytes: int) -> None:
    for name, value in headers:
        if name != b"content-length":
            continue
        if not value.isdigit():
            raise InvalidRequest("content-length is not a number", param="content-length")
        if len(value) > 18 or int(value) > max_bytes:
            raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body is larger than the {max_bytes} bytes this server reads (server.max_body_bytes)")
