"""Who speaks to a cloud, and how often? One client a provider: limits of time and size, keys, and few retries."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from hybrid.errors import ProviderError, ProviderRejected, ProviderThrottled
from hybrid.providers.base import EventParser, Timeouts
from hybrid.providers.deadline import Deadline
from hybrid.providers.failures import Failures, Fault
from hybrid.providers.hints import limit_reset_s, retry_after_s
from hybrid.providers.keys import Credential, KeyRing, Lease
from hybrid.providers.retries import RetryBudget
from hybrid.providers.wire import BLAME, KEEP_ALIVE_S, AiohttpWire, Reply, Wire, blame_of, translating
from hybrid.types import Event

log = logging.getLogger(__name__)

CONNECT_RETRIES = 2
BACKOFF_S = 0.1
"""Mean wait before the first retry; doubled for the second, and spread by half to either side."""

WAIT_SPREAD = 0.1
"""A wait that a provider asked for is lengthened by up to this share, so that not all come back at once."""

MAX_RESPONSE_BYTES = 64 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
DRAIN_S = 0.25
"""After the last event the end of the body is awaited this long, for the connection to be used again."""


class Transport:
    """The one client of one provider, and the one owner of its retries.

    What is sent again was certainly not billed: its connection was never made, or it was refused for its key or a rate
    limit. Redirects are not followed (the key would travel along), compressed answers are not asked for (they would be
    held back in the compressor, and can be bombs).
    """

    def __init__(
        self,
        provider: str,
        *,
        base_url: str,
        credential: Credential | KeyRing,
        timeouts: Timeouts,
        headers: Mapping[str, str] | None = None,
        may_bill_400: bool = False,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        wire: Wire | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
        now_unix_s: Callable[[], float] = time.time,
    ) -> None:
        """Check the options; open nothing.

        base_url: its query, if it has one, is sent with every call.
        headers: sent with every call beside the key's.
        may_bill_400: see `Failures`.
        sleep, draw (uniform in [0, 1)), now_unix_s: the backoff's and Retry-After's world, given by tests.

        Raises: ValueError for a base URL that is not http(s), has no host, or carries a user name or password.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{provider}: base_url must begin with http:// or https:// and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"{provider}: base_url holds a user name or password; give the key by api_key_env")
        self._parts = parts
        self._base_url = urlunsplit(parts._replace(path=parts.path.rstrip("/"), query="", fragment=""))
        self._keys = credential if isinstance(credential, KeyRing) else KeyRing([credential])
        self.failures = Failures(provider, self._keys, may_bill_400)
        self._translating = translating(self.failures, timeouts.connect_s)
        self._timeouts = timeouts
        agent = {"accept-encoding": "identity", "content-type": "application/json", "user-agent": "hybrid"}
        self._headers = agent | dict(headers or {})
        self._max_response_bytes = max_response_bytes
        self._wire: Wire = wire or AiohttpWire(base_url, connect_s=timeouts.connect_s)
        self._sleep, self._draw, self._now_unix_s = sleep, draw, now_unix_s
        self._budget = RetryBudget()
        self._used_at_s = float("-inf")
        self._warming: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Transport({self.failures.provider!r}, host={self._parts.hostname!r})"

    async def events(
        self,
        path: str,
        body: bytes,
        parser_for: Callable[[str], EventParser],
        *,
        is_stream: bool,
        model: str = "",
        on_sent: Callable[[], None] = lambda: None,
        max_wait_s: float = 0.0,
    ) -> AsyncGenerator[Event, None]:
        """POST `body` as JSON and yield what the parser makes of the answer, until it is finished.

        path: is put behind the base URL's; what follows a `?` in it goes into the query.
        parser_for: takes the answer's media type, lower case, without parameters.
        is_stream: whether the limits on the first and the next token apply.
        model: whose rate limits count for the call's key.
        on_sent: called when the first byte of the request may have left.
        max_wait_s: how long all waits together may be that a rate limit asks for.

        Raises: errors.Provider*.
        """
        deadline = Deadline(self.failures, self._timeouts, is_stream=is_stream)
        reply: Reply | None = None
        try:
            reply = await self._answered(self._url(path), body, model, deadline, on_sent, max_wait_s)
            parser = parser_for(self._media_type(reply))
            size_bytes, chunk = 0, b""
            while not parser.is_finished:
                chunk = b"" if reply.is_read else await self._next(reply, deadline)
                size_bytes += len(chunk)
                self._check_size(size_bytes)
                for event in parser.feed(chunk) if chunk else parser.close():
                    yield event
                    deadline.heard()
                if parser.failure is not None:
                    raise parser.failure
            if chunk and not reply.is_read:
                await self._drain(reply)
        finally:
            # A connection that cannot be closed well is gone; that says nothing about the answer.
            deadline.close()
            if reply is not None:
                with suppress(*BLAME):
                    reply.close()

    def warm(self) -> None:
        """Have an idle connection ready soon, where the last call was too long ago to have left one. Waits for nothing.

        Only TCP and TLS are spoken: no request, no key. A failure is left to the call that will meet it as well.
        """
        now_s = asyncio.get_running_loop().time()
        if now_s - self._used_at_s < KEEP_ALIVE_S or self._warming is not None:
            return

        async def connect() -> None:
            with suppress(*BLAME):
                await self._wire.warm(self._url(""))

        self._used_at_s = now_s
        self._warming = asyncio.get_running_loop().create_task(connect())
        self._warming.add_done_callback(self._warmed)

    def _warmed(self, task: asyncio.Task[None]) -> None:
        self._warming = None if self._warming is task else self._warming
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.warning("%s: no connection could be made ahead: %s", self.failures.provider, type(bug).__name__)

    async def aclose(self) -> None:
        """Close the client and its connections; a call in flight or after fails with ProviderUnavailable."""
        if self._warming is not None:
            self._warming.cancel()
        with suppress(*BLAME):
            await self._wire.aclose()

    async def _answered(
        self,
        url: str,
        body: bytes,
        model: str,
        deadline: Deadline,
        on_sent: Callable[[], None],
        max_wait_s: float,
    ) -> Reply:
        """Get the answer that begins with 200, with whichever key gets it, and waiting where it may be waited."""
        self._budget.deposit()
        refusal: ProviderError | None = None
        while True:
            lease = self._keys.take(model)
            if lease is None:
                rest_s = self._keys.rest_s(model)
                max_wait_s -= await self._wait(refusal or self._keyless(rest_s), rest_s, deadline, max_wait_s)
                continue
            with lease:
                if refusal is not None and not self._budget.withdraw():
                    raise refusal
                reply = await self._connected(url, body, lease, deadline, on_sent)
                if reply.status == 200:
                    lease.accepted()
                    return reply
                refusal = await self._refusal(reply, deadline)
                if not lease.is_to_blame(refusal):
                    raise refusal

    async def _wait(self, refusal: ProviderError, rest_s: float | None, deadline: Deadline, max_wait_s: float) -> float:
        """Wait until a key may be used again; give how long that was.

        Raises: the refusal, with the time it is to be heeded for, if that is too long to wait.
        """
        refusal.retry_after_s = rest_s
        wait_s = float("inf") if rest_s is None else rest_s * (1 + WAIT_SPREAD * self._draw())
        if wait_s > min(max_wait_s, deadline.left_s):
            raise refusal
        await deadline.wait(self._sleep(wait_s))
        return wait_s

    def _keyless(self, rest_s: float | None) -> ProviderError:
        """What is said of a call that nothing was sent for, as no key may be used."""
        if not self._keys.are_refused:
            return ProviderThrottled(self.failures.provider, rest_s)
        again = (
            "a new start tries them again, or a new key"
            if rest_s is None
            else f"the first is tried again in {rest_s:.0f} s"
        )
        why = f"it took none of our API keys; {again}"
        return ProviderRejected(self.failures.provider, 401, why, is_key_fault=True)

    async def _connected(
        self, url: str, body: bytes, lease: Lease, deadline: Deadline, on_sent: Callable[[], None]
    ) -> Reply:
        """Send the request and await the head of its answer; once more where no byte of it had left."""
        loop = asyncio.get_running_loop()
        connect_until_s = loop.time() + self._timeouts.connect_s
        has_left = False

        def sent() -> None:
            nonlocal has_left
            has_left = True
            self._used_at_s = loop.time()
            on_sent()

        warming, self._warming = self._warming, None
        if warming is not None:
            # It is nearer to being connected than a new one would be.
            await deadline.wait(asyncio.wait((warming,)))
        headers = {**self._headers, **lease.headers}
        for attempt in range(CONNECT_RETRIES + 1):
            try:
                with self._translating:
                    return await deadline.wait(self._wire.post(url, body, headers, sent))
            except ProviderError as error:
                if has_left:
                    error.may_have_billed = True
                    raise
                # No byte of the request left: the one failure of a connection that cannot be paid for twice.
                error.may_have_billed = False
                # But together the attempts keep to the limit that the configuration names.
                is_over = attempt == CONNECT_RETRIES or loop.time() >= connect_until_s
                if is_over or not _is_connecting(error) or not self._budget.withdraw():
                    raise
            await deadline.wait(self._sleep(BACKOFF_S * 2**attempt * (0.5 + self._draw())))
        raise AssertionError("the last attempt returns or raises")

    def _media_type(self, reply: Reply) -> str:
        """The kind of a 200's body. Raises: ProviderProtocolError for one that is no answer."""
        if reply.headers.get("content-encoding", "identity") != "identity":
            raise self.failures.protocol("compressed its answer though it was asked not to")
        media_type = reply.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media_type not in ("text/event-stream", "application/json"):
            raise self.failures.protocol(f"answered {media_type!r} where JSON or an event stream was expected")
        return media_type

    async def _refusal(self, reply: Reply, deadline: Deadline) -> ProviderError:
        """The error that fits an answer other than 200."""
        try:
            status, now_unix_s = reply.status, self._now_unix_s()
            if status < 300:
                return self.failures.protocol(f"answered HTTP {status}, which has no answer in it")
            wait_s = retry_after_s(reply.headers, now_unix_s=now_unix_s)
            if 300 <= status < 400:
                host = _host_of(reply.headers.get("location", ""))
                fault = Fault(f"it redirects to {host}; set base_url to where the API is")
                return self.failures.from_status(status, fault, wait_s)
            body = b""
            while len(body) < MAX_ERROR_BYTES and (chunk := await self._next(reply, deadline)):
                body += chunk
            fault = Fault.from_body(body[:MAX_ERROR_BYTES])
            if status == 429 and wait_s is None and fault.retry_after_s is None:
                wait_s = limit_reset_s(reply.headers, now_unix_s=now_unix_s)
            return self.failures.from_status(status, fault, wait_s)
        finally:
            with suppress(*BLAME):
                reply.close()

    async def _next(self, reply: Reply, deadline: Deadline) -> bytes:
        """Await the next bytes; none are the end."""
        with self._translating:
            return await deadline.wait(reply.read())

    async def _drain(self, reply: Reply) -> None:
        """Read to the end of the body, else the connection must be closed. Nothing here can spoil the answer."""
        with suppress(*BLAME):
            async with asyncio.timeout(DRAIN_S):
                while await reply.read():
                    pass

    def _url(self, path: str) -> str:
        path, _, query = path.partition("?")
        query = "&".join(filter(None, (self._parts.query, query)))
        return f"{self._base_url}{path}?{query}" if query else f"{self._base_url}{path}"

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_response_bytes:
            raise self.failures.protocol(f"sent more than {self._max_response_bytes} bytes")


def _host_of(location: str) -> str:
    """Where a redirect leads, to be shown; what is no URL is only elsewhere."""
    try:
        return urlsplit(location).netloc or "elsewhere"
    except ValueError:
        return "elsewhere"


def _is_connecting(error: ProviderError) -> bool:
    """Whether it was the connection that failed, and not the time for the whole call that ran out."""
    return error.__cause__ is not None and blame_of(error.__cause__) in ("no_connection", "late_connection")
