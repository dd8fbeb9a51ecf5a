"""Must a figure be read anew, or will a recent one do? It will while it is far from deciding anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from hybrid.errors import StoreError

T = TypeVar("T")

FRESH_S = 0.1
"""How old a figure may be before it is read again behind the request that sees it."""
MAX_AGE_S = 3.0
"""And before that request waits for the reading."""
MAX_KEPT = 1024


class Glances(Generic[T]):
    """Recent values by what they are of. Not for what must be right: whoever acts on one checks again.

    Of budgets: a reservation is granted by the ledger alone, on the disk's own figures. What is read before it only
    tells the policy whether there is hope, and while there is plenty an answer from a moment ago tells the same. Under
    load a reading for each request was a third of a gateway's time: so all that come at once share one.
    """

    def __init__(
        self,
        *,
        fresh_s: float = FRESH_S,
        max_age_s: float = MAX_AGE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh_s, self._max_age_s, self._now_s = fresh_s, max_age_s, now_s
        self._seen: dict[Hashable, tuple[float, T]] = {}
        self._reading: dict[Hashable, tuple[float, asyncio.Task[T]]] = {}  # since when

    async def look(self, of: Hashable, read: Callable[[], Awaitable[T]], *, is_plenty: Callable[[T], bool]) -> T:
        """Give what was read of it a moment ago if that is plenty, else read.

        is_plenty: whether a value is so far from any bound that what some seconds bring hardly matters;
            whoever acts on it checks again.
        """
        known = self._seen.get(of)
        if known is not None and is_plenty(known[1]):
            age_s = self._now_s() - known[0]
            if age_s < self._fresh_s:
                return known[1]
            if age_s < self._max_age_s:
                self._read_behind(of, read)
                return known[1]
        return await asyncio.shield(self._reading_of(of, read))

    def _reading_of(self, of: Hashable, read: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Begin to read, or join who began a moment ago: of many that come at once each would read the same."""
        began_s = self._now_s()
        under_way = self._reading.get(of)
        if under_way is not None and began_s - under_way[0] < self._fresh_s:
            return under_way[1]

        async def renew() -> T:
            value = await read()
            if len(self._seen) >= MAX_KEPT:
                self._seen.clear()
            self._seen[of] = began_s, value
            return value

        def ended(task: asyncio.Task[T]) -> None:
            if self._reading.get(of) == (began_s, task):
                del self._reading[of]
            if not task.cancelled() and isinstance(task.exception(), StoreError):
                self._seen.pop(of, None)  # whoever needs it next reads it, and is told

        task = asyncio.get_running_loop().create_task(renew(), name="glance")
        task.add_done_callback(ended)
        self._reading[of] = began_s, task
        return task

    def _read_behind(self, of: Hashable, read: Callable[[], Awaitable[T]]) -> None:
        """Read it for those who come next, once at a time."""
        if of not in self._reading:
            self._reading_of(of, read)
