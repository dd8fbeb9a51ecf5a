"""How fast was this machine with this model when it was measured? Kept on disk, and told when it no longer holds."""

from __future__ import annotations

import fcntl
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from hybrid import __version__
from hybrid.backends.matmul import multiplier_version
from hybrid.devices.history import PastRun, remember
from hybrid.errors import CommandError

FOLDER = "profiles"
FORMAT = 2
"""Raised when the meaning of a field changes; a profile of another format is not read, but for the one before."""
DOUBTFUL_FORMAT = 1
"""In this one tuning may have taken several steps for one. Its figures are left out; what `bench` measured holds."""
MAX_BYTES = 8 << 20
OnNote = Callable[[str], None]
Source: TypeAlias = Literal["bench", "quick bench", "tune"]
"""What measured: `hybrid bench`, the same with `--quick`, or `hybrid models tune`, which knows least of prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """Measured speeds of one model file.

    prefill_tok_s: prompt tokens a second, by the prompt's tokens. decode_tok_s: of all sequences together, by their
    number. threads: those it was measured with; best_threads: None where only one number was tried.
    rss_bytes: the process's largest memory. others_cores: that other processes kept busy meanwhile. prefill_tok_j,
    decode_tok_j: tokens a joule, empty where unknown. source: what measured them. runs: the last ones' medians.
    """

    model_fingerprint: str
    model_name: str
    measured_at: str
    threads: int
    prefill_tok_s: Mapping[int, float]
    decode_tok_s: Mapping[int, float]
    ttft_s: float | None = None
    load_s: float | None = None
    rss_bytes: int | None = None
    best_threads: int | None = None
    context_tokens: int | None = None
    others_cores: float = 0.0
    prefill_tok_j: Mapping[int, float] = field(default_factory=dict)
    decode_tok_j: Mapping[int, float] = field(default_factory=dict)
    source: Source = "bench"
    runs: tuple[PastRun, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was measured on one machine. versions: of the programs it was measured with. models: by fingerprint.

    read_bytes_s, fp32_ops_s, int8_ops_s: the roofs; None where they were not measured. cache_bytes: estimates.
    roofs_source: what measured these. runs: the last measurements' medians of the machine itself.
    """

    hardware_fingerprint: str
    hardware: Mapping[str, str]
    versions: Mapping[str, str]
    measured_at: str
    read_bytes_s: float | None = None
    fp32_ops_s: float | None = None
    int8_ops_s: float | None = None
    cache_bytes: tuple[int, ...] = ()
    roofs_source: Source = "bench"
    runs: tuple[PastRun, ...] = ()
    models: Mapping[str, ModelProfile] = field(default_factory=dict)
    format: int = FORMAT


def current_versions() -> dict[str, str]:
    """The versions that decide speeds: ours, of who multiplies, and of llama.cpp's bindings where they are there."""
    found = {"hybrid": __version__, "multiplier": multiplier_version()}
    with suppress(metadata.PackageNotFoundError):
        found["llama-cpp-python"] = metadata.version("llama-cpp-python")
    return found


def profile_path(data_dir: Path, hardware_fingerprint: str) -> Path:
    """Where a machine's profile lies; a home folder that several machines share holds one of each."""
    return data_dir / FOLDER / f"{hardware_fingerprint}.json"


def _ignore(_note: str) -> None:
    pass


def load_profile(
    data_dir: Path, hardware_fingerprint: str, *, versions: Mapping[str, str], on_note: OnNote = _ignore
) -> Profile | None:
    """Read this machine's profile; None where there is none that holds, and `on_note` gets the reason in a sentence.

    A file that cannot be understood, or was measured with other versions, is not used; the next bench replaces it.
    """
    path = profile_path(data_dir, hardware_fingerprint)
    try:
        if path.stat().st_size > MAX_BYTES:
            on_note(f"the profile {path} is larger than {MAX_BYTES >> 20} MiB and was not read; {_AGAIN}")
            return None
        profile = msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        if any(path.parent.glob("*.json")):
            on_note(f"the profiles in {path.parent} are of other hardware; {_AGAIN}")
        return None
    except OSError as exc:
        on_note(f"the profile {path} cannot be read: {exc.strerror}")
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        on_note(f"the profile {path} is damaged ({exc}) and was not used; {_AGAIN}")
        return None
    if stale := _staleness(profile, hardware_fingerprint, versions):
        on_note(f"the profile {path} is out of date: {stale}; {_AGAIN}")
        return None
    profile = _without_doubtful(profile, on_note)
    if unsound := _unsoundness(profile):
        on_note(f"the profile {path} is damaged ({unsound}) and was not used; {_AGAIN}")
        return None
    return profile


_AGAIN = "`hybrid bench` measures again"


def _staleness(profile: Profile, hardware_fingerprint: str, versions: Mapping[str, str]) -> str | None:
    if profile.format not in (FORMAT, DOUBTFUL_FORMAT):
        return f"it has format {profile.format}, this version reads {FORMAT}"
    if profile.hardware_fingerprint != hardware_fingerprint:
        return "it was measured on other hardware"
    changed = [
        f"{name} {profile.versions.get(name, 'none')} -> {versions.get(name, 'none')}"
        for name in sorted({*versions, *profile.versions})
        if profile.versions.get(name) != versions.get(name)
    ]
    return ", ".join(changed) or None


def _without_doubtful(profile: Profile, on_note: OnNote) -> Profile:
    if profile.format == FORMAT:
        return profile
    doubtful = sorted(model.model_name for model in profile.models.values() if model.source == "tune")
    if doubtful:
        on_note(
            f"tuning's figures for {', '.join(doubtful)} are of an earlier version, which may have told too low "
            f"speeds, and were not used; `hybrid models tune` or `hybrid bench` measures again"
        )
    sound = {fingerprint: model for fingerprint, model in profile.models.items() if model.source != "tune"}
    return replace(profile, models=sound, format=FORMAT)


def _unsoundness(profile: Profile) -> str | None:
    """Name a figure no measurement can have given: it would make a latency prediction of nonsense."""
    for roof in ("read_bytes_s", "fp32_ops_s", "int8_ops_s"):
        value = getattr(profile, roof)
        if value is not None and not 0 < value < 1e18:
            return f"it has {roof} {value}"
    for run in (*profile.runs, *(run for model in profile.models.values() for run in model.runs)):
        for words, median in run.medians.items():
            if not 0 < median < 1e18:
                return f"the run of {run.measured_at} has {median} for {words}"
    for model in profile.models.values():
        figures = [("prefill_tok_s", *one) for one in model.prefill_tok_s.items()]
        figures += [("decode_tok_s", *one) for one in model.decode_tok_s.items()]
        for kind, key, value in figures:
            if key < 1 or not 0 < value < 1e12:
                return f"{model.model_name} has {kind} {value} at {key}"
    return None


def find_model(
    profile: Profile | None, *, fingerprint: str, name: str, on_note: OnNote = _ignore
) -> ModelProfile | None:
    """Give what was measured of a model file; None, with a note where a file of that name was another one then."""
    if profile is None:
        return None
    found = profile.models.get(fingerprint)
    if found is None and any(model.model_name == name for model in profile.models.values()):
        on_note(f"the profile's figures for {name} are of another file of that name; {_AGAIN}")
    return found


def save_profile(data_dir: Path, profile: Profile) -> Path:
    """Write a profile whole or not at all. Raises: CommandError if the folder cannot be written."""
    path = profile_path(data_dir, profile.hardware_fingerprint)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(profile), indent=2))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise CommandError(f"cannot write the profile {path}: {exc.strerror}") from exc
    return path


def update_profile(data_dir: Path, new: Profile, on_note: OnNote = _ignore) -> Path:
    """Merge what was measured now into this machine's profile.

    Of two processes that do so at once the second waits and reads what the first has written; each would else write
    what it had read before, and the other's figures be lost.

    Raises: CommandError if the folder cannot be written.
    """
    path = profile_path(data_dir, new.hardware_fingerprint)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise CommandError(f"cannot write the profile {path}: {exc.strerror}") from exc
    try:
        with suppress(OSError):  # a file system that knows no locks is no reason to lose what was measured
            fcntl.flock(lock, fcntl.LOCK_EX)
        old = load_profile(data_dir, new.hardware_fingerprint, versions=new.versions, on_note=on_note)
        return save_profile(data_dir, merge(old, new, on_note))
    finally:
        os.close(lock)


def merge(old: Profile | None, new: Profile, on_note: OnNote = _ignore) -> Profile:
    """Keep what an older profile that still holds knows of other models, and its roofs where none were measured now.

    What a full bench measured is replaced only by another full one, or where it was measured with other threads and
    so is not used any more; `on_note` is told of what is kept instead of the new figures.
    """
    if old is None:
        return new
    new = replace(new, runs=remember(old.runs, new.runs))
    keeps_roofs = new.roofs_source != "bench" and old.roofs_source == "bench" and old.read_bytes_s is not None
    if new.read_bytes_s is None or keeps_roofs:
        new = replace(
            new,
            read_bytes_s=old.read_bytes_s,
            fp32_ops_s=old.fp32_ops_s,
            int8_ops_s=old.int8_ops_s,
            cache_bytes=old.cache_bytes,
            roofs_source=old.roofs_source,
        )
    models = dict(old.models)
    for fingerprint, model in new.models.items():
        before = old.models.get(fingerprint)
        if before is not None and _is_better(before, model):
            on_note(
                f"the profile keeps {model.model_name}'s figures of the full bench of {before.measured_at}; "
                f"those of {_WORDS[model.source]} do not replace them, `hybrid bench` does"
            )
            models[fingerprint] = replace(before, runs=remember(before.runs, model.runs))
        else:
            models[fingerprint] = replace(model, runs=remember(() if before is None else before.runs, model.runs))
    return replace(new, models=models)


_WORDS: Mapping[Source, str] = {"bench": "a full bench", "quick bench": "a quick bench", "tune": "tuning"}


def _is_better(old: ModelProfile, new: ModelProfile) -> bool:
    return old.source == "bench" != new.source and old.threads == new.threads


def prefill_speed(model: ModelProfile, prompt_tokens: int) -> float | None:
    """Tokens a second at which a prompt of this length is taken in; None where nothing was measured.

    Time is interpolated between the measured lengths, and goes on as between the last two beyond them, because
    attention makes every token dearer than the one before it.
    """
    times = {count: count / speed for count, speed in model.prefill_tok_s.items()}
    prompt_tokens = max(prompt_tokens, 1)
    time_s = _interpolate(times, prompt_tokens)
    return None if time_s is None else prompt_tokens / time_s


def decode_speed(model: ModelProfile, sequences: int) -> float | None:
    """Tokens a second that ONE of so many sequences gets; None where nothing was measured."""
    steps = {count: count / speed for count, speed in model.decode_tok_s.items()}
    if steps and sequences <= min(steps):
        return 1 / steps[min(steps)]
    step_s = _interpolate(steps, sequences)
    return None if step_s is None else 1 / step_s


def _interpolate(values: Mapping[int, float], at: int) -> float | None:
    """On straight lines between the known points; below the first in proportion, beyond the last never falling."""
    known = sorted(values)
    if not known:
        return None
    if at <= known[0]:
        return values[known[0]] * at / known[0]
    if len(known) == 1:
        return values[known[0]] * at / known[0]
    index = min(bisect_left(known, at), len(known) - 1)
    low, high = known[index - 1], known[index]
    slope = max(0.0, (values[high] - values[low]) / (high - low))
    return values[low] + slope * (at - low) if at <= high else values[high] + slope * (at - high)
