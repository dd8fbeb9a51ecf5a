"""What has tuning left beside a model? The tuned file, and the record that says what was tried and which was chosen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from hybrid.errors import CatalogError
from hybrid.gguf_format import FILE_TYPES

SCHEMA = 2
"""Counts up when a record's meaning changes; a record of another schema is not used, but for the one before."""
UNTIMED_SCHEMA = 1
"""In this one several steps may have been timed as one: what was chosen holds, by its divergence, and no speed does."""
_MARK = ".tuned-"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is run. threads: 0 leaves them to placement. flash_attention: None leaves it to llama.cpp.

    kv_type: the format of keys and values in the cache.
    """

    flash_attention: bool | None = None
    kv_type: Literal["f16", "q8_0"] = "f16"
    batch_tokens: int = 512
    threads: int = 0

    def __post_init__(self) -> None:
        # The record is a file anyone may have edited, and these go to native code.
        if not 32 <= self.batch_tokens <= 65_536 or not 0 <= self.threads <= 4096:
            raise ValueError("batch_tokens must be 32 to 65536 and threads 0 to 4096")


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How fast. chats_s decides: seconds that eight chats at once take, each of 175 prompt and 64 answer tokens.

    prefill_1_tok_s, decode_1_tok_s: of one such chat alone. prefill_8_tok_s: until the last of the eight prompts is
    read, while the first answers begin. decode_8_tok_s: of all eight together.
    spread: the slowest run's time over the fastest's, less 1; None: one run. others_cores: cores that other processes
    kept busy meanwhile.
    """

    prefill_1_tok_s: float
    prefill_8_tok_s: float
    decode_1_tok_s: float
    decode_8_tok_s: float
    chats_s: float
    spread: float | None
    others_cores: float


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """How far a candidate's next-token distribution is from the source's: KL(source || candidate), nats a token.

    low_nats, high_nats: 95 % interval of the mean. top1_agreement: share of tokens whose likeliest next is the same.
    """

    tokens: int
    mean_nats: float
    low_nats: float
    high_nats: float
    p99_nats: float
    top1_agreement: float


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried. divergence: None for the source as it is, whose it is zero by definition."""

    format: str
    settings: Settings
    file_bytes: int
    speed: Speed | None = None
    divergence: Divergence | None = None
    problem: str | None = None


class TunedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """The file that was tuned."""

    name: str
    bytes: int
    sha256: str
    format: str


class TunedFile(msgspec.Struct, frozen=True, kw_only=True):
    """The file that was made from it; it lies beside it."""

    name: str
    bytes: int
    sha256: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    fingerprint: str
    words: str


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What it was measured with. llama_build: hash over the installed libraries of llama.cpp; None: not known.

    multiplier: who multiplied, and in which version, as in `backends.matmul.multiplier_version`.
    """

    hybrid: str
    llama_cpp_python: str
    llama_build: str | None
    multiplier: str = "ggml"


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """The record: what was tried, what was chosen and why. file: None where the source itself is the best.

    speedup: the source's time over the chosen one's, from runs in turns at the end; None where the source was chosen,
    or where no time is known.
    text_sha256: of the text on which divergence was measured.
    """

    schema: int
    tuned_at: str
    source: TunedFrom
    machine: Machine
    versions: Versions
    max_kl_nats: float
    text_sha256: str
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    why: str
    speedup: float | None
    file: TunedFile | None


def tuned_path(source: Path, format_name: str) -> Path:
    """Where a tuned file goes. In capitals, so that it is no model name and never listed as a model of its own."""
    return source.with_name(f"{source.stem}{_MARK}{format_name}.gguf")


def tuning_path(source: Path) -> Path:
    """Where the record goes."""
    return source.with_name(f"{source.stem}.tuned.json")


def workshop_path(source: Path) -> Path:
    """The folder in which candidates are made; what an interrupted run left in it is removed by the next."""
    return source.with_name(f".{source.stem}.tuning")


def lock_path(source: Path) -> Path:
    """Held while a model is tuned."""
    return source.with_name(f".{source.stem}.tuning.lock")


def is_tuned(path: Path) -> bool:
    """Whether this is a file that tuning has made, by its name."""
    head, mark, format_name = path.stem.rpartition(_MARK)
    return bool(head and mark) and path.suffix == ".gguf" and format_name in FILE_TYPES.values()


def tuned_files(source: Path) -> Iterator[Path]:
    """Give the tuned files beside a model, also those that no record names (any more)."""
    yield from (path for name in FILE_TYPES.values() if (path := tuned_path(source, name)).is_file())


def read_tuning(source: Path) -> Tuning | None:
    """Give the record of a model; None where it was never tuned.

    Raises: CatalogError if there is one that cannot be used.
    """
    path = tuning_path(source)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as failed:
        raise CatalogError(f"{path} cannot be read: {failed.strerror}") from failed
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema not in (SCHEMA, UNTIMED_SCHEMA):
            raise CatalogError(f"{path} is of schema {schema}, and this version reads {SCHEMA}")
        tuning = msgspec.json.decode(data, type=Tuning)
        return _without_speeds(tuning) if schema == UNTIMED_SCHEMA else tuning
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise CatalogError(f"{path} is damaged: {wrong}") from wrong


def _without_speeds(tuning: Tuning) -> Tuning:
    return msgspec.structs.replace(
        tuning,
        schema=SCHEMA,
        candidates=tuple(msgspec.structs.replace(one, speed=None) for one in tuning.candidates),
        chosen=msgspec.structs.replace(tuning.chosen, speed=None),
        why="an earlier version found it the fastest, and its times are left out: they may be of several steps each; "
        "`hybrid models tune` measures again",
        speedup=None,
    )


def write_tuning(source: Path, tuning: Tuning) -> None:
    """Write the record at once or not at all, also over a power cut.

    Raises: OSError if the disk refuses; then what was there is there.
    """
    path = tuning_path(source)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(tuning), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring names that were given or taken in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Schema(msgspec.Struct):
    schema: int
