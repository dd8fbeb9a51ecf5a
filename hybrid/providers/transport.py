"""How do bytes get to a cloud and back? One HTTP client: its limits of time and size, its failures, its few retries."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx2

from hybrid.errors import ProviderError
from hybrid.providers.base import EventParser, Timeouts
from hybrid.providers.failures import Credential, Failures, Fault, retry_after_s
from hybrid.types import Event

T = TypeVar("T")
Blame = Literal["late_connection", "no_connection", "broke_off", "protocol"]

CONNECT_RETRIES = 2
BACKOFF_S = 0.1
"""Mean wait before the first retry; doubled for the second, and spread by half to either side."""

MAX_RESPONSE_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_CONNECTIONS = 256
DRAIN_S = 0.25
"""After the last event the end of the body is awaited this long, for the connection to be used again."""

BLAME: Mapping[type[Exception], Blame] = {
    httpx2.ConnectTimeout: "late_connection",
    httpx2.PoolTimeout: "late_connection",
    httpx2.ConnectError: "no_connection",
    httpx2.ProxyError: "no_connection",
    httpx2.UnsupportedProtocol: "no_connection",
    httpx2.InvalidURL: "no_connection",
    httpx2.ReadTimeout: "broke_off",
    httpx2.WriteTimeout: "broke_off",
    httpx2.TimeoutException: "broke_off",
    httpx2.ReadError: "broke_off",
    httpx2.WriteError: "broke_off",
    httpx2.CloseError: "broke_off",
    httpx2.NetworkError: "broke_off",
    # Mostly "server disconnected without sending a response": it went away, as with a reset.
    httpx2.RemoteProtocolError: "broke_off",
    httpx2.TransportError: "broke_off",
    httpx2.RequestError: "broke_off",
    httpx2.HTTPError: "broke_off",
    # Reading from a response that was closed beside us, as by aclose().
    httpx2.StreamConsumed: "broke_off",
    httpx2.StreamClosed: "broke_off",
    httpx2.ResponseNotRead: "broke_off",
    httpx2.RequestNotRead: "broke_off",
    httpx2.StreamError: "broke_off",
    httpx2.LocalProtocolError: "protocol",
    httpx2.ProtocolError: "protocol",
    httpx2.DecodingError: "protocol",
    httpx2.TooManyRedirects: "protocol",
    httpx2.HTTPStatusError: "protocol",
    httpx2.SSEError: "protocol",
    httpx2.CookieConflict: "protocol",
    # Not httpx2's, but seen through it: TLS and socket errors of a connection that dies while it is closed.
    OSError: "broke_off",
}
"""Every exception of the HTTP library, and what it says about the provider. The nearest class counts."""


@contextmanager
def translating(failures: Failures, timeouts: Timeouts) -> Iterator[None]:
    """Turn the HTTP library's exceptions into errors.Provider*. Ours and cancellation pass."""
    try:
        yield
    except tuple(BLAME) as exc:
        blame = next(BLAME[kind] for kind in type(exc).__mro__ if kind in BLAME)
        what = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        if blame == "late_connection":
            late = failures.timeout(f"no connection within connect_s = {timeouts.connect_s:g} s")
            raise failures.unsent(late) from exc
        if blame == "no_connection":
            raise failures.unsent(failures.unavailable(f"cannot be reached: {what}")) from exc
        if blame == "protocol":
            raise failures.protocol(what) from exc
        raise failures.unavailable(f"broke off: {what}") from exc


class Deadline:
    """Which of a call's limits runs out first, and what to say when it does."""

    __slots__ = ("_failures", "_first_s", "_phase", "_timeouts", "_total_at")

    def __init__(self, failures: Failures, timeouts: Timeouts, *, is_stream: bool) -> None:
        now = asyncio.get_running_loop().time()
        self._failures, self._timeouts = failures, timeouts
        self._total_at = now + timeouts.total_s
        # An answer fetched whole has no first token to wait for: it may be as long in coming as it may last.
        self._phase = ("first_token_s", timeouts.first_token_s, now + timeouts.first_token_s) if is_stream else None

    def heard(self) -> None:
        """Say that an event came and was taken: from now on the time between tokens counts."""
        if self._phase is not None:
            limit_s = self._timeouts.between_tokens_s
            self._phase = ("between_tokens_s", limit_s, asyncio.get_running_loop().time() + limit_s)

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Await within the nearest limit. Raises: ProviderTimeout, which names that limit and its value."""
        name, limit_s, at = "total_s", self._timeouts.total_s, self._total_at
        if self._phase is not None and self._phase[2] < at:
            name, limit_s, at = self._phase
        try:
            async with asyncio.timeout_at(at) as scope:
                return await awaitable
        except TimeoutError as exc:
            if not scope.expired():
                raise
            missed = "no end of the answer" if name == "total_s" else "no token"
            raise self._failures.timeout(f"{missed} within {name} = {limit_s:g} s") from exc


class Transport:
    """The one HTTP client of one provider: opened by the first call, shared by all, closed once.

    Redirects are not followed (the key would travel along), compressed answers are not asked for (they would be held
    back in the compressor, and can be bombs), and nothing is retried once a byte of a request may have left.
    """

    def __init__(
        self,
        provider: str,
        *,
        base_url: str,
        credential: Credential,
        timeouts: Timeouts,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        http_transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
        now_unix_s: Callable[[], float] = time.time,
    ) -> None:
        """Check the options; open nothing.

        base_url: its query, if it has one, is sent with every call.
        headers: sent with every call beside the key's.
        sleep, draw (uniform in [0, 1)), now_unix_s: the backoff's and Retry-After's world, given by tests.

        Raises: ValueError for a base URL that is not http(s), has no host, or carries a user name or password.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{provider}: base_url must begin with http:// or https:// and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"{provider}: base_url holds a user name or password; give the key by api_key_env")
        self._parts = parts
        self.failures = Failures(provider, credential)
        self._timeouts = timeouts
        self._headers = dict(headers or {})
        self._max_response_bytes = max_response_bytes
        self._http_transport = http_transport
        self._sleep, self._draw, self._now_unix_s = sleep, draw, now_unix_s
        self._client: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"Transport({self.failures.provider!r}, host={self._parts.hostname!r})"

    async def events(
        self,
        path: str,
        body: bytes,
        parser_for: Callable[[str], EventParser],
        *,
        is_stream: bool,
        on_sent: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[Event, None]:
        """POST `body` as JSON and yield what the parser makes of the answer, until it is finished.

        path: is put behind the base URL's; what follows a `?` in it goes into the query.
        parser_for: takes the answer's media type, lower case, without parameters.
        is_stream: whether the limits on the first and the next token apply.
        on_sent: called when the first byte of the request may have left.

        Raises: errors.Provider*.
        """
        deadline = Deadline(self.failures, self._timeouts, is_stream=is_stream)
        response = await self._post(path, body, deadline, on_sent)
        try:
            parser = await self._parser(response, parser_for, deadline)
            async with aclosing(response.aiter_raw()) as chunks:
                size_bytes, chunk = 0, b""
                while not parser.is_finished:
                    chunk = await self._next(chunks, deadline)
                    size_bytes += len(chunk)
                    self._check_size(size_bytes)
                    for event in parser.feed(chunk) if chunk else parser.close():
                        yield event
                        deadline.heard()
                    if parser.failure is not None:
                        raise parser.failure
                if chunk:
                    await self._drain(chunks)
        finally:
            # A connection that cannot be closed well is gone; that says nothing about the answer.
            with suppress(*BLAME):
                await response.aclose()

    async def aclose(self) -> None:
        """Close the client and its connections; a call in flight or after fails with ProviderUnavailable."""
        self._is_closed = True
        async with self._opening:
            client, self._client = self._client, None
        if client is not None:
            with suppress(*BLAME):
                await client.aclose()

    async def _post(self, path: str, body: bytes, deadline: Deadline, on_sent: Callable[[], None]) -> httpx2.Response:
        async def trace(event: str, _info: object) -> None:
            if event.endswith("send_request_headers.started"):
                on_sent()

        if self._http_transport is not None:
            on_sent()  # another transport may not tell, and what is unknown may have been billed
        loop = asyncio.get_running_loop()
        with translating(self.failures, self._timeouts):
            client = await deadline.wait(self._opened())
            request = client.build_request("POST", self._url(path), content=body, extensions={"trace": trace})
            connect_until_s = loop.time() + self._timeouts.connect_s
            for attempt in range(CONNECT_RETRIES):
                try:
                    return await deadline.wait(client.send(request, stream=True))
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    # No connection, so no byte of the request left: the one failure that cannot be paid for twice.
                    # But together the attempts keep to the limit that the configuration names.
                    if loop.time() >= connect_until_s:
                        raise
                    await deadline.wait(self._sleep(BACKOFF_S * 2**attempt * (0.5 + self._draw())))
            return await deadline.wait(client.send(request, stream=True))

    async def _parser(
        self, response: httpx2.Response, parser_for: Callable[[str], EventParser], deadline: Deadline
    ) -> EventParser:
        """Choose the parser of a 200. Raises: the error that fits any other answer."""
        if response.status_code != 200:
            raise await self._refusal(response, deadline)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self.failures.protocol("compressed its answer though it was asked not to")
        media_type = response.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media_type not in ("text/event-stream", "application/json"):
            raise self.failures.protocol(f"answered {media_type!r} where JSON or an event stream was expected")
        return parser_for(media_type)

    async def _refusal(self, response: httpx2.Response, deadline: Deadline) -> ProviderError:
        if response.status_code < 300:
            return self.failures.protocol(f"answered HTTP {response.status_code}, which has no answer in it")
        wait_s = retry_after_s(response.headers, now_unix_s=self._now_unix_s())
        if 300 <= response.status_code < 400:
            host = urlsplit(response.headers.get("location", "")).netloc or "elsewhere"
            fault = Fault(f"it redirects to {host}; set base_url to where the API is")
            return self.failures.from_status(response.status_code, fault, wait_s)
        body = b""
        async with aclosing(response.aiter_raw()) as chunks:
            while len(body) < MAX_ERROR_BYTES and (chunk := await self._next(chunks, deadline)):
                body += chunk
        return self.failures.from_status(response.status_code, Fault.from_body(body[:MAX_ERROR_BYTES]), wait_s)

    async def _next(self, chunks: AsyncGenerator[bytes, None], deadline: Deadline) -> bytes:
        """Await the next bytes; none are the end. The library's chunks are never empty."""
        with translating(self.failures, self._timeouts):
            return await deadline.wait(anext(chunks, b""))

    async def _drain(self, chunks: AsyncGenerator[bytes, None]) -> None:
        """Read to the end of the body, else the connection must be closed. Nothing here can spoil the answer."""
        with suppress(*BLAME):
            async with asyncio.timeout(DRAIN_S):
                async for _ in chunks:
                    pass

    async def _opened(self) -> httpx2.AsyncClient:
        async with self._opening:
            if self._is_closed:
                raise self.failures.unsent(self.failures.unavailable("its connections were closed: we shut down"))
            if self._client is None:
                # Loading the certificate store takes some 80 ms, too long for the loop that serves everyone.
                self._client = await asyncio.to_thread(self._new_client)
            return self._client

    def _new_client(self) -> httpx2.AsyncClient:
        connect_s = self._timeouts.connect_s
        agent = {"accept-encoding": "identity", "content-type": "application/json", "user-agent": "hybrid"}
        return httpx2.AsyncClient(
            headers=agent | self._headers | self.failures.credential.headers(),
            # Reading and writing are bounded by Deadline, which knows what an event is.
            timeout=httpx2.Timeout(None, connect=connect_s, pool=connect_s),
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS // 4),
            follow_redirects=False,
            # Plain HTTP has no certificates to check; loading the store for it would cost 3 MB and 80 ms.
            verify=self._parts.scheme == "https",
            transport=self._http_transport,
        )

    def _url(self, path: str) -> str:
        path, _, query = path.partition("?")
        query = "&".join(filter(None, (self._parts.query, query)))
        return urlunsplit(self._parts._replace(path=self._parts.path.rstrip("/") + path, query=query, fragment=""))

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_response_bytes:
            raise self.failures.protocol(f"sent more than {self._max_response_bytes} bytes")
