"""Which tokens does the KV cache hold already, and who may use them? Cells are shared, kept and evicted here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import LocalFailure

MIN_SHARED_TOKENS = 16
"""A shorter common beginning is not worth a copy: prefilling it costs less than a step."""

Tokens = NDArray[np.int32]


class CacheBackend(Protocol):
    """The part of a backend that moves cells."""

    def copy(self, source: int, target: int, count: int) -> None:
        """Let `target` share the first `count` cells of `source`."""

    def truncate(self, slot: int, length: int) -> None:
        """Free the cells of a sequence id from position `length` on."""

    def forget(self, slot: int) -> None:
        """Free every cell of a sequence id."""

    def save(self, slot: int) -> bytearray:
        """Give the cells of a sequence id as bytes."""

    def restore(self, slot: int, state: bytes | bytearray, count: int) -> None:
        """Fill an empty sequence id with `count` saved cells. Raises: LocalFailure; it is empty then."""


class CellPool:
    """Counts who holds each cell. A cell is free when nobody does, and needed while a running sequence does."""

    def __init__(self, cells: int) -> None:
        self._holders = np.zeros(cells, dtype=np.int32)
        self._runners = np.zeros(cells, dtype=np.int32)
        self._free = np.arange(cells, dtype=np.int32)
        self._free_count = cells
        self.running_cells = 0

    @property
    def total(self) -> int:
        """All cells there are."""
        return len(self._holders)

    @property
    def free(self) -> int:
        """Cells nobody holds."""
        return self._free_count

    def take(self, count: int) -> Tokens:
        """Hand out `count` free cells to a running sequence."""
        assert count <= self._free_count
        self._free_count -= count
        cells = self._free[self._free_count : self._free_count + count].copy()
        self._holders[cells] = self._runners[cells] = 1
        self.running_cells += count
        return cells

    def take_one(self) -> int:
        """Hand out one free cell to a running sequence."""
        assert self._free_count > 0
        self._free_count -= 1
        cell = int(self._free[self._free_count])
        self._holders[cell] = self._runners[cell] = 1
        self.running_cells += 1
        return cell

    def share(self, cells: Tokens) -> None:
        """Let one more running sequence hold cells that somebody holds."""
        self._holders[cells] += 1
        self.run(cells)

    def run(self, cells: Tokens) -> None:
        """Count a holder of these cells as running from now on."""
        self.running_cells += int((self._runners[cells] == 0).sum())
        self._runners[cells] += 1

    def rest(self, cells: Tokens) -> None:
        """Count a holder of these cells as idle from now on."""
        self._runners[cells] -= 1
        self.running_cells -= int((self._runners[cells] == 0).sum())

    def drop(self, cells: Tokens) -> None:
        """Take an idle holder away; cells that nobody holds any more are free."""
        self._holders[cells] -= 1
        freed = cells[self._holders[cells] == 0]
        self._free[self._free_count : self._free_count + len(freed)] = freed
        self._free_count += len(freed)

    def idle_among(self, cells: Tokens) -> int:
        """Count the cells among these that no running sequence needs yet."""
        return int((self._runners[cells] == 0).sum())


class _Growing:
    """An int32 array that grows at its end."""

    __slots__ = ("_data", "size")

    def __init__(self) -> None:
        self._data = np.empty(64, dtype=np.int32)
        self.size = 0

    def extend(self, values: Tokens) -> None:
        needed = self.size + len(values)
        if needed > len(self._data):
            grown = np.empty(max(needed, 2 * len(self._data)), dtype=np.int32)
            grown[: self.size] = self._data[: self.size]
            self._data = grown
        self._data[self.size : needed] = values
        self.size = needed

    def append(self, value: int) -> None:
        if self.size == len(self._data):
            self.extend(np.array([value], dtype=np.int32))
            return
        self._data[self.size] = value
        self.size += 1

    @property
    def view(self) -> Tokens:
        return self._data[: self.size]


@dataclass(slots=True, eq=False)
class _Held:
    """What one sequence id holds: equally many tokens and cells. `isolation` says who may share it."""

    isolation: str
    tokens: _Growing = field(default_factory=_Growing)
    cells: _Growing = field(default_factory=_Growing)
    is_running: bool = True
    used: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """The longest beginning of a prompt that is in the cache. `slot` is None where there is none worth sharing.

    new_cells: cells a sequence of the whole prompt takes from what is available.
    """

    slot: int | None
    length: int
    new_cells: int


class KvCache:
    """The cells of one context. Finished sequences stay until their cells are needed, the longest unused go first.

    Sequence ids are few (llama.cpp has at most 256), so a prompt is compared with each held sequence in turn:
    a vectorised comparison of some thousand tokens takes microseconds, less than keeping a tree in order would.
    Sequences share only within their isolation key: what one user asked must not speed up another's request.

    can_share: whether a sequence may begin with another's cells at all.
    has_one_pool: whether they may hold the same cells; else each sequence id has a cache of its own, and a shared
    beginning is copied, or its sequence's own cache is cut back to it where that would be the next to go anyway.
    """

    def __init__(
        self,
        backend: CacheBackend,
        *,
        cells: int,
        sequence_ids: int,
        has_one_pool: bool = True,
        can_share: bool = True,
    ) -> None:
        self._backend = backend
        self._has_one_pool = has_one_pool
        self._can_share = can_share
        self._free_ids = list(range(sequence_ids))[::-1]
        self._held: dict[int, _Held] = {}
        self._ticks = itertools.count()
        self.pool = CellPool(cells)

    @property
    def available_cells(self) -> int:
        """Cells that running sequences can still get, those of idle sequences included."""
        return self.pool.total - self.pool.running_cells

    def look_up(self, tokens: Tokens, isolation: str) -> Match:
        """Find the longest shared beginning. At least the last token is left to compute: its logits are wanted."""
        best, length = None, MIN_SHARED_TOKENS - 1
        limit = len(tokens) - 1
        for slot, held in self._held.items() if self._can_share else ():
            if held.isolation != isolation or held.tokens.size <= length:
                continue
            shared = common_length(held.tokens.view[:limit], tokens[:limit])
            if shared > length:
                best, length = slot, shared
        if best is None:
            return Match(None, 0, len(tokens))
        claimed = self.pool.idle_among(self._held[best].cells.view[:length]) if self._has_one_pool else length
        return Match(best, length, len(tokens) - length + claimed)

    def open(self, match: Match, isolation: str) -> int:
        """Give a running sequence a slot that begins with what was matched; the caller computes the rest.

        An idle sequence that is matched whole is continued in place; otherwise its cells are shared or copied.
        """
        source = None if match.slot is None else self._held[match.slot]
        is_whole = source is not None and match.length == source.tokens.size
        if source is not None and not source.is_running and is_whole:
            slot = match.slot
        else:
            slot = self._free_id(keep=match.slot) if self._has_one_pool else self._place(match.slot)
        assert slot is not None
        if source is not None and slot == match.slot:
            self._cut(slot, match.length)
            source.is_running = True
            self.pool.run(source.cells.view)
            return slot
        held = self._held[slot] = _Held(isolation)
        if source is not None and match.slot is not None:
            self._backend.copy(match.slot, slot, match.length)
            held.tokens.extend(source.tokens.view[: match.length])
            if self._has_one_pool:
                held.cells.extend(source.cells.view[: match.length])
                self.pool.share(held.cells.view)
            else:
                held.cells.extend(self.pool.take(match.length))
        return slot

    def _place(self, source: int | None) -> int:
        """Choose a slot with a cache of its own, beside running ones where that can be.

        Only neighbours are computed in one pass over the weights: of eight sequences in two places a step took 41 ms
        instead of 36 (135M Q4_1, 2 cores). What the chosen slot holds moves to where the longest unused sequence
        was, so it is still that one which goes. `source` is where the new sequence's beginning is; it is chosen
        itself, to be cut back, only where it would be the next to go anyway.
        """
        idle = sorted((held.used, slot) for slot, held in self._held.items() if not held.is_running)
        oldest = [slot for _, slot in idle]
        if source is not None and source in oldest and (self._free_ids or source != oldest[0]):
            oldest.remove(source)
        last_wanted = self._free_ids[::-1] + oldest
        chosen = max(last_wanted, key=lambda slot: (*self._closeness(slot), -last_wanted.index(slot)))
        if chosen in self._free_ids:
            self._free_ids.remove(chosen)
        elif chosen != source:
            spare = next(slot for slot in last_wanted if slot != source)
            if spare != chosen:
                self._move(chosen, spare)
            else:
                self._drop(chosen)
            self._free_ids.remove(chosen)
        return chosen

    def _closeness(self, slot: int) -> tuple[int, int]:
        """How many of the slots next to this one run, and, less, how far all that run would reach with it.

        So a gap between running sequences is filled before they grow at an end, where the gap would stay.
        """
        running = {other for other, held in self._held.items() if held.is_running}
        reach = max((slot, *running)) - min((slot, *running)) if running else 0
        return (slot - 1 in running) + (slot + 1 in running), -reach

    def _move(self, slot: int, target: int) -> None:
        """Let an idle sequence have another slot, which is free or held by an idle one; its own is free then."""
        if target in self._held:
            self._drop(target)
        self._free_ids.remove(target)
        held = self._held.pop(slot)
        self._backend.copy(slot, target, held.tokens.size)
        self._backend.forget(slot)
        self._held[target] = held
        self._free_ids.append(slot)

    def reserve(self, count: int) -> None:
        """Make sure `count` cells are free, evicting idle sequences. There are as many: the plan saw to that."""
        while self.pool.free < count:
            self._evict(keep=None)

    def extend(self, slot: int, tokens: Tokens | Sequence[int]) -> None:
        """Record that the tokens were computed into the slot."""
        held = self._held[slot]
        if len(tokens) == 1:
            # A decode step does this for each sequence, and array operations cost ten times as much.
            held.tokens.append(tokens[0])
            held.cells.append(self.pool.take_one())
            return
        held.tokens.extend(np.asarray(tokens, dtype=np.int32))
        held.cells.extend(self.pool.take(len(tokens)))

    def close(self, slot: int, *, is_kept: bool) -> None:
        """End a running sequence: keep its cells for whoever shares its beginning, or give them back."""
        held = self._held[slot]
        held.is_running = False
        held.used = next(self._ticks)
        self.pool.rest(held.cells.view)
        if not is_kept or not self._can_share or held.tokens.size < MIN_SHARED_TOKENS:
            self._drop(slot)

    def export(self, tokens: Tokens, isolation: str) -> bytearray | None:
        """Give the cells of a beginning as bytes; None if no sequence of the isolation key holds all of it."""
        source = next(
            (
                slot
                for slot, held in self._held.items()
                if held.isolation == isolation and common_length(held.tokens.view, tokens) == len(tokens)
            ),
            None,
        )
        if source is None or not self._has_one_pool or not self._has_id(keep=source):
            return None
        spare = self._free_id(keep=source)
        self._backend.copy(source, spare, len(tokens))
        state = self._backend.save(spare)
        self._backend.forget(spare)
        self._free_ids.append(spare)
        return state

    def adopt(self, tokens: Tokens, isolation: str, state: bytes | bytearray) -> bool:
        """Hold exported cells as those of a finished sequence; say whether there was room for them.

        Raises: LocalFailure if the backend does not take them; nothing is held then.
        """
        if not self._can_share or len(tokens) > self.available_cells or not self._has_id(keep=None):
            return False
        self.reserve(len(tokens))
        slot = self._free_id(keep=None)
        try:
            self._backend.restore(slot, state, len(tokens))
        except LocalFailure:
            self._free_ids.append(slot)
            raise
        self._held[slot] = _Held(isolation)
        self.extend(slot, tokens)
        self.close(slot, is_kept=True)
        return True

    def clear(self) -> None:
        """Give back everything idle."""
        for slot in [slot for slot, held in self._held.items() if not held.is_running]:
            self._drop(slot)

    def _has_id(self, *, keep: int | None) -> bool:
        """Say whether a sequence id is free or can be freed."""
        return bool(self._free_ids) or any(not held.is_running and slot != keep for slot, held in self._held.items())

    def _free_id(self, *, keep: int | None) -> int:
        if not self._free_ids:
            self._evict(keep=keep)
        return self._free_ids.pop()

    def _evict(self, *, keep: int | None) -> None:
        idle = [(held.used, slot) for slot, held in self._held.items() if not held.is_running and slot != keep]
        self._drop(min(idle)[1])

    def _cut(self, slot: int, length: int) -> None:
        """Give back the cells of an idle sequence from `length` on."""
        held = self._held[slot]
        if length < held.tokens.size:
            self._backend.truncate(slot, length)
            self.pool.drop(held.cells.view[length:])
            held.tokens.size = held.cells.size = length

    def _drop(self, slot: int) -> None:
        held = self._held.pop(slot)
        self.pool.drop(held.cells.view)
        self._backend.forget(slot)
        self._free_ids.append(slot)


def common_length(a: Tokens, b: Tokens) -> int:
    """Count the tokens two sequences begin with in common."""
    size = min(len(a), len(b))
    if size == 0 or a[0] != b[0]:
        return 0
    differs = a[:size] != b[:size]
    first = int(differs.argmax())
    return first if differs[first] else size
