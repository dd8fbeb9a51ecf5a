"""Which part of what a model says is thinking? Everything up to a closing marker, which is no part of the answer."""

from __future__ import annotations

from hybrid.engine.detokenize import overlap

_SPACE = " \t\r\n"


class Thinking:
    """Splits text into thinking and answer, once: thinking comes first or not at all.

    is_open: the prompt has opened the thinking already. White space around the markers belongs to neither side.
    """

    def __init__(self, opening: str, closing: str, *, is_open: bool) -> None:
        self._opening, self._closing = opening, closing
        self._is_before, self.is_open = not is_open, is_open
        self._is_fresh = True
        self._held = ""

    @property
    def is_over(self) -> bool:
        """Whether all that follows is answer."""
        return not self._is_before and not self.is_open

    def push(self, text: str, *, is_last: bool = False) -> tuple[str, str]:
        """Read on; return the thinking and the answer text that are certain now."""
        text, self._held = self._held + text, ""
        if self._is_before:
            rest = text.lstrip(_SPACE)
            if rest.startswith(self._opening):
                self._is_before, self.is_open = False, True
                text = rest[len(self._opening) :]
            elif self._opening.startswith(rest) and not is_last:
                self._held = text
                return "", ""
            else:
                self._is_before = self._is_fresh = False
        return self._think(text, is_last=is_last) if self.is_open else ("", self._answer(text))

    def _think(self, text: str, *, is_last: bool) -> tuple[str, str]:
        if self._is_fresh:
            text = text.lstrip(_SPACE)
        thought, marker, answer = text.partition(self._closing)
        if marker:
            self.is_open, self._is_fresh = False, True
            return thought.rstrip(_SPACE), self._answer(answer)
        keep = 0 if is_last else overlap(text, (self._closing,))
        shown = text[: len(text) - keep].rstrip(_SPACE) if not is_last else text
        self._held = text[len(shown) :]
        self._is_fresh = self._is_fresh and not shown
        return shown, ""

    def _answer(self, text: str) -> str:
        if self._is_fresh:
            text = text.lstrip(_SPACE)
            self._is_fresh = not text
        return text
