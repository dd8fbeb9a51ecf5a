"""How is an answer of Google's Gemini API understood? Streamed or whole, it becomes events."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import msgspec

from hybrid.providers.counts import Count
from hybrid.providers.failures import UNREADABLE_JSON, Failures, Fault
from hybrid.providers.sse import SseEvent
from hybrid.types import (
    Event,
    Finished,
    FinishReason,
    Json,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

FINISH_REASONS: Mapping[str, FinishReason] = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "CONTINUATION": FinishReason.LENGTH,
    "SAFETY": FinishReason.CONTENT_FILTER,
    "RECITATION": FinishReason.CONTENT_FILTER,
    "LANGUAGE": FinishReason.CONTENT_FILTER,
    "BLOCKLIST": FinishReason.CONTENT_FILTER,
    "PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "SPII": FinishReason.CONTENT_FILTER,
    "ESCALATION": FinishReason.CONTENT_FILTER,
    "MODEL_ARMOR": FinishReason.CONTENT_FILTER,
    "IMAGE_SAFETY": FinishReason.CONTENT_FILTER,
    "IMAGE_PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "IMAGE_RECITATION": FinishReason.CONTENT_FILTER,
}

FAILED_REASONS = frozenset(
    {
        *("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"),
        *("MISSING_THOUGHT_SIGNATURE", "PUP_LIMITED_DISABLED", "OTHER", "NO_IMAGE", "IMAGE_OTHER"),
    }
)
"""Finish reasons that say that the answer broke off."""


class _Usage(msgspec.Struct, rename="camel"):
    """Counts as the API names them. Thinking is billed as output and is not within the candidates' count."""

    prompt_token_count: Count | None = None
    cached_content_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    total_token_count: Count | None = None


class _FunctionCall(msgspec.Struct):
    name: str | None = None
    args: Json = None
    id: str | None = None


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Token(msgspec.Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _Tops(msgspec.Struct):
    candidates: list[_Token] | None = None


class _Logprobs(msgspec.Struct, rename="camel"):
    chosen_candidates: list[_Token] | None = None
    top_candidates: list[_Tops] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    index: int | None = None
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: _Logprobs | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Response(msgspec.Struct, rename="camel"):
    response_id: str | None = None
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    error: Json = None


_decoder = msgspec.json.Decoder(_Response)


def _usage(usage: _Usage) -> Usage | None:
    outputs = (usage.candidates_token_count, usage.thoughts_token_count, usage.total_token_count)
    # A count that is missing is not zero: without any of these nothing tells what the answer took.
    if usage.prompt_token_count is None or all(count is None for count in outputs):
        return None
    prompt = usage.prompt_token_count + (usage.tool_use_prompt_token_count or 0)
    thoughts = usage.thoughts_token_count or 0
    # The total is what is billed; should a part of the output be counted nowhere else, it still is there.
    completion = max((usage.candidates_token_count or 0) + thoughts, (usage.total_token_count or 0) - prompt)
    return Usage(
        prompt_tokens=int(prompt),
        completion_tokens=int(completion),
        cached_tokens=int(usage.cached_content_token_count or 0),
        cache_write_tokens=0,
        reasoning_tokens=int(thoughts),
    )


class _Answer:
    """What one answer has said so far, from the chunks of a stream or from the one body."""

    __slots__ = ("_calls", "_failures", "_is_blocked", "_usage", "finish_word")

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._calls = 0
        self._is_blocked = False
        self._usage: _Usage | None = None
        self.finish_word: str | None = None

    def take(self, data: bytes | str) -> list[Event]:
        """Read one JSON object. Raises: ProviderError."""
        try:
            response = _decoder.decode(data)
        except UNREADABLE_JSON as exc:
            raise self._failures.protocol(f"sent JSON that is no generated content: {exc}") from exc
        if response.error:
            raise self._failures.from_fault(Fault.from_json(response.error))
        if response.usage_metadata is not None or response.candidates:
            # A running total: only the last one is final, and where the last chunk has none there is none.
            self._usage = response.usage_metadata
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason:
            self._is_blocked = True
        events: list[Event] = []
        for candidate in response.candidates or ():
            if candidate.index:
                raise self._failures.protocol(f"sent candidate {candidate.index}; one was asked for")
            events += self._candidate(candidate, response.response_id or "")
        return events

    @property
    def is_complete(self) -> bool:
        """Whether an end was told: some models say STOP with every chunk, so it is no end by itself."""
        return self._is_blocked or self.finish_word is not None

    def finished(self) -> Finished:
        """Conclude. Raises: ProviderUnavailable where the reason says that the answer broke off."""
        word = (self.finish_word or "").upper()
        usage = None if self._usage is None else _usage(self._usage)
        if self._is_blocked and self.finish_word is None:
            return Finished(FinishReason.CONTENT_FILTER, usage)
        if word in FAILED_REASONS:
            raise self._failures.unavailable(f"broke off its answer with finishReason {self.finish_word!r}")
        reason = FINISH_REASONS.get(word, FinishReason.STOP)
        if self._calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        return Finished(reason, usage)

    def _candidate(self, candidate: _Candidate, answer_id: str) -> list[Event]:
        self.finish_word = candidate.finish_reason or self.finish_word
        parts = (candidate.content and candidate.content.parts) or []
        events = [event for part in parts for event in self._part(part, answer_id)]
        tokens = _logprobs(candidate.logprobs_result)
        if not tokens:
            return events
        at = next((at for at, event in enumerate(events) if isinstance(event, TextDelta)), None)
        told = TextDelta("" if at is None else _text(events[at]), logprobs=tokens)
        return [*events, told] if at is None else [*events[:at], told, *events[at + 1 :]]

    def _part(self, part: _Part, answer_id: str) -> list[Event]:
        events: list[Event] = []
        if part.text:
            events.append(ReasoningDelta(part.text) if part.thought else TextDelta(part.text))
        if part.function_call is not None:
            call = part.function_call
            if not call.name:
                raise self._failures.protocol("began a tool call without a name")
            call_id = call.id or f"call_{answer_id}_{self._calls}"
            arguments = msgspec.json.encode(call.args or {}).decode()
            events.append(ToolCallDelta(self._calls, call_id, call.name, arguments))
            self._calls += 1
        return events


def _text(event: Event) -> str:
    return event.text if isinstance(event, TextDelta) else ""


def _logprobs(result: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    if result is None:
        return ()
    tops = [tuple(_token(one) for one in at.candidates or ()) for at in result.top_candidates or ()]
    pairs = zip_longest(result.chosen_candidates or (), tops, fillvalue=())
    return tuple(_token(chosen, top) for chosen, top in pairs if isinstance(chosen, _Token))


def _token(wire: _Token, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(wire.token, wire.token.encode("utf-8", "surrogatepass"), wire.log_probability, top)


class ContentReader:
    """A `stream.Reader` for streamed content. Nothing but the end of the bytes ends it, as the API has no other end."""

    __slots__ = ("_answer", "_failures", "is_finished")

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._answer = _Answer(failures)
        self.is_finished = False

    def take(self, event: SseEvent) -> list[Event]:
        """Read one event. Raises: ProviderError."""
        return self._answer.take(event.data) if event.data.strip() else []

    def end(self) -> list[Event]:
        """Conclude. Raises: ProviderProtocolError where no finishReason was seen."""
        if not self._answer.is_complete:
            raise self._failures.protocol("ended its stream before the answer was finished")
        return [self._answer.finished()]


def decode(body: bytes, failures: Failures) -> list[Event]:
    """Read the body of an answer that was not streamed. Pure.

    Raises: ProviderProtocolError for what is no content; the error that fits an error object inside a 200.
    """
    answer = _Answer(failures)
    events = answer.take(body)
    if not answer.is_complete:
        raise failures.protocol("sent a body without an answer")
    return [*events, answer.finished()]
