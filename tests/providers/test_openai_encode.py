"""Is a request said to an OpenAI-compatible API as the client meant it, and never beyond what was reserved?"""

from __future__ import annotations

import pytest

from hybrid.providers.fake import Answer, FakeProvider
from hybrid.providers.openai import EXTRA_SAMPLING, ChatDialect, OpenAIProvider, Options, encode
from hybrid.types import Capability, ImagePart, Message, OtherPart, Sampling, TextPart, ToolCall

from .calls import KEY, call, collect, provider_at, run, user


def test_a_plain_request_sends_nothing_the_client_did_not_say():
    """Model, messages and the bound on the output: no sampling field, no default of ours."""
    assert {
        "model": "gpt-test",
        "messages": [{"role": "user", "content": "Say hello"}],
        "max_completion_tokens": 100,
        "stream": False,
    } == encode(call(is_stream=False))


def test_a_stream_asks_for_its_usage():
    """Without include_usage a stream would never tell what it cost."""
    body = encode(call())
    assert (True, {"include_usage": True}) == (body["stream"], body["stream_options"])


def test_a_server_that_only_knows_the_old_name_is_bounded_by_it():
    """The option moves the bound to `max_tokens`, and only there."""
    body = encode(call(), Options(max_tokens_field="max_tokens"))
    assert (100, None) == (body["max_tokens"], body.get("max_completion_tokens"))


def test_extra_cannot_lift_the_bound():
    """Whatever `extra` holds, the model, the bound, the stream and the usage are ours."""
    extra = {
        "max_tokens": 9999,
        "max_completion_tokens": 9999,
        "model": "dear",
        "stream": True,
        "stream_options": {"include_usage": False},
        "seed": 1,
    }
    body = encode(call(extra=extra, is_stream=False))
    assert {"model": "gpt-test", "max_completion_tokens": 100, "stream": False, "seed": 1} == {
        key: value for key, value in body.items() if key != "messages"
    }


def test_every_sampling_field_that_was_given_is_sent():
    """All eight samplers arrive under OpenAI's or the compatible servers' names; zero counts as given."""
    given = {
        "temperature": 0.0,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.05,
        "seed": 0,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "repetition_penalty": 1.1,
    }
    body = encode(call(sampling=Sampling(**given), stop=("a", "b")))
    assert given | {"stop": ["a", "b"]} == {key: body[key] for key in (*given, "stop")}


def test_extra_is_sent_as_it_is():
    """Tools, formats and efforts are OpenAI's own shapes and pass unchanged."""
    extra = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        "reasoning_effort": "low",
        "logit_bias": {"7": -100},
    }
    body = encode(call(extra=extra))
    assert extra == {key: body[key] for key in extra}


MESSAGES = [
    pytest.param(Message("system", (TextPart("be brief"),)), {"role": "system", "content": "be brief"}, id="text"),
    pytest.param(
        Message("user", (TextPart("hi"),), name="ann"), {"role": "user", "content": "hi", "name": "ann"}, id="name"
    ),
    pytest.param(
        Message(
            "user", (TextPart("what?"), ImagePart("data:image/png;base64,AA", "low"), ImagePart("https://x/y.png"))
        ),
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            ],
        },
        id="images",
    ),
    pytest.param(
        Message("user", (OtherPart("input_audio", {"type": "input_audio", "input_audio": {"data": "AA"}}),)),
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA"}}]},
        id="part-we-only-carry",
    ),
    pytest.param(
        Message("assistant", (), tool_calls=(ToolCall("call_1", "f", '{"a": 1}'),)),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
        },
        id="tool-calls",
    ),
    pytest.param(
        Message("tool", (TextPart("42"),), tool_call_id="call_1"),
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        id="tool-result",
    ),
    pytest.param(Message("assistant", ()), {"role": "assistant", "content": ""}, id="nothing-said"),
]


@pytest.mark.parametrize(("message", "expected"), MESSAGES)
def test_a_message_keeps_its_shape(message, expected):
    """Text stays a string, parts stay parts, tool calls and results keep their ids."""
    assert [expected] == encode(call(messages=(message,)))["messages"]


MISSING = [
    pytest.param({}, set(), id="nothing"),
    pytest.param({"needs": frozenset({Capability.TOOLS, Capability.IMAGES})}, set(), id="what-it-can"),
    pytest.param({"needs": frozenset({Capability.AUDIO, Capability.TOOLS})}, {"audio"}, id="capability"),
    pytest.param({"extra": {"n": 1}}, set(), id="one-choice"),
    pytest.param({"extra": {"n": 2}}, set(), id="several-choices"),
    pytest.param({"extra": {"web_search_options": {}}}, {"web_search_options"}, id="billed-by-search"),
    pytest.param({"extra": {"prediction": {"type": "content"}}}, {"prediction"}, id="billed-beyond-the-output"),
    pytest.param({"extra": {"service_tier": "flex"}}, set(), id="cheaper-tier"),
    pytest.param({"extra": {"service_tier": "priority"}}, {"service_tier"}, id="dearer-tier"),
    pytest.param({"extra": {"functions": []}}, {"functions"}, id="old-functions"),
    pytest.param({"extra": {"response_format": {"type": "json_object"}}}, set(), id="json-object"),
    pytest.param({"extra": {"response_format": {"type": "grammar"}}}, {"response_format"}, id="our-grammars"),
    pytest.param({"sampling": Sampling(temperature=1.0, seed=3)}, set(), id="openai-samplers"),
    pytest.param({"sampling": Sampling(top_k=0, min_p=0.0, repetition_penalty=1.0)}, set(), id="samplers-off"),
    pytest.param({"sampling": Sampling(top_k=0, min_p=0.1)}, {"min_p"}, id="a-sampler-off-and-one-on"),
]


@pytest.mark.parametrize(("fields", "expected"), MISSING)
def test_what_cannot_be_done_is_known_before_the_call(fields, expected):
    """missing() names what the API cannot do, our events cannot carry, or no reservation can bound."""
    provider = OpenAIProvider("cloud", base_url="https://api.openai.com/v1", api_key=KEY)
    assert expected == provider.missing(call(**fields).request)


@pytest.mark.parametrize(
    ("base_url", "option", "expected"),
    [
        pytest.param("https://api.openai.com/v1", None, {"top_k", "min_p"}, id="openai"),
        pytest.param("https://me.openai.azure.com/openai/v1", None, {"top_k", "min_p"}, id="azure"),
        pytest.param("https://openrouter.ai/api/v1", None, set(), id="compatible"),
        pytest.param("https://api.openai.com.example/v1", None, set(), id="look-alike"),
        pytest.param("https://api.openai.com/v1", True, set(), id="told-that-it-can"),
        pytest.param("http://127.0.0.1:8000/v1", False, {"top_k", "min_p"}, id="told-that-it-cannot"),
    ],
)
def test_samplers_outside_the_api_are_refused_where_the_server_would_refuse_them(base_url, option, expected):
    """OpenAI and Azure do not know top_k and min_p; a compatible server is trusted with them; the option decides."""
    provider = OpenAIProvider("cloud", base_url=base_url, api_key=None, options=Options(has_extra_sampling=option))
    assert expected == provider.missing(call(sampling=Sampling(top_k=5, min_p=0.1)).request)


@pytest.mark.parametrize(
    ("base_url", "api_version", "expected"),
    [
        pytest.param("https://api.openai.com/v1", None, {"stop"}, id="openai"),
        pytest.param("https://gate.example/openai/deployments/d", "2024-10-21", {"stop"}, id="azure-behind-a-gateway"),
        pytest.param("https://openrouter.ai/api/v1", None, set(), id="compatible"),
    ],
)
def test_more_stop_strings_than_openai_takes_are_known_before_the_call(base_url, api_version, expected):
    """OpenAI and Azure answer 400 to a fifth; a compatible server may take more."""
    provider = OpenAIProvider("cloud", base_url=base_url, api_key=KEY, options=Options(api_version=api_version))
    assert expected == provider.missing(call(stop=tuple("abcde")).request)
    assert set() == provider.missing(call(stop=tuple("abcd")).request)


def test_a_sampler_that_was_switched_off_is_not_told_to_who_does_not_know_it():
    """OpenAI refuses `top_k` even where it is 0; a compatible server may have a default that 0 switches off."""
    off = call(sampling=Sampling(top_k=0, min_p=0.0, repetition_penalty=1.0, top_p=1.0))
    theirs = ChatDialect(Options(), has_extra_sampling=False).post(off).body
    others = ChatDialect(Options(), has_extra_sampling=True).post(off).body
    assert {"top_p"} == theirs.keys() & {"top_p", *EXTRA_SAMPLING}
    assert {"top_p", *EXTRA_SAMPLING} == others.keys() & {"top_p", *EXTRA_SAMPLING}


@pytest.mark.parametrize(
    ("has_developer", "expected"),
    [pytest.param(True, "developer", id="openai"), pytest.param(False, "system", id="others")],
)
def test_only_who_knows_the_developer_is_told_of_one(has_developer, expected):
    """DeepSeek answers 400 to the role; what it says is a system prompt everywhere else."""
    asked = call(messages=(Message("developer", (TextPart("be brief"),)),))
    dialect = ChatDialect(Options(), has_extra_sampling=True, has_developer=has_developer)
    assert [{"role": expected, "content": "be brief"}] == dialect.post(asked).body["messages"]


def test_a_compatible_server_is_sent_no_developer():
    """Whom a provider speaks to is told by its URL."""

    async def roles():
        async with FakeProvider(Answer(chunks=("Hi",))) as fake, provider_at(fake.base_url) as provider:
            await collect(provider, call(messages=(Message("developer", (TextPart("x"),)), user("y"))))
            return [message["role"] for message in fake.requests[0].body["messages"]]

    assert ["system", "user"] == run(roles())
