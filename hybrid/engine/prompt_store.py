"""Which beginnings of prompts lie on disk, and which goes when the room is short? Found by hashes of token blocks."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hybrid.backends.base import ModelFacts
from hybrid.engine.prompt_file import (
    Identity,
    SavedPrompt,
    Tokens,
    name_weights,
    read_header,
    read_prompt,
    write_prompt,
)
from hybrid.errors import LocalFailure

log = logging.getLogger(__name__)

BLOCK_TOKENS = 32
"""Beginnings are compared in blocks of so many tokens; what more is shared is found on reading."""
SUFFIX, PARTIAL = ".prompt", ".partial"
PARTIAL_LIMIT_S = 3600.0
"""A half-written file that is older than this was left behind by a process that died."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that begins as a prompt does, for so many tokens at least."""

    name: str
    tokens: int


class PromptStore:
    """One folder, bounded in bytes and shared by the workers of all models: the longest unused file goes first.

    `find`, `add` and `drop` keep the index and belong to one thread; `save` and `load` touch only the disk.
    A file's name is the hash of identity, isolation key and tokens, so that two workers write the same twice.
    """

    def __init__(self, folder: Path, identity: Identity, *, max_bytes: int) -> None:
        """Look at what is there; what is unsound is removed.

        Raises: OSError if the folder cannot be used.
        """
        self._folder = folder
        self._identity = identity
        self._max_bytes = max_bytes
        self._blocks: dict[str, list[bytes]] = {}
        self._by_block: dict[bytes, str] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for path in sorted(folder.iterdir()):
            self._look_at(path)
        self._evict()

    def _look_at(self, path: Path) -> None:
        if path.name.endswith(PARTIAL):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > PARTIAL_LIMIT_S:
                    path.unlink()
        if path.suffix != SUFFIX:
            return
        try:
            header = read_header(path)
        except LocalFailure as unsound:
            self._remove(path, unsound)
            return
        except OSError as unreadable:
            log.warning("saved prompt %s cannot be read: %s", path.name, unreadable.strerror)
            return
        # Another model's files stay: its own worker may want them. Unused, they are the first to go.
        if header.identity == self._identity and self.add(header.token_ids, header.isolation) != path.name:
            self.drop(self._name(header.token_ids, header.isolation))
            self._remove(path, LocalFailure("its name is another's"))

    def find(self, tokens: Tokens, isolation: str) -> Found | None:
        """Find the file with the longest common beginning, as far as whole blocks show it."""
        digests = self._digests(tokens, isolation)
        for count in range(len(digests), 0, -1):
            name = self._by_block.get(digests[count - 1])
            if name is not None:
                return Found(name, count * BLOCK_TOKENS)
        return None

    def add(self, tokens: Tokens, isolation: str) -> str:
        """Make a file be found from now on; give its name."""
        name = self._name(tokens, isolation)
        self._blocks[name] = self._digests(tokens, isolation)
        self._index(name)
        return name

    def drop(self, name: str) -> None:
        """Find a file no more."""
        gone = self._blocks.pop(name, [])
        for digest in gone:
            if self._by_block.get(digest) == name:
                del self._by_block[digest]
        for other in self._blocks:
            self._index(other)

    def _index(self, name: str) -> None:
        """Of two files with a block in common the shorter one is found: there is less to read."""
        for digest in self._blocks[name]:
            other = self._by_block.get(digest)
            if other is None or len(self._blocks[name]) < len(self._blocks[other]):
                self._by_block[digest] = name

    def save(self, prompt: SavedPrompt) -> None:
        """Write a beginning, and remove what it pushes out. A full disk is only told of: no answer depends on it."""
        if len(prompt.payload) > self._max_bytes:
            log.info(
                "%d tokens take %d bytes, more than all saved prompts may", len(prompt.tokens), len(prompt.payload)
            )
            return
        path = self._folder / self._name(prompt.tokens, prompt.isolation)
        try:
            write_prompt(path, self._identity, prompt)
        except OSError as failed:
            log.warning("the cache of a prompt could not be saved: %s", failed.strerror)
            return
        log.info("saved the cache of %d tokens, %d bytes", len(prompt.tokens), len(prompt.payload))
        self._evict()

    def load(self, name: str, isolation: str) -> SavedPrompt | None:
        """Read a beginning; None if it is not there any more, or not sound, and then it is removed."""
        path = self._folder / name
        try:
            prompt = read_prompt(path, self._identity, isolation)
            os.utime(path)
        except LocalFailure as unsound:
            self._remove(path, unsound)
            return None
        except OSError:
            return None  # evicted meanwhile, perhaps by another worker
        return prompt

    def discard(self, name: str, why: LocalFailure) -> None:
        """Remove a file that the backend would not take."""
        self.drop(name)
        self._remove(self._folder / name, why)

    def _remove(self, path: Path, why: LocalFailure) -> None:
        log.warning("saved prompt %s is removed: %s", path.name, why)
        with suppress(OSError):
            path.unlink()

    def _evict(self) -> None:
        """Remove the longest unused files until the folder keeps to its bound; other workers do so as well."""
        files = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):
                facts = path.lstat()
                files.append((facts.st_mtime_ns, facts.st_size, path))
        total_bytes = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total_bytes <= self._max_bytes:
                return
            with suppress(OSError):
                path.unlink()
            total_bytes -= size

    def _digests(self, tokens: Tokens, isolation: str) -> list[bytes]:
        """Hash each block together with all before it: equal hashes are equal beginnings."""
        digest = self._seed(isolation)
        digests = []
        data = tokens.astype("<i4").tobytes()
        size = 4 * BLOCK_TOKENS
        for end in range(size, len(data) + 1, size):
            digest = hashlib.sha256(digest + data[end - size : end]).digest()
            digests.append(digest)
        return digests

    def _name(self, tokens: Tokens, isolation: str) -> str:
        return hashlib.sha256(self._seed(isolation) + tokens.astype("<i4").tobytes()).hexdigest() + SUFFIX

    def _seed(self, isolation: str) -> bytes:
        return hashlib.sha256(self._identity.digest + isolation.encode("utf-8", "surrogatepass")).digest()


def open_store(folder: Path, max_bytes: int, model_path: Path, facts: ModelFacts) -> PromptStore | None:
    """Open the folder of saved prompts; None where none are to be saved, or cannot be: answers do not depend on it."""
    if not max_bytes or facts.state_format is None or not facts.can_share_cells or not facts.has_one_pool:
        return None
    identity = Identity(
        model=name_weights(model_path, facts.fingerprint),
        template=hashlib.sha256((facts.chat_template or "").encode()).hexdigest(),
        context_tokens=facts.context_tokens,
        state=facts.state_format,
    )
    try:
        return PromptStore(folder, identity, max_bytes=max_bytes)
    except OSError as failed:
        log.warning("caches of prompts are not saved: %s", failed)
        return None
