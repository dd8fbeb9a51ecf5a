"""What is tried again, and what becomes of the HTTP library's own errors?"""

from __future__ import annotations

import asyncio
import inspect

import httpx2
import pytest

from hybrid import errors
from hybrid.providers.base import Timeouts
from hybrid.providers.failures import Credential, Failures
from hybrid.providers.fake import FakeProvider
from hybrid.providers.openai import OpenAIProvider
from hybrid.providers.transport import BLAME, Transport, translating
from hybrid.types import Finished, FinishReason

from .calls import HELLO, KEY, USAGE, call, collect, outcome, provider_at, run


class FailingTransport(httpx2.AsyncBaseTransport):
    """Raises the given exceptions in turn, then answers; counts what reached it."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = 0

    async def handle_async_request(self, request):
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        body = b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
        return httpx2.Response(200, stream=httpx2.ByteStream(body))


def retried(*failures, draw=0.5):
    """One call over a transport that fails so; the error, the attempts, and the waits between them in seconds."""
    http, waits = FailingTransport(*failures), []

    async def sleep(seconds):
        waits.append(seconds)

    async def scenario():
        transport = Transport(
            "cloud",
            base_url="http://cloud.example/v1",
            credential=Credential(KEY),
            timeouts=Timeouts(),
            http_transport=http,
            sleep=sleep,
            draw=lambda: draw,
        )
        provider = OpenAIProvider("cloud", base_url="http://cloud.example/v1", api_key=None, transport=transport)
        error = (await outcome(provider, call(is_stream=False)))[1]
        await provider.aclose()
        return error

    return run(scenario()), http.calls, waits


REFUSED = httpx2.ConnectError("refused")
RETRIES = [
    pytest.param([], 1, [], None, id="none-needed"),
    pytest.param([REFUSED], 2, [0.1], None, id="one-refused"),
    pytest.param([REFUSED, httpx2.ConnectTimeout("slow")], 3, [0.1, 0.2], None, id="two-not-connected"),
    pytest.param([REFUSED] * 3, 3, [0.1, 0.2], errors.ProviderUnavailable, id="three-are-enough"),
    pytest.param([httpx2.ReadError("gone")], 1, [], errors.ProviderUnavailable, id="read-error"),
    pytest.param([httpx2.WriteError("gone")], 1, [], errors.ProviderUnavailable, id="write-error"),
    pytest.param([httpx2.RemoteProtocolError("gone")], 1, [], errors.ProviderUnavailable, id="disconnected"),
    pytest.param([httpx2.PoolTimeout("full")], 1, [], errors.ProviderTimeout, id="no-free-connection"),
]


@pytest.mark.parametrize(("failures", "attempts", "waits", "expected"), RETRIES)
def test_only_a_connection_that_was_never_made_is_retried(failures, attempts, waits, expected):
    """At most twice, with a growing wait; once a byte may have left, never: the answer could be paid for twice."""
    error, calls, slept_s = retried(*failures)
    assert (attempts, waits) == (calls, pytest.approx(slept_s))
    assert (expected is None and error is None) or expected is type(error)


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
    assert "cloud: cannot be reached: ConnectError" in str(error)
    assert (errors.ProviderUnavailable, False) == (type(error), error.may_have_billed)


def library_errors():
    """Every public exception of the HTTP library, made as its constructor asks."""
    request = httpx2.Request("POST", "http://x")
    needs = {
        httpx2.HTTPStatusError: {"request": request, "response": httpx2.Response(500, request=request)},
    }
    for name in httpx2.__all__:
        kind = getattr(httpx2, name)
        if inspect.isclass(kind) and issubclass(kind, Exception):
            text = () if list(inspect.signature(kind).parameters) == [] else (f"said {KEY}",)
            yield pytest.param(kind(*text, **needs.get(kind, {})), id=name)


@pytest.mark.parametrize("exception", list(library_errors()))
def test_every_exception_of_the_http_library_is_one_of_ours(exception):
    """Each public class has its row, becomes an errors.Provider*, keeps its cause, and loses the key."""
    assert type(exception) in BLAME
    with pytest.raises(errors.ProviderError) as caught, translating(Failures("cloud", Credential(KEY)), Timeouts()):
        raise exception
    assert caught.value.__cause__ is exception
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("error", [errors.ProviderThrottled("cloud", 1.0), asyncio.CancelledError(), KeyError("ours")])
def test_what_is_not_the_library_s_passes_unchanged(error):
    """Our errors, cancellation and our own mistakes are not the provider's failures."""
    with pytest.raises(type(error)) as caught, translating(Failures("cloud"), Timeouts()):
        raise error
    assert caught.value is error
