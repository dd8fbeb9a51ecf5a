"""How does an answer look to an OpenAI client? A chat completion, or a stream's chunks. Values in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from hybrid.errors import HybridError
from hybrid.server.errors import envelope
from hybrid.server.hybrid_headers import head_headers, head_object
from hybrid.types import (
    Event,
    Finished,
    Head,
    Json,
    ReasoningDelta,
    ServedModel,
    Tail,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

PING = b": ping\n\n"
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # or nginx holds the tokens back
)
_DONE = b"data: [DONE]\n\n"
LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a token that is as good as impossible; JSON has no infinity."""
_ENCODER = msgspec.json.Encoder(decimal_format="number")


class _PromptDetails(msgspec.Struct):
    cached_tokens: int


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _PromptDetails
    completion_tokens_details: _CompletionDetails


class _Function(msgspec.Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | UnsetType = UNSET


class _ToolCall(msgspec.Struct, omit_defaults=True):
    function: _Function
    index: int | UnsetType = UNSET
    id: str | None = None
    type: Literal["function"] | None = None


class _Message(msgspec.Struct):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[_ToolCall] | UnsetType = UNSET


class _TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None


class _TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[_TopLogprob]


class _Logprobs(msgspec.Struct):
    content: list[_TokenLogprob]
    refusal: None = None


class _Choice(msgspec.Struct):
    index: int
    message: _Message
    finish_reason: str
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_Choice]
    usage: _Usage | UnsetType


class _Delta(msgspec.Struct, omit_defaults=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[_ToolCall] | UnsetType = UNSET


class _ChunkChoice(msgspec.Struct):
    index: int
    delta: _Delta
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[_ChunkChoice]
    usage: _Usage | UnsetType | None = UNSET
    hybrid: dict[str, Json] | UnsetType = UNSET


class _ChoiceSoFar:
    """One of the answers being gathered."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _ToolCall] = {}
        self.finished: Finished | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                self._text.append(text)
                self._logprobs += logprobs
            case ReasoningDelta(text=text):
                self._reasoning.append(text)
            case ToolCallDelta():
                self._add_call(event)
            case Finished():
                self.finished = event

    def render(self, index: int) -> _Choice:
        assert self.finished is not None, "a Tail comes after Finished"
        text = "".join(self._text)
        calls = [self._calls[number] for number in sorted(self._calls)]
        message = _Message(
            role="assistant",
            content=text if text or not calls else None,
            reasoning_content="".join(self._reasoning) if self._reasoning else UNSET,
            tool_calls=calls or UNSET,
        )
        return _Choice(index, message, self.finished.reason.value, _logprobs(self._logprobs))

    def _add_call(self, delta: ToolCallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            function = _Function(name=delta.name, arguments=delta.arguments)
            self._calls[delta.index] = _ToolCall(function, id=delta.id, type="function")
            return
        assert isinstance(call.function.arguments, str)
        call.function.arguments += delta.arguments


class Answer:
    """A whole answer being gathered from its events, for a request that is not streamed."""

    def __init__(self) -> None:
        self._choices: dict[int, _ChoiceSoFar] = {}

    def add(self, event: Event) -> None:
        """Take the next event."""
        self._choices.setdefault(event.choice, _ChoiceSoFar()).add(event)

    def render(self, tail: Tail, created_unix_s: int) -> bytes:
        """Write the `chat.completion` object."""
        assert self._choices, "a Tail comes after Finished"
        choices = [self._choices[index].render(index) for index in sorted(self._choices)]
        usage = tail.usage
        if usage is None and len(choices) == 1:
            [only] = self._choices.values()
            usage = only.finished.usage if only.finished else None
        return _encode(
            _Completion(
                id=completion_id(tail.head),
                object="chat.completion",
                created=created_unix_s,
                model=tail.head.model,
                choices=choices,
                usage=UNSET if usage is None else _usage(usage),
            )
        )


class Chunks:
    """The data events of one stream, stable in id, time and model."""

    def __init__(self, head: Head, created_unix_s: int, *, wants_usage: bool, wants_hybrid: bool) -> None:
        self._id, self._model, self._created_unix_s = completion_id(head), head.model, created_unix_s
        self._wants_usage = wants_usage
        self._wants_hybrid = wants_hybrid or wants_usage
        self._begun: set[int] = set()
        self._held: _Chunk | None = None
        self._usage: Usage | None = None

    def event(self, event: Event) -> bytes:
        """Write one event. The finish chunk is held when the `hybrid` object must ride on it; then this is empty.

        Of several answers' finish chunks the last is held, and each lets the one before it go.
        """
        if not isinstance(event, Finished):
            chunk = self._chunk(self._delta(event), event.choice)
            if isinstance(event, TextDelta):
                chunk.choices[0].logprobs = _logprobs(event.logprobs)
            return self._data(chunk)
        self._usage = event.usage
        chunk = self._chunk(self._role_once(_Delta(), event.choice), event.choice, finish_reason=event.reason.value)
        if self._wants_hybrid and not self._wants_usage:
            before, self._held = self._held, chunk
            return b"" if before is None else self._data(before)
        return self._data(chunk)

    def end(self, tail: Tail) -> bytes:
        """Write what is known only now, and the terminator."""
        last = self._held
        if self._wants_usage:
            usage = tail.usage or self._usage
            last = self._chunk(None, 0)
            last.usage = None if usage is None else _usage(usage)
        if last is None:
            return _DONE
        last.hybrid = head_object(tail.head)
        return self._data(last) + _DONE

    @staticmethod
    def failure(error: HybridError) -> bytes:
        """Write a failure after the first token: the status is out already, so it is an event, and no terminator."""
        return b"data: " + envelope(error) + b"\n\n"

    def _delta(self, event: TextDelta | ReasoningDelta | ToolCallDelta) -> _Delta:
        match event:
            case TextDelta(text=text):
                delta = _Delta(content=text)
            case ReasoningDelta(text=text):
                delta = _Delta(reasoning_content=text)
            case ToolCallDelta(index=index, id=call_id, name=name, arguments=arguments):
                kind: Literal["function"] | None = None if name is None else "function"
                call = _ToolCall(_Function(name, arguments), index=index, id=call_id, type=kind)
                delta = _Delta(tool_calls=[call])
        return self._role_once(delta, event.choice)

    def _role_once(self, delta: _Delta, choice: int) -> _Delta:
        if choice not in self._begun:
            self._begun.add(choice)
            delta.role = "assistant"
            if delta.content is UNSET:
                delta.content = None if delta.tool_calls is not UNSET else ""
        return delta

    def _chunk(self, delta: _Delta | None, choice: int, finish_reason: str | None = None) -> _Chunk:
        return _Chunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created_unix_s,
            model=self._model,
            choices=[] if delta is None else [_ChunkChoice(choice, delta, finish_reason)],
            usage=None if self._wants_usage else UNSET,
        )

    @staticmethod
    def _data(chunk: _Chunk) -> bytes:
        return b"data: " + _encode(chunk) + b"\n\n"


def answer_headers(tail: Tail) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that is not streamed: everything is known."""
    return [(b"content-type", b"application/json"), *head_headers(tail.head)]


def stream_headers(head: Head) -> list[tuple[bytes, bytes]]:
    """The headers of a stream: what is known when its first part is released."""
    return [*STREAM_HEADERS, *head_headers(head)]


def completion_id(head: Head) -> str:
    """The answer's id: the request's, in OpenAI's manner."""
    return f"chatcmpl-{head.request_id}"


def model_object(model: ServedModel) -> dict[str, Json]:
    """One entry of `/v1/models`; `context_tokens` is ours."""
    entry: dict[str, Json] = {
        "id": model.name,
        "object": "model",
        "created": model.created_unix_s,
        "owned_by": model.owner,
    }
    if model.context_tokens is not None:
        entry["context_tokens"] = model.context_tokens
    return entry


def _logprobs(tokens: Sequence[TokenLogprob]) -> _Logprobs | None:
    """The tokens as OpenAI tells them; None where there are none, as where nobody asked."""
    if not tokens:
        return None
    return _Logprobs(
        [
            _TokenLogprob(*_token(token), top_logprobs=[_TopLogprob(*_token(other)) for other in token.top])
            for token in tokens
        ]
    )


def _token(token: TokenLogprob) -> tuple[str, float, list[int] | None]:
    return token.text, max(token.logprob, LEAST_LOGPROB), None if token.raw is None else list(token.raw)


def _usage(usage: Usage) -> _Usage:
    return _Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=_PromptDetails(usage.cached_tokens),
        completion_tokens_details=_CompletionDetails(usage.reasoning_tokens),
    )


def _encode(value: _Completion | _Chunk) -> bytes:
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        # Half a surrogate pair in an answer's text: a replacement character beats a broken stream.
        return _ENCODER.encode(_replace_surrogates(msgspec.to_builtins(value)))


def _replace_surrogates(value: Json) -> Json:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _replace_surrogates(item) for key, item in value.items()}
    return [_replace_surrogates(item) for item in value] if isinstance(value, list) else value
