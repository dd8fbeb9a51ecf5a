"""Does every dialect tell a broken answer from a good one, hide its key, and hang up at once?"""

from __future__ import annotations

from contextlib import aclosing

import pytest

from hybrid import errors
from hybrid.providers.fake import Answer, Fault
from hybrid.providers.openai import Options, credential_of
from hybrid.types import Finished, TextDelta

from .calls import KEY, call, outcome, run
from .dialects import CHAT, DIALECTS, RESPONSES, provider_of

every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)


def heard(dialect, answer, *, is_stream=True, **options):
    """The events of one call to a fake with this answer, and the error it ended with."""

    async def scenario():
        async with dialect.fake(answer) as fake:
            provider = provider_of(dialect, fake.base_url, **options)
            events, error = await outcome(provider, call(is_stream=is_stream))
            await provider.aclose()
            return events, error

    return run(scenario())


FAULTS = [
    pytest.param(Answer(fault=Fault.RESET, after_chunks=2), errors.ProviderUnavailable, id="reset"),
    pytest.param(Answer(fault=Fault.CUT, after_chunks=2), errors.ProviderUnavailable, id="cut"),
    pytest.param(Answer(fault=Fault.NO_FINISH, after_chunks=2), errors.ProviderProtocolError, id="no-finish"),
    pytest.param(Answer(fault=Fault.HALF_CHARACTER, after_chunks=2), errors.ProviderProtocolError, id="half-character"),
    pytest.param(Answer(fault=Fault.GARBAGE, after_chunks=2), errors.ProviderProtocolError, id="garbage"),
]


@every_dialect
@pytest.mark.parametrize(("answer", "expected"), FAULTS)
def test_what_came_before_a_fault_is_seen_and_may_be_billed(dialect, answer, expected):
    """Two pieces of text, then the error it is; never an end, and never a cost of nothing."""
    events, error = heard(dialect, answer)
    assert [TextDelta("Hello"), TextDelta(", ")] == events
    assert (expected, True) == (type(error), error.may_have_billed)


@every_dialect
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.HALF_CHARACTER, Fault.GARBAGE])
def test_a_broken_body_is_no_answer(dialect, fault):
    """An answer that is fetched whole gives nothing unless it is whole."""
    events, error = heard(dialect, Answer(fault=fault), is_stream=False)
    assert ([], True) == (events, error.may_have_billed)


@every_dialect
def test_a_missing_terminator_is_forgiven_where_the_end_was_told(dialect):
    """Where the reason why it ended came, nothing was lost; the Responses API tells it in its terminator alone."""
    events, error = heard(dialect, Answer(fault=Fault.NO_DONE))
    if dialect is RESPONSES:
        assert errors.ProviderProtocolError is type(error)
    else:
        assert (None, True) == (error, isinstance(events[-1], Finished))


ERROR_OBJECTS = [
    pytest.param({"error": {"type": "overloaded_error", "message": "Busy"}}, errors.ProviderUnavailable, id="busy"),
    pytest.param({"error": {"code": 429, "message": "Slow down"}}, errors.ProviderThrottled, id="throttled"),
]


@every_dialect
@pytest.mark.parametrize(("error_object", "expected"), ERROR_OBJECTS)
@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
def test_an_error_inside_a_200_is_never_an_answer(dialect, error_object, expected, is_stream):
    """It is the error it stands for, and what was generated before it may be billed."""
    answer = Answer(fault=Fault.ERROR_OBJECT, error=error_object, after_chunks=1)
    _, error = heard(dialect, answer, is_stream=is_stream)
    assert (expected, True) == (type(error), error.may_have_billed)


@every_dialect
def test_a_stall_is_a_timeout_that_names_its_limit(dialect):
    """Two pieces, then silence."""
    events, error = heard(dialect, Answer(fault=Fault.STALL, after_chunks=2), between_tokens_s=0.05)
    assert 2 == len(events)
    assert "cloud: no token within between_tokens_s = 0.05 s" == str(error)


@every_dialect
def test_a_hang_up_closes_the_connection_and_is_billed_so_far(dialect):
    """The fake sees us go, after what it had said by then."""

    async def scenario():
        async with dialect.fake(Answer(fault=Fault.STALL, after_chunks=2)) as fake:
            provider = provider_of(dialect, fake.base_url)
            async with aclosing(provider.stream(call())) as events:
                await anext(events)
                await anext(events)
            await fake.requests[0].gone.wait()
            await provider.aclose()
            return fake.requests[0].billed.completion_tokens

    assert 2 == run(scenario())


@every_dialect
def test_the_key_travels_in_its_header_and_is_quoted_nowhere(dialect):
    """The server that wants another key quotes ours; the error does not. With the right one it answers."""

    async def scenario():
        async with dialect.fake(api_key="another") as fake:
            provider = provider_of(dialect, fake.base_url)
            _, error = await outcome(provider, call())
            await provider.aclose()
            return error, repr(provider), fake.key_of(fake.requests[0]), fake.requests[0].path

    error, shown, sent, path = run(scenario())
    assert (errors.ProviderRejected, KEY) == (type(error), sent)
    assert "[redacted]" in str(error)
    assert [] == [text for text in (str(error), repr(error), shown, path) if KEY in text]


@every_dialect
def test_a_stream_that_is_answered_whole_is_read_all_the_same(dialect):
    """By what came, not by what was asked: the body of another answer, sent as JSON."""

    async def scenario():
        async with dialect.fake() as fake:
            provider = provider_of(dialect, fake.base_url)
            await outcome(provider, call(is_stream=False))
            body = fake.exchange(Answer(), fake.requests[0]).whole()
            await provider.aclose()
        return Answer(raw=body, content_type="application/json")

    events, error = heard(dialect, run(scenario()))
    assert (None, True) == (error, isinstance(events[-1], Finished))


def test_azure_has_its_key_in_its_own_header_and_its_version_in_the_url():
    """Its older addresses demand `api-version`; the key is no bearer token there."""
    assert {"api-key": KEY} == credential_of("https://x.openai.azure.com/openai/deployments/d", KEY).headers()
    assert {"authorization": f"Bearer {KEY}"} == credential_of("https://api.openai.com/v1", KEY).headers()

    async def scenario():
        async with CHAT.fake() as fake:
            provider = provider_of(CHAT, fake.base_url, options=Options(api_version="2024-10-21"))
            await outcome(provider, call())
            await provider.aclose()
            return fake.requests[0]

    sent = run(scenario())
    assert "/v1/chat/completions?api-version=2024-10-21" == sent.path
    # A gateway's host does not tell Azure; the version does.
    assert (KEY, None) == (sent.headers.get("api-key"), sent.headers.get("authorization"))
