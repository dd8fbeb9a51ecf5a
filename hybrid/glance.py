"""Must a figure be read anew, or will a recent one do? It will while it is far from deciding anything."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_AGE_S = 0.1
MAX_KEPT = 1024


class Glances(Generic[T]):
    """Recent values by what they are of. Not for what must be right: whoever acts on one checks again.

    Of budgets: a reservation is granted by the ledger alone, on the disk's own figures. What is read before it only
    tells the policy whether there is hope, and while there is plenty an answer from a tenth of a second ago tells the
    same, for a third of a gateway's time on a request that is passed through.
    """

    def __init__(self, *, max_age_s: float = MAX_AGE_S, now_s: Callable[[], float] = time.monotonic) -> None:
        self._max_age_s, self._now_s = max_age_s, now_s
        self._seen: dict[Hashable, tuple[float, T]] = {}

    async def look(self, of: Hashable, read: Callable[[], Awaitable[T]], *, is_plenty: Callable[[T], bool]) -> T:
        """Give what was read of it a moment ago if that is plenty, else read.

        is_plenty: whether a value is so far from any bound that what a tenth of a second brings cannot matter.
        """
        now_s = self._now_s()
        known = self._seen.get(of)
        if known is not None and now_s - known[0] < self._max_age_s and is_plenty(known[1]):
            return known[1]
        value = await read()
        if len(self._seen) >= MAX_KEPT:
            self._seen.clear()
        self._seen[of] = now_s, value
        return value
