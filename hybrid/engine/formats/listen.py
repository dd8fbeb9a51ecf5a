"""What did the model mean? Raw text in, finished events out: thinking, answer and calls told apart."""

from __future__ import annotations

import json
from dataclasses import replace

from hybrid.engine.formats.scan import Scanner
from hybrid.engine.formats.thinking import Thinking
from hybrid.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)


class Listener:
    """Turns one generation's raw events into those a client gets. Without tools and thinking it changes nothing."""

    def __init__(self, *, thinking: Thinking | None = None, scanner: Scanner | None = None) -> None:
        self._thinking = thinking
        self._scanner = scanner
        self._calls: dict[int, ToolCall] = {}
        self._logprobs: tuple[TokenLogprob, ...] = ()
        self._held_tokens = self.reasoning_tokens = 0

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls told so far, the last one perhaps unfinished."""
        return tuple(self._calls[index] for index in sorted(self._calls))

    @property
    def flaw(self) -> str | None:
        """What is wrong with the calls, for whoever judges the draft; None if they can be followed."""
        if self._scanner is not None and self._scanner.malformed:
            return "the local model began a tool call that is none"
        for call in self.calls:
            try:
                is_object = isinstance(json.loads(call.arguments), dict)
            except (ValueError, RecursionError):
                is_object = False
            if not is_object:
                return f"the arguments of the call of {call.name} are no JSON object"
        return None

    def hear(self, event: TextDelta | Finished) -> list[Event]:
        """Take the next raw event; return what is certain now, which may be nothing."""
        if self._thinking is None and self._scanner is None:
            return [event]
        if isinstance(event, Finished):
            return self._end(event)
        thought, answer = self._split(event)
        events: list[Event] = [ReasoningDelta(thought)] if thought else []
        self._logprobs += event.logprobs
        events += [self._with_logprobs(found) for found in self._find_calls(answer)]
        if event.text and not self._is_holding:
            self._logprobs = ()  # their text was a marker, thinking, or space beside those
        return events

    @property
    def _is_holding(self) -> bool:
        """Whether some of what was said may still be shown as text."""
        if self._thinking is not None and not (self._thinking.is_open or self._thinking.is_over):
            return True
        return self._scanner is not None and self._scanner.is_holding

    def _with_logprobs(self, event: Event) -> Event:
        """Give the log-probabilities to the text they belong to; those of thinking and calls are not the answer's."""
        logprobs, self._logprobs = self._logprobs, ()
        return replace(event, logprobs=logprobs) if isinstance(event, TextDelta) else event

    def _split(self, event: TextDelta) -> tuple[str, str]:
        if self._thinking is None:
            return "", event.text
        was_thinking = self._thinking.is_open
        thought, answer = self._thinking.push(event.text)
        self._held_tokens += len(event.signals)
        if was_thinking or self._thinking.is_open:
            self.reasoning_tokens += self._held_tokens
        if self._thinking.is_open or self._thinking.is_over:
            self._held_tokens = 0  # while neither, they may be the beginning of the opening marker
        return thought, answer

    def _find_calls(self, text: str) -> list[Event]:
        if self._scanner is None:
            return [TextDelta(text)] if text else []
        return [self._noted(event) for event in self._scanner.push(text)]

    def _noted(self, event: TextDelta | ToolCallDelta) -> Event:
        if isinstance(event, ToolCallDelta):
            call = self._calls.get(event.index) or ToolCall(event.id or "", event.name or "", "")
            self._calls[event.index] = replace(call, arguments=call.arguments + event.arguments)
        return event

    def _end(self, finished: Finished) -> list[Event]:
        events: list[Event] = []
        if self._thinking is not None:
            thought, answer = self._thinking.push("", is_last=True)
            events += [ReasoningDelta(thought)] if thought else []
            events += self._find_calls(answer)
        if self._scanner is not None:
            events += [self._noted(event) for event in self._scanner.flush()]
        # A stop string in the middle of a call leaves half of one, which nobody can make.
        is_whole = finished.stopped_by is None or self.flaw is None
        is_call = bool(self._calls) and is_whole and finished.reason is FinishReason.STOP
        usage = finished.usage
        if usage is not None and self.reasoning_tokens:
            usage = replace(usage, reasoning_tokens=self.reasoning_tokens)
        reason = FinishReason.TOOL_CALLS if is_call else finished.reason
        return [*(self._with_logprobs(event) for event in events), replace(finished, reason=reason, usage=usage)]
