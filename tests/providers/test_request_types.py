"""Would the official clients send what we send? Our requests, held against the types that those clients write by.

Validation drops what a type does not know, so a body that comes back unchanged has no field that it does not know.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pydantic
import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from google.genai import types as google_types
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

from hybrid.providers.anthropic import AnthropicDialect
from hybrid.providers.anthropic import Options as AnthropicOptions
from hybrid.providers.base import CloudCall
from hybrid.providers.gemini import GeminiDialect
from hybrid.providers.gemini import Options as GeminiOptions
from hybrid.providers.openai import ChatDialect
from hybrid.providers.openai import Options as ChatOptions
from hybrid.providers.openai_responses import ResponsesDialect
from hybrid.types import ChatRequest, Message, Sampling, TextPart

from .calls import user
from .test_golden import CASES, CITY, TOOLS, request_of

NAMED = {"type": "function", "function": {"name": "get_time"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}
STRICT = {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY | {"additionalProperties": False}}}


def asking(**fields: Any) -> ChatRequest:
    """A request of one message."""
    return ChatRequest(model="hybrid", messages=fields.pop("messages", (user("x"),)), is_stream=True, **fields)


REQUESTS = {case: request_of(case, is_stream=True) for case in CASES} | {
    "a-system-prompt-between": asking(
        messages=(user("x"), Message("assistant", (TextPart("y"),)), Message("developer", (TextPart("z"),)), user("x"))
    ),
    "named-tool": asking(extra={"tools": TOOLS, "tool_choice": NAMED}),
    "allowed-tools": asking(extra={"tools": TOOLS, "tool_choice": ALLOWED}),
    "no-tool": asking(extra={"tools": TOOLS, "tool_choice": "none"}),
    "one-call-at-a-time": asking(extra={"tools": TOOLS, "parallel_tool_calls": False}),
    "json-object": asking(extra={"response_format": {"type": "json_object"}}),
    "strict-schema": asking(extra={"response_format": STRICT}),
    "no-thinking": asking(extra={"reasoning_effort": "none"}),
    "hard-thinking-about-a-schema": asking(extra={"reasoning_effort": "high", "response_format": STRICT}),
    "log-probabilities": asking(extra={"logprobs": True, "top_logprobs": 2}),
    "samplers": asking(sampling=Sampling(temperature=0.2, top_p=0.9, seed=7, presence_penalty=0.1)),
    "stops": asking(stop=("a", "b")),
}
TYPED = {
    "chat": (ChatDialect(ChatOptions(), has_extra_sampling=False), CompletionCreateParamsStreaming),
    "responses": (ResponsesDialect(), ResponseCreateParamsStreaming),
    "anthropic": (AnthropicDialect(AnthropicOptions(caches_prompts=True)), MessageCreateParamsStreaming),
    "anthropic-older": (
        AnthropicDialect(AnthropicOptions(reasoning="budget", structured="tool")),
        MessageCreateParamsStreaming,
    ),
}
OF_OLDER_MODELS = ("temperature", "top_p", "top_k")
"""What Anthropic's client no longer knows, since its newest models refuse it (`sampling = false`)."""


def plain(value: Any) -> Any:
    """A validated value with its lazy lists read out."""
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    return [plain(child) for child in value]


def can(dialect: Any, request: ChatRequest) -> bool:
    """Whether the dialect says it can."""
    return not dialect.missing(request)


PAIRS = [
    pytest.param(*TYPED[api], request, id=f"{api}-{name}")
    for api in TYPED
    for name, request in REQUESTS.items()
    if can(TYPED[api][0], request)
]


@pytest.mark.parametrize(("dialect", "shape", "request_"), PAIRS)
def test_a_request_has_the_shape_that_the_official_client_sends(dialect, shape, request_):
    """No field is unknown, none is lacking, and each has a value of its type."""
    body = msgspec.to_builtins(dialect.post(CloudCall(request_, "m", 4000)).body)
    if shape is MessageCreateParamsStreaming:
        body = {key: value for key, value in body.items() if key not in OF_OLDER_MODELS}
    assert body == plain(pydantic.TypeAdapter(shape).validate_python(body))


GEMINI = [
    pytest.param(options, request, id=f"{options.reasoning}-{name}")
    for options in (GeminiOptions(), GeminiOptions(reasoning="budget"))
    for name, request in REQUESTS.items()
    if can(GeminiDialect(options), request)
]


@pytest.mark.parametrize(("options", "request_"), GEMINI)
def test_a_request_to_gemini_has_the_shape_that_the_official_client_sends(options, request_):
    """Its types refuse what they do not know, and write again what they read."""
    body = msgspec.to_builtins(GeminiDialect(options).post(CloudCall(request_, "m", 4000)).body)

    def same(shape: type[pydantic.BaseModel], value: Any) -> Any:
        return shape.model_validate(value).model_dump(exclude_none=True, by_alias=True, mode="json")

    shapes = {"generationConfig": google_types.GenerationConfig, "systemInstruction": google_types.Content}
    shapes["toolConfig"] = google_types.ToolConfig
    lists = {"contents": google_types.Content, "tools": google_types.Tool}
    read = {key: same(shape, body[key]) for key, shape in shapes.items() if key in body}
    read |= {key: [same(shape, one) for one in body[key]] for key, shape in lists.items() if key in body}
    assert body == read


def test_the_pairs_are_not_few():
    """Most of these requests can be made of every API; a dialect that refused all would prove nothing."""
    counts = {api: sum(can(dialect, request) for request in REQUESTS.values()) for api, (dialect, _) in TYPED.items()}
    counts["gemini"] = sum(can(GeminiDialect(GeminiOptions()), request) for request in REQUESTS.values())
    assert {} == {api: count for api, count in counts.items() if count < len(REQUESTS) * 3 // 4}
