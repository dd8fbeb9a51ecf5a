"""How is an answer of Anthropic's Messages API understood? Streamed or whole, it becomes events."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hybrid.providers.counts import Count
from hybrid.providers.failures import UNREADABLE_JSON, Failures, Fault
from hybrid.providers.sse import SseEvent
from hybrid.types import Event, Finished, FinishReason, Json, ReasoningDelta, TextDelta, ToolCallDelta, Usage

FINISH_REASONS: Mapping[str, FinishReason] = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Count | None = None


class _Usage(msgspec.Struct):
    """Counts so far. Prompt tokens that the cache gave or took are not within `input_tokens`."""

    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens: Count | None = None
    output_tokens_details: _OutputDetails | None = None


class _Block(msgspec.Struct):
    """A content block, or a piece of one; `type` says which of the others it has."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Json = None
    partial_json: str | None = None


class _Message(msgspec.Struct):
    type: str = ""
    content: list[_Block] = msgspec.field(default_factory=list)
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: _Usage | None = None
    error: Json = None


class _Delta(msgspec.Struct):
    """How the message ends, or, under the same key, a piece of a block."""

    stop_reason: str | None = None
    stop_sequence: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _StreamEvent(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Json = None


_event_decoder = msgspec.json.Decoder(_StreamEvent)
_message_decoder = msgspec.json.Decoder(_Message)


class _Answer:
    """What one answer has said so far.

    answer_tool: the tool that was only asked for so that its arguments are the answer's text.
    """

    __slots__ = (
        "_answer_blocks",
        "_answer_tool",
        "_calls",
        "_failures",
        "_silent",
        "_told",
        "stop_reason",
        "stop_sequence",
    )

    def __init__(self, failures: Failures, answer_tool: str | None) -> None:
        self._failures = failures
        self._answer_tool = answer_tool
        self._answer_blocks: set[int] = set()
        self._calls: dict[int, int] = {}
        self._silent: set[int] = set()
        self._told: dict[str, int] = {}
        self.stop_reason: str | None = None
        self.stop_sequence: str | None = None

    def count(self, usage: _Usage | None, *, is_begin: bool = False) -> None:
        """Keep the newest of each count: they are running totals, and not every event tells all.

        is_begin: the answer only begins, and what is said of its output is a placeholder, which must not be billed by.
        """
        if usage is None:
            return
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        told = {name: getattr(usage, name) for name in names}
        told["thinking_tokens"] = usage.output_tokens_details and usage.output_tokens_details.thinking_tokens
        if is_begin:
            told["output_tokens"] = None
        self._told |= {name: int(count) for name, count in told.items() if count is not None}

    def begin(self, index: int, block: _Block) -> list[Event]:
        """A content block begins; a whole answer's is all there already."""
        if block.type == "tool_use":
            return self._begin_tool(index, block)
        text = block.thinking if block.type == "thinking" else block.text if block.type == "text" else None
        if block.type in ("text", "thinking", "redacted_thinking"):
            return self._said(text, is_thinking=block.type == "thinking")
        raise self._failures.protocol(f"sent a block of type {block.type!r}, which was not asked for")

    def _begin_tool(self, index: int, block: _Block) -> list[Event]:
        # In a stream the input of a block that begins is an empty object, whatever follows.
        arguments = msgspec.json.encode(block.input).decode() if block.input else ""
        if not arguments:
            self._silent.add(index)
        if block.name == self._answer_tool:
            self._answer_blocks.add(index)
            return self._said(arguments, is_thinking=False)
        if not block.id or not block.name:
            raise self._failures.protocol("began a tool call without an id or a name")
        self._calls[index] = len(self._calls)
        return [ToolCallDelta(self._calls[index], block.id, block.name, arguments)]

    def stop(self, index: int) -> list[Event]:
        """A block is complete. A call that was sent no arguments has the empty object for them."""
        return self._input(index, "{}") if index in self._silent else []

    def _input(self, index: int, text: str) -> list[Event]:
        if index not in self._calls and index not in self._answer_blocks:
            raise self._failures.protocol("sent arguments of a call that it did not begin")
        if not text:
            return []
        self._silent.discard(index)
        if index in self._answer_blocks:
            return self._said(text, is_thinking=False)
        return [ToolCallDelta(self._calls[index], arguments=text)]

    def piece(self, index: int, delta: _Delta) -> list[Event]:
        """Some more of a block."""
        if delta.partial_json is not None:
            return self._input(index, delta.partial_json)
        return self._said(delta.thinking, is_thinking=True) + self._said(delta.text, is_thinking=False)

    def _said(self, text: str | None, *, is_thinking: bool) -> list[Event]:
        if not text:
            return []
        return [ReasoningDelta(text) if is_thinking else TextDelta(text)]

    def finished(self) -> Finished:
        """Conclude. Raises: ProviderUnavailable for a turn that is only paused, which we never ask for."""
        if self.stop_reason == "pause_turn":
            raise self._failures.unavailable("broke off its answer with stop_reason 'pause_turn'")
        reason = FINISH_REASONS.get(self.stop_reason or "", FinishReason.STOP)
        if reason is FinishReason.TOOL_CALLS and self._answer_blocks:
            reason = FinishReason.STOP
        return Finished(reason, self._usage(), self.stop_sequence)

    def _usage(self) -> Usage | None:
        if "input_tokens" not in self._told or "output_tokens" not in self._told:
            return None
        written = self._told.get("cache_creation_input_tokens", 0)
        cached = self._told.get("cache_read_input_tokens", 0)
        return Usage(
            prompt_tokens=self._told["input_tokens"] + written + cached,
            completion_tokens=self._told["output_tokens"],
            cached_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=self._told.get("thinking_tokens", 0),
        )


class MessageReader:
    """A `stream.Reader` for a streamed message."""

    __slots__ = ("_answer", "_failures", "is_finished")

    def __init__(self, failures: Failures, *, answer_tool: str | None = None) -> None:
        self._failures = failures
        self._answer = _Answer(failures, answer_tool)
        self.is_finished = False

    def take(self, event: SseEvent) -> list[Event]:
        """Read one event; kinds that are not known are passed over, as the API asks. Raises: ProviderError."""
        try:
            said = _event_decoder.decode(event.data)
        except UNREADABLE_JSON as exc:
            raise self._failures.protocol(f"sent JSON that is no event of a message: {exc}") from exc
        if said.type == "error" or said.error or event.event == "error":
            raise self._failures.from_fault(Fault.from_body(event.data.encode()))
        match said.type:
            case "message_start" if said.message is not None:
                self._answer.count(said.message.usage, is_begin=True)
            case "content_block_start" if said.content_block is not None:
                return self._answer.begin(said.index, said.content_block)
            case "content_block_delta" if said.delta is not None:
                return self._answer.piece(said.index, said.delta)
            case "content_block_stop":
                return self._answer.stop(said.index)
            case "message_delta":
                self._answer.count(said.usage)
                if said.delta is not None and said.delta.stop_reason:
                    self._answer.stop_reason = said.delta.stop_reason
                    self._answer.stop_sequence = said.delta.stop_sequence
            case "message_stop":
                return self._conclude()
        return []

    def _conclude(self) -> list[Event]:
        if self._answer.stop_reason is None:
            raise self._failures.protocol("ended its message without a stop_reason")
        finished = self._answer.finished()
        self.is_finished = True
        return [finished]

    def end(self) -> list[Event]:
        """Conclude. A missing message_stop is forgiven where a stop_reason was seen. Raises: ProviderError."""
        if self._answer.stop_reason is None:
            raise self._failures.protocol("ended its stream before the answer was finished")
        return [self._answer.finished()]


def decode(body: bytes, failures: Failures, *, answer_tool: str | None = None) -> list[Event]:
    """Read the body of an answer that was not streamed. Pure.

    Raises: ProviderProtocolError for what is no message; the error that fits an error object inside a 200.
    """
    try:
        message = _message_decoder.decode(body)
    except UNREADABLE_JSON as exc:
        raise failures.protocol(f"sent JSON that is no message: {exc}") from exc
    if message.type == "error" or message.error:
        raise failures.from_fault(Fault.from_body(body))
    if message.type != "message" or message.stop_reason is None:
        raise failures.protocol("sent a body without an answer")
    answer = _Answer(failures, answer_tool)
    answer.count(message.usage)
    answer.stop_reason, answer.stop_sequence = message.stop_reason, message.stop_sequence
    events: list[Event] = []
    for index, block in enumerate(message.content):
        events += answer.begin(index, block) + answer.stop(index)
    return [*events, answer.finished()]
