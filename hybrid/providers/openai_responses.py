"""How is a request said to OpenAI's Responses API? Nothing is kept there: each call carries the whole conversation."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid.providers import wishes
from hybrid.providers.base import CloudCall
from hybrid.providers.failures import Failures
from hybrid.providers.http_provider import Post
from hybrid.providers.openai_responses_answer import ResponseReader, decode
from hybrid.providers.stream import Reader
from hybrid.types import Capability, ChatRequest, Event, ImagePart, Json, Message, Part, TextPart

CAPABILITIES = frozenset(
    {
        Capability.TOOLS,
        Capability.IMAGES,
        Capability.STRUCTURED_OUTPUT,
        Capability.LOGPROBS,
        Capability.REASONING_EFFORT,
    }
)

MIN_OUTPUT_TOKENS = 16
"""The API refuses a lower bound on the output."""

KNOWN = frozenset(
    {
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "n"),
        *("logprobs", "top_logprobs", "verbosity", "service_tier"),
    }
)
"""Keys of `ChatRequest.extra` that are read here; others have no place in this API."""

TIERS = (None, "auto", "default", "flex")
"""Service tiers that cost no more than the listed price."""


class ResponsesDialect:
    """The Responses API as a `http_provider.Dialect`."""

    def __init__(self, capabilities: frozenset[Capability] = CAPABILITIES) -> None:
        self.capabilities = capabilities & CAPABILITIES

    def missing(self, request: ChatRequest) -> frozenset[str]:
        """Say what the request wants and this API cannot do."""
        wanted = wishes.unspeakable(request, KNOWN) - {"messages.tool_calls.arguments"}  # it takes them as text
        wanted |= wishes.samplers(request).keys() - {"temperature", "top_p"}
        if request.stop:
            wanted.add("stop")
        if request.max_output_tokens is not None and request.max_output_tokens < MIN_OUTPUT_TOKENS:
            wanted.add("max_output_tokens")
        if request.extra.get("service_tier") not in TIERS:
            wanted.add("service_tier")
        return frozenset(wanted)

    def post(self, call: CloudCall) -> Post:
        """Write the call. See `http_provider.Dialect`."""
        return Post("/responses", encode(call))

    def reader(self, failures: Failures, _call: CloudCall) -> Reader:
        """What reads the events of a streamed answer."""
        return ResponseReader(failures)

    def decode(self, body: bytes, failures: Failures, _call: CloudCall) -> list[Event]:
        """Read the body of an answer that was not streamed. Raises: ProviderError."""
        return decode(body, failures)


def encode(call: CloudCall) -> dict[str, Json]:
    """Write the request body. Pure; what the client did not say is not sent, but for the bound on the output."""
    request, said = call.request, wishes.samplers(call.request)
    body: dict[str, Json] = {
        "model": call.model,
        "input": [item for message in request.messages for item in _items(message)],
        "max_output_tokens": call.max_output_tokens,
        "store": False,
        "stream": request.is_stream,
    }
    body |= {name: said[name] for name in ("temperature", "top_p") if name in said}
    if request.extra.get("service_tier") is not None:
        body["service_tier"] = request.extra["service_tier"]
    effort = wishes.effort(request)
    if effort is not None:
        body["reasoning"] = {"effort": effort}
    if request.extra.get("logprobs"):
        body["include"] = ["message.output_text.logprobs"]
        body["top_logprobs"] = request.extra.get("top_logprobs") or 0
    text = _text_options(request)
    return body | _tools(request) | ({"text": text} if text else {})


def _text_options(request: ChatRequest) -> dict[str, Json]:
    options: dict[str, Json] = {}
    kind = wishes.format_kind(request)
    if kind == "json_object":
        options["format"] = {"type": kind}
    if kind == "json_schema":
        # The API's default is strict, that of chat completions is not.
        wanted = {"strict": False, "schema": wishes.schema(request)} | request.extra["response_format"]["json_schema"]
        options["format"] = {"type": kind, **wanted}
    if request.extra.get("verbosity") is not None:
        options["verbosity"] = request.extra["verbosity"]
    return options


def _tools(request: ChatRequest) -> dict[str, Json]:
    wanted = request.extra.get("tools")
    if not wanted:
        return {}
    body: dict[str, Json] = {"tools": [_tool(tool["function"]) for tool in wanted]}
    choice = wishes.tool_choice(request)
    if isinstance(request.extra.get("tool_choice"), str):
        body["tool_choice"] = choice.mode
    elif choice.only is not None and request.extra["tool_choice"].get("type") == "function":
        body["tool_choice"] = {"type": "function", "name": choice.only[0]}
    elif choice.only is not None:
        named = [{"type": "function", "name": name} for name in choice.only]
        body["tool_choice"] = {"type": "allowed_tools", "mode": choice.mode, "tools": named}
    if request.extra.get("parallel_tool_calls") is not None:
        body["parallel_tool_calls"] = request.extra["parallel_tool_calls"]
    return body


def _tool(function: dict[str, Json]) -> dict[str, Json]:
    empty = {"type": "object", "properties": {}}
    body = {"type": "function", "name": function["name"], "parameters": function.get("parameters") or empty}
    if function.get("description"):
        body["description"] = function["description"]
    # The API's default is strict, that of chat completions is not.
    return body | {"strict": bool(function.get("strict"))}


def _items(message: Message) -> Iterator[dict[str, Json]]:
    if message.role == "tool":
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text}
        return
    if message.role == "assistant" and (message.parts or not message.tool_calls):
        # As plain text: parts of an answer would want the ids they had, which we never knew.
        yield {"type": "message", "role": message.role, "content": message.text}
    elif message.role != "assistant":
        parts = [_part(part) for part in wishes.named(message).parts]
        yield {"type": "message", "role": message.role, "content": parts or ""}
    for call in message.tool_calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _part(part: Part) -> dict[str, Json]:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    assert isinstance(part, ImagePart)
    return {"type": "input_image", "image_url": part.url, "detail": part.detail or "auto"}
