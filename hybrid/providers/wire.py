"""How do bytes get to a cloud and back? One pooled HTTP/1.1 client, and what its errors say about the other side.

aiohttp, not httpx2: a call takes it a sixth of the processor's time, and its pool does not slow down with the number of
connections. HTTP/2 it does not speak, and little is lost: connections are kept, their number is no concern at a
gateway's size, and on a shared one a lost packet would hold up every answer.

Of aiohttp its pool and its parser are used, and not its session, request and response: half of what a call took went
into cookies, redirects, middlewares, bodies of every kind, and a task for each body. What stands below them has names
without an underscore but no documentation: `TCPConnector.connect`, `ResponseHandler.set_response_params`, `read` and
`writing_paused`, `StreamReader.on_eof`. `tests/providers/test_wire.py` holds what is sent to what a session sends.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from hybrid.errors import ProviderError
from hybrid.providers.failures import Failures

Blame = Literal["late_connection", "no_connection", "broke_off", "protocol"]

KEEP_ALIVE_S = 30.0
"""How long an idle connection is kept. Servers close theirs after 5 s to 10 minutes; what they closed is not used."""

BLAME: Mapping[type[Exception], Blame] = {
    aiohttp.ConnectionTimeoutError: "late_connection",
    # Raised by nothing but the making of a connection: no byte of a request has left.
    aiohttp.ClientConnectorError: "no_connection",
    aiohttp.ClientHttpProxyError: "no_connection",
    aiohttp.ServerFingerprintMismatch: "no_connection",
    aiohttp.ClientSSLError: "no_connection",
    aiohttp.InvalidURL: "no_connection",
    aiohttp.NonHttpUrlClientError: "no_connection",
    # Mostly "server disconnected": it went away, as with a reset. Also what was closed beside us, as by aclose().
    aiohttp.ClientError: "broke_off",
    aiohttp.ClientResponseError: "protocol",
    HttpProcessingError: "protocol",
    # Seen through the library: TLS and socket errors of a connection that dies while it is used or closed.
    OSError: "broke_off",
}
"""The families of the HTTP library's exceptions, and what each says about the provider. The nearest class counts."""

WHOLE_WRITE_BYTES = 64 * 1024
"""A request up to here is copied into one piece: cheaper than to write its head and its body."""


class translating:  # noqa: N801 - used as the function that it looks like
    """Turn the HTTP library's exceptions into errors.Provider*. Ours and cancellation pass. Keeps no state."""

    __slots__ = ("_connect_s", "_failures")

    def __init__(self, failures: Failures, connect_s: float) -> None:
        self._failures, self._connect_s = failures, connect_s

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: TracebackType | None) -> None:
        if exc is not None and (blame := blame_of(exc)) is not None:
            raise self._told(exc, blame) from exc

    def _told(self, exc: BaseException, blame: Blame) -> ProviderError:
        failures = self._failures
        what = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        if blame == "late_connection":
            return failures.unsent(failures.timeout(f"no connection within connect_s = {self._connect_s:g} s"))
        if blame == "no_connection":
            return failures.unsent(failures.unavailable(f"cannot be reached: {what}"))
        if blame == "protocol":
            return failures.protocol(what)
        return failures.unavailable(f"broke off: {what}")


def blame_of(exc: BaseException) -> Blame | None:
    """What an exception says about the provider; None for one that is not the library's."""
    return next((BLAME[kind] for kind in type(exc).__mro__ if kind in BLAME), None)


class Reply(Protocol):
    """An answer whose head is there, and whose body is still to be read."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers; names in any case."""

    async def read(self) -> bytes:
        """Await the next bytes of the body; none are its end."""

    @property
    def is_read(self) -> bool:
        """Whether the body is known to be read to its end, so that `read` would give none at once."""

    def close(self) -> None:
        """Be done with it: the connection is used again if the body was read to its end, else closed."""


class Wire(Protocol):
    """What carries requests. `AiohttpWire` does; tests have one that fails as told."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], on_sent: Callable[[], None]) -> Reply:
        """Send a request and await the head of its answer. Raises: what `translating` translates.

        on_sent: called before the first byte of the request may leave, and not before there is a connection for it.
        """

    async def warm(self, url: str) -> None:
        """Have an idle connection ready; nothing is sent but what TCP and TLS need. Raises: as `post`."""

    async def aclose(self) -> None:
        """Close all connections."""


class _AiohttpReply:
    """A `Reply` over aiohttp's connection and the body it parses."""

    __slots__ = ("_connection", "_content", "headers", "status")

    def __init__(self, connection: Connection, message: RawResponseMessage, content: aiohttp.StreamReader) -> None:
        self._connection, self._content = connection, content
        self.status = message.code
        self.headers: Mapping[str, str] = message.headers
        content.on_eof(self._ended)

    def read(self) -> Coroutine[Any, Any, bytes]:
        return self._content.readany()

    @property
    def is_read(self) -> bool:
        return self._content.at_eof()

    def close(self) -> None:
        self._connection.close()  # of a body that was read to its end the connection went back to the pool before

    def _ended(self) -> None:
        """The answer is all here; one that came before its request had left ends the connection."""
        protocol = self._connection.protocol
        if protocol is not None and protocol.writing_paused:
            self._connection.close()
        else:
            self._connection.release()


class AiohttpWire:
    """The `Wire` in use: opened by the first call, shared by all. Redirects are not followed, cookies not kept."""

    def __init__(self, base_url: str, *, connect_s: float) -> None:
        """base_url: begins with the scheme, host and port that every call goes to."""
        self._is_tls = base_url.startswith("https:")
        self._host = urlsplit(base_url).hostname or ""
        self._base_url = URL(base_url, encoded=True)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=None, sock_read=None)
        self._connector: aiohttp.TCPConnector | None = None
        self._direct: aiohttp.ClientRequest | None = None
        self._proxy: URL | None = None
        self._proxy_headers: dict[str, str] | None = None
        self._opening = asyncio.Lock()
        self._is_closed = False

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], on_sent: Callable[[], None]) -> Reply:
        """See `Wire`. Raises also: ValueError for a control character in the URL or a header."""
        connector = self._connector or await self._opened()
        self._check_open(connector)
        target = URL(url, encoded=True)
        head = self._head(target, headers, len(body))
        try:
            connection = await self._connected(connector, target)
            try:
                on_sent()
                return await _exchanged(connection, head, body)
            except BaseException:
                connection.close()
                raise
        except HttpProcessingError as exc:
            asked = aiohttp.RequestInfo(target, "POST", CIMultiDictProxy(CIMultiDict(headers)), target)
            error = aiohttp.ClientResponseError(asked, (), status=exc.code, message=exc.message, headers=exc.headers)
            raise error from exc
        except aiohttp.ClientError:
            raise
        except OSError as exc:
            raise aiohttp.ClientOSError(*exc.args) from exc

    async def warm(self, url: str) -> None:
        """See `Wire`."""
        connector = self._connector or await self._opened()
        self._check_open(connector)
        if self._proxy is None:
            (await self._connected(connector, URL(url, encoded=True))).release()

    async def _connected(self, connector: aiohttp.TCPConnector, target: URL) -> Connection:
        """Take a connection from the pool or make one."""
        # The library writes into the headers of a request by a proxy.
        place = self._direct or self._place()
        try:
            return await connector.connect(place, [], self._timeout)
        except TimeoutError as exc:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {target}") from exc

    def _place(self) -> aiohttp.ClientRequest:
        """Where connections go, in the form in which the library's pool is asked for one."""
        return aiohttp.ClientRequest("POST", self._base_url, proxy=self._proxy, proxy_headers=self._proxy_headers)

    def _head(self, target: URL, headers: Mapping[str, str], body_bytes: int) -> bytes:
        # A proxy is asked for a whole URL, and for none where it only carries what is encrypted.
        is_proxied = self._proxy is not None and not self._is_tls
        if is_proxied and self._proxy_headers is not None:
            headers = {**headers, **self._proxy_headers}
        lines = [
            f"POST {target if is_proxied else target.raw_path_qs} HTTP/1.1",
            f"Host: {target.host_port_subcomponent}",
            *[f"{name}: {value}" for name, value in headers.items()],
            f"Content-Length: {body_bytes}",
        ]
        if not "".join(lines).isprintable():
            raise ValueError("a control character in the URL or a header of a call")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def aclose(self) -> None:
        """See `Wire`."""
        self._is_closed = True
        async with self._opening:
            connector, self._connector = self._connector, None
        if connector is not None:
            await connector.close()

    def _check_open(self, connector: aiohttp.TCPConnector) -> None:
        if self._is_closed or connector.closed:
            raise aiohttp.ClientConnectionError("its connections were closed: we shut down")

    async def _opened(self) -> aiohttp.TCPConnector:
        async with self._opening:
            if self._connector is None:
                # Loading the certificate store takes some 80 ms, too long for the loop that serves everyone.
                context = await asyncio.to_thread(_tls_context) if self._is_tls else True
                self._find_proxy()
                self._direct = self._place() if self._proxy is None else None
                self._connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ssl=context)
            return self._connector

    def _find_proxy(self) -> None:
        """Take the proxy that the environment names for this host, once: the library would ask for every call."""
        proxies = {} if urllib.request.proxy_bypass(self._host) else urllib.request.getproxies()
        address = proxies.get("https" if self._is_tls else "http") or proxies.get("all")
        if not address:
            return
        proxy = URL(address if "//" in address else f"http://{address}")
        if proxy.user is not None:
            self._proxy_headers = {"proxy-authorization": aiohttp.encode_basic_auth(proxy.user, proxy.password or "")}
        self._proxy = proxy.with_user(None)


async def _exchanged(connection: Connection, head: bytes, body: bytes) -> Reply:
    """Send a request and await the head of its answer."""
    protocol = connection.protocol
    transport = None if protocol is None else protocol.transport
    if protocol is None or transport is None or transport.is_closing():
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
    protocol.set_response_params(read_until_eof=True, auto_decompress=False)
    if len(body) < WHOLE_WRITE_BYTES:
        transport.write(head + body)
    else:
        transport.writelines((head, body))
    while True:
        message, content = await protocol.read()
        # The other informational answers only announce that another one follows.
        if not 100 <= message.code < 200 or message.code == 101:
            return _AiohttpReply(connection, message, content)


def _tls_context() -> ssl.SSLContext:
    """The certificates that the rest of the program trusts: the system's, or those SSL_CERT_FILE names."""
    import httpx2

    return httpx2.create_ssl_context()
