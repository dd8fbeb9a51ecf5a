"""How do the bytes of an event stream become events, whichever API sent them? Framing and failure in one place."""

from __future__ import annotations

from typing import Protocol

from hybrid.errors import ProviderError
from hybrid.providers.failures import Failures
from hybrid.providers.sse import SseEvent, SseParser
from hybrid.types import Event


class Reader(Protocol):
    """What one API's stream means. `take` and `end` raise ProviderError for what its API does not allow."""

    @property
    def is_finished(self) -> bool:
        """Whether the event was taken that ends an answer; nothing is read behind it."""

    def take(self, event: SseEvent) -> list[Event]:
        """Read one server-sent event."""

    def end(self) -> list[Event]:
        """Say that the bytes ended without such an event; return what the answer still lacks."""


class StreamParser:
    """An `EventParser` for a stream of server-sent events that a `Reader` understands."""

    __slots__ = ("_failures", "_reader", "_sse", "failure", "is_finished")

    def __init__(self, failures: Failures, reader: Reader) -> None:
        self._failures = failures
        self._reader = reader
        self._sse = SseParser()
        self.failure: ProviderError | None = None
        self.is_finished = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; return the events they complete."""
        events: list[Event] = []
        if self.is_finished or self.failure is not None:
            return events
        for sse_event in self._sse.feed(chunk):
            try:
                events += self._reader.take(sse_event)
            except ProviderError as error:
                self.failure = error
            self.is_finished = self._reader.is_finished
            if self.is_finished or self.failure is not None:
                return events
        if self._sse.failure is not None:
            self.failure = self._failures.protocol(self._sse.failure)
        return events

    def close(self) -> list[Event]:
        """Say that no bytes follow."""
        if self.is_finished or self.failure is not None:
            return []
        self._sse.close()
        if self._sse.failure is not None:
            self.failure = self._failures.protocol(self._sse.failure)
            return []
        try:
            events = self._reader.end()
        except ProviderError as error:
            self.failure = error
            return []
        self.is_finished = True
        return events
