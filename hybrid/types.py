"""What words do the layers share? Values only: a request, the events that answer it, what they used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, TypeAlias

Json: TypeAlias = Any
"""A decoded JSON value. mypy cannot follow recursive JSON through msgspec, so the alias names the intent."""


MAX_TAG_CHARS = 128
"""The longest x-hybrid-tag that is taken."""


class Capability(StrEnum):
    """Something a request needs of whoever answers it. A route that lacks one is not taken."""

    TOOLS = "tools"
    IMAGES = "images"
    AUDIO = "audio"
    FILES = "files"
    STRUCTURED_OUTPUT = "structured_output"
    LOGPROBS = "logprobs"
    LOGIT_BIAS = "logit_bias"
    MULTIPLE_CHOICES = "n"
    REASONING_EFFORT = "reasoning_effort"


class Route(StrEnum):
    """Where the released answer came from."""

    LOCAL = "local"
    CLOUD = "cloud"
    CACHE = "cache"


class PolicyChoice(StrEnum):
    """The client's wish, from the model name or the `x-hybrid-policy` header."""

    AUTO = "auto"
    LOCAL_ONLY = "local-only"
    CLOUD_ONLY = "cloud-only"


class FinishReason(StrEnum):
    """Why an answer ended, in OpenAI's words; every dialect maps from these."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class Outcome(StrEnum):
    """How a request ended, as its ledger row says it."""

    OK = "ok"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """The process died while the request ran; found and marked at the next start."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message, by http(s) or data URL, never fetched by us."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class OtherPart:
    """A part we carry but do not read (audio, files): `body` is the client's JSON for it."""

    kind: str
    body: Mapping[str, Json]


Part: TypeAlias = TextPart | ImagePart | OtherPart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A finished tool call in the conversation so far; `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    parts: tuple[Part, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text parts joined; other parts are left out."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw tokens. `None` is "the client did not say": the answerer's own default applies.

    temperature in [0, 2], top_p and min_p in [0, 1], top_k >= 0 (0: off), penalties in [-2, 2],
    repetition_penalty in (0, 2], seed any 64-bit unsigned integer. Checked by the dialect's `parse`.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None


class Priority(StrEnum):
    """How soon a request leaves the local queue, beside others without a deadline."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A parsed chat request, whatever dialect it came in. Nothing behind `parse` validates it again.

    `extra` holds checked fields that only a capable answerer can honour (tools, response_format, ...),
    keyed and shaped as in OpenAI's chat completions; each also puts its `Capability` into `needs`.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    is_stream: bool = False
    wants_usage: bool = False
    wants_hybrid: bool = False
    needs: frozenset[Capability] = frozenset()
    extra: Mapping[str, Json] = field(default_factory=dict)
    policy: PolicyChoice = PolicyChoice.AUTO
    deadline_s: float | None = None
    priority: Priority = Priority.NORMAL
    max_cost_usd: Decimal | None = None
    min_quality: float | None = None
    tag: str | None = None
    client_key: str | None = None
    """Name of the client key the request came with, for budgets and reports; never the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A parsed request for embeddings. Each input is a text or token ids, and none is empty.

    dimensions: how many numbers the client wants in a vector; None takes what the model gives.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    policy: PolicyChoice = PolicyChoice.AUTO
    deadline_s: float | None = None
    tag: str | None = None
    client_key: str | None = None


@dataclass(frozen=True, slots=True)
class TokenSignal:
    """What the model's full distribution said at one generated token, before temperature and filters.

    logprob: natural log-probability of the token that was taken, <= 0.
    entropy: Shannon entropy of the whole distribution in nats, >= 0.
    margin: probability of the likeliest token less that of the second, in [0, 1].
    options: at the first token of an answer to a question with options, the natural log-probability of each option's
        letter, in the options' order; else empty.
    """

    logprob: float
    entropy: float
    margin: float
    options: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of an answer with its natural log-probability, and the likeliest ones at its place with theirs.

    raw: the bytes it stands for, None for a control token. text: those bytes as text, or the control token's name.
    The log-probabilities are of the model's own distribution, before temperature, filters, bias and grammar.
    """

    text: str
    raw: bytes | None
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer as its maker counted them. `cost_usd` only where a provider reported it.

    cached_tokens: of the prompt, read from its maker's cache.
    cache_write_tokens: of the prompt, written to it; None where its maker does not tell them from the others.
    reasoning_tokens: of the completion.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int | None = None
    reasoning_tokens: int = 0
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Some more answer text, and the signals of the tokens behind it (none from a cloud).

    logprobs: where the request asks for them, the tokens whose text is shown whole with this.
    choice: here and below, which of several answers to the request it belongs to.
    """

    text: str
    signals: tuple[TokenSignal, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Some more thinking text, which is not part of the answer."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: `id` and `name` on the first piece of an `index`, argument text after."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of an answer. `usage` is None where a provider never told; that is not zero.

    With several answers to one request each has its own, and its usage is that of its own tokens.
    stopped_by: the stop string that ended it, if one did and its maker says so.
    """

    reason: FinishReason
    usage: Usage | None
    stopped_by: str | None = None
    choice: int = 0


Event: TypeAlias = TextDelta | ReasoningDelta | ToolCallDelta | Finished


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How a client key stands against one of its limits: what is left now, and how long until nothing counts."""

    name: Literal["requests", "tokens"]
    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRules:
    """What a client key may do; None and () are no limit of its own.

    models: names it may send, or that its names are aliases of.
    is_private: its requests never leave this machine.
    """

    usd_per_day: Decimal | None = None
    usd_per_month: Decimal | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    models: tuple[str, ...] = ()
    is_private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known when the first part of an answer is released: the `x-hybrid-*` response headers.

    reason, degraded: words of `policy.model.Reason`; degraded is None when the answer is the one the policy wanted.
    confidence: in [0, 1], None when unknown; `is_calibrated` False says it is a score, not a probability.
    overhead_s: time from arrival to this moment that was ours: neither engine nor cloud.
    rate_limits: of the request's client key, as it came in.
    """

    request_id: str
    route: Route
    model: str
    reason: str
    confidence: float | None = None
    is_calibrated: bool = False
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    degraded: str | None = None
    overhead_s: float | None = None
    rate_limits: tuple[RateLimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What is known only at the end: the head's figures made final, after the `Finished` event."""

    head: Head
    usage: Usage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """The vectors of a request's inputs, in their order: each of length 1, as little-endian 32-bit floats."""

    head: Head
    usage: Usage
    vectors: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One name a client may send, and who stands behind it (`hybrid`, `local`, a cloud's name, or an alias' target)."""

    name: str
    owner: str
    created_unix_s: int
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time money is counted over: from `start`, up to but without `end`. Both know their zone."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that may be spent in a window. `name` is the configuration key it came from.

    client_key, tag: whose money counts, where not everybody's; a cap has one of them at most. A tag is case-folded.
    is_rolling: its window moves with the time, and reaches as far ahead of it as back.
    """

    name: str
    window: Window
    limit_usd: Decimal
    client_key: str | None = None
    tag: str | None = None
    is_rolling: bool = False
