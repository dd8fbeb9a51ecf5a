"""What of a block is drawn on in memory, for whom, and how large is a block to be? Values, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from hybrid.store import escrow
from hybrid.store.db import from_us
from hybrid.store.records import Reservation

LASTS_S = 2.0
"""How long one half of a block is to last at the rate at which calls come."""

Caps: TypeAlias = tuple[tuple[Any, ...], ...]
"""What stays the same of a reservation's caps while nobody changes them."""


@dataclass(frozen=True, slots=True)
class Looked:
    """The caps that were found to hold a block beside all else, and at which time."""

    caps: Caps
    now: datetime


@dataclass(slots=True)
class Held:
    """A block that is drawn on in memory: what it has left, and the caps under which it was set aside."""

    start: datetime
    end: datetime
    size_nusd: int
    left_nusd: int
    looked: Looked

    def serves(self, wish: Reservation, amount_nusd: int) -> bool:
        """Whether a reservation is one that the block was set aside for; see `escrow.draw`."""
        return (
            amount_nusd <= self.left_nusd
            and self.start <= wish.now < self.end
            and self.looked.caps == caps_of(wish)
            # A clock that is set back moves rolling windows over spend that had left them.
            and (wish.now >= self.looked.now or not any(cap.is_rolling for cap in wish.caps))
            and all(cap.window.start <= self.start and self.end <= cap.window.end for cap in wish.caps)
        )


@dataclass(slots=True)
class Fills:
    """How large a block is to be: for as many calls as come while it lasts, for each filling waits for the disk."""

    last_s: float
    calls: int = 0

    def next_calls(self, now_s: float) -> int:
        """Say how many calls the filling that begins now is for."""
        a_second = self.calls / max(now_s - self.last_s, 1e-3)
        self.last_s, self.calls = now_s, 0
        return min(max(math.ceil(2 * LASTS_S * a_second), escrow.CALLS), escrow.MOST_CALLS)


def held_of(block: escrow.Block, looked: Looked) -> Held:
    """Give a block as it may be drawn on in memory."""
    start, end = from_us(block.start_us), from_us(block.start_us + escrow.QUARTER_US)
    return Held(start, end, block.size_nusd, block.left_nusd, looked)


def caps_of(wish: Reservation) -> Caps:
    """What of a reservation's caps stays the same while nobody changes them: all but where their windows lie."""
    return tuple((cap.name, cap.limit_usd, cap.client_key, cap.tag, cap.is_rolling) for cap in wish.caps)
