"""Which text may be shown already? Token bytes in, text out that can never have to be taken back."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Joins token bytes into text and watches for stop strings.

    Bytes of an unfinished UTF-8 character wait for the rest, and text that may be the start of a stop
    string waits until it is or is not one. The stop string itself is never shown. What stands aside is not looked at.

    decoded_chars, shown_chars: how far the text is known, and how far it was given out.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, aside: Aside | None = None) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._aside = aside if stop else None
        self._held = ""
        self.stopped_by: str | None = None
        self.decoded_chars = self.shown_chars = 0

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.stopped_by is not None

    @property
    def settled_chars(self) -> int:
        """How far the text must have been shown for the token pushed last to be shown whole."""
        pending, _ = self._decoder.getstate()
        return self.decoded_chars + bool(pending)

    def push(self, piece: bytes) -> str:
        """Add one token's bytes; return the text that is safe to show now. Nothing follows a stop."""
        return self._release(self._decoder.decode(piece), is_last=False)

    def flush(self) -> str:
        """Return what was held back, at the end of a generation; broken bytes become U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True), is_last=True)

    def _release(self, text: str, *, is_last: bool) -> str:
        if self.is_stopped:
            return ""
        self.decoded_chars += len(text)
        aside = ""
        if self._aside is not None:
            aside, text = self._aside.split(text, is_last=is_last)
            self.shown_chars += len(aside)
        return aside + self._up_to_stop(text, is_last=is_last)

    def _up_to_stop(self, text: str, *, is_last: bool) -> str:
        text = self._held + text
        found = min(((at, word) for word in self._stop if (at := text.find(word)) >= 0), default=None)
        if found is not None:
            at, self.stopped_by = found
            self._held = ""
            self.shown_chars += at
            return text[:at]
        keep = 0 if is_last else overlap(text, self._stop)
        self._held = text[len(text) - keep :]
        self.shown_chars += len(text) - keep
        return text[: len(text) - keep]


class Aside:
    """The thinking before an answer, whose text no stop string ends: a client means the answer by it.

    Everything up to the closing marker, if the text begins with the opening one, white space before it aside.
    is_open: the prompt ends with the opening one.
    """

    def __init__(self, opening: str, closing: str, *, is_open: bool) -> None:
        self._opening, self._closing = opening, closing
        self._is_before, self._is_open = not is_open, is_open
        self._held = ""

    def split(self, text: str, *, is_last: bool) -> tuple[str, str]:
        """Read on; return what is certainly part of it, marker included, and what certainly follows it."""
        text, self._held = self._held + text, ""
        if self._is_before:
            rest = text.lstrip()
            if not is_last and len(rest) < len(self._opening) and self._opening.startswith(rest):
                self._held = text
                return "", ""
            self._is_before, self._is_open = False, rest.startswith(self._opening)
        if not self._is_open:
            return "", text
        thought, marker, answer = text.partition(self._closing)
        if marker:
            self._is_open = False
            return thought + marker, answer
        keep = 0 if is_last else overlap(text, (self._closing,))
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], ""


def overlap(text: str, stop: tuple[str, ...]) -> int:
    """Count the characters at the end of `text` that could be the beginning of one of the words in `stop`."""
    longest = 0
    for word in stop:
        for size in range(min(len(word) - 1, len(text)), longest, -1):
            if text.endswith(word[:size]):
                longest = size
                break
    return longest
