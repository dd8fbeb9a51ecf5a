"""Is it worth calling this again yet? A circuit breaker: a state machine without a clock, each call brings the time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class Circuit(StrEnum):
    """Closed lets all through, open none, half-open one probe to find out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When a breaker opens, and for how long.

    failures_in_row: so many failures without a success between them open it.
    failure_share: so large a share of the last `window_calls` calls in `window_s` opens it, once `least_calls` ended.
    rest_s: how long it stays open; doubled each time a probe fails, up to `max_rest_s`.
    max_hint_s: the longest rest that a provider's own hint (Retry-After, a rate limit's reset) may ask for.
    probe_s: how long a probe has the half-open circuit to itself; one more may go if it has said nothing by then, so
        that a long answer, or one that hangs, does not keep everybody out.
    """

    failures_in_row: int = 5
    failure_share: float = 0.5
    window_s: float = 60.0
    window_calls: int = 40
    least_calls: int = 10
    rest_s: float = 5.0
    max_rest_s: float = 300.0
    max_hint_s: float = 3600.0
    probe_s: float = 1.0


class Breaker:
    """One circuit. Times are seconds of any one clock that does not step back.

    A call that began before the circuit last changed is old news: how it ends changes nothing.
    """

    __slots__ = ("_era", "_in_row", "_open_until_s", "_openings", "_probe_until_s", "_recent", "_rules")

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self._rules = rules or BreakerRules()
        self._recent: deque[tuple[float, bool]] = deque(maxlen=self._rules.window_calls)
        self._in_row = 0
        self._openings = 0
        self._open_until_s: float | None = None
        self._probe_until_s: float | None = None
        self._era = 0

    @property
    def changes(self) -> int:
        """How often it opened or closed."""
        return self._era

    @property
    def openings(self) -> int:
        """How often in a row it opened for a time of our own choice."""
        return self._openings

    def resume(self, until_s: float, openings: int) -> None:
        """Be open until then, as one of an earlier process was. In the past: half-open, so that one probe finds out."""
        self._open_until_s, self._openings = until_s, openings
        self._change()

    def circuit(self, now_s: float) -> Circuit:
        """The state at this moment."""
        if self._open_until_s is None:
            return Circuit.CLOSED
        return Circuit.OPEN if now_s < self._open_until_s else Circuit.HALF_OPEN

    def rest_s(self, now_s: float) -> float | None:
        """How long until a call may be tried, at most; None: now."""
        if self._open_until_s is None:
            return None
        until_s = max(self._open_until_s, self._probe_until_s or self._open_until_s)
        return until_s - now_s if now_s < until_s else None

    def admit(self, now_s: float) -> int | None:
        """Let a call through, or not (None). What it gives goes back with the call's end, which must come."""
        if self.rest_s(now_s) is not None:
            return None
        if self._open_until_s is not None:
            self._probe_until_s = now_s + self._rules.probe_s
        return self._era

    def succeeded(self, ticket: int, now_s: float) -> None:
        """A call ended well. A probe that does closes the circuit."""
        if ticket != self._era:
            return
        if self._open_until_s is not None:
            self._open_until_s, self._openings = None, 0
            self._change()
        self._in_row = 0
        self._recent.append((now_s, False))

    def failed(self, ticket: int, now_s: float, hint_s: float | None = None) -> None:
        """A call failed. `hint_s` is how long the provider asked us to stay away: then it opens at once, for that."""
        if ticket != self._era:
            return
        self._in_row += 1
        self._recent.append((now_s, True))
        if self._open_until_s is not None or hint_s is not None or self._is_too_much(now_s):
            self._open(now_s, hint_s)

    def abandoned(self, ticket: int) -> None:
        """A call ended in a way that says nothing of the provider; a probe's place is free again."""
        if ticket == self._era:
            self._probe_until_s = None

    def _is_too_much(self, now_s: float) -> bool:
        rules = self._rules
        if self._in_row >= rules.failures_in_row:
            return True
        fresh = [is_failure for at_s, is_failure in self._recent if now_s - at_s <= rules.window_s]
        return len(fresh) >= rules.least_calls and sum(fresh) >= rules.failure_share * len(fresh)

    def _open(self, now_s: float, hint_s: float | None) -> None:
        rules = self._rules
        # min() of the exponent: a circuit that never closes must not compute astronomic powers.
        own_s = min(rules.rest_s * 2 ** min(self._openings, 30), rules.max_rest_s)
        self._open_until_s = now_s + (own_s if hint_s is None else min(max(hint_s, 0.0), rules.max_hint_s))
        # A rest that was asked for is no sign that ours is too short.
        self._openings += hint_s is None
        self._change()

    def _change(self) -> None:
        self._era += 1
        self._probe_until_s = None
        self._in_row = 0
        self._recent.clear()
