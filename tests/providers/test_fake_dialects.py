"""Are the fakes of the other dialects faithful clouds? The official clients must read from them what we read."""

from __future__ import annotations

import json
from dataclasses import replace

import anthropic
import openai
import pytest
from google.genai import errors as google_errors

from hybrid.errors import ProviderRejected
from hybrid.providers.fake import Answer
from hybrid.types import ToolCall

from .calls import call, collect, outcome, run
from .dialects import ANTHROPIC, DIALECTS, GEMINI, RESPONSES, meaning_of, provider_of, told
from .official import READERS, anthropic_client, compact, google_client, openai_client

WEATHER = (ToolCall("call_a", "weather", '{"city": "Bern"}'), ToolCall("call_b", "time", "{}"))
ANSWERS = [
    pytest.param(Answer(), id="text"),
    pytest.param(
        Answer(chunks=("Caf\u00e9 ", "\U0001f600"), prompt_tokens=11, cached_tokens=5), id="unicode-and-cached"
    ),
    pytest.param(Answer(chunks=(), tool_calls=WEATHER), id="parallel-tools"),
    pytest.param(Answer(chunks=("Let me see.",), tool_calls=WEATHER[:1]), id="text-and-tool"),
    pytest.param(Answer(reasoning=("Hm", "m."), chunks=("Hi",)), id="reasoning"),
    pytest.param(Answer(chunks=("word ",) * 200), id="cut-at-the-limit"),
    pytest.param(Answer(chunks=(), refusal="I will not."), id="refused"),
    pytest.param(Answer(chunks=()), id="nothing-said"),
]


def plain(meaning):
    """A meaning whose arguments are compared by what they say."""
    calls = tuple((id_, name, compact(json.loads(arguments))) for id_, name, arguments in meaning.calls)
    return replace(meaning, calls=calls)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("dialect", [RESPONSES, ANTHROPIC, GEMINI], ids=lambda one: one.name)
def test_the_official_client_and_our_adapter_read_the_same(dialect, answer, is_stream):
    """Texts, calls, end and usage are equal, and the usage is what was billed."""

    async def scenario():
        async with dialect.fake(answer) as fake:
            provider = provider_of(dialect, fake.base_url)
            ours = meaning_of(await collect(provider, call(is_stream=is_stream)))
            await provider.aclose()
            theirs = await READERS[dialect.name](fake, is_stream=is_stream)
            return plain(ours), theirs, told(fake.requests[0].billed)

    ours, theirs, billed = run(scenario())
    assert theirs == ours
    assert billed == ours.usage


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.name)
def test_an_answer_means_the_same_streamed_and_whole_in_every_dialect(dialect, answer):
    """One script, told in four ways and twice each, is one meaning at one price."""

    async def scenario():
        async with dialect.fake(answer) as fake:
            provider = provider_of(dialect, fake.base_url)
            read = [plain(meaning_of(await collect(provider, call(is_stream=streamed)))) for streamed in (True, False)]
            await provider.aclose()
            return [replace(meaning, usage=told(meaning.usage)) for meaning in read]

    async def by_chat():
        chat = DIALECTS[0]
        async with chat.fake(answer) as fake:
            provider = provider_of(chat, fake.base_url)
            meaning = plain(meaning_of(await collect(provider, call())))
            await provider.aclose()
            return replace(meaning, usage=told(meaning.usage))

    expected = run(by_chat())
    assert [expected, expected] == run(scenario())


def test_cache_writes_and_the_stop_text_reach_us_from_anthropic():
    """What the cache took is within the prompt and told apart; the stop text that ended the answer is named."""
    answer = Answer(prompt_tokens=100, cached_tokens=60, cache_write_tokens=30, stop_sequence="END")

    async def scenario():
        async with ANTHROPIC.fake(answer) as fake:
            provider = provider_of(ANTHROPIC, fake.base_url)
            ours = meaning_of(await collect(provider, call(stop=("END",))))
            await provider.aclose()
            return ours, await READERS["anthropic"](fake, is_stream=True)

    ours, theirs = run(scenario())
    assert theirs == ours
    assert (100, 60, 30, "END") == (
        ours.usage.prompt_tokens,
        ours.usage.cached_tokens,
        ours.usage.cache_write_tokens,
        ours.stopped_by,
    )


async def _anthropic_error(fake):
    async with anthropic_client(fake) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "x"}])
        return caught.value.status_code, caught.value.body["error"]["type"]


async def _openai_error(fake):
    async with openai_client(fake) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model="m", input="x")
        return caught.value.status_code, caught.value.code


async def _google_error(fake):
    async with google_client(fake) as client:
        with pytest.raises(google_errors.APIError) as caught:
            await client.models.generate_content(model="m", contents="x")
        return caught.value.code, caught.value.status


@pytest.mark.parametrize(
    ("dialect", "client", "expected"),
    [
        pytest.param(RESPONSES, _openai_error, (401, "invalid_api_key"), id="responses"),
        pytest.param(ANTHROPIC, _anthropic_error, (401, "authentication_error"), id="anthropic"),
        pytest.param(GEMINI, _google_error, (401, "UNAUTHENTICATED"), id="gemini"),
    ],
)
def test_a_wrong_key_is_refused_to_both(dialect, client, expected):
    """The official client reads the fake's error as its API's, and we as a rejection that is not worth repeating."""

    async def scenario():
        async with dialect.fake(api_key="another") as fake:
            provider = provider_of(dialect, fake.base_url)
            _, error = await outcome(provider, call())
            await provider.aclose()
            return error, await client(fake)

    error, theirs = run(scenario())
    assert expected == theirs
    assert (ProviderRejected, 401, False) == (type(error), error.upstream_status, error.is_retryable)
