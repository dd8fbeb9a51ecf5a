"""What may a client send to `/v1/chat/completions`? The wire types; decoding them is most of the validation.

Field by field after OpenAI's chat completions schema, plus the sampling extensions that vLLM, llama.cpp and Ollama
share. Unknown fields are refused. A `Hint` is accepted in any shape and not read: leaving it out changes no answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_MESSAGES = 10_000
MAX_STOPS = 16
MAX_OUTPUT_TOKENS = 1_000_000

Hint: TypeAlias = msgspec.Raw
_NO_HINT = msgspec.Raw(b"null")

JsonObject: TypeAlias = dict[str, Any]
Short: TypeAlias = Annotated[str, Meta(max_length=64)]
CallId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
FunctionName: TypeAlias = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
Probability: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
OutputTokens: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_OUTPUT_TOKENS)]
StopText: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
TokenId: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9]{1,9}$")]
Bias: TypeAlias = Annotated[int, Meta(ge=-100, le=100)]


class Wire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Base of all: an unknown field is an error."""


class TextWire(Wire, tag_field="type", tag="text"):
    text: str
    cache_control: Hint = _NO_HINT
    prompt_cache_breakpoint: Hint = _NO_HINT


class RefusalWire(Wire, tag_field="type", tag="refusal"):
    refusal: str


class ImageUrl(Wire):
    url: Annotated[str, Meta(min_length=1)]
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImageWire(Wire, tag_field="type", tag="image_url"):
    image_url: ImageUrl
    cache_control: Hint = _NO_HINT
    prompt_cache_breakpoint: Hint = _NO_HINT


class AudioData(Wire):
    data: str
    format: Literal["wav", "mp3"]


class AudioWire(Wire, tag_field="type", tag="input_audio"):
    input_audio: AudioData
    prompt_cache_breakpoint: Hint = _NO_HINT


class FileData(Wire):
    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class FileWire(Wire, tag_field="type", tag="file"):
    file: FileData
    prompt_cache_breakpoint: Hint = _NO_HINT


UserPart: TypeAlias = TextWire | ImageWire | AudioWire | FileWire
TextParts: TypeAlias = Annotated[list[TextWire], Meta(min_length=1, max_length=4096)]


class FunctionCall(Wire):
    name: FunctionName
    arguments: str
    parsed_arguments: Hint = _NO_HINT


class ToolCallWire(Wire):
    id: CallId
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None


class SystemWire(Wire, tag_field="role", tag="system"):
    content: str | TextParts
    name: Short | None = None


class DeveloperWire(Wire, tag_field="role", tag="developer"):
    content: str | TextParts
    name: Short | None = None


class UserWire(Wire, tag_field="role", tag="user"):
    content: str | Annotated[list[UserPart], Meta(min_length=1, max_length=4096)]
    name: Short | None = None


class AssistantWire(Wire, tag_field="role", tag="assistant"):
    """What an earlier answer said. Clients echo it whole, so what others add to an answer is let through.

    `parsed` and `parsed_arguments` are the official clients' own, from `chat.completions.parse`.
    """

    content: str | Annotated[list[TextWire | RefusalWire], Meta(min_length=1, max_length=4096)] | None = None
    refusal: str | None = None
    name: Short | None = None
    tool_calls: Annotated[list[ToolCallWire], Meta(max_length=512)] | None = None
    function_call: JsonObject | None = None
    audio: JsonObject | None = None
    annotations: Hint = _NO_HINT
    parsed: Hint = _NO_HINT
    reasoning: Hint = _NO_HINT
    reasoning_content: Hint = _NO_HINT
    reasoning_details: Hint = _NO_HINT


class ToolWire(Wire, tag_field="role", tag="tool"):
    content: str | TextParts
    tool_call_id: CallId
    name: Short | None = None


MessageWire: TypeAlias = SystemWire | DeveloperWire | UserWire | AssistantWire | ToolWire


class Function(Wire):
    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: Function
    cache_control: Hint = _NO_HINT


class NamedFunction(Wire):
    name: FunctionName


class NamedChoice(Wire, tag_field="type", tag="function"):
    function: NamedFunction


class AllowedTools(Wire):
    mode: Literal["auto", "required"]
    tools: Annotated[list[JsonObject], Meta(min_length=1, max_length=128)]


class AllowedChoice(Wire, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedChoice | AllowedChoice


class TextFormat(Wire, tag_field="type", tag="text"):
    pass


class JsonFormat(Wire, tag_field="type", tag="json_object"):
    pass


class Schema(Wire):
    name: FunctionName
    description: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None


class SchemaFormat(Wire, tag_field="type", tag="json_schema"):
    json_schema: Schema


class GrammarText(Wire):
    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Meta(min_length=1)]


class GrammarFormat(Wire, tag_field="type", tag="grammar"):
    """Ours, in the shape OpenAI gives the grammar of a custom tool."""

    grammar: GrammarText


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatWire(Wire):
    """The body of a chat completion request."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[MessageWire], Meta(min_length=1, max_length=MAX_MESSAGES)]

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Probability | None = None
    seed: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    max_tokens: OutputTokens | None = None
    max_completion_tokens: OutputTokens | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=1024)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | JsonFormat | SchemaFormat | GrammarFormat | None = None
    modalities: Annotated[list[Literal["text", "audio"]], Meta(max_length=2)] | None = None
    audio: JsonObject | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    # Known, and refused when set: each changes the answer in a way nobody behind us can honour yet.
    functions: Any | UnsetType = UNSET
    function_call: Any | UnsetType = UNSET
    web_search_options: Any | UnsetType = UNSET
    moderation: Any | UnsetType = UNSET

    metadata: Hint = _NO_HINT
    prediction: Hint = _NO_HINT
    prompt_cache_key: Hint = _NO_HINT
    prompt_cache_options: Hint = _NO_HINT
    prompt_cache_retention: Hint = _NO_HINT
    safety_identifier: Hint = _NO_HINT
    service_tier: Hint = _NO_HINT
    store: Hint = _NO_HINT
    user: Hint = _NO_HINT


def nested_fields() -> frozenset[str]:
    """Every field name below the top level, to suggest from when an unknown one is refused."""
    shapes: tuple[type[Wire], ...] = (
        *(TextWire, RefusalWire, ImageUrl, ImageWire, AudioData, AudioWire, FileData, FileWire),
        *(SystemWire, UserWire, AssistantWire, ToolWire, FunctionCall, ToolCallWire, Function, Tool),
        *(NamedFunction, NamedChoice, AllowedTools, AllowedChoice, Schema, SchemaFormat, StreamOptions),
        *(GrammarText, GrammarFormat),
    )
    return frozenset(name for shape in shapes for name in shape.__struct_encode_fields__)
