"""How does the saved beginning of a prompt lie on disk, and when may it be trusted? A checked header, then the cells.

Layout: `HYBRIDKV`, format number, length and SHA-256 of the header, the header as msgpack, the backend's own bytes.
Everything is compared before a byte of it reaches native code: what was not written whole, by this user, for this
very model, template, cache format and isolation key, is not read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from hybrid.errors import LocalFailure

MAGIC = b"HYBRIDKV"
FORMAT = 1
MAX_HEADER_BYTES = 64 << 20
_START = struct.Struct("<8sII32s")
_SAMPLES, _SAMPLE_BYTES = 256, 4096

Tokens = NDArray[np.int32]


class Identity(msgspec.Struct, frozen=True):
    """What cells depend on beside their tokens; any difference makes them another's.

    model: names the file, weights included. template: SHA-256 of the chat template. context_tokens: some models choose
    their rotary frequencies by it. state: the backend's version and the types of the cache.
    """

    model: str
    template: str
    context_tokens: int
    state: str

    @property
    def digest(self) -> bytes:
        """Name the identity in 32 bytes."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()


class Header(msgspec.Struct, frozen=True):
    """What a file says of itself. isolation: whose prompts may begin with it. tokens: little-endian int32."""

    identity: Identity
    isolation: str
    tokens: bytes
    payload_bytes: int
    payload_sha256: bytes

    @property
    def token_ids(self) -> Tokens:
        """The beginning, as token ids."""
        return np.frombuffer(self.tokens, dtype="<i4").astype(np.int32)


@dataclass(frozen=True, slots=True)
class SavedPrompt:
    """A beginning of prompts and its cells, as the backend gave them."""

    isolation: str
    tokens: Tokens
    payload: bytes | bytearray


def write_prompt(path: Path, identity: Identity, prompt: SavedPrompt) -> None:
    """Write a file that is there whole or not at all, for this user only.

    Raises: OSError if it cannot be written; nothing is left behind then.
    """
    header = msgspec.msgpack.encode(
        Header(
            identity,
            prompt.isolation,
            prompt.tokens.astype("<i4").tobytes(),
            len(prompt.payload),
            hashlib.sha256(prompt.payload).digest(),
        )
    )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
            file.write(_START.pack(MAGIC, FORMAT, len(header), hashlib.sha256(header).digest()))
            file.write(header)
            file.write(prompt.payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def read_header(path: Path) -> Header:
    """Read what a file says of itself, without its cells.

    Raises: LocalFailure saying what is wrong with it, OSError if it cannot be read.
    """
    with _opened(path) as file:
        return _read_header(file)


def read_prompt(path: Path, identity: Identity, isolation: str) -> SavedPrompt:
    """Read a beginning that was saved for this very use.

    Raises: LocalFailure saying what is wrong with it, OSError if it cannot be read.
    """
    with _opened(path) as file:
        header = _read_header(file)
        if header.identity != identity:
            raise LocalFailure("it was saved for another model, template, context or version")
        if header.isolation != isolation:
            raise LocalFailure("it was saved for another client's key")
        payload = file.read(header.payload_bytes)
    if len(payload) != header.payload_bytes or hashlib.sha256(payload).digest() != header.payload_sha256:
        raise LocalFailure("its content is not what was saved")
    return SavedPrompt(isolation, header.token_ids, payload)


def name_weights(path: Path, fingerprint: str) -> str:
    """Name a model file more closely than `fingerprint` does: cells of other weights would be nonsense, unseen.

    More blocks spread over the file, its size and its time of change: enough to notice another file, not a forged one.
    """
    if not path.is_file():
        return fingerprint
    digest = hashlib.sha256(fingerprint.encode())
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        digest.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
        for sample in range(_SAMPLES):
            digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, facts.st_size * sample // _SAMPLES))
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise LocalFailure("it is not a file of this user")
        yield file


def _read_header(file: BinaryIO) -> Header:
    start = file.read(_START.size)
    if len(start) < _START.size:
        raise LocalFailure("it is too short")
    magic, number, header_bytes, digest = _START.unpack(start)
    if (magic, number) != (MAGIC, FORMAT):
        raise LocalFailure(f"it does not begin with {MAGIC.decode()} and format {FORMAT}")
    if header_bytes > MAX_HEADER_BYTES:
        raise LocalFailure(f"its header claims {header_bytes} bytes")
    body = file.read(header_bytes)
    if hashlib.sha256(body).digest() != digest:
        raise LocalFailure("its header is damaged")
    try:
        header = msgspec.msgpack.decode(body, type=Header)
    except msgspec.MsgspecError as wrong:
        raise LocalFailure(f"its header is not ours: {wrong}") from wrong
    expected_bytes = _START.size + header_bytes + header.payload_bytes
    size_bytes = os.fstat(file.fileno()).st_size
    if header.payload_bytes < 0 or size_bytes != expected_bytes or not header.tokens or len(header.tokens) % 4:
        raise LocalFailure(f"it has {size_bytes} bytes and its header tells of {expected_bytes}")
    return header
