"""Does a call over a real socket end as it should: answered, refused, or broken off?"""

from __future__ import annotations

import asyncio

import pytest

from hybrid import errors
from hybrid.providers.base import Timeouts
from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.providers.keys import Credential
from hybrid.providers.openai import OpenAIProvider
from hybrid.providers.transport import MAX_ERROR_BYTES, Transport
from hybrid.types import Finished, FinishReason, Sampling, TextDelta

from .calls import HELLO, KEY, USAGE, call, collect, failure, outcome, provider_at, run


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
def test_an_answer_arrives_with_its_usage(is_stream):
    """Text, finish reason and usage, and the request was what the API expects."""

    async def scenario():
        async with FakeProvider() as fake, provider_at(fake.base_url) as provider:
            events = await collect(provider, call(is_stream=is_stream))
            return events, fake.requests[0]

    events, request = run(scenario())
    assert (HELLO if is_stream else [TextDelta("Hello, world!")]) == events[:-1]
    assert Finished(FinishReason.STOP, USAGE) == events[-1]
    assert USAGE == request.billed
    assert ("/v1/chat/completions", f"Bearer {KEY}") == (request.path, request.headers["authorization"])
    assert ("application/json", "identity") == (request.headers["content-type"], request.headers["accept-encoding"])


def test_no_key_sends_no_authorization():
    """A server of one's own may ask for none."""

    async def scenario():
        async with FakeProvider() as fake:
            provider = OpenAIProvider("own", base_url=fake.base_url, api_key=None)
            await collect(provider, call())
            await provider.aclose()
            return fake.requests[0].headers

    assert "authorization" not in run(scenario())


def test_the_base_url_may_end_in_a_slash_and_have_a_query():
    """The path is put behind the base's path, and Azure's `?api-version=` stays behind it."""

    async def scenario():
        async with FakeProvider() as fake, provider_at(f"{fake.base_url}/?api-version=7") as provider:
            await collect(provider, call())
            return fake.requests[0].path

    assert "/v1/chat/completions?api-version=7" == run(scenario())


def test_a_connection_is_used_again_after_each_kind_of_good_end():
    """Streamed or whole, answered or refused: the next call comes on the same connection."""
    script = [Answer(), Answer(status=400, error={"error": "no"}), Answer(fault=Fault.NO_DONE)]

    async def scenario():
        async with FakeProvider(script) as fake, provider_at(fake.base_url) as provider:
            for is_stream in (True, True, True, False, False):
                await outcome(provider, call(is_stream=is_stream))
            return [request.connection for request in fake.requests]

    assert [0] * 5 == run(scenario())


def test_many_calls_at_once_each_get_their_own_answer():
    """Sixty-four at once: nobody gets another's text, and no connection is lost."""

    def echo(request):
        return Answer(chunks=(request.body["messages"][0]["content"],))

    async def scenario():
        async with FakeProvider(echo) as fake, provider_at(fake.base_url) as provider:
            answers = await asyncio.gather(*(collect(provider, call(f"number {i}")) for i in range(64)))
            return [events[0].text for events in answers]

    assert [f"number {i}" for i in range(64)] == run(scenario())


BROKEN = [
    pytest.param(Fault.RESET, errors.ProviderUnavailable, id="reset"),
    pytest.param(Fault.CUT, errors.ProviderUnavailable, id="cut"),
    pytest.param(Fault.NO_FINISH, errors.ProviderProtocolError, id="no-finish"),
    pytest.param(Fault.HALF_CHARACTER, errors.ProviderProtocolError, id="half-character"),
    pytest.param(Fault.GARBAGE, errors.ProviderProtocolError, id="garbage"),
    pytest.param(Fault.ERROR_OBJECT, errors.ProviderUnavailable, id="error-object"),
]


@pytest.mark.parametrize(("fault", "expected"), BROKEN)
def test_a_stream_that_breaks_after_two_tokens_says_so(fault, expected):
    """What came first is seen, no Finished follows, and the error says that it may have been billed."""
    answer = Answer(fault=fault, after_chunks=2, error={"error": {"message": "boom", "code": 500}})

    async def scenario():
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider:
            return await outcome(provider, call())

    events, error = run(scenario())
    assert expected is type(error)
    assert error.may_have_billed
    assert events == HELLO[: len(events)]
    # A reset may overtake what was sent before it; all else comes in order.
    assert fault is Fault.RESET or 2 == len(events)


@pytest.mark.parametrize(("fault", "expected"), [case for case in BROKEN if case.id != "no-finish"])
def test_a_whole_answer_that_breaks_gives_nothing(fault, expected):
    """Half a body is no answer."""
    error = failure(Answer(fault=fault, error={"error": {"message": "boom", "code": 500}}), is_stream=False)
    assert expected is type(error)


def test_a_stream_without_done_is_whole_if_its_reason_was_seen():
    """Some servers leave [DONE] out; the finish_reason says that nothing is missing."""

    async def scenario():
        async with FakeProvider(Answer(fault=Fault.NO_DONE)) as fake, provider_at(fake.base_url) as provider:
            return await collect(provider, call())

    assert [*HELLO, Finished(FinishReason.STOP, USAGE)] == run(scenario())


STATUSES = [
    pytest.param(401, {}, {"error": {"message": "bad key"}}, errors.ProviderRejected, "bad key", id="key"),
    pytest.param(404, {}, {"error": {"message": "no model"}}, errors.ProviderRejected, "no model", id="model"),
    pytest.param(500, {}, None, errors.ProviderUnavailable, "answered HTTP 500", id="server"),
    pytest.param(504, {}, None, errors.ProviderTimeout, "HTTP 504", id="gateway-timeout"),
    pytest.param(204, {}, None, errors.ProviderProtocolError, "answered HTTP 204", id="no-content"),
    pytest.param(429, {"retry-after": "7"}, None, errors.ProviderThrottled, "retry after 7 s", id="throttled"),
    pytest.param(
        307,
        {"location": "https://other.example/v1?k=1"},
        None,
        errors.ProviderRejected,
        "to other.example;",
        id="redirect",
    ),
    pytest.param(
        307, {"location": "https://[no"}, None, errors.ProviderRejected, "to elsewhere;", id="redirect-to-no-url"
    ),
]


@pytest.mark.parametrize(("status", "headers", "error", "expected", "words"), STATUSES)
def test_an_answer_other_than_200_is_its_error(status, headers, error, expected, words):
    """Its words are in ours; a redirect is not followed, for the key would go with it."""
    found = failure(Answer(status=status, headers=headers, error=error))
    assert expected is type(found)
    assert words in str(found)


def test_a_large_error_body_is_read_to_its_bound():
    """A provider cannot make us read without end by refusing at length."""
    found = failure(Answer(status=500, error={"error": "x" * (4 * MAX_ERROR_BYTES)}))
    assert len(str(found)) < 600


FOREIGN = [
    pytest.param({"content_type": "text/html", "raw": b"<html>"}, "answered 'text/html'", id="portal"),
    pytest.param({"headers": {"content-encoding": "gzip"}}, "compressed its answer", id="compressed"),
]


@pytest.mark.parametrize(("fields", "words"), FOREIGN)
def test_a_200_that_is_no_answer_is_a_protocol_error(fields, words):
    """A login page or a compressed body is not parsed as an answer."""
    found = failure(Answer(**fields))
    assert errors.ProviderProtocolError is type(found)
    assert words in str(found)


def test_an_answer_that_is_not_read_leaves_no_connection_behind():
    """A body we have no use for is not waited for: its connection is closed."""

    async def scenario():
        answer = Answer(raw=b"<html>", content_type="text/html", fault=Fault.STALL)
        async with FakeProvider(answer) as fake, provider_at(fake.base_url) as provider:
            await outcome(provider, call())
            await fake.requests[0].gone.wait()

    run(scenario())


@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
def test_an_answer_larger_than_the_bound_is_a_protocol_error(is_stream):
    """A server cannot fill our memory, and the connection that tries is closed."""

    async def scenario():
        async with FakeProvider(Answer(chunks=("x" * 100,) * 50, fault=Fault.STALL)) as fake:
            transport = Transport(
                "cloud",
                base_url=fake.base_url,
                credential=Credential(KEY),
                timeouts=Timeouts(),
                max_response_bytes=1000,
            )
            provider = OpenAIProvider("cloud", base_url=fake.base_url, api_key=None, transport=transport)
            _, error = await outcome(provider, call(is_stream=is_stream))
            await fake.requests[0].gone.wait()
            await provider.aclose()
            return error

    assert "cloud: sent more than 1000 bytes" == str(run(scenario()))


def test_a_server_that_cannot_stream_may_answer_whole():
    """What came decides how it is read, not what was asked for."""
    body = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'

    async def scenario():
        script = Answer(raw=body, content_type="Application/JSON; charset=utf-8")
        async with FakeProvider(script) as fake, provider_at(fake.base_url) as provider:
            return await collect(provider, call())

    assert [TextDelta("Hi"), Finished(FinishReason.STOP, None)] == run(scenario())


def test_what_is_missing_is_refused_before_anything_is_sent():
    """The last guard against a call the router should not have made."""

    async def scenario():
        async with FakeProvider() as fake, provider_at(fake.base_url) as provider:
            with pytest.raises(errors.UnsupportedCapability, match="cloud cannot do: prediction"):
                await collect(provider, call(extra={"prediction": {"type": "content", "content": "x"}}))
            return fake.requests

    assert [] == run(scenario())


def test_samplers_reach_a_compatible_server():
    """On a server that is not OpenAI's, top_k and its kin are sent."""

    async def scenario():
        async with FakeProvider() as fake, provider_at(fake.base_url) as provider:
            await collect(provider, call(sampling=Sampling(top_k=40, min_p=0.05)))
            return fake.requests[0].body

    body = run(scenario())
    assert (40, 0.05) == (body["top_k"], body["min_p"])
