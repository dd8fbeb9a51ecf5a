"""How is a request said to Anthropic's Messages API, and who carries it there?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hybrid.errors import UnsupportedCapability
from hybrid.providers import schemas, wishes
from hybrid.providers.anthropic_answer import MessageReader, decode
from hybrid.providers.base import CloudCall, Timeouts
from hybrid.providers.failures import Failures
from hybrid.providers.http_provider import HttpProvider, Post
from hybrid.providers.keys import ApiKey, Credential, ring_of
from hybrid.providers.stream import Reader
from hybrid.providers.transport import Transport
from hybrid.types import Capability, ChatRequest, Event, ImagePart, Json, Message, Part, TextPart

VERSION = "2023-06-01"
"""Of the API; sent as `anthropic-version`, which it demands."""

CAPABILITIES = frozenset(
    {Capability.TOOLS, Capability.IMAGES, Capability.STRUCTURED_OUTPUT, Capability.REASONING_EFFORT}
)

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

MIN_BUDGET_TOKENS = 1_024
"""The least thinking the API takes a number for; it must stay below the bound on the output."""

ANSWER_SHARE = 4
"""One in so many of the output tokens are left for the answer, however hard it is to think."""

KNOWN = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "n"},
)
"""Keys of `ChatRequest.extra` that are read here; others have no place in this API."""

ANSWER_TOOL = "answer"
"""The tool whose arguments stand for the answer, where a model can be held to a form by no other means."""

PREFILL = "assistant message at the end"
"""What is named as missing where an answer that the client began is not gone on with."""

_FIRST_WITHOUT_PREFILL = (4, 6)
_VERSION = re.compile(r"claude-[a-z]+-(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?")

Reasoning: TypeAlias = Literal["effort", "budget"]
Structured: TypeAlias = Literal["format", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What differs between models.

    reasoning: whether an effort is told as such (adaptive thinking), or as a number of tokens, as older models want it.
    structured: whether a schema goes into `output_config`, or, for older models, into a tool that must be called.
    has_sampling: False for models that refuse temperature, top_p and top_k.
    has_prefill: False for models that refuse a conversation whose last turn is the assistant's.
    caches_prompts: whether prompts are kept for later calls, which costs more at first and less from then on.
    """

    capabilities: frozenset[Capability] = CAPABILITIES
    reasoning: Reasoning = "effort"
    structured: Structured = "format"
    has_sampling: bool = True
    has_prefill: bool = True
    caches_prompts: bool = False


def takes_prefill(model: str) -> bool:
    """Tell models that go on with an answer that was begun, by their name; of an unknown one the API is to say.

    Source: Anthropic, "Migration guide": prefilling assistant messages returns a 400 error on Claude 4.6 models.
    """
    version = _VERSION.search(model)
    return version is None or (int(version[1]), int(version[2] or 0)) < _FIRST_WITHOUT_PREFILL


class AnthropicDialect:
    """The Messages API as a `http_provider.Dialect`."""

    def __init__(self, options: Options) -> None:
        self.capabilities = options.capabilities
        self._options = options

    def missing(self, request: ChatRequest) -> frozenset[str]:
        """Say what the request wants and this API cannot do."""
        wanted = wishes.unspeakable(request, KNOWN)
        said = wishes.samplers(request)
        wanted |= said.keys() - {"temperature", "top_p", "top_k"}
        if said.get("temperature", 0) > 1:
            wanted.add("temperature")
        if self._options.has_sampling and {"temperature", "top_p"} <= _samplers(request).keys():
            wanted.add("temperature with top_p")
        if not self._options.has_sampling:
            wanted |= said.keys() - {name for name in ("temperature",) if said.get(name) == 1}
        wanted |= self._missing_of_thinking(request, said)
        wanted |= self._missing_of_format(request)
        wanted |= {f"{image} image" for image in _foreign_images(request)}
        if any(not text.strip() for text in request.stop):
            wanted.add("stop")
        turns = wishes.spoken(request.messages)
        if not turns:
            wanted.add("messages")
        if any(_is_empty(message) for message in turns):
            wanted.add("messages.content")
        if _is_prefilled(request) and not self._takes_prefill(request):
            wanted.add(PREFILL)
        return frozenset(wanted)

    def _takes_prefill(self, request: ChatRequest) -> bool:
        """Source: Anthropic, "Extended thinking" and "Structured outputs", on what goes with prefilling."""
        has_form = wishes.format_kind(request) == "json_schema" and self._options.structured == "format"
        return self._options.has_prefill and wishes.effort(request) in (None, "none") and not has_form

    def _missing_of_thinking(self, request: ChatRequest, said: dict[str, Json]) -> set[str]:
        if wishes.effort(request) in (None, "none"):
            return set()
        wanted: set[str] = set()
        # Thinking draws by its own rules, and cannot be made to end in a call.
        wanted |= {name for name in ("temperature", "top_k") if name in said and said[name] != 1}
        if said.get("top_p", 1) < 0.95:
            wanted.add("top_p")
        if wishes.tool_choice(request).mode == "required" or self._uses_answer_tool(request):
            wanted.add("tool_choice")
        if self._options.reasoning == "budget":
            limit = request.max_output_tokens
            # A turn of calls that was thought about must be given back with its thoughts, and we do not have them.
            is_in_turn = [turn.role for turn in wishes.spoken(request.messages)][-1:] == ["tool"]
            if is_in_turn or (limit is not None and _budget_tokens("minimal", limit) < MIN_BUDGET_TOKENS):
                wanted.add("reasoning_effort")
        return wanted

    def _missing_of_format(self, request: ChatRequest) -> set[str]:
        kind = wishes.format_kind(request)
        if kind not in ("json_object", "json_schema"):
            return set()
        if self._uses_answer_tool(request):
            is_object = isinstance(wishes.schema(request), dict) and wishes.schema(request).get("type") == "object"
            can = not request.extra.get("tools") and is_object and not wishes.is_strict(request)
            return set() if can else {"response_format"}
        obstacles = schemas.anthropic_obstacles(wishes.schema(request))
        return {f"response_format.{word}" for word in obstacles}

    def _uses_answer_tool(self, request: ChatRequest) -> bool:
        kind = wishes.format_kind(request)
        return kind == "json_object" or (kind == "json_schema" and self._options.structured == "tool")

    def post(self, call: CloudCall) -> Post:
        """Write the call. See `http_provider.Dialect`."""
        return Post("/messages", encode(call, self._options))

    def reader(self, failures: Failures, call: CloudCall) -> Reader:
        """What reads the events of a streamed answer."""
        return MessageReader(failures, answer_tool=self._answer_tool(call.request))

    def decode(self, body: bytes, failures: Failures, call: CloudCall) -> list[Event]:
        """Read the body of an answer that was not streamed. Raises: ProviderError."""
        return decode(body, failures, answer_tool=self._answer_tool(call.request))

    def _answer_tool(self, request: ChatRequest) -> str | None:
        return ANSWER_TOOL if self._uses_answer_tool(request) else None


def encode(call: CloudCall, options: Options | None = None) -> dict[str, Json]:
    """Write the request body. Pure; what the client did not say is not sent, but for the bound on the output.

    Raises: UnsupportedCapability if the output bound leaves no room for the thinking that was asked for.
    """
    options = options or Options()
    request, said = call.request, _samplers(call.request)
    body: dict[str, Json] = {
        "model": call.model,
        "max_tokens": call.max_output_tokens,
        "messages": _messages(request.messages),
        "stream": request.is_stream,
    }
    system = wishes.system_text(request.messages)
    if system:
        body["system"] = system
    if options.has_sampling:
        body |= {name: said[name] for name in ("temperature", "top_p", "top_k") if name in said}
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if options.caches_prompts:
        body["cache_control"] = {"type": "ephemeral"}
    return body | _tools(request) | _thinking(call, options) | _format(request, options)


def _samplers(request: ChatRequest) -> dict[str, Json]:
    """The samplers to send. Every model since Claude Opus 4.1 refuses temperature and top_p together.

    One of them is left out where it changes nothing: top_p beside a temperature of 0, which takes the likeliest token,
    and a temperature of 1, which is the API's default, beside top_p.
    Source: Anthropic, "Migration guide", on Claude 4.x: "Use only temperature OR top_p, not both"; the API's 400,
    github.com/BerriAI/litellm/issues/15097.
    """
    said = wishes.samplers(request)
    if "top_p" in said and said.get("temperature") in (0, 1):
        del said["top_p" if said["temperature"] == 0 else "temperature"]
    return said


def _tools(request: ChatRequest) -> dict[str, Json]:
    functions = wishes.tools(request)
    if not functions:
        return {}
    choice = wishes.tool_choice(request)
    body: dict[str, Json] = {"tools": [_tool(function) for function in functions]}
    names = {"auto": "auto", "none": "none", "required": "any"}
    if len(functions) == 1 and choice.mode == "required":
        said: dict[str, Json] = {"type": "tool", "name": functions[0]["name"]}
    else:
        said = {"type": names[choice.mode]}
    if not wishes.is_parallel(request) and choice.mode != "none":
        said["disable_parallel_tool_use"] = True
    if request.extra.get("tool_choice") is not None or len(said) > 1:
        body["tool_choice"] = said
    return body


def _tool(function: dict[str, Json]) -> dict[str, Json]:
    body: dict[str, Json] = {"name": function["name"]}
    if function.get("description"):
        body["description"] = function["description"]
    body["input_schema"] = {"type": "object", "properties": {}} | (function.get("parameters") or {})
    if function.get("strict"):
        body["strict"] = True
    return body


def _thinking(call: CloudCall, options: Options) -> dict[str, Json]:
    effort = wishes.effort(call.request)
    if effort is None:
        return {}
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if options.reasoning == "effort":
        level = "low" if effort == "minimal" else effort
        return {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": level}}
    budget_tokens = _budget_tokens(effort, call.max_output_tokens)
    if budget_tokens < MIN_BUDGET_TOKENS:
        raise UnsupportedCapability({"reasoning_effort"}, where=f"{call.model} within {call.max_output_tokens} tokens")
    return {"thinking": {"type": "enabled", "budget_tokens": budget_tokens}}


def _budget_tokens(effort: str, max_output_tokens: int) -> int:
    return min(wishes.EFFORT_TOKENS[effort], max_output_tokens - 1 - max_output_tokens // ANSWER_SHARE)


def _format(request: ChatRequest, options: Options) -> dict[str, Json]:
    kind = wishes.format_kind(request)
    if kind is None:
        return {}
    schema = wishes.schema(request)
    if kind == "json_schema" and options.structured == "format":
        said: dict[str, Json] = {"format": {"type": "json_schema", "schema": schemas.closed(schema)}}
        effort = wishes.effort(request)
        if effort not in (None, "none") and options.reasoning == "effort":
            said["effort"] = "low" if effort == "minimal" else effort
        return {"output_config": said}
    tool = {"name": ANSWER_TOOL, "description": "Give the answer.", "input_schema": schema}
    choice = {"type": "tool", "name": ANSWER_TOOL, "disable_parallel_tool_use": True}
    return {"tools": [tool], "tool_choice": choice}


def _messages(messages: Iterable[Message]) -> list[dict[str, Json]]:
    """Write the turns. Neighbours of one role become one: the results of parallel calls must come together."""
    turns: list[dict[str, Json]] = []
    for message in wishes.spoken(messages):
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if turns and turns[-1]["role"] == "assistant" and "text" in turns[-1]["content"][-1]:
        # An answer that is begun must not end with white space.
        turns[-1]["content"][-1]["text"] = turns[-1]["content"][-1]["text"].rstrip()
    return turns


def _blocks(message: Message) -> list[dict[str, Json]]:
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": _id(message.tool_call_id or ""), "content": message.text}]
    blocks = [_block(part) for part in wishes.named(message).parts if not _is_blank(part)]
    blocks += [
        {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": wishes.arguments(call)}
        for call in message.tool_calls
    ]
    return blocks


def _block(part: Part) -> dict[str, Json]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    assert isinstance(part, ImagePart)
    image = wishes.inline_image(part)
    if image is None:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": image.data}}


def _is_blank(part: Part) -> bool:
    return isinstance(part, TextPart) and not part.text.strip()


def _is_empty(message: Message) -> bool:
    """A turn that says nothing, which the API refuses."""
    if message.role == "tool" or message.tool_calls:
        return False
    return all(_is_blank(part) for part in message.parts)


def _is_prefilled(request: ChatRequest) -> bool:
    """Whether the answer is begun already: the last turn is the assistant's."""
    return [turn.role for turn in wishes.spoken(request.messages)][-1:] == ["assistant"]


def _id(text: str) -> str:
    """Write a call's id in the letters the API takes. Different ids stay different."""
    return re.sub(r"[^a-zA-Z0-9_-]", lambda match: f"_{ord(match[0]):x}_", text)


def _foreign_images(request: ChatRequest) -> set[str]:
    """Name the kinds of images that the API does not take: by media type, or by the scheme of the URL."""
    found: set[str] = set()
    for part in wishes.images(request):
        image = wishes.inline_image(part)
        scheme = wishes.scheme(part)
        if image is None and scheme != "https":
            found.add("broken data" if scheme == "data" else scheme)
        if image is not None and image.media_type not in IMAGE_TYPES:
            found.add(image.media_type)
    return found


class AnthropicProvider(HttpProvider):
    """The `anthropic` kind: Anthropic's own API, and what speaks it."""

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        api_key: ApiKey,
        timeouts: Timeouts | None = None,
        options: Options | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Prepare; nothing is opened before the first call. base_url: as in "https://api.anthropic.com/v1".

        Raises: ValueError for a URL or key that cannot work.
        """
        credential = ring_of(api_key, lambda key: Credential(key, header="x-api-key", prefix=""))
        transport = transport or Transport(
            name,
            base_url=base_url,
            credential=credential,
            timeouts=timeouts or Timeouts(),
            headers={"anthropic-version": VERSION},
        )
        super().__init__(name, AnthropicDialect(options or Options()), transport)
