"""Which models lie in the models folder, and is each still the file that was pulled?"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hybrid.catalog.cards import Card, find_card, is_valid_name, load_cards
from hybrid.catalog.fetch import size_of
from hybrid.catalog.lock import hold
from hybrid.catalog.progress import OnProgress, Progress, human_bytes, ignore
from hybrid.catalog.tuned import lock_path, tuned_files, tuning_path, workshop_path
from hybrid.errors import CatalogError
from hybrid.gguf import read_header

_CHUNK_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True)
class Places:
    """The paths that belong to one model, all inside the models folder."""

    file: Path
    partial: Path
    lock: Path


class Pulled(msgspec.Struct, frozen=True):
    """Where a file came from when it was pulled: `revision` is the commit it resolved to, if the source has commits."""

    sha256: str
    source: str
    revision: str | None
    unix_s: int


class Record(msgspec.Struct, frozen=True):
    """What is known of a file, kept beside it: its hash, and the state in which that hash was taken."""

    sha256: str
    bytes: int
    mtime_ns: int
    inode: int
    pulled: Pulled | None = None

    def is_of(self, stat: os.stat_result) -> bool:
        """Whether the file has not been touched since the hash was taken."""
        return (self.bytes, self.mtime_ns, self.inode) == (stat.st_size, stat.st_mtime_ns, stat.st_ino)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A model file in the models folder. None where it was not pulled by us, or touched since."""

    name: str
    path: Path
    bytes: int
    sha256: str | None
    source: str | None
    revision: str | None
    pulled_unix_s: int | None


def places(name: str, models_dir: Path) -> Places:
    """Return where a model's files go.

    Raises: CatalogError for a name that could lead elsewhere.
    """
    if not is_valid_name(name):
        raise CatalogError(f"{name!r} is no model name; `hybrid models list` shows what there is")
    partials = models_dir / ".partial"
    return Places(models_dir / f"{name}.gguf", partials / name, partials / f"{name}.lock")


def installed(models_dir: Path) -> list[Installed]:
    """List the model files that can be named, by name. Reads no model file, so a wrong one is listed too."""
    found = []
    for path in sorted(models_dir.glob("*.gguf")):
        if not path.is_file() or not is_valid_name(path.stem):
            continue
        try:
            stat, record = path.stat(), read_record(path)
        except FileNotFoundError:
            continue  # deleted between the two looks
        is_known = record is not None and record.is_of(stat)
        pulled = record.pulled if record is not None and is_known else None
        found.append(
            Installed(
                name=path.stem,
                path=path,
                bytes=stat.st_size,
                sha256=record.sha256 if record is not None and is_known else None,
                source=pulled.source if pulled else None,
                revision=pulled.revision if pulled else None,
                pulled_unix_s=pulled.unix_s if pulled else None,
            )
        )
    return found


def partial_bytes(models_dir: Path) -> dict[str, int]:
    """Return what interrupted pulls have left, by model."""
    left = {}
    for folder in sorted((models_dir / ".partial").glob("*")):
        if folder.is_dir():
            with suppress(FileNotFoundError):  # a pull that ends right now takes its folder away
                left[folder.name] = sum(size_of(file) for file in _files_in(folder))
    return left


def resolve(model: str, models_dir: Path) -> Path:
    """Find the file that a user means by a catalogue name, the name of a file in the models folder, or a path.

    The file's header has been checked; and if it was pulled, that it is still the file that was pulled (by a hash
    that is taken again only when the file was touched).

    Raises: CatalogError that says what to do (pull it, name the file and not its folder); ModelFileError for a file
        that is damaged or no GGUF.
    """
    card = load_cards().get(model)
    if card is None and _is_path(model):
        return _checked(_user_path(model))
    if card is None and not (is_valid_name(model) and places(model, models_dir).file.is_file()):
        find_card(model)
    path = places(model, models_dir).file
    if not path.is_file():
        size = f" ({human_bytes(card.bytes)})" if card else ""
        raise CatalogError(f"{model} is not pulled yet; `hybrid models pull {model}` fetches it{size}")
    check_unchanged(path, card)
    return _checked(path)


def check_unchanged(path: Path, card: Card | None, on_progress: OnProgress = ignore) -> None:
    """Compare a pulled file with its card's hash, or the hash recorded when it was pulled.

    Raises: CatalogError if it is another file.
    """
    record = read_record(path)
    expected = (card.sha256 if card else None) or (record.pulled.sha256 if record and record.pulled else None)
    if expected is None:
        return
    got = sha256_file(path, on_progress)
    if got != expected:
        raise CatalogError(
            f"{path} is not the file that was pulled: its SHA-256 is {got}, expected {expected}. "
            f"`hybrid models rm {path.stem}`, then pull it again"
        )


def remove(name: str, models_dir: Path) -> int:
    """Delete a model's file, record, what was tuned from it and what pulls have left; returns the freed bytes.

    Raises: CatalogError if there is nothing of that name, it is being pulled or tuned right now, or a folder lies
        where one of its files goes; then nothing is deleted.
    """
    place = places(name, models_dir)
    tuned = list(tuned_files(place.file))
    if not (tuned or place.file.exists() or place.file.is_symlink() or place.partial.exists()):
        hint = ", ".join(model.name for model in installed(models_dir)) or "nothing"
        raise CatalogError(f"{name} is not in {models_dir}; there is: {hint}")
    being_tuned = f"another process is tuning {name} right now; wait for it or end it"
    with hold(place.lock), hold(lock_path(place.file), busy=being_tuned):
        workshop = workshop_path(place.file)
        doomed = [one for path in (tuning_path(place.file), *tuned, place.file) for one in (path, record_path(path))]
        _check_files(name, doomed)
        files = (place.file, *tuned, *_files_in(workshop), *_files_in(place.partial))
        freed_bytes = sum(path.lstat().st_size for path in files if _exists(path))
        try:
            # The record first: a tuned file that none names is never used.
            for path in doomed:
                path.unlink(missing_ok=True)
            shutil.rmtree(workshop, ignore_errors=True)
            drop_partial(place)
        except OSError as exc:
            raise CatalogError(
                f"cannot remove {name}: {exc.filename}: {exc.strerror}; what came before it is removed, "
                f"and `hybrid models rm {name}` goes on when that is mended"
            ) from exc
    return freed_bytes


def _check_files(name: str, paths: Iterable[Path]) -> None:
    """Refuse to delete what we never made, before anything is deleted."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            raise CatalogError(f"cannot remove {name}: {path} is a folder, and no file of ours; nothing was removed")


def remove_empty(partial: Path) -> None:
    """Delete a partial folder in which nothing was left."""
    with suppress(OSError):
        partial.rmdir()


def drop_partial(place: Places) -> None:
    """Delete what an interrupted pull has left."""
    if place.partial.exists():
        shutil.rmtree(place.partial)


def sha256_file(path: Path, on_progress: OnProgress = ignore) -> str:
    """Return a file's SHA-256 in hexadecimal; taken once, and again only when size, time or inode changed.

    Raises: CatalogError if the file cannot be read.
    """
    try:
        stat, record = path.stat(), read_record(path)
        if record is not None and record.is_of(stat):
            return record.sha256
        digest = hashlib.sha256()
        done = 0
        for chunk in _chunks(path):
            digest.update(chunk)
            done += len(chunk)
            on_progress(Progress(done, stat.st_size, "verify"))
    except OSError as exc:
        raise CatalogError(f"cannot read {path}: {exc.strerror}") from exc
    write_record(path, stat, digest.hexdigest(), record.pulled if record else None)
    return digest.hexdigest()


def record_path(path: Path) -> Path:
    """Return where a file's record lies: hidden, beside it."""
    return path.with_name(f".{path.name}.json")


def read_record(path: Path) -> Record | None:
    """Return what is recorded of a file; None where nothing is, or it cannot be read and so proves nothing."""
    try:
        return msgspec.json.decode(record_path(path).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None


def write_record(path: Path, stat: os.stat_result, sha256: str, pulled: Pulled | None) -> None:
    """Record a file's hash and the state it was taken in; in a folder we cannot write, it is taken anew next time."""
    record = Record(sha256, stat.st_size, stat.st_mtime_ns, stat.st_ino, pulled)
    temporary = record_path(path).with_suffix(f".{os.getpid()}")
    try:
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.replace(record_path(path))
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # on a full disk it is there, and empty


def _checked(path: Path) -> Path:
    header = read_header(path)
    if header.split_count > 1:
        raise CatalogError(
            f"{path} is one of {header.split_count} parts, and only whole files are checked and loaded; "
            "join them with llama.cpp's llama-gguf-split --merge"
        )
    return path


def _is_path(model: str) -> bool:
    return "/" in model or os.sep in model or model.startswith((".", "~")) or model.lower().endswith(".gguf")


def _user_path(model: str) -> Path:
    try:
        path = Path(model).expanduser().absolute()
        is_folder = path.is_dir()
    except (OSError, RuntimeError) as exc:  # a folder on the way that is closed to us; ~NAME of nobody
        raise CatalogError(f"{model} cannot be looked at: {exc}") from exc
    if is_folder:
        inside = ", ".join(file.name for file in sorted(path.glob("*.gguf"))[:5]) or "it holds none"
        raise CatalogError(f"{path} is a folder; name the .gguf file in it ({inside})")
    if not path.exists():
        raise CatalogError(f"there is no file {path}; name a .gguf file, or a model of `hybrid models list`")
    return path


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()
