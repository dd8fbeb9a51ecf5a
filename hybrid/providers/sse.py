"""Where does one server-sent event end and the next begin? Incremental, whatever the network split."""

from __future__ import annotations

from dataclasses import dataclass

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""A tool call with a long file in its arguments may come as one event; nothing honest is larger than this."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One dispatched event. `event` is empty where the stream named none."""

    event: str
    data: str


class SseParser:
    """Parses a `text/event-stream` fed in chunks of any size.

    Lines end with LF, CR or CRLF, split anywhere; comments are skipped; `data` lines are joined with LF; one byte
    order mark may lead. `id` and `retry` are ignored: an answer that broke off is never resumed. Unlike a browser,
    which replaces bytes that are not UTF-8, it fails on them: an answer must not be repaired by guessing.

    Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream".
    """

    __slots__ = (
        "_data",
        "_event",
        "_event_bytes",
        "_is_first_line",
        "_line",
        "_max_event_bytes",
        "_skips_lf",
        "failure",
    )

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        self._data: list[str] = []
        self._event = ""
        self._event_bytes = 0
        self._is_first_line = True
        self._skips_lf = False
        self.failure: str | None = None

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Take the next bytes; return the events they complete. After a `failure`, none."""
        if self._skips_lf and chunk:
            # The CR that ended the last chunk already ended its line; its LF came late.
            self._skips_lf = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._skips_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[SseEvent] = []
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            if self.failure is not None:
                return events
            self._take(bytes(self._line + end) if self._line else end, events)
            self._line.clear()
        self._line += rest
        self._check_size(len(self._line))
        return events

    def close(self) -> None:
        """Say that no bytes follow. An event without its blank line is discarded, as the standard says."""
        try:
            self._line.decode()
        except UnicodeDecodeError:
            self.failure = self.failure or "the stream ends in the middle of a UTF-8 character"

    def _take(self, line: bytes, events: list[SseEvent]) -> None:
        if not self._check_size(len(line)):
            return
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(events)
            return
        if line.startswith(b":"):
            return
        self._event_bytes += len(line)
        try:
            name, _, value = line.decode().partition(":")
        except UnicodeDecodeError:
            self.failure = "the stream holds bytes that are not UTF-8"
            return
        if name == "data":
            self._data.append(value.removeprefix(" "))
        elif name == "event":
            self._event = value.removeprefix(" ")

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            events.append(SseEvent(self._event, "\n".join(self._data)))
        self._data = []
        self._event, self._event_bytes = "", 0

    def _check_size(self, pending_bytes: int) -> bool:
        """Bound what is kept in memory. Counted so that a line fails alike whole or in pieces."""
        if self._event_bytes + pending_bytes > self._max_event_bytes:
            self.failure = self.failure or f"one event is larger than {self._max_event_bytes} bytes"
        return self.failure is None
