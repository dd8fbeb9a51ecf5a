"""When is a worker taken for stuck, when is one that ended started again, and when not any more?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

RESTART_BACKOFF_S = (0.0, 0.5, 2.0, 5.0, 15.0, 30.0)
"""Pause before each restart in a row; the last one repeats. A life of `HEALTHY_LIFE_S` ends the row."""
HEALTHY_LIFE_S = 30.0
MAX_FAILED_STARTS = 3
"""A worker that dies so often in a row before it is ready will not become ready by trying again."""


PREPARE_LIMIT_S = 20.0
"""A worker that takes no prompt for so long while some are in line is stuck: it is killed, and another one started."""
STALL_LIMIT_S = 120.0
"""So is one that holds requests and says nothing for this long; a step takes a fraction of a second."""
STALL_CHECKS = 12
"""How often in that time it is looked for."""


@dataclass(slots=True)
class Restarts:
    """Counts the lives of one worker."""

    deaths: int = 0
    failed_starts: int = 0

    def pause_s(self, life_s: float, *, was_ready: bool) -> float | None:
        """Say how long to wait after a life of `life_s` seconds before the next; None: give up."""
        self.failed_starts = 0 if was_ready else self.failed_starts + 1
        if self.failed_starts >= MAX_FAILED_STARTS:
            return None
        # A request may be what kills it, so being ready for a moment does not end the row of deaths.
        self.deaths = 0 if life_s > HEALTHY_LIFE_S else self.deaths + 1
        return RESTART_BACKOFF_S[min(self.deaths, len(RESTART_BACKOFF_S) - 1)]


@dataclass(slots=True)
class PromptLine:
    """Tells a worker that is stuck at a prompt from one that has many long ones in line before it."""

    limit_s: float = PREPARE_LIMIT_S
    _taken_s: float = field(default=float("-inf"), init=False)

    def took(self) -> None:
        """Say that some prompt was taken, or refused."""
        self._taken_s = asyncio.get_running_loop().time()

    async def wait(self, inbox: asyncio.Queue[T]) -> T:
        """Await the answer to a prompt. Raises: TimeoutError once no prompt at all was taken for `limit_s`."""
        clock = asyncio.get_running_loop()
        since_s = clock.time()
        while True:
            until_s = max(since_s, self._taken_s) + self.limit_s
            try:
                async with asyncio.timeout_at(until_s):
                    return await inbox.get()
            except TimeoutError:
                if self._taken_s + self.limit_s <= until_s:
                    raise
