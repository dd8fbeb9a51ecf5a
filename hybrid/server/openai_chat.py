"""How does an OpenAI chat body become a `ChatRequest`? Decoded, checked and defaulted; nothing later validates.

Duplicate JSON keys: the last one counts, as in most parsers. Fields that other servers know and we do not are refused
by name, with the nearest valid one. What is accepted and not passed on is listed in this package's README.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from hybrid.errors import InvalidRequest
from hybrid.server.hybrid_headers import read_wishes
from hybrid.server.openai_wire import (
    AllowedChoice,
    AssistantWire,
    AudioWire,
    ChatWire,
    FileWire,
    ImageWire,
    MessageWire,
    NamedChoice,
    RefusalWire,
    TextFormat,
    TextWire,
    ToolCallWire,
    ToolChoice,
    ToolWire,
    UserPart,
    Wire,
    nested_fields,
)
from hybrid.types import (
    Capability,
    ChatRequest,
    ImagePart,
    Json,
    Message,
    OtherPart,
    Part,
    Sampling,
    TextPart,
    ToolCall,
)

T = TypeVar("T", bound=Wire)

MAX_IMAGES = 64
MAX_JSON_DEPTH = 64

_UNSUPPORTED = {
    "functions": "send `tools` instead",
    "function_call": "send `tool_choice` instead",
    "web_search_options": "nothing behind this server searches the web",
    "moderation": "nothing behind this server moderates",
}
_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>.*)`\Z", re.DOTALL)
_FIELD = re.compile(r"(?P<what>unknown|required) field `(?P<name>[^`]*)`", re.DOTALL)
_IMAGE_SCHEMES = ("https://", "http://", "data:image/")


def parse(body: bytes, headers: Iterable[tuple[bytes, bytes]], *, client_key: str | None = None) -> ChatRequest:
    """Read one chat completion request.

    Args:
        headers: as ASGI has them, names in lower case; the `x-hybrid-*` ones are read.
        client_key: name of the key the client presented.
    Raises: InvalidRequest naming the parameter that is wrong, in the way OpenAI names it.
    """
    wire = decode(body, ChatWire)
    wishes = read_wishes(headers)
    _refuse_unsupported(wire)
    messages = tuple(_message(message, f"messages[{index}]") for index, message in enumerate(wire.messages))
    extra = _extra(wire)
    return ChatRequest(
        model=wire.model,
        messages=messages,
        sampling=_sampling(wire),
        max_output_tokens=_max_output_tokens(wire),
        stop=_stop(wire),
        is_stream=bool(wire.stream),
        wants_usage=wire.stream_options is not None and bool(wire.stream_options.include_usage),
        wants_hybrid=wishes.is_any,
        needs=_needs_of_messages(messages) | _needs_of_extra(extra),
        extra=extra,
        policy=wishes.policy,
        deadline_s=wishes.deadline_s,
        priority=wishes.priority,
        max_cost_usd=wishes.max_cost_usd,
        min_quality=wishes.min_quality,
        tag=wishes.tag,
        client_key=client_key,
    )


def peek_model(body: bytes) -> str | None:
    """Name the model a refused body asked for, for its ledger row; None if it cannot be told."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(fields["model"], type=str)[:256]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return None


def decode(body: bytes, shape: type[T]) -> T:
    """Decode a body. Raises: InvalidRequest naming the parameter that is wrong."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as exc:
        raise _invalid_value(str(exc), shape) from exc
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}", code="invalid_json") from exc
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not UTF-8: {exc.reason}", code="invalid_json") from exc
    except RecursionError as exc:
        raise InvalidRequest("the body is nested too deeply", code="invalid_json") from exc


def _invalid_value(text: str, shape: type[Wire]) -> InvalidRequest:
    """Turn msgspec's "Expected `float` <= 2.0 - at `$.temperature`" into an error that names its parameter."""
    at = _AT.search(text)
    what, path = (text[: at.start()], at["path"]) if at else (text, "")
    field = _FIELD.search(what)
    if field is None:
        what = what.replace("Expected", "expected").replace("Invalid", "invalid")
        return InvalidRequest(
            f"{path[:120] or 'the body'}: {what[:300]}", param=path[:120] or None, code="invalid_value"
        )
    param = f"{path}.{field['name']}"[:120] if path else field["name"][:120]
    if field["what"] == "required":
        return InvalidRequest(f"{param} is missing", param=param, code="missing_required_parameter")
    names = nested_fields() | {"role", "type"} if path else frozenset(shape.__struct_encode_fields__)
    near = difflib.get_close_matches(field["name"], names, n=1) if len(field["name"]) <= 64 else []
    hint = f"; did you mean {near[0]}?" if near else ""
    return InvalidRequest(f"unknown parameter {param}{hint}", param=param, code="unknown_parameter")


def _refuse_unsupported(wire: ChatWire) -> None:
    for name, advice in _UNSUPPORTED.items():
        value = getattr(wire, name)
        if value is not msgspec.UNSET and value is not None:
            raise InvalidRequest(f"{name} is not supported: {advice}", param=name, code="unsupported_parameter")


def _message(wire: MessageWire, at: str) -> Message:
    match wire:
        case AssistantWire():
            return _assistant(wire, at)
        case ToolWire():
            return Message("tool", _texts(wire.content), name=wire.name, tool_call_id=wire.tool_call_id)
        case _:
            role = wire.__struct_config__.tag
            assert role in ("system", "developer", "user")
            return Message(role, _parts(wire.content, at), name=wire.name)  # type: ignore[arg-type]  # the tag is a plain str


def _assistant(wire: AssistantWire, at: str) -> Message:
    if wire.function_call is not None:
        hint = "send `tool_calls` instead"
        raise InvalidRequest(
            f"{at}.function_call is not supported: {hint}", param=f"{at}.function_call", code="unsupported_parameter"
        )
    parts = _texts(wire.content) if wire.content is not None else ()
    if wire.refusal:
        parts += (TextPart(wire.refusal),)
    if wire.audio is not None:
        parts += (OtherPart("audio", _shallow(wire.audio, f"{at}.audio")),)
    calls = tuple(_tool_call(call) for call in wire.tool_calls or ())
    if wire.content is None and not parts and not calls:
        raise InvalidRequest(f"{at}: an assistant message needs content or tool_calls", param=f"{at}.content")
    return Message("assistant", parts, name=wire.name, tool_calls=calls)


def _tool_call(wire: ToolCallWire) -> ToolCall:
    return ToolCall(wire.id, wire.function.name, wire.function.arguments)


def _texts(content: str | Iterable[TextWire | RefusalWire]) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(TextPart(part.text if isinstance(part, TextWire) else part.refusal) for part in content)


def _parts(content: str | Iterable[UserPart], at: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_part(part, f"{at}.content[{index}]") for index, part in enumerate(content))


def _part(part: UserPart, at: str) -> Part:
    match part:
        case TextWire(text=text):
            return TextPart(text)
        case ImageWire(image_url=image):
            if not image.url[:16].lower().startswith(_IMAGE_SCHEMES):
                what = "must be an http(s) or data:image/ URL"
                raise InvalidRequest(f"{at}.image_url.url {what}", param=f"{at}.image_url.url", code="invalid_value")
            return ImagePart(image.url, image.detail)
        case AudioWire(input_audio=audio):
            return OtherPart("input_audio", {"type": "input_audio", "input_audio": msgspec.to_builtins(audio)})
        case FileWire(file=file):
            return OtherPart("file", {"type": "file", "file": msgspec.to_builtins(file)})


def _sampling(wire: ChatWire) -> Sampling:
    return Sampling(
        temperature=wire.temperature,
        top_k=0 if wire.top_k == -1 else wire.top_k,  # vLLM's and Hugging Face's "off"
        top_p=wire.top_p,
        min_p=wire.min_p,
        seed=_seed(wire.seed),
        presence_penalty=wire.presence_penalty,
        frequency_penalty=wire.frequency_penalty,
        repetition_penalty=wire.repetition_penalty,
    )


def _seed(seed: int | None) -> int | None:
    """Map OpenAI's signed 64-bit seeds to unsigned ones, two's complement, so that each stays its own seed."""
    if seed is None:
        return None
    if not -(2**63) <= seed < 2**64:
        raise InvalidRequest("seed must fit in 64 bits", param="seed", code="invalid_value")
    return seed % 2**64


def _max_output_tokens(wire: ChatWire) -> int | None:
    old, new = wire.max_tokens, wire.max_completion_tokens
    if old is not None and new is not None and old != new:
        what = "max_tokens and max_completion_tokens differ; send only max_completion_tokens"
        raise InvalidRequest(what, param="max_completion_tokens", code="invalid_value")
    return old if new is None else new


def _stop(wire: ChatWire) -> tuple[str, ...]:
    if wire.stop is None:
        return ()
    return (wire.stop,) if isinstance(wire.stop, str) else tuple(dict.fromkeys(wire.stop))


def _extra(wire: ChatWire) -> dict[str, Json]:
    extra: dict[str, Json] = _extra_tools(wire)
    if wire.response_format is not None and not isinstance(wire.response_format, TextFormat):
        extra["response_format"] = _shallow(msgspec.to_builtins(wire.response_format), "response_format")
    if wire.top_logprobs and not wire.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    if wire.logprobs:
        extra["logprobs"] = True
        if wire.top_logprobs is not None:
            extra["top_logprobs"] = wire.top_logprobs
    if wire.logit_bias:
        extra["logit_bias"] = wire.logit_bias
    if wire.n is not None and wire.n > 1:
        extra["n"] = wire.n
    if wire.modalities and "audio" in wire.modalities:
        extra["modalities"] = list(wire.modalities)
    if wire.audio is not None:
        extra["audio"] = _shallow(wire.audio, "audio")
    if wire.reasoning_effort is not None:
        extra["reasoning_effort"] = wire.reasoning_effort
    if wire.verbosity is not None:
        extra["verbosity"] = wire.verbosity
    return extra


def _extra_tools(wire: ChatWire) -> dict[str, Json]:
    if not wire.tools:
        if wire.tool_choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice needs tools", param="tool_choice", code="invalid_value")
        return {}
    tools = [{"type": "function", "function": msgspec.to_builtins(tool.function)} for tool in wire.tools]
    _check_named(wire)
    extra: dict[str, Json] = {"tools": _shallow(tools, "tools")}
    if wire.tool_choice is not None:
        extra["tool_choice"] = _shallow(msgspec.to_builtins(wire.tool_choice), "tool_choice")
    if wire.parallel_tool_calls is not None:
        extra["parallel_tool_calls"] = wire.parallel_tool_calls
    return extra


def _check_named(wire: ChatWire) -> None:
    """A call of a function nobody described cannot be made."""
    described = [tool.function.name for tool in wire.tools or ()]
    for named in _named(wire.tool_choice):
        if named not in described:
            what = "holds a tool without a name" if named is None else f"names {named!r}, which is not among the tools"
            raise InvalidRequest(f"tool_choice {what}", param="tool_choice", code="invalid_value")


def _named(choice: ToolChoice | None) -> list[str | None]:
    """The functions a choice names; None for what names none. A client may allow a tool by its whole description."""
    match choice:
        case NamedChoice():
            return [choice.function.name]
        case AllowedChoice():
            tools = [tool.get("function", tool) for tool in choice.allowed_tools.tools]
            names = [tool.get("name") if isinstance(tool, dict) else None for tool in tools]
            return [name if isinstance(name, str) else None for name in names]
    return []


_NEEDS: Mapping[str, Capability] = {
    "tools": Capability.TOOLS,
    "response_format": Capability.STRUCTURED_OUTPUT,
    "logprobs": Capability.LOGPROBS,
    "logit_bias": Capability.LOGIT_BIAS,
    "n": Capability.MULTIPLE_CHOICES,
    "modalities": Capability.AUDIO,
    "audio": Capability.AUDIO,
    "reasoning_effort": Capability.REASONING_EFFORT,
}


def _needs_of_extra(extra: Mapping[str, Json]) -> frozenset[Capability]:
    return frozenset(_NEEDS[name] for name in extra if name in _NEEDS)


def _needs_of_messages(messages: tuple[Message, ...]) -> frozenset[Capability]:
    needs: set[Capability] = set()
    images = 0
    for message in messages:
        if message.tool_calls or message.role == "tool":
            needs.add(Capability.TOOLS)
        for part in message.parts:
            if isinstance(part, ImagePart):
                images += 1
                needs.add(Capability.IMAGES)
            elif isinstance(part, OtherPart):
                needs.add(Capability.FILES if part.kind == "file" else Capability.AUDIO)
    if images > MAX_IMAGES:
        raise InvalidRequest(f"{images} images were sent; at most {MAX_IMAGES} are taken", param="messages")
    return frozenset(needs)


def _shallow(value: Any, param: str) -> Any:
    """Give free-form JSON back unchanged if it is not nested so deeply that walking it later could overflow a stack."""
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return value
    raise InvalidRequest(f"{param} is nested more than {MAX_JSON_DEPTH} levels deep", param=param, code="invalid_value")


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()
