"""May one more request of this client key come in now, and if not, when? Pure: the caller brings the clock.

Sliding windows, exact to a second: in no 60 seconds, wherever they begin, are more requests or tokens taken in than the
limit. A bucket that refills would take twice as many in some minute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from hybrid.types import KeyRules, RateLimit

WINDOW_S = 60
RUNNING_RETRY_S = 1.0
"""When to try again while too many requests run: nobody knows when one ends."""

LimitName: TypeAlias = Literal["requests", "tokens", "concurrency"]


@dataclass(frozen=True, slots=True)
class Meter:
    """What was counted in the last minute: (second, amount) in rising order, one entry a second that had any."""

    entries: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUsage:
    """What one key did lately, and how many of its requests run."""

    requests: Meter = field(default_factory=Meter)
    tokens: Meter = field(default_factory=Meter)
    running: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may go on. `charged_tokens` are counted until its real ones are known."""

    usage: KeyUsage
    charged_tokens: int


@dataclass(frozen=True, slots=True)
class Held:
    """The request is over a limit; `retry_after_s` from now it would fit, if nothing else comes."""

    limit: LimitName
    retry_after_s: float


def admit(rules: KeyRules, usage: KeyUsage, now_s: float, *, tokens: int) -> Admitted | Held:
    """Take a request in, or say what it must wait for: the limit that is free last.

    Args:
        now_s: of a clock that never steps back.
        tokens: what the request is expected to take. One that takes more than the whole limit is charged the limit, so
            that it comes in when nothing else was counted for a minute; the rest counts when it is known.
    """
    charged = tokens if rules.tokens_per_minute is None else min(tokens, rules.tokens_per_minute)
    waits: list[tuple[float, LimitName]] = []
    if rules.requests_per_minute is not None:
        waits.append((_free_in_s(usage.requests, now_s, rules.requests_per_minute, 1), "requests"))
    if rules.tokens_per_minute is not None:
        waits.append((_free_in_s(usage.tokens, now_s, rules.tokens_per_minute, charged), "tokens"))
    if rules.concurrency is not None and usage.running >= rules.concurrency:
        waits.append((RUNNING_RETRY_S, "concurrency"))
    wait_s, limit = max(waits, default=(0.0, "requests"))
    if wait_s > 0:
        return Held(limit, wait_s)
    taken = KeyUsage(
        requests=_added(usage.requests, now_s, now_s, 1),
        tokens=_added(usage.tokens, now_s, now_s, charged),
        running=usage.running + 1,
    )
    return Admitted(taken, charged)


def ended(usage: KeyUsage, now_s: float, *, admitted_s: float, charged_tokens: int, used_tokens: int) -> KeyUsage:
    """Give a request's place back and count the tokens it really took.

    What it took beyond its charge counts from now. What it took less counts no more, if that is still counted at all.
    """
    surplus = used_tokens - charged_tokens
    tokens = _added(usage.tokens, now_s, now_s if surplus > 0 else admitted_s, surplus)
    return replace(usage, tokens=tokens, running=max(0, usage.running - 1))


def resumed(requests_s: Iterable[float], tokens: Iterable[tuple[float, int]], now_s: float) -> KeyUsage:
    """What a key did before this process began, counted as if it had been counted then; nothing of it runs.

    Args:
        requests_s: when each request came. tokens: (when they were known, how many). On the clock of `now_s`; what is
            later than now counts as of now.
    """
    counted, taken = Meter(), Meter()
    for at_s in requests_s:
        counted = _counted_again(counted, now_s, at_s, 1)
    for at_s, amount in tokens:
        taken = _counted_again(taken, now_s, at_s, amount)
    return KeyUsage(requests=counted, tokens=taken)


def rate_limits(rules: KeyRules, usage: KeyUsage, now_s: float) -> tuple[RateLimit, ...]:
    """How a key stands against each of its limits by the minute, for the `x-ratelimit-*` headers."""
    given: tuple[tuple[Literal["requests", "tokens"], int | None, Meter], ...] = (
        ("requests", rules.requests_per_minute, usage.requests),
        ("tokens", rules.tokens_per_minute, usage.tokens),
    )
    return tuple(
        RateLimit(name, limit, max(0, limit - _counted(meter, now_s)), _empty_in_s(meter, now_s))
        for name, limit, meter in given
        if limit is not None
    )


def _counted(meter: Meter, now_s: float) -> int:
    return sum(amount for second, amount in meter.entries if _counts(second, now_s))


def _counts(second: int, now_s: float) -> bool:
    # Anything in the second may have been at its very end, so it counts until a whole minute after that.
    return second >= math.floor(now_s) - WINDOW_S


def _leaves_in_s(second: int, now_s: float) -> float:
    return max(0.0, second + 1 + WINDOW_S - now_s)


def _empty_in_s(meter: Meter, now_s: float) -> float:
    return max((_leaves_in_s(second, now_s) for second, amount in meter.entries if amount > 0), default=0.0)


def _free_in_s(meter: Meter, now_s: float, limit: int, amount: int) -> float:
    """How long until `amount` fits; 0 if it does now. A limit of 0 never has room: then a whole window."""
    left = limit - _counted(meter, now_s) - amount
    for second, counted in meter.entries:
        if left >= 0:
            return 0.0
        if _counts(second, now_s):
            left += counted
            if left >= 0:
                return _leaves_in_s(second, now_s)
    return 0.0 if left >= 0 else float(WINDOW_S)


def _counted_again(meter: Meter, now_s: float, at_s: float, amount: int) -> Meter:
    at_s = min(at_s, now_s)
    return _added(meter, now_s, at_s, amount) if _counts(math.floor(at_s), now_s) else meter


def _added(meter: Meter, now_s: float, at_s: float, amount: int) -> Meter:
    """Count an amount in its second and forget what is over. An amount below 0 takes from what its second has."""
    entries = {second: counted for second, counted in meter.entries if _counts(second, now_s)}
    second = math.floor(at_s)
    if amount > 0 or second in entries:
        entries[second] = max(0, entries.get(second, 0) + amount)
    return Meter(tuple(sorted((second, counted) for second, counted in entries.items() if counted)))
