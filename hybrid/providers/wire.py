"""How do bytes get to a cloud and back? One pooled HTTP/1.1 client, and what its errors say about the other side.

aiohttp, not httpx2: a call takes it a sixth of the processor's time, and its pool does not slow down with the number of
connections. HTTP/2 it does not speak, and little is lost: connections are kept, their number is no concern at a
gateway's size, and on a shared one a lost packet would hold up every answer.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

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

_on_sent: ContextVar[Callable[[], None] | None] = ContextVar("hybrid_on_sent", default=None)


@contextmanager
def translating(failures: Failures, connect_s: float) -> Iterator[None]:
    """Turn the HTTP library's exceptions into errors.Provider*. Ours and cancellation pass."""
    try:
        yield
    except tuple(BLAME) as exc:
        blame = blame_of(exc)
        what = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        if blame == "late_connection":
            raise failures.unsent(failures.timeout(f"no connection within connect_s = {connect_s:g} s")) from exc
        if blame == "no_connection":
            raise failures.unsent(failures.unavailable(f"cannot be reached: {what}")) from exc
        if blame == "protocol":
            raise failures.protocol(what) from exc
        raise failures.unavailable(f"broke off: {what}") from exc


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


class _Connector(aiohttp.TCPConnector):
    """Says when a request has its connection: the last moment at which it is certain that no byte of it has left."""

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - the library's own name
        connection = await super().connect(req, traces, timeout)
        on_sent = _on_sent.get()
        if on_sent is not None:
            on_sent()
        return connection


class _AiohttpReply:
    """A `Reply` over aiohttp's response."""

    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        return await self._response.content.readany()

    def close(self) -> None:
        self._response.close()  # of a body that was read to its end the connection went back to the pool before


class AiohttpWire:
    """The `Wire` in use: opened by the first call, shared by all. Redirects are not followed, cookies not kept."""

    def __init__(self, base_url: str, *, connect_s: float) -> None:
        self._is_tls = base_url.startswith("https:")
        self._host = urlsplit(base_url).hostname or ""
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=None, sock_read=None)
        self._session: aiohttp.ClientSession | None = None
        self._proxy: URL | None = None
        self._proxy_headers: dict[str, str] | None = None
        self._opening = asyncio.Lock()
        self._is_closed = False

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], on_sent: Callable[[], None]) -> Reply:
        """See `Wire`."""
        session = self._session or await self._opened()
        self._check_open(session)
        token = _on_sent.set(on_sent)
        try:
            response = await session.post(
                URL(url, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers,
            )
        finally:
            _on_sent.reset(token)
        return _AiohttpReply(response)

    async def warm(self, url: str) -> None:
        """See `Wire`."""
        session = self._session or await self._opened()
        self._check_open(session)
        if self._proxy is None and session.connector is not None:
            request = aiohttp.ClientRequest("POST", URL(url, encoded=True), session=session)
            connection = await session.connector.connect(request, [], self._timeout)
            connection.release()

    async def aclose(self) -> None:
        """See `Wire`."""
        self._is_closed = True
        async with self._opening:
            session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _check_open(self, session: aiohttp.ClientSession) -> None:
        if self._is_closed or session.closed:
            raise aiohttp.ClientConnectionError("its connections were closed: we shut down")

    async def _opened(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                # Loading the certificate store takes some 80 ms, too long for the loop that serves everyone.
                context = await asyncio.to_thread(_tls_context) if self._is_tls else True
                self._find_proxy()
                self._session = aiohttp.ClientSession(
                    connector=_Connector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ssl=context),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=self._timeout,
                    auto_decompress=False,
                    skip_auto_headers=("accept",),
                )
            return self._session

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


def _tls_context() -> ssl.SSLContext:
    """The certificates that the rest of the program trusts: the system's, or those SSL_CERT_FILE names."""
    import httpx2

    return httpx2.create_ssl_context()
