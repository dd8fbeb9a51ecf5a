"""Which tokens may be told of already? Log-probabilities wait until the text of their token is shown whole."""

from __future__ import annotations

from collections import deque

from hybrid.backends.base import Backend
from hybrid.native import Sampled
from hybrid.types import TokenLogprob


class LogprobQueue:
    """The tokens of one sequence that were drawn and not told of yet.

    A token that a stop string cuts is never told of, and the end of a generation is no token of its text.
    """

    def __init__(self, backend: Backend, alternatives: int) -> None:
        """`alternatives`: how many of the likeliest tokens are told beside each that was drawn."""
        self._backend = backend
        self.alternatives = alternatives
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()

    def push(self, drawn: Sampled, settled_chars: int) -> None:
        """Add the token that was drawn; it is shown whole once `settled_chars` of the text are shown."""
        top = tuple(self._tell(token, logprob) for token, logprob in drawn.top)
        self._waiting.append((settled_chars, self._tell(drawn.token, drawn.logprob, top)))

    def take(self, shown_chars: int) -> tuple[TokenLogprob, ...]:
        """Give those whose text is shown whole by now, in order."""
        told = []
        while self._waiting and self._waiting[0][0] <= shown_chars:
            told.append(self._waiting.popleft()[1])
        return tuple(told)

    def _tell(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = self._backend.piece(token)
        if not raw:
            return TokenLogprob(self._backend.control_name(token), None, logprob, top)
        # As OpenAI writes bytes that are no whole character: \xe2\x82.
        return TokenLogprob(raw.decode("utf-8", "backslashreplace"), raw, logprob, top)
