"""How is a request said to Google's Gemini API, and who carries it there?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from urllib.parse import quote

from hybrid.errors import UnsupportedCapability
from hybrid.providers import schemas, wishes
from hybrid.providers.base import CloudCall, Timeouts
from hybrid.providers.failures import Failures
from hybrid.providers.gemini_answer import ContentReader, decode
from hybrid.providers.http_provider import HttpProvider, Post
from hybrid.providers.keys import ApiKey, Credential, ring_of
from hybrid.providers.stream import Reader
from hybrid.providers.transport import Transport
from hybrid.types import Capability, ChatRequest, Event, ImagePart, Json, Message, Part, TextPart

CAPABILITIES = frozenset(
    {
        Capability.TOOLS,
        Capability.IMAGES,
        Capability.STRUCTURED_OUTPUT,
        Capability.REASONING_EFFORT,
        Capability.LOGPROBS,
    }
)

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})

MAX_STOPS = 5

ANSWER_SHARE = 4
"""One in so many of the output tokens are left for the answer, however hard it is to think."""

NO_SIGNATURE = "skip_thought_signature_validator"
"""What stands where the signature of a call's thoughts was, for models that refuse a call without one.

Source: Google, "Thought signatures", on conversations that another model began.
"""

SAMPLERS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}

KNOWN = frozenset(
    {
        *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "n"),
        *("logprobs", "top_logprobs"),
    }
)
"""Keys of `ChatRequest.extra` that are read here; others have no place in this API."""

LEVELS = frozenset({"minimal", "low", "medium", "high"})
BUDGETS = frozenset({"none", "minimal", "low", "medium", "high"})

Reasoning: TypeAlias = Literal["effort", "budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What differs between models.

    reasoning: whether an effort is told as a level, or as a number of tokens, as models before Gemini 3 want it.
    has_sampling: False for models that refuse samplers.
    """

    capabilities: frozenset[Capability] = CAPABILITIES
    reasoning: Reasoning = "effort"
    has_sampling: bool = True


def wants_budget(model: str) -> bool:
    """Tell models that take a number of thinking tokens and no level, by their name."""
    return model.rpartition("/")[2].startswith(("gemini-1", "gemini-2"))


class GeminiDialect:
    """generateContent and streamGenerateContent as a `http_provider.Dialect`."""

    def __init__(self, options: Options) -> None:
        self.capabilities = options.capabilities
        self._options = options

    def missing(self, request: ChatRequest) -> frozenset[str]:
        """Say what the request wants and this API cannot do."""
        wanted = wishes.unspeakable(request, KNOWN)
        said = wishes.samplers(request)
        wanted |= said.keys() - SAMPLERS.keys() if self._options.has_sampling else said.keys()
        if said.get("seed", 0) >= 2**31:
            wanted.add("seed")
        effort = wishes.effort(request)
        if effort is not None and effort not in (BUDGETS if self._options.reasoning == "budget" else LEVELS):
            wanted.add("reasoning_effort")
        wanted |= _missing_of_tools(request)
        if len(request.stop) > MAX_STOPS:
            wanted.add("stop")
        wanted |= {f"{image} image" for image in _foreign_images(request)}
        turns = wishes.spoken(request.messages)
        if not turns:
            wanted.add("messages")
        if any(not _parts(message, {}, signs=False) for message in turns if message.role in ROLES):
            wanted.add("messages.content")
        return frozenset(wanted)

    def post(self, call: CloudCall) -> Post:
        """Write the call. See `http_provider.Dialect`."""
        # A name with a folder, such as tunedModels/x, is a resource by itself.
        resource = call.model if "/" in call.model else f"models/{call.model}"
        verb = "streamGenerateContent?alt=sse" if call.request.is_stream else "generateContent"
        return Post(f"/{quote(resource)}:{verb}", encode(call, self._options))

    def reader(self, failures: Failures, _call: CloudCall) -> Reader:
        """What reads the events of a streamed answer."""
        return ContentReader(failures)

    def decode(self, body: bytes, failures: Failures, _call: CloudCall) -> list[Event]:
        """Read the body of an answer that was not streamed. Raises: ProviderError."""
        return decode(body, failures)


def _missing_of_tools(request: ChatRequest) -> set[str]:
    wanted: set[str] = set()
    functions = wishes.tools(request)
    if functions and not wishes.is_parallel(request):
        wanted.add("parallel_tool_calls")
    if any(not (one["name"][:1].isalpha() or one["name"][:1] == "_") for one in functions):
        wanted.add("tools.name")
    called = {call.id for message in request.messages for call in message.tool_calls}
    if any(message.role == "tool" and message.tool_call_id not in called for message in request.messages):
        wanted.add("messages.tool_call_id")  # a result is told by its function's name, which only the call says
    kind = wishes.format_kind(request)
    if kind == "json_schema":
        obstacles = schemas.gemini_obstacles(schemas.for_gemini(wishes.schema(request)))
        wanted |= {f"response_format.{word}" for word in obstacles}
    if kind is not None and functions and wishes.tool_choice(request).mode != "none":
        wanted.add("response_format with tools")
    return wanted


def encode(call: CloudCall, options: Options | None = None) -> dict[str, Json]:
    """Write the request body. Pure; what the client did not say is not sent, but for the bound on the output.

    Raises: UnsupportedCapability if the output bound leaves no room for the thinking that was asked for.
    """
    options = options or Options()
    request = call.request
    body: dict[str, Json] = {"contents": _contents(request.messages, signs=not wants_budget(call.model))}
    system = wishes.system_text(request.messages)
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    return body | _tools(request) | {"generationConfig": _config(call, options)}


def _config(call: CloudCall, options: Options) -> dict[str, Json]:
    request, said = call.request, wishes.samplers(call.request)
    config: dict[str, Json] = {"maxOutputTokens": call.max_output_tokens}
    config |= {theirs: said[ours] for ours, theirs in SAMPLERS.items() if ours in said}
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if request.extra.get("logprobs"):
        config["responseLogprobs"] = True
    if request.extra.get("top_logprobs"):
        config["logprobs"] = request.extra["top_logprobs"]
    kind = wishes.format_kind(request)
    if kind is not None:
        config["responseMimeType"] = "application/json"
    if kind == "json_schema":
        config["responseJsonSchema"] = schemas.for_gemini(wishes.schema(request))
    effort = wishes.effort(request)
    if effort is not None:
        config["thinkingConfig"] = _thinking(call, effort, options)
    return config


def _thinking(call: CloudCall, effort: str, options: Options) -> dict[str, Json]:
    if effort == "none":
        return {"thinkingBudget": 0}
    if options.reasoning == "effort":
        return {"thinkingLevel": effort.upper(), "includeThoughts": True}
    room = call.max_output_tokens - 1 - call.max_output_tokens // ANSWER_SHARE
    if room < 1:
        raise UnsupportedCapability({"reasoning_effort"}, where=f"{call.model} within {call.max_output_tokens} tokens")
    return {"thinkingBudget": min(wishes.EFFORT_TOKENS[effort], room), "includeThoughts": True}


def _tools(request: ChatRequest) -> dict[str, Json]:
    functions: list[dict[str, Json]] = [tool["function"] for tool in request.extra.get("tools") or ()]
    if not functions:
        return {}
    choice = wishes.tool_choice(request)
    body: dict[str, Json] = {"tools": [{"functionDeclarations": [_tool(function) for function in functions]}]}
    # To call what is declared, and that as declared, is a mode of its own here.
    is_strict = any(function.get("strict") for function in functions) or choice.only is not None
    modes = {"none": "NONE", "required": "ANY", "auto": "VALIDATED" if is_strict else "AUTO"}
    said: dict[str, Json] = {"mode": modes[choice.mode]}
    if choice.only is not None:
        said["allowedFunctionNames"] = list(choice.only)
    if request.extra.get("tool_choice") is not None or said["mode"] != "AUTO":
        body["toolConfig"] = {"functionCallingConfig": said}
    return body


def _tool(function: dict[str, Json]) -> dict[str, Json]:
    body: dict[str, Json] = {"name": function["name"]}
    if function.get("description"):
        body["description"] = function["description"]
    if function.get("parameters"):
        body["parametersJsonSchema"] = function["parameters"]
    return body


ROLES = {"user": "user", "tool": "user", "assistant": "model"}


def _contents(messages: Iterable[Message], *, signs: bool) -> list[dict[str, Json]]:
    """Write the turns. Neighbours of one role become one: the results of parallel calls must come together."""
    turns: list[dict[str, Json]] = []
    names: dict[str, str] = {}
    for message in wishes.spoken(messages):
        if message.role not in ROLES:
            continue
        names |= {call.id: call.name for call in message.tool_calls}
        role, parts = ROLES[message.role], _parts(message, names, signs=signs)
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        else:
            turns.append({"role": role, "parts": parts})
    return turns


def _parts(message: Message, names: dict[str, str], *, signs: bool) -> list[dict[str, Json]]:
    if message.role == "tool":
        call_id = message.tool_call_id or ""
        result = {"id": call_id, "name": names.get(call_id, ""), "response": {"output": message.text}}
        return [{"functionResponse": result}]
    said = [part for part in message.parts if not (isinstance(part, TextPart) and not part.text)]
    parts = [_part(part) for part in wishes.named(replace(message, parts=tuple(said))).parts]
    for number, call in enumerate(message.tool_calls):
        part: dict[str, Json] = {
            "functionCall": {"id": call.id, "name": call.name, "args": wishes.arguments(call)},
        }
        # Of parallel calls only the first carries the signature.
        if signs and number == 0:
            part["thoughtSignature"] = NO_SIGNATURE
        parts.append(part)
    return parts


def _part(part: Part) -> dict[str, Json]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    image = wishes.inline_image(part) if isinstance(part, ImagePart) else None
    return {} if image is None else {"inlineData": {"mimeType": image.media_type, "data": image.data}}


def _foreign_images(request: ChatRequest) -> set[str]:
    """Name the kinds of images that the API does not take: by media type, or by the scheme of the URL.

    It fetches files only that were uploaded to Google before, so an image from the web must come as a data URL.
    """
    found: set[str] = set()
    for part in wishes.images(request):
        image = wishes.inline_image(part)
        if image is None:
            scheme = wishes.scheme(part)
            found.add("broken data" if scheme == "data" else f"{scheme} URL")
        elif image.media_type not in IMAGE_TYPES:
            found.add(image.media_type)
    return found


class GeminiProvider(HttpProvider):
    """The `gemini` kind: Google's own API, and what speaks it."""

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
        """Prepare; nothing is opened before the first call.

        base_url: up to and including the version, as in "https://generativelanguage.googleapis.com/v1beta".

        Raises: ValueError for a URL or key that cannot work.
        """
        credential = ring_of(api_key, lambda key: Credential(key, header="x-goog-api-key", prefix=""))
        transport = transport or Transport(
            name, base_url=base_url, credential=credential, timeouts=timeouts or Timeouts()
        )
        super().__init__(name, GeminiDialect(options or Options()), transport)
