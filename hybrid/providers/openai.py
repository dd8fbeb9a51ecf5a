"""How is a request said to an OpenAI-compatible API, and who carries it there? Chat completions, streamed or whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from hybrid.providers import wishes
from hybrid.providers.base import CloudCall, Timeouts
from hybrid.providers.failures import Failures
from hybrid.providers.http_provider import Dialect, HttpProvider, Post
from hybrid.providers.keys import ApiKey, Credential, ring_of
from hybrid.providers.openai_answer import ChatReader, decode
from hybrid.providers.openai_responses import ResponsesDialect
from hybrid.providers.stream import Reader
from hybrid.providers.transport import Transport
from hybrid.providers.wire import Wire
from hybrid.types import Capability, ChatRequest, Event, ImagePart, Json, Message, Part, TextPart

CAPABILITIES = frozenset(
    {
        Capability.TOOLS,
        Capability.IMAGES,
        Capability.STRUCTURED_OUTPUT,
        Capability.LOGIT_BIAS,
        Capability.LOGPROBS,
        Capability.MULTIPLE_CHOICES,
        Capability.REASONING_EFFORT,
    }
)
"""What the API can do. Audio and files have no stated bound on their tokens: their worst case could not be reserved."""

EXTRA_SAMPLING = ("top_k", "min_p", "repetition_penalty")
"""Samplers that OpenAI's API does not know and refuses, and that nearly every compatible server takes."""

OURS = ("max_tokens", "max_completion_tokens", "stream_options")
"""Fields whose values are ours to choose: they bound the spend, and tell us what it was."""

AZURE_HOSTS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")

MAX_STOPS = 4
"""Stop strings that OpenAI and Azure take; more are a 400. Source: OpenAI, Chat API reference, `stop`."""

BEYOND_THE_BOUND = ("web_search_options", "prediction", "audio")
"""Fields that are billed beside prompt and output tokens; no reservation could hold the spend cap with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What differs between compatible servers.

    max_tokens_field: the older name is for servers that know no other; one that ignores the field it is sent would
        generate, and bill, beyond what was reserved.
    has_extra_sampling: whether `EXTRA_SAMPLING` may be sent; None: everywhere but at OpenAI and Azure.
    api: "responses" speaks the Responses API, which takes fewer parameters and is the only one to some models.
    api_version: sent as the `api-version` that Azure's older URLs demand; tells Azure behind any host.
    """

    capabilities: frozenset[Capability] = CAPABILITIES
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    has_extra_sampling: bool | None = None
    api: Literal["chat", "responses"] = "chat"
    api_version: str | None = None


def is_openai_itself(base_url: str) -> bool:
    """Tell OpenAI's and Azure's own API, which refuse unknown fields, from a compatible one."""
    host = urlsplit(base_url).hostname or ""
    return host.endswith(".openai.com") or is_azure(base_url)


def is_azure(base_url: str) -> bool:
    """Tell Azure's API, which takes its key in a header of its own.

    By its hosts, or, behind a gateway's, by the `api-version` that no other API has. Source: Microsoft, "Azure OpenAI
    REST API reference", and OpenAI's own client for Azure, which sends this header to whatever host it is given.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    return "api-version" in parse_qs(parts.query) or host.endswith(AZURE_HOSTS)


def encode(
    call: CloudCall, options: Options | None = None, *, has_extra_sampling: bool = True, has_developer: bool = True
) -> dict[str, Json]:
    """Write the request body. Pure; what the client did not say is not sent, but for the bound on the output.

    `request.extra` goes first, so that nothing in it can take the place of what bounds the spend.
    has_extra_sampling: whether `EXTRA_SAMPLING` may be sent. Where not, the client at most switched it off.
    has_developer: whether the server knows the role `developer`. Where not, `system` says the same.
    """
    field = (options or Options()).max_tokens_field
    request, sampling, is_stream = call.request, call.request.sampling, call.request.is_stream
    body: dict[str, Json] = {key: value for key, value in request.extra.items() if key not in OURS}
    for name in sampling.__slots__:
        value = getattr(sampling, name)
        if value is not None and (has_extra_sampling or name not in EXTRA_SAMPLING):
            body[name] = value
    if sampling.seed is not None and sampling.seed >= 2**63:
        body["seed"] = sampling.seed - 2**64  # seeds are unsigned here and signed there: the same 64 bits
    if request.stop:
        body["stop"] = list(request.stop)
    body["model"] = call.model
    body["messages"] = [_message(message, has_developer=has_developer) for message in request.messages]
    body[field] = call.max_output_tokens
    body["stream"] = is_stream
    if is_stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _message(message: Message, *, has_developer: bool) -> dict[str, Json]:
    content: Json
    match message.parts:
        case (TextPart(text=text),):
            content = text
        case ():
            # Only an assistant that called tools may say nothing; elsewhere null is refused and "" is not.
            content = None if message.tool_calls else ""
        case parts:
            content = [_part(part) for part in parts]
    role = "system" if message.role == "developer" and not has_developer else message.role
    body: dict[str, Json] = {"role": role, "content": content}
    if message.name is not None:
        body["name"] = message.name
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}
            for tool in message.tool_calls
        ]
    return body


def _part(part: Part) -> dict[str, Json]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": part.url, **detail}}
    return {"type": part.kind, **part.body}


def _unsaid(extra: Mapping[str, Json]) -> set[str]:
    """Which of a request's further fields the API has not, or not at the listed price."""
    # The old way of calling functions has no event of ours; the priority tiers cost up to twice the listed price.
    wanted = {name for name in (*BEYOND_THE_BOUND, "functions", "function_call") if extra.get(name) is not None}
    if (extra.get("response_format") or {}).get("type") == "grammar":
        wanted.add("response_format")  # ours: no such format is theirs
    if extra.get("service_tier") not in (None, "auto", "default", "flex"):
        wanted.add("service_tier")
    return wanted


class ChatDialect:
    """Chat completions as a `http_provider.Dialect`."""

    def __init__(
        self,
        options: Options,
        *,
        has_extra_sampling: bool,
        has_developer: bool = True,
        max_stops: int | None = None,
    ) -> None:
        """Prepare. max_stops: of how many stop strings the server takes no more; None: as it knows them."""
        self.capabilities = options.capabilities
        self._options, self._max_stops = options, max_stops
        self._has_extra_sampling, self._has_developer = has_extra_sampling, has_developer

    def missing(self, request: ChatRequest) -> frozenset[str]:
        """Say what the request wants and this API cannot do."""
        wanted = _unsaid(request.extra) if request.extra else set()
        if self._max_stops is not None and len(request.stop) > self._max_stops:
            wanted.add("stop")
        if not self._has_extra_sampling:
            wanted |= wishes.samplers(request).keys() & set(EXTRA_SAMPLING)
        return frozenset(wanted)

    def post(self, call: CloudCall) -> Post:
        """Write the call. See `http_provider.Dialect`."""
        body = encode(
            call,
            self._options,
            has_extra_sampling=self._has_extra_sampling,
            has_developer=self._has_developer,
        )
        return Post("/chat/completions", body)

    def reader(self, failures: Failures, call: CloudCall) -> Reader:
        """What reads the events of a streamed answer."""
        return ChatReader(failures, wishes.choices(call.request))

    def decode(self, body: bytes, failures: Failures, call: CloudCall) -> list[Event]:
        """Read the body of an answer that was not streamed. Raises: ProviderError."""
        return decode(body, failures, wishes.choices(call.request))


class OpenAIProvider(HttpProvider):
    """The `openai` kind: OpenAI, and every API compatible with it."""

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

        base_url: up to and including the version, as in "https://api.openai.com/v1".
        transport: another one for tests of it; it then holds the URL, key and limits.

        Raises: ValueError for a URL or key that cannot work.
        """
        options = options or Options()
        transport = transport or transport_of(name, base_url, api_key, timeouts or Timeouts(), options.api_version)
        has_extra, is_theirs = options.has_extra_sampling, is_openai_itself(_versioned(base_url, options.api_version))
        dialect: Dialect = (
            ResponsesDialect(options.capabilities)
            if options.api == "responses"
            else ChatDialect(
                options,
                has_extra_sampling=not is_theirs if has_extra is None else has_extra,
                # DeepSeek refuses the role; chat templates of open models do not know it.
                has_developer=is_theirs,
                max_stops=MAX_STOPS if is_theirs else None,
            )
        )
        super().__init__(name, dialect, transport)


def transport_of(
    name: str,
    base_url: str,
    api_key: ApiKey,
    timeouts: Timeouts,
    api_version: str | None = None,
    *,
    wire: Wire | None = None,
) -> Transport:
    """What carries calls to the API at this URL. wire: another one for tests of it.

    Azure charges for what it worked on, be it answered with 400: an input that its content filter or its limit
    stopped. Which 400s are free it does not say, so none is held to be.
    Source: Microsoft's "Plan and manage costs for Azure OpenAI", HTTP error response code and billing status.

    Raises: ValueError for a URL or key that cannot work.
    """
    base_url = _versioned(base_url, api_version)
    return Transport(
        name,
        base_url=base_url,
        credential=ring_of(api_key, lambda key: credential_of(base_url, key)),
        timeouts=timeouts,
        may_bill_400=is_azure(base_url),
        wire=wire,
    )


def _versioned(base_url: str, api_version: str | None) -> str:
    return base_url if api_version is None else f"{base_url}?api-version={api_version}"


def credential_of(base_url: str, api_key: str | None) -> Credential:
    """Put the key into the header that the API at this URL reads."""
    return Credential(api_key, header="api-key", prefix="") if is_azure(base_url) else Credential(api_key)
