"""When has a call to a cloud taken too long? One alarm for all its limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Any, TypeVar

from hybrid.providers.base import Timeouts
from hybrid.providers.failures import Failures

T = TypeVar("T")

CLOCK_STEP_S = 0.001
"""A timer may ring a little before its time by the loop's clock."""


class Deadline:
    """Which of a call's limits runs out first, and what to say when it does."""

    __slots__ = (
        *("_alarm", "_alarm_at", "_failures", "_has_phases", "_has_rung", "_loop", "_nearest"),
        *("_timeouts", "_total", "_waiter"),
    )

    def __init__(self, failures: Failures, timeouts: Timeouts, *, is_stream: bool) -> None:
        self._loop = asyncio.get_running_loop()
        # One alarm for the call, set anew only where a limit comes nearer: asyncio's own timeouts make one a wait.
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._has_rung = False
        self._waiter: asyncio.Task[Any] | None = None
        now = self._loop.time()
        self._failures, self._timeouts = failures, timeouts
        self._nearest = self._total = ("total_s", timeouts.total_s, now + timeouts.total_s)
        # An answer fetched whole has no first token to wait for: it may be as long in coming as it may last.
        self._has_phases = is_stream
        if is_stream:
            self._began("first_token_s", timeouts.first_token_s, now)

    def heard(self) -> None:
        """Say that an event came and was taken: from now on the time between tokens counts."""
        if self._has_phases:
            self._began("between_tokens_s", self._timeouts.between_tokens_s, self._loop.time())

    @property
    def left_s(self) -> float:
        """Seconds until the nearest limit."""
        return self._nearest[2] - self._loop.time()

    def _began(self, name: str, limit_s: float, now: float) -> None:
        at = now + limit_s
        self._nearest = (name, limit_s, at) if at < self._total[2] else self._total

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Await within the nearest limit. Raises: ProviderTimeout, which names that limit and its value."""
        name, limit_s, at = self._nearest
        if self._alarm is None or at < self._alarm_at:
            self._set(at)
        self._waiter = task = asyncio.current_task(self._loop)
        assert task is not None
        others = task.cancelling()
        try:
            return await awaitable
        except asyncio.CancelledError as exc:
            if not self._has_rung or task.cancelling() > others + 1:
                raise  # somebody else's wish
            missed = "no end of the answer" if name == "total_s" else "no token"
            raise self._failures.timeout(f"{missed} within {name} = {limit_s:g} s") from exc
        finally:
            self._waiter = None
            if self._has_rung:
                self._has_rung = False
                task.uncancel()

    def close(self) -> None:
        """Watch no longer."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _set(self, at: float) -> None:
        """Have the alarm ring at `at` and not at another time."""
        self.close()
        self._alarm, self._alarm_at = self._loop.call_at(at, self._ring), at

    def _ring(self) -> None:
        """Break the wait off if its limit has come; limits that moved on since are watched further."""
        self._alarm = None
        if self._waiter is None:
            return
        at = self._nearest[2]
        if self._loop.time() < at - CLOCK_STEP_S:
            self._set(at)
        else:
            self._ring_now()

    def _ring_now(self) -> None:
        if self._waiter is not None:
            self._has_rung = True
            self._waiter.cancel()
