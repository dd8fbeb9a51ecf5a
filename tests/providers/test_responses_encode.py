"""Is a request said to OpenAI's Responses API in full, and is what it cannot be told named before the call?"""

from __future__ import annotations

import pytest

from hybrid.providers.openai import CAPABILITIES, OpenAIProvider, Options
from hybrid.providers.openai_responses import ResponsesDialect, encode
from hybrid.types import Capability, Sampling

from .calls import KEY, call

SCHEMA = {"type": "object", "properties": {}}
TOOLS = [{"type": "function", "function": {"name": "first", "description": "It.", "strict": True}}]


def missing(**fields):
    """What is named as missing for a request of these fields."""
    return set(ResponsesDialect().missing(call(**fields).request))


def test_nothing_is_kept_there():
    """A response would be stored for a month; what is sent is not ours to leave behind."""
    assert False is encode(call())["store"]


def test_what_was_not_strict_stays_so():
    """The API's default is strict, that of chat completions is not."""
    extra = {
        "tools": [*TOOLS, {"type": "function", "function": {"name": "second"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "verbosity": "low",
    }
    body = encode(call(extra=extra))
    assert [True, False] == [tool["strict"] for tool in body["tools"]]
    wanted = {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": False}
    assert {"format": wanted, "verbosity": "low"} == body["text"]


CHOICES = [
    pytest.param("required", "required", id="word"),
    pytest.param(
        {"type": "function", "function": {"name": "first"}}, {"type": "function", "name": "first"}, id="named"
    ),
    pytest.param(
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "first"}}]},
        },
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "first"}]},
        id="allowed",
    ),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_tool_choice_keeps_its_meaning(choice, expected):
    """Each shape of chat completions has its shape here."""
    assert expected == encode(call(extra={"tools": TOOLS, "tool_choice": choice}))["tool_choice"]


def test_log_probabilities_are_asked_for():
    """They come only where they are included."""
    body = encode(call(extra={"logprobs": True, "top_logprobs": 2}))
    assert (["message.output_text.logprobs"], 2) == (body["include"], body["top_logprobs"])


MISSING = [
    pytest.param({"stop": ("x",)}, {"stop"}, id="stop"),
    pytest.param({"sampling": Sampling(seed=1, presence_penalty=1)}, {"seed", "presence_penalty"}, id="samplers"),
    pytest.param({"extra": {"service_tier": "priority"}}, {"service_tier"}, id="a-dearer-tier"),
    pytest.param({"extra": {"logit_bias": {"1": 1}}}, {"logit_bias"}, id="bias"),
    pytest.param({"extra": {"n": 3}}, {"n"}, id="choices"),
]


@pytest.mark.parametrize(("fields", "expected"), MISSING)
def test_what_it_cannot_be_told_is_named(fields, expected):
    """Nothing is dropped: each wish without a place in the API is named before the call."""
    assert expected == missing(**fields)


def test_the_option_chooses_the_api_and_its_capabilities():
    """What chat completions can do and responses cannot is no capability of a cloud that speaks these."""
    options = Options(api="responses")
    provider = OpenAIProvider("cloud", base_url="https://api.openai.com/v1", api_key=KEY, options=options)
    assert CAPABILITIES - {Capability.LOGIT_BIAS, Capability.MULTIPLE_CHOICES} == provider.capabilities
