"""Where in running text do calls begin and end? Markers found whatever the chunks, the rest stays text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from hybrid.engine.detokenize import overlap
from hybrid.engine.formats.json_call import CallLog, Calls, Status
from hybrid.types import TextDelta, ToolCallDelta

Spoken: TypeAlias = TextDelta | ToolCallDelta
_SPACE = " \t\r\n"


class Reader(Protocol):
    """Reads what stands behind an opening marker, up to the end of the call or list of calls."""

    status: Status

    @property
    def raw(self) -> str:
        """What was read and did not become a call; once broken it is shown as text."""

    def feed(self, text: str) -> int:
        """Read on; return how many characters were taken. Fewer than given once it is done or broken."""


MakeReader: TypeAlias = Callable[[Calls], Reader]


@dataclass(frozen=True, slots=True)
class Opening:
    """What stands behind a marker: who reads it, and the marker that ends it, which models may forget ("": none).

    is_certain: whether the marker promises a call, so that anything else behind it is a fault of the model.
    """

    reader: MakeReader
    close: str = ""
    is_certain: bool = True


class Scanner:
    """Splits an answer into text and calls.

    White space beside a call belongs to the call. `bare`, if given, reads calls that begin an answer without any
    marker, or follow such a call; the characters they may begin with are `bare_starts`.
    """

    def __init__(
        self,
        calls: CallLog,
        openings: Mapping[str, Opening],
        *,
        bare: MakeReader | None = None,
        bare_starts: str = "{[",
    ) -> None:
        self._calls = calls
        self._openings = dict(openings)
        self._bare = Opening(bare) if bare is not None else None
        self._bare_starts = bare_starts
        self._buffer = ""
        self._space = ""
        self._is_start = True
        self._marker = ""
        self._opening: Opening | None = None
        self._reader: Reader | None = None
        self._is_closing = False
        self._is_after_call = False
        self._events: list[Spoken] = []
        self.malformed = 0
        """How often what promised to be a call, by its marker or its shape, is none: such text is shown as it is."""

    def push(self, text: str) -> list[Spoken]:
        """Read on; return what can never have to be taken back."""
        self._buffer += text
        while self._advance(is_last=False):
            pass
        return self._take()

    def flush(self) -> list[Spoken]:
        """End the answer: what was held back is text, or a call that was cut off."""
        while self._advance(is_last=True):
            pass
        if self._reader is not None:
            self._give_back(self._reader)
        if self._space and not self._is_after_call:
            self._events.append(TextDelta(self._space))
        return self._take()

    @property
    def is_holding(self) -> bool:
        """Whether some of what was pushed may still be shown as text."""
        return self._reader is not None or bool(self._buffer or self._space)

    def _advance(self, *, is_last: bool) -> bool:
        """Do one thing with the buffer; False when it needs more text."""
        if self._reader is not None:
            return self._read(self._reader)
        if self._is_closing:
            return self._close(is_last=is_last)
        if self._is_start and self._bare is not None:
            return self._start(self._bare, is_last=is_last)
        return self._look(is_last=is_last)

    def _start(self, bare: Opening, *, is_last: bool) -> bool:
        """At the start of an answer, and after a bare call, a bare call may begin."""
        rest = self._buffer.lstrip(_SPACE + (";," if self._calls.count else ""))
        if not rest and not is_last:
            return False
        if rest[:1] in tuple(self._bare_starts):
            self._say(self._buffer[: len(self._buffer) - len(rest)].strip(";,"))
            self._buffer = rest
            self._open("", bare)
        self._is_start = False
        return True

    def _look(self, *, is_last: bool) -> bool:
        """Show text up to the next marker, or up to what may become one."""
        found = min(
            ((at, marker) for marker in self._openings if (at := self._buffer.find(marker)) >= 0),
            default=None,
        )
        if found is not None:
            at, marker = found
            self._say(self._buffer[:at])
            self._buffer = self._buffer[at + len(marker) :]
            self._open(marker, self._openings[marker])
            return True
        keep = 0 if is_last else overlap(self._buffer, tuple(self._openings))
        self._say(self._buffer[: len(self._buffer) - keep])
        self._buffer = self._buffer[len(self._buffer) - keep :]
        return False

    def _open(self, marker: str, opening: Opening) -> None:
        self._marker, self._opening, self._reader = marker, opening, opening.reader(self._calls)

    def _read(self, reader: Reader) -> bool:
        if not self._buffer:
            return False
        before, denied = self._calls.count, self._calls.denied
        self._buffer = self._buffer[reader.feed(self._buffer) :]
        if self._calls.count > before:
            self._space, self._marker, self._is_after_call = "", "", True
        self._events += self._calls.take()
        if reader.status is Status.READING:
            return False
        if reader.status is Status.BROKEN:
            self._give_back(reader, is_call=self._calls.denied > denied)
        assert self._opening is not None
        # Small models forget the last brace: the closing marker behind such a call is no text either.
        self._is_closing = bool(self._opening.close) and (reader.status is Status.DONE or self._is_after_call)
        self._is_start = reader.status is Status.DONE and not self._opening.close
        self._reader = None
        return True

    def _give_back(self, reader: Reader, *, is_call: bool = False) -> None:
        """Show as text what was read and is no call, with the marker before it."""
        assert self._opening is not None
        self.malformed += is_call or (bool(self._marker) and self._opening.is_certain)
        self._say(self._marker + reader.raw)
        self._reader, self._marker = None, ""

    def _close(self, *, is_last: bool) -> bool:
        """Pass over the closing marker, if it comes next."""
        assert self._opening is not None
        close, rest = self._opening.close, self._buffer.lstrip(_SPACE)
        if rest.startswith(close):
            self._buffer = rest[len(close) :]
        elif not is_last and close.startswith(rest):
            return False
        elif rest[:1] in ("{", ","):
            # Several calls between one pair of markers.
            self._buffer = rest.lstrip("," + _SPACE)
            self._open("", self._opening)
        self._is_closing = False
        return True

    def _say(self, text: str) -> None:
        """Show text. White space at its end waits: before a call, and at the beginning after one, it is left out."""
        text = text.lstrip(_SPACE) if self._is_after_call else self._space + text
        shown = text.rstrip(_SPACE)
        self._space = text[len(shown) :]
        if shown:
            self._is_after_call = False
            self._events.append(TextDelta(shown))

    def _take(self) -> list[Spoken]:
        events, self._events = self._events, []
        return events
