"""How is an answer of an OpenAI-compatible API understood? Chat completions, streamed or whole, become events."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

import msgspec

from hybrid.providers.counts import Count, Whole
from hybrid.providers.failures import UNREADABLE_JSON, Failures, Fault
from hybrid.providers.logprobs import TokenWire, token_logprobs
from hybrid.providers.sse import SseEvent
from hybrid.types import Event, Finished, FinishReason, Json, ReasoningDelta, TextDelta, ToolCallDelta, Usage

FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "max_length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "tool_use": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
    "recitation": FinishReason.CONTENT_FILTER,
    "refusal": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
}
FAILED_REASONS = frozenset({"error", "network_error", "insufficient_system_resource"})
"""Finish reasons by which OpenRouter, Zhipu and DeepSeek say that the answer broke off."""

_COST_LIMIT_USD = Decimal(1_000_000)

# Some servers write an index as text.
_Index = int | Whole | Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")]


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class _Cost(msgspec.Struct):
    total_cost: Decimal | None = None


class CostDetails(msgspec.Struct):
    """OpenRouter's parts of a cost."""

    upstream_inference_cost: Decimal | None = None


class _Usage(msgspec.Struct):
    """Counts as the API names them, and the names DeepSeek, Moonshot, OpenRouter and Perplexity use for theirs."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: Count | None = None
    cached_tokens: Count | None = None
    cost: Decimal | _Cost | None = None
    cost_usd: Decimal | None = None
    is_byok: bool | None = None
    cost_details: CostDetails | None = None


class _Function(msgspec.Struct):
    """A call, or a piece of one. Some servers send the arguments as the object that their text should be."""

    name: str | None = None
    arguments: str | dict[str, Json] | None = None

    @property
    def text(self) -> str:
        """The arguments as text."""
        if isinstance(self.arguments, dict):
            return msgspec.json.encode(self.arguments).decode()
        return self.arguments or ""


class _ToolPiece(msgspec.Struct):
    index: _Index | None = None
    id: str | None = None
    function: _Function | None = None


class _Thought(msgspec.Struct):
    text: str | None = None


class _Part(msgspec.Struct):
    """A piece of content that is a list: text or thoughts, as Mistral's thinking models send both."""

    text: str | None = None
    thinking: str | list[_Thought] | None = None


class _Delta(msgspec.Struct):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolPiece] | None = None


class _Logprobs(msgspec.Struct):
    content: list[TokenWire] | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    logprobs: _Logprobs | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    object: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Json = None


# Money is decoded from the digits themselves: msgspec builds a Decimal without a float in between.
_decoder = msgspec.json.Decoder(_Chunk)


def _usage(usage: _Usage) -> Usage | None:
    """What was used; None where nothing tells what the answer took, for a count that is missing is not zero."""
    prompt, total = usage.prompt_tokens or 0, usage.total_tokens
    details, inner = usage.prompt_tokens_details or _Details(), usage.completion_tokens_details or _Details()
    cost = usage.cost.total_cost if isinstance(usage.cost, _Cost) else usage.cost
    cost = usage.cost_usd if cost is None else cost
    cost = billed_cost(cost, usage.cost_details) if usage.is_byok else sane_cost(cost)
    if cost is None and usage.completion_tokens is None and (total is None or total < prompt):
        return None
    # xAI and Gemini leave thinking out of completion_tokens and bill it as output; only the total shows it.
    completion = max(usage.completion_tokens or 0, (total or 0) - prompt)
    written = details.cache_write_tokens
    return Usage(
        prompt_tokens=int(prompt),
        completion_tokens=int(completion),
        cached_tokens=int(details.cached_tokens or usage.prompt_cache_hit_tokens or usage.cached_tokens or 0),
        cache_write_tokens=None if written is None else int(written),
        reasoning_tokens=int(inner.reasoning_tokens or 0),
        cost_usd=cost,
    )


def sane_cost(cost_usd: Decimal | None) -> Decimal | None:
    """A reported cost, None where it cannot be one: then it is unknown, and the tokens still price the answer."""
    # A comparison with NaN raises, so finite first.
    is_sane = cost_usd is not None and cost_usd.is_finite() and 0 <= cost_usd < _COST_LIMIT_USD
    return cost_usd if is_sane else None


def billed_cost(fee_usd: Decimal | None, details: CostDetails | None) -> Decimal | None:
    """What a call with the user's own key at OpenRouter costs: its fee, and the bill of the provider behind it.

    None where one of them is not known: the tokens price it better than the fee alone. Without such a key the
    provider's bill is within the cost already, and is told all the same.
    Source: openrouter.ai/docs/use-cases/usage-accounting.
    """
    fee_usd, upstream_usd = sane_cost(fee_usd), sane_cost(details.upstream_inference_cost if details else None)
    return None if fee_usd is None or upstream_usd is None else fee_usd + upstream_usd


def _thoughts_and_text(parts: list[_Part]) -> tuple[str, str]:
    """What a list of content thinks, and what it says."""
    thoughts = ""
    for part in parts:
        said = part.thinking or ""
        thoughts += said if isinstance(said, str) else "".join(thought.text or "" for thought in said)
    return thoughts, "".join(part.text or "" for part in parts)


class _Call:
    """A tool call so far, kept by the index that its pieces come with."""

    __slots__ = ("_is_named_again", "_pieces", "id", "index", "name")

    def __init__(self, index: int, call_id: str, name: str) -> None:
        self.index, self.id, self.name = index, call_id, name
        self._pieces: list[str] = []
        self._is_named_again = False

    def take(self, name: str | None, arguments: str) -> None:
        """Some more of it."""
        self._is_named_again = bool(self._pieces and name)
        if arguments.strip():
            self._pieces.append(arguments)

    @property
    def is_silent(self) -> bool:
        """Whether no arguments came."""
        return not self._pieces

    def is_other(self, piece_id: str | None, name: str | None, arguments: str) -> bool:
        """Whether a piece under this one's index begins another call, as Ollama sends every call with index 0.

        A new id alone says nothing, for some servers draw one for every piece; nor does the same name alone, for some
        repeat it with every piece. Without ids another name tells, or the name with more than the one object that
        arguments are.
        Source: github.com/vercel/ai/issues/14277 (Ollama).
        """
        if piece_id and name:
            return piece_id != self.id
        if name and name != self.name:
            return True
        return bool(name or self._is_named_again) and bool(arguments.strip()) and self._is_whole()

    def _is_whole(self) -> bool:
        """Whether the arguments are an object by now."""
        if not self._pieces or not self._pieces[-1].rstrip().endswith("}"):
            return False
        try:
            msgspec.json.decode("".join(self._pieces), type=dict[str, msgspec.Raw])
        except UNREADABLE_JSON:
            return False
        return True


class _ChoiceSoFar:
    """What one of the answers to a request has said so far."""

    __slots__ = ("_calls", "_failures", "_index", "_is_refusal", "_made", "finish_word", "has_content")

    def __init__(self, failures: Failures, index: int) -> None:
        self._failures = failures
        self._index = index
        self._calls: dict[int | None, _Call] = {}
        self._made: list[_Call] = []
        self._is_refusal = False
        self.finish_word: str | None = None
        self.has_content = False

    def finished(self, usage: Usage | None) -> list[Event]:
        """Conclude. An answer that was ended without a reason stopped, or called its tools.

        A call without arguments has the empty object for them, which clients can read; one that was cut off has not.
        """
        word = (self.finish_word or "").lower()
        reason = FINISH_REASONS.get(word, FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP)
        if self._is_refusal and reason is FinishReason.STOP:
            reason = FinishReason.CONTENT_FILTER
        is_whole = reason in (FinishReason.STOP, FinishReason.TOOL_CALLS)
        silent = [call.index for call in self._made if is_whole and call.is_silent]
        empties = [ToolCallDelta(index, arguments="{}", choice=self._index) for index in silent]
        return [*empties, Finished(reason, usage, choice=self._index)]

    def take(self, choice: _Choice, answer_id: str) -> list[Event]:
        """Read some more of it. Raises: ProviderError."""
        if choice.finish_reason:
            self.finish_word = choice.finish_reason
            if choice.finish_reason.lower() in FAILED_REASONS:
                raise self._failures.unavailable(f"broke off its answer with finish_reason {choice.finish_reason!r}")
        delta = choice.delta or choice.message
        if delta is None:
            return []
        events: list[Event] = []
        thoughts, text = delta.reasoning_content or delta.reasoning or "", delta.content or ""
        if not isinstance(text, str):
            among, text = _thoughts_and_text(text)
            thoughts = thoughts or among
        if thoughts:
            events.append(ReasoningDelta(thoughts, self._index))
        tokens = token_logprobs(choice.logprobs.content) if choice.logprobs else ()
        if text or tokens:
            events.append(TextDelta(text, logprobs=tokens, choice=self._index))
        if delta.refusal:
            self._is_refusal = True
            events.append(TextDelta(delta.refusal, choice=self._index))
        for position, piece in enumerate(delta.tool_calls or ()):
            at = None if piece.index is None else int(piece.index)
            key = position if at is None and choice.delta is None else at
            events.append(self._tool(key, piece, answer_id))
        self.has_content = self.has_content or bool(events)
        return events

    def _tool(self, key: int | None, piece: _ToolPiece, answer_id: str) -> ToolCallDelta:
        """Give each call its own index and name it once, whatever the server repeats or leaves out."""
        function, known = piece.function or _Function(), self._calls.get(key)
        name, arguments = function.name, function.text
        if known is not None and not known.is_other(piece.id, name, arguments):
            known.take(name, arguments)
            return ToolCallDelta(known.index, arguments=arguments, choice=self._index)
        name = name or (known.name if known else None)
        if not name:
            raise self._failures.protocol("began a tool call without a name")
        index = len(self._made)
        call = self._calls[key] = _Call(index, piece.id or f"call_{answer_id}_{index}", name)
        self._made.append(call)
        call.take(None, arguments)
        return ToolCallDelta(index, call.id, name, arguments, self._index)


class _Answer:
    """What the answers to one request have said so far, from the chunks of a stream or from the one body."""

    __slots__ = ("_choices", "_failures", "_usage")

    def __init__(self, failures: Failures, choices: int) -> None:
        self._failures = failures
        self._choices = [_ChoiceSoFar(failures, index) for index in range(choices)]
        self._usage: Usage | None = None

    def take(self, data: bytes | str) -> list[Event]:
        """Read one JSON object. Raises: ProviderError."""
        try:
            chunk = _decoder.decode(data)
        except UNREADABLE_JSON as exc:
            raise self._failures.protocol(f"sent JSON that is no chat completion: {exc}") from exc
        if chunk.error or chunk.object == "error":
            # Not decoded once more: what was passed over until here may be a number that no float holds.
            body = data.encode() if isinstance(data, str) else data
            raise self._failures.from_fault(Fault.from_json(chunk.error) if chunk.error else Fault.from_body(body))
        if chunk.usage is not None and chunk.usage != _Usage():
            # The last one counts: some servers send a running total with every chunk. One that tells nothing is none.
            self._usage = _usage(chunk.usage)
        events: list[Event] = []
        for choice in chunk.choices or ():
            index = choice.index or 0
            if not 0 <= index < len(self._choices):
                raise self._failures.protocol(f"sent choice {index}; {self._wanted} asked for")
            events += self._choices[index].take(choice, chunk.id or "")
        return events

    @property
    def is_ended(self) -> bool:
        """Whether every answer told why it ended."""
        return all(choice.finish_word is not None for choice in self._choices)

    def finished(self, what: str) -> list[Event]:
        """Conclude each answer; the last tells what all of them used, for no more is known.

        Raises: ProviderProtocolError, saying `what` ended, where an answer was not given.
        """
        silent = [choice for choice in self._choices if choice.finish_word is None and not choice.has_content]
        if silent and len(self._choices) > 1:
            raise self._failures.protocol(f"{what} without {len(silent)} of the answers; {self._wanted} asked for")
        if silent:
            raise self._failures.protocol(f"{what} without an answer")
        *firsts, last = self._choices
        events = [event for choice in firsts for event in choice.finished(None)]
        return events + last.finished(self._usage)

    @property
    def _wanted(self) -> str:
        return "one was" if len(self._choices) == 1 else f"{len(self._choices)} were"


class ChatReader:
    """A `stream.Reader` for a streamed chat completion. choices: how many answers were asked for."""

    __slots__ = ("_answer", "_failures", "is_finished")

    def __init__(self, failures: Failures, choices: int = 1) -> None:
        self._failures = failures
        self._answer = _Answer(failures, choices)
        self.is_finished = False

    def take(self, event: SseEvent) -> list[Event]:
        """Read one event. Raises: ProviderError."""
        data = event.data.strip()
        if event.event == "error":
            raise self._failures.from_fault(Fault.from_body(data.encode()))
        if data != "[DONE]":
            return self._answer.take(data) if data else []
        events = self._answer.finished("ended its stream")
        self.is_finished = True
        return events

    def end(self) -> list[Event]:
        """Conclude. A missing [DONE] is forgiven where a finish_reason was seen. Raises: ProviderProtocolError."""
        if not self._answer.is_ended:
            raise self._failures.protocol("ended its stream before the answer was finished")
        return self._answer.finished("ended its stream")


def decode(body: bytes, failures: Failures, choices: int = 1) -> list[Event]:
    """Read the body of an answer that was not streamed. Pure. choices: how many answers were asked for.

    Raises: ProviderProtocolError for what is no chat completion; the error that fits an error object inside a 200.
    """
    answer = _Answer(failures, choices)
    return [*answer.take(body), *answer.finished("sent a body")]
