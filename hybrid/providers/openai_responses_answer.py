"""How is an answer of OpenAI's Responses API understood? Streamed or whole, it becomes events."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from hybrid.providers.counts import Count
from hybrid.providers.failures import UNREADABLE_JSON, Failures, Fault
from hybrid.providers.logprobs import TokenWire, token_logprobs
from hybrid.providers.openai_answer import CostDetails, billed_cost, sane_cost
from hybrid.providers.sse import SseEvent
from hybrid.types import Event, Finished, FinishReason, Json, ReasoningDelta, TextDelta, ToolCallDelta, Usage


class _InputDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cost: Decimal | None = None
    is_byok: bool | None = None
    cost_details: CostDetails | None = None


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    logprobs: list[TokenWire] | None = None


class _Item(msgspec.Struct):
    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    content: list[_Part] | None = None
    summary: list[_Part] | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    object: str | None = None
    status: str | None = None
    output: list[_Item] | None = None
    usage: _Usage | None = None
    error: Json = None
    incomplete_details: _Incomplete | None = None


class _StreamEvent(msgspec.Struct):
    type: str = ""
    output_index: int = 0
    delta: str | None = None
    logprobs: list[TokenWire] | None = None
    item: _Item | None = None
    response: _Response | None = None
    error: Json = None


_event_decoder = msgspec.json.Decoder(_StreamEvent)
_response_decoder = msgspec.json.Decoder(_Response)

_THINKING = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})
_ENDINGS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


def _usage(usage: _Usage | None) -> Usage | None:
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    inputs, outputs = usage.input_tokens_details or _InputDetails(), usage.output_tokens_details or _OutputDetails()
    return Usage(
        prompt_tokens=int(usage.input_tokens),
        completion_tokens=int(usage.output_tokens),
        cached_tokens=int(inputs.cached_tokens or 0),
        cache_write_tokens=None if inputs.cache_write_tokens is None else int(inputs.cache_write_tokens),
        reasoning_tokens=int(outputs.reasoning_tokens or 0),
        cost_usd=billed_cost(usage.cost, usage.cost_details) if usage.is_byok else sane_cost(usage.cost),
    )


class _Answer:
    """What one answer has said so far. Of each item of the output it keeps how much of it was seen in pieces."""

    __slots__ = ("_calls", "_failures", "_is_refusal", "_seen")

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._calls: dict[int, int] = {}
        self._is_refusal = False
        self._seen: set[tuple[int, str]] = set()

    def begin(self, index: int, item: _Item) -> list[Event]:
        """An item begins. Only a call has something to tell by then."""
        if item.type != "function_call" or index in self._calls:
            return []
        call_id = item.call_id or item.id
        if not call_id or not item.name:
            raise self._failures.protocol("began a tool call without an id or a name")
        self._calls[index] = len(self._calls)
        if item.arguments:
            self._seen.add((index, "arguments"))
        return [ToolCallDelta(self._calls[index], call_id, item.name, item.arguments or "")]

    def arguments(self, index: int, text: str) -> list[Event]:
        """Some more of a call's arguments."""
        if index not in self._calls:
            raise self._failures.protocol("sent arguments of a call that it did not begin")
        self._seen.add((index, "arguments"))
        return [ToolCallDelta(self._calls[index], arguments=text)] if text else []

    def text(self, index: int, text: str, tokens: Iterable[TokenWire] | None = None) -> list[Event]:
        """Some more of the answer."""
        self._seen.add((index, "text"))
        logprobs = token_logprobs(tokens)
        return [TextDelta(text, logprobs=logprobs)] if text or logprobs else []

    def refusal(self, index: int, text: str) -> list[Event]:
        """Some more of a refusal, which is text that ends with `content_filter`."""
        self._is_refusal = True
        return self.text(index, text)

    def thinking(self, index: int, text: str) -> list[Event]:
        """Some more of the reasoning, or of its summary."""
        self._seen.add((index, "thinking"))
        return [ReasoningDelta(text)] if text else []

    def complete(self, index: int, item: _Item) -> list[Event]:
        """An item is there as a whole: say what of it did not come in pieces."""
        events = self.begin(index, item)
        if item.type == "function_call" and (index, "arguments") not in self._seen and item.arguments:
            events += self.arguments(index, item.arguments)
        if item.type == "reasoning" and (index, "thinking") not in self._seen:
            for part in (item.summary or []) + (item.content or []):
                events += self.thinking(index, part.text or "")
        if item.type == "message" and (index, "text") not in self._seen:
            for part in item.content or ():
                if part.refusal:
                    events += self.refusal(index, part.refusal)
                events += self.text(index, part.text or "", part.logprobs)
        return events

    def finished(self, response: _Response) -> Finished:
        """Conclude. Raises: ProviderError for an answer that failed or was cancelled."""
        if response.status == "failed" or response.error:
            raise self._failures.from_fault(Fault.from_json(response.error or "no explanation"))
        if response.status not in ("completed", "incomplete"):
            raise self._failures.unavailable(f"broke off its answer with status {response.status!r}")
        reason = FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP
        if response.status == "incomplete":
            why = response.incomplete_details.reason if response.incomplete_details else None
            reason = FinishReason.CONTENT_FILTER if why == "content_filter" else FinishReason.LENGTH
        if self._is_refusal and reason is FinishReason.STOP:
            reason = FinishReason.CONTENT_FILTER
        return Finished(reason, _usage(response.usage))


class ResponseReader:
    """A `stream.Reader` for a streamed response."""

    __slots__ = ("_answer", "_failures", "is_finished")

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._answer = _Answer(failures)
        self.is_finished = False

    def take(self, event: SseEvent) -> list[Event]:
        """Read one event; kinds that tell nothing new are passed over. Raises: ProviderError."""
        if event.data.strip() == "[DONE]":
            raise self._failures.protocol("ended its stream before the answer was finished")
        try:
            said = _event_decoder.decode(event.data)
        except UNREADABLE_JSON as exc:
            raise self._failures.protocol(f"sent JSON that is no event of a response: {exc}") from exc
        if said.type == "error" or said.error or event.event == "error":
            raise self._failures.from_fault(Fault.from_body(event.data.encode()))
        if said.type in _ENDINGS and said.response is not None:
            return self._conclude(said.response)
        if said.item is not None:
            whole = said.type == "response.output_item.done"
            return (self._answer.complete if whole else self._answer.begin)(said.output_index, said.item)
        return [] if said.delta is None else self._piece(said, said.delta)

    def _piece(self, said: _StreamEvent, delta: str) -> list[Event]:
        match said.type:
            case "response.output_text.delta":
                return self._answer.text(said.output_index, delta, said.logprobs)
            case "response.refusal.delta":
                return self._answer.refusal(said.output_index, delta)
            case "response.function_call_arguments.delta":
                return self._answer.arguments(said.output_index, delta)
        return self._answer.thinking(said.output_index, delta) if said.type in _THINKING else []

    def _conclude(self, response: _Response) -> list[Event]:
        late = [self._answer.complete(index, item) for index, item in enumerate(response.output or ())]
        finished = self._answer.finished(response)
        self.is_finished = True
        return [*(event for events in late for event in events), finished]

    def end(self) -> list[Event]:
        """The bytes ended too early: an answer is over when the API says so. Raises: ProviderProtocolError."""
        raise self._failures.protocol("ended its stream before the answer was finished")


def decode(body: bytes, failures: Failures) -> list[Event]:
    """Read the body of an answer that was not streamed. Pure.

    Raises: ProviderProtocolError for what is no response; the error that fits an error object inside a 200.
    """
    try:
        response = _response_decoder.decode(body)
    except UNREADABLE_JSON as exc:
        raise failures.protocol(f"sent JSON that is no response: {exc}") from exc
    if response.status is None and response.error:
        raise failures.from_fault(Fault.from_body(body))
    if response.status is None or response.output is None:
        raise failures.protocol("sent a body without an answer")
    answer = _Answer(failures)
    events = [event for index, item in enumerate(response.output) for event in answer.complete(index, item)]
    return [*events, answer.finished(response)]
