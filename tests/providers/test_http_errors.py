"""What is tried again, and what becomes of the HTTP library's own errors?"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from hybrid import errors
from hybrid.providers.base import Timeouts
from hybrid.providers.failures import Failures
from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.providers.keys import Credential
from hybrid.providers.openai import OpenAIProvider, transport_of
from hybrid.providers.transport import Transport
from hybrid.providers.wire import AiohttpWire, blame_of, translating
from hybrid.types import Finished, FinishReason

from .calls import HELLO, KEY, USAGE, call, collect, outcome, provider_at, run

HOST = ConnectionKey("cloud.example", 443, True, True, None, None, None)


class Body:
    """A reply of one whole answer."""

    status = 200
    headers: dict[str, str] = {}

    def __init__(self):
        self._pieces = [b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}', b""]

    is_read = False

    async def read(self):
        return self._pieces.pop(0)

    def close(self):
        pass


class FailingWire:
    """Raises the given exceptions in turn, then answers; counts what reached it. Bytes left where it is not said."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = 0

    async def post(self, url, body, headers, on_sent):
        self.calls += 1
        if self.failures:
            failure = self.failures.pop(0)
            if blame_of(failure) in ("broke_off", "protocol"):
                on_sent()
            raise failure
        on_sent()
        return Body()

    async def aclose(self):
        pass


def retried(*failures, draw=0.5):
    """One call over a wire that fails so; the error, the attempts, and the waits between them in seconds."""
    wire, waits = FailingWire(*failures), []

    async def sleep(seconds):
        waits.append(seconds)

    async def scenario():
        transport = Transport(
            "cloud",
            base_url="http://cloud.example/v1",
            credential=Credential(KEY),
            timeouts=Timeouts(),
            wire=wire,
            sleep=sleep,
            draw=lambda: draw,
        )
        provider = OpenAIProvider("cloud", base_url="http://cloud.example/v1", api_key=None, transport=transport)
        error = (await outcome(provider, call(is_stream=False)))[1]
        await provider.aclose()
        return error

    return run(scenario()), wire.calls, waits


class RefusingWire(FailingWire):
    """Answers one call with this status and error object."""

    def __init__(self, status, error):
        super().__init__()
        self.status, self.body = status, json.dumps({"error": error}).encode()

    async def post(self, url, body, headers, on_sent):
        reply = await super().post(url, body, headers, on_sent)
        reply.status, reply._pieces = self.status, [self.body, b""]
        return reply


FILTERED = {"message": "The response was filtered", "code": "content_filter", "status": 400}
BILLED_400S = [
    pytest.param("https://me.openai.azure.com/openai/v1", 400, FILTERED, True, id="azure-filter"),
    pytest.param("https://me.openai.azure.com/openai/v1", 400, {"message": "too long"}, True, id="azure-limit"),
    pytest.param("https://me.openai.azure.com/openai/v1", 400, {"code": "invalid_api_key"}, False, id="azure-key"),
    pytest.param("https://me.openai.azure.com/openai/v1", 401, {"message": "who?"}, False, id="azure-401"),
    pytest.param("https://me.openai.azure.com/openai/v1", 404, {"message": "where?"}, False, id="azure-404"),
    pytest.param(
        "https://gate.example/openai?api-version=2024-10-21", 400, FILTERED, True, id="azure-behind-a-gateway"
    ),
    pytest.param("https://api.openai.com/v1", 400, FILTERED, False, id="openai-filter"),
]


@pytest.mark.parametrize(("base_url", "status", "error", "may_have_billed"), BILLED_400S)
def test_a_400_of_azure_may_be_billed(base_url, status, error, may_have_billed):
    """It charges for what its filter or limit stopped, and a key that is refused costs nothing anywhere."""

    async def scenario():
        transport = transport_of("cloud", base_url, KEY, Timeouts(), wire=RefusingWire(status, error))
        provider = OpenAIProvider("cloud", base_url=base_url, api_key=KEY, transport=transport)
        found = (await outcome(provider, call(is_stream=False)))[1]
        await provider.aclose()
        return found

    found = run(scenario())
    assert (errors.ProviderRejected, may_have_billed) == (type(found), found.may_have_billed)


REFUSED = aiohttp.ClientConnectorError(HOST, ConnectionRefusedError(111, "refused"))
NO_NAME = aiohttp.ClientConnectorDNSError(HOST, socket.gaierror(-2, "unknown"))
SLOW = aiohttp.ConnectionTimeoutError("slow")
RETRIES = [
    pytest.param([], 1, [], None, id="none-needed"),
    pytest.param([REFUSED], 2, [0.1], None, id="one-refused"),
    pytest.param([NO_NAME, SLOW], 3, [0.1, 0.2], None, id="two-not-connected"),
    pytest.param([REFUSED] * 3, 3, [0.1, 0.2], errors.ProviderUnavailable, id="three-are-enough"),
    pytest.param([aiohttp.ServerDisconnectedError()], 1, [], errors.ProviderUnavailable, id="disconnected"),
    pytest.param([aiohttp.ClientOSError(104, "reset")], 1, [], errors.ProviderUnavailable, id="reset"),
    pytest.param([aiohttp.ClientPayloadError("cut")], 1, [], errors.ProviderUnavailable, id="cut"),
    pytest.param([ConnectionResetError(104, "reset")], 1, [], errors.ProviderUnavailable, id="socket-reset"),
]


@pytest.mark.parametrize(("failures", "attempts", "waits", "expected"), RETRIES)
def test_only_a_connection_that_was_never_made_is_retried(failures, attempts, waits, expected):
    """At most twice, with a growing wait; once a byte may have left, never: the answer could be paid for twice."""
    error, calls, slept_s = retried(*failures)
    assert (attempts, waits) == (calls, pytest.approx(slept_s))
    assert (expected is None and error is None) or expected is type(error)
    assert error is None or error.may_have_billed is (attempts == 1)


@pytest.mark.parametrize(("draw", "expected"), [(0.0, [0.05, 0.1]), (0.999, [0.1499, 0.2998])])
def test_the_wait_before_a_retry_is_jittered(draw, expected):
    """By half to either side, so that clients refused together do not come back together."""
    assert expected == pytest.approx(retried(REFUSED, REFUSED, draw=draw)[2])


def test_a_provider_that_comes_back_during_the_backoff_answers():
    """Over real sockets: refused, then reached on the second attempt."""

    async def scenario():
        async with FakeProvider() as gone:
            fake = FakeProvider(port=gone.port)

        async def sleep(_seconds):
            await fake.__aenter__()

        transport = Transport(
            "cloud", base_url=fake.base_url, credential=Credential(KEY), timeouts=Timeouts(), sleep=sleep
        )
        provider = OpenAIProvider("cloud", base_url=fake.base_url, api_key=None, transport=transport)
        events = await collect(provider, call())
        await provider.aclose()
        await fake.__aexit__()
        return events

    assert [*HELLO, Finished(FinishReason.STOP, USAGE)] == run(scenario())


def test_a_port_where_nobody_listens_is_unavailable_and_free():
    """Refused three times: it cannot be reached, and nothing can have been billed."""

    async def scenario():
        async with FakeProvider() as gone:
            pass
        async with provider_at(gone.base_url) as provider:
            return (await outcome(provider, call()))[1]

    error = run(scenario())
    assert "cloud: cannot be reached: ClientConnectorError" in str(error)
    assert (errors.ProviderUnavailable, False) == (type(error), error.may_have_billed)


@pytest.mark.parametrize(("fault", "expected"), [(None, True), (Fault.RESET, True), (Fault.NO_HEADERS, True)])
def test_on_sent_is_told_once_there_is_a_connection(fault, expected):
    """Whatever becomes of the call then: a byte may have left, so it may be billed."""

    async def scenario():
        sent = []
        async with FakeProvider(Answer(fault=fault, after_chunks=0)) as fake:
            wire = AiohttpWire(fake.base_url, connect_s=1.0)
            for _ in range(2):  # on a new connection, and where the first was good on that
                try:
                    async with asyncio.timeout(0.05):
                        reply = await wire.post(f"{fake.base_url}/x", b"{}", {}, lambda: sent.append(True))
                        while await reply.read():
                            pass
                except (OSError, aiohttp.ClientError):
                    pass
            await wire.aclose()
        return sent

    assert [expected] * 2 == run(scenario())


def test_on_sent_is_not_told_where_no_connection_was_made():
    """Refused, and a TLS handshake that never ends: nothing has left, and nothing is owed."""

    async def scenario():
        sent = []
        async with FakeProvider() as fake:
            url = fake.base_url.replace("http:", "https:")
            wire = AiohttpWire(url, connect_s=0.05)
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await wire.post(f"{url}/x", b"{}", {}, lambda: sent.append(True))
            await wire.aclose()
        wire = AiohttpWire(fake.base_url, connect_s=1.0)
        with pytest.raises(aiohttp.ClientConnectorError):
            await wire.post(f"{fake.base_url}/x", b"{}", {}, lambda: sent.append(True))
        await wire.aclose()
        return sent

    assert [] == run(scenario())


def test_a_connection_made_ahead_is_the_one_that_is_used():
    """Warmed, the call comes on the connection that was there; the provider saw no request before it."""

    async def scenario():
        async with FakeProvider() as fake, provider_at(fake.base_url) as provider:
            for _ in range(3):  # once is enough: the others find that it was used a moment ago
                provider.warm()
            while not fake._connections:  # noqa: ASYNC110 - a connection without a request tells nobody
                await asyncio.sleep(0)
            before = len(fake.requests)
            await collect(provider, call())
            return before, fake.requests[0].connection, fake._connections

    assert (0, 0, 1) == run(scenario())


def test_what_cannot_be_warmed_says_nothing():
    """A provider that is down is told of by the call that needs it, and closing does not wait for the attempt."""

    async def scenario():
        async with FakeProvider() as gone:
            pass
        async with provider_at(gone.base_url) as provider:
            provider.warm()
            await asyncio.sleep(0)
        async with provider_at(gone.base_url) as provider:
            provider.warm()
            return (await outcome(provider, call()))[1]

    assert errors.ProviderUnavailable is type(run(scenario()))


def made(kind):
    """An exception of this class, made as its constructor asks, with the key in its text where it has one."""
    needs = {"connection_key": HOST, "os_error": OSError(5, KEY), "certificate_error": ValueError(KEY), "path": "/x"}
    asked = aiohttp.RequestInfo(URL("http://x"), "POST", CIMultiDictProxy(CIMultiDict()), URL("http://x"))
    needs |= {
        "request_info": asked,
        "history": (),
        "url": KEY,
        "message": KEY,
        "expected": b"",
        "got": b"",
        "host": "x",
    }
    needs |= {"port": 1, "line": KEY, "limit": 1, "actual_size": 1, "hdr": KEY, "error": KEY}
    if "__init__" not in {
        name for base in kind.__mro__ if base.__module__.startswith("aiohttp") for name in vars(base)
    }:
        return kind(KEY)
    if issubclass(kind, OSError) and not issubclass(kind, aiohttp.ClientConnectorError):
        return kind(5, KEY)
    parameters = [one for one in inspect.signature(kind).parameters.values() if one.default is one.empty]
    parameters = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if kind is http_exceptions.HttpProcessingError:
        return kind(message=KEY)
    return kind(*(needs[one.name] for one in parameters)) if parameters else kind(KEY)


def library_errors():
    """Every exception of the HTTP library that its client can raise."""
    for module in (client_exceptions, http_exceptions):
        for name, kind in vars(module).items():
            is_its_own = inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module.__name__
            if is_its_own and not name.startswith("WSMessageType"):  # of web sockets alone
                yield pytest.param(made(kind), id=name)


@pytest.mark.parametrize("exception", list(library_errors()))
def test_every_exception_of_the_http_library_is_one_of_ours(exception):
    """Each class belongs to a family, becomes an errors.Provider*, keeps its cause, and loses the key."""
    with pytest.raises(errors.ProviderError) as caught, translating(Failures("cloud", Credential(KEY)), 5.0):
        raise exception
    assert caught.value.__cause__ is exception
    assert KEY not in str(caught.value)


CONNECTING = [
    client_exceptions.ClientConnectorError,
    client_exceptions.ClientConnectorDNSError,
    client_exceptions.ClientConnectorSSLError,
    client_exceptions.ClientConnectorCertificateError,
    client_exceptions.ClientProxyConnectionError,
    client_exceptions.UnixClientConnectorError,
    client_exceptions.ClientHttpProxyError,
    client_exceptions.ConnectionTimeoutError,
]


@pytest.mark.parametrize("kind", CONNECTING)
def test_what_only_the_making_of_a_connection_raises_is_retried(kind):
    """Refused, no such name, no valid certificate, a proxy that does not let us through: nobody can bill for it."""
    assert blame_of(made(kind)) in ("no_connection", "late_connection")


@pytest.mark.parametrize("error", [errors.ProviderThrottled("cloud", 1.0), asyncio.CancelledError(), KeyError("ours")])
def test_what_is_not_the_library_s_passes_unchanged(error):
    """Our errors, cancellation and our own mistakes are not the provider's failures."""
    with pytest.raises(type(error)) as caught, translating(Failures("cloud"), 5.0):
        raise error
    assert caught.value is error
