"""Which beginnings are worth keeping beyond the process, and when are they saved and restored?

Worth saving is what different requests of one isolation key begin with: a system prompt, not a conversation.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hybrid.engine.kv_cache import KvCache, Tokens, common_length
from hybrid.engine.prompt_file import SavedPrompt
from hybrid.engine.prompt_store import PromptStore
from hybrid.engine.sequence import Sequence
from hybrid.errors import LocalFailure

log = logging.getLogger(__name__)

MIN_SAVED_TOKENS = 256
"""A shorter common beginning is computed in a step or two. One that is only this much longer than a saved one is not
worth a second file."""
MIN_RESTORED_TOKENS = 128
"""A file is read if it holds this many tokens more than the cache does."""
LAST_TURN_TOKENS = 4
"""A conversation that goes on repeats its last prompt but for what a template adds to open the answer, such as an empty
thinking part. Two prompts that part earlier have a common beginning and different questions."""
REMEMBERED_PROMPTS = 32
MAX_WANTED = 8


@dataclass(frozen=True, slots=True)
class Restored:
    """For the model's thread: a file was read. prompt: None where it was gone or unsound."""

    name: str
    prompt: SavedPrompt | None


class Closing:
    """For the model's thread: the gateway is gone, so save what is to be saved and end."""


class PromptKeeper:
    """Saves and restores beginnings. Every method belongs to the thread that owns the model; the disk has its own.

    Args:
        wake: puts what was read into the inbox of the model's thread, from the disk's.
    """

    def __init__(self, cache: KvCache, store: PromptStore, *, wake: Callable[[Restored], None]) -> None:
        self._cache = cache
        self._store = store
        self._wake = wake
        self._recent: deque[tuple[str, Tokens]] = deque(maxlen=REMEMBERED_PROMPTS)
        self._wanted: deque[tuple[str, Tokens]] = deque(maxlen=MAX_WANTED)
        self._reading: dict[str, list[Sequence]] = {}
        self._disk = ThreadPoolExecutor(1, "prompts")  # starts with its first file; one at a time, in order

    def enter(self, sequence: Sequence) -> bool:
        """Look at a new sequence; say whether it is kept here until a file is read, instead of entering the queue."""
        tokens, isolation = sequence.prompt, sequence.isolation
        self._observe(tokens, isolation)
        found = self._store.find(tokens[:-1], isolation)
        if found is None:
            return False
        if found.tokens - self._cache.look_up(tokens, isolation).length < MIN_RESTORED_TOKENS:
            return False
        is_new = found.name not in self._reading
        self._reading.setdefault(found.name, []).append(sequence)
        if is_new:
            self._disk.submit(self._read, found.name, isolation)
        return True

    def arrive(self, restored: Restored) -> list[Sequence]:
        """Put what was read into the cache; give the sequences that waited for it, whatever came of it."""
        prompt = restored.prompt
        if prompt is None:
            self._store.drop(restored.name)
        else:
            try:
                self._cache.adopt(prompt.tokens, prompt.isolation, prompt.payload)
            except LocalFailure as refused:
                self._store.discard(restored.name, refused)
        return self._reading.pop(restored.name, [])

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence that waits for a file."""
        for waiting in self._reading.values():
            waiting[:] = [sequence for sequence in waiting if sequence.id != sequence_id]

    def save_next(self) -> bool:
        """Save one beginning that is worth it; say whether there was one. To be called while nobody runs.

        Copying 1,000 tokens out of the cache takes some 20 ms with a 135M model; the disk's thread does the rest.
        """
        if not self._wanted:
            return False
        isolation, tokens = self._wanted.popleft()
        payload = self._cache.export(tokens, isolation)
        if payload is not None:
            self._store.add(tokens, isolation)
            self._disk.submit(self._write, SavedPrompt(isolation, tokens, payload))
        return True

    def close(self) -> None:
        """Save what is still wanted and wait for the disk."""
        while self.save_next():
            pass
        self._disk.shutdown()

    def _observe(self, tokens: Tokens, isolation: str) -> None:
        """Note the longest beginning that this prompt has in common with a different one."""
        best = 0
        for other_isolation, other in self._recent:
            if other_isolation == isolation:
                shared = common_length(other, tokens)
                if min(len(other), len(tokens)) - shared > LAST_TURN_TOKENS:
                    best = max(best, shared)
        self._recent.append((isolation, tokens))
        if best >= MIN_SAVED_TOKENS and best - self._covered(tokens[:best], isolation) >= MIN_SAVED_TOKENS:
            self._wanted.append((isolation, tokens[:best].copy()))

    def _covered(self, tokens: Tokens, isolation: str) -> int:
        """Count the tokens of a beginning that are saved, or about to be."""
        found = self._store.find(tokens, isolation)
        wanted = [common_length(other, tokens) for whose, other in self._wanted if whose == isolation]
        return max([0 if found is None else found.tokens, *wanted])

    def _read(self, name: str, isolation: str) -> None:
        prompt = None
        try:
            prompt = self._store.load(name, isolation)
        except Exception:
            # The thread boundary: whoever waits for the file must go on without it.
            log.exception("saved prompt %s could not be read", name)
        self._wake(Restored(name, prompt))

    def _write(self, prompt: SavedPrompt) -> None:
        try:
            self._store.save(prompt)
        except Exception:
            # The thread boundary: nobody waits for this.
            log.exception("the cache of a prompt could not be saved")
