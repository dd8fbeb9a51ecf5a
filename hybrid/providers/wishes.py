"""What does a request ask for, said so that any API's encoder can write it or say that it cannot? Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from hybrid.providers.failures import UNREADABLE_JSON
from hybrid.types import ChatRequest, ImagePart, Json, Message, OtherPart, Part, TextPart, ToolCall

NEUTRAL: Mapping[str, float] = {
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
}
"""Values that switch a sampler off: who says one asks for nothing that an API without that sampler could not do."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

EFFORT_TOKENS: Mapping[str, int] = {
    "minimal": 1_024,
    "low": 1_024,
    "medium": 8_192,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 1_000_000,
}
"""Thinking tokens an effort stands for, where an API wants a number. `max` is all that the output bound leaves.

Source: Google, "OpenAI compatibility", section "Thinking", for minimal to high; the others continue it.
"""

_REGISTERED: Mapping[str, str] = {"image/jpg": "image/jpeg"}
"""Media types that many clients write, and what they are called."""

ToolMode: TypeAlias = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools may, must or must not be called; `only` bounds which, None: all of them."""

    mode: ToolMode = "auto"
    only: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image that travels in the request: its media type in lower case, its bytes in base64."""

    media_type: str
    data: str


def samplers(request: ChatRequest) -> dict[str, Json]:
    """Name the sampling parameters the client set to something, without those it only switched off."""
    said = {name: getattr(request.sampling, name) for name in request.sampling.__slots__}
    return {name: value for name, value in said.items() if value is not None and value != NEUTRAL.get(name)}


def tools(request: ChatRequest) -> list[dict[str, Json]]:
    """The `function` object of each tool the client described, without those it forbids to call."""
    functions = [tool["function"] for tool in request.extra.get("tools") or ()]
    only = tool_choice(request).only
    return functions if only is None else [one for one in functions if one["name"] in only]


def tool_choice(request: ChatRequest) -> ToolChoice:
    """Read OpenAI's `tool_choice` in all its shapes."""
    choice = request.extra.get("tool_choice")
    if choice is None or not request.extra.get("tools"):
        return ToolChoice()
    if isinstance(choice, str):
        return ToolChoice(choice)  # type: ignore[arg-type]  # the dialect's parse let only these words through
    if choice.get("type") == "allowed_tools":
        allowed = choice["allowed_tools"]
        return ToolChoice(allowed["mode"], tuple(_name_of(tool) for tool in allowed["tools"]))
    return ToolChoice("required", (_name_of(choice),))


def _name_of(tool: Mapping[str, Json]) -> str:
    inner = tool.get("function")
    return str((inner if isinstance(inner, dict) else tool).get("name", ""))


def is_parallel(request: ChatRequest) -> bool:
    """Whether more than one call an answer is allowed."""
    return request.extra.get("parallel_tool_calls") is not False


def choices(request: ChatRequest) -> int:
    """How many answers are wanted."""
    return request.extra.get("n") or 1


def effort(request: ChatRequest) -> str | None:
    """How hard to think, one of `EFFORTS`; None where the client did not say."""
    return request.extra.get("reasoning_effort")


def format_kind(request: ChatRequest) -> str | None:
    """`json_object`, `json_schema` or `grammar`; None for plain text."""
    kind = (request.extra.get("response_format") or {}).get("type")
    return None if kind == "text" else kind


def schema(request: ChatRequest) -> Json:
    """The JSON Schema an answer is to follow; the one that allows every object where none was given."""
    wanted = (request.extra.get("response_format") or {}).get("json_schema") or {}
    return wanted.get("schema") or {"type": "object"}


def is_strict(request: ChatRequest) -> bool:
    """Whether the client insists that the answer follows its schema to the letter."""
    return bool(((request.extra.get("response_format") or {}).get("json_schema") or {}).get("strict"))


def arguments(call: ToolCall) -> dict[str, Json] | None:
    """The arguments of a call as the object that most APIs want; None where the text is not one.

    Read by what will write them: half a surrogate pair, or a number that no JSON has, could not be sent.
    """
    try:
        value = msgspec.json.decode(call.arguments or "{}")
    except UNREADABLE_JSON:
        return None
    return value if isinstance(value, dict) else None


def inline_image(part: ImagePart) -> InlineImage | None:
    """Read a data URL; None for any other, and for one that is broken.

    Source: RFC 2397. Data that is not base64 is made so.
    """
    head, comma, data = part.url.partition(",")
    if not comma or head[:5].lower() != "data:":
        return None
    said, *parameters = head[5:].lower().split(";")
    media_type = _REGISTERED.get(said.strip(), said.strip())
    if "base64" not in (parameter.strip() for parameter in parameters):
        return InlineImage(media_type, base64.b64encode(unquote_to_bytes(data)).decode())
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
    return InlineImage(media_type, data)


def scheme(part: ImagePart) -> str:
    """The scheme of an image's URL, in lower case. A URL with a broken host has one too."""
    return part.url[:64].partition(":")[0].lower()


def images(request: ChatRequest) -> Iterable[ImagePart]:
    """All images of the conversation."""
    return (part for message in request.messages for part in message.parts if isinstance(part, ImagePart))


def unspeakable(request: ChatRequest, known: frozenset[str]) -> set[str]:
    """Name what stricter APIs than OpenAI's have no place for at all.

    known: keys of `extra` that the API's encoder reads.
    """
    wanted = {key for key, value in request.extra.items() if key not in known and value is not None}
    for message in request.messages:
        if any(arguments(call) is None for call in message.tool_calls):
            wanted.add("messages.tool_calls.arguments")
        if any(isinstance(part, OtherPart) for part in message.parts):
            wanted.add("messages.content")
    # Written into what the model itself said, a name would come back as the beginning of its answer.
    if len({message.name or None for message in spoken(request.messages) if message.role == "assistant"}) > 1:
        wanted.add("messages.name")
    if format_kind(request) == "grammar":
        wanted.add("response_format")
    described = {tool["function"]["name"] for tool in request.extra.get("tools") or ()}
    if not described.issuperset(tool_choice(request).only or ()):
        wanted.add("tool_choice")
    if choices(request) > 1:
        wanted.add("n")
    return wanted


def spoken(messages: Iterable[Message]) -> list[Message]:
    """The turns of a conversation, without the system's and without assistants' that say nothing.

    An empty answer tells nothing, and no API that is stricter than OpenAI's takes one.
    """
    turns = (message for message in messages if message.role not in ("system", "developer"))
    return [turn for turn in turns if turn.role != "assistant" or turn.tool_calls or _says_something(turn)]


def _says_something(message: Message) -> bool:
    return any(not isinstance(part, TextPart) or part.text.strip() for part in message.parts)


def named(message: Message) -> Message:
    """Write who speaks into the text, where the API has no field for it: "ann: Hello".

    An assistant's name is left out: `unspeakable` names it as missing unless all its turns have the same, which then
    tells nothing apart. A tool's name is in the call that its result answers.
    Source: OpenAI, Chat API reference, `messages.name`: it tells participants of the same role apart; AutoGen,
    "Transform Messages for Non-OpenAI Models", section "Incorporating an agent's name", on putting it into the text.
    """
    if not message.name or message.role in ("assistant", "tool") or not message.parts:
        return message
    first, *others = message.parts
    if isinstance(first, TextPart):
        return replace(message, parts=(TextPart(f"{message.name}: {first.text}"), *others))
    return replace(message, parts=(TextPart(f"{message.name}:"), *message.parts))


def texts(parts: Iterable[Part]) -> list[str]:
    """The texts that say something; none of these APIs takes an empty one."""
    return [part.text for part in parts if isinstance(part, TextPart) and part.text.strip()]


def system_text(messages: Iterable[Message]) -> str:
    """All system and developer messages, in order, as the one system prompt that these APIs have."""
    spoken = (message for message in messages if message.role in ("system", "developer"))
    return "\n".join(text for message in spoken if texts(message.parts) for text in texts(named(message).parts))
