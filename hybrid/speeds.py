"""How fast is a local model, as far as we know? Measured by its worker, else by what was measured on this machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.profile import (
    ModelProfile,
    OnNote,
    Profile,
    current_versions,
    decode_speed,
    find_model,
    load_profile,
    prefill_speed,
)
from hybrid.devices.rates import Measured
from hybrid.devices.recommend import PROMPT_TOKENS, MeasuredSpeed
from hybrid.fingerprints import model_fingerprint
from hybrid.policy.model import SpeedSource

log = logging.getLogger(__name__)

BUSY_CORES = 0.5
"""From so many cores that others used, a profile's speeds are said to be too low; used they are: too slow is safe."""


class MeasuredLoad(Protocol):
    """What a worker tells of its own speeds: None until its first steps."""

    @property
    def running(self) -> int:
        """Sequences being decoded."""

    @property
    def prefill_tok_s(self) -> float | None:
        """Prompt tokens a second."""

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens a second that one sequence gets."""

    @property
    def slowdown(self) -> float | None:
        """How many times slower than undisturbed it runs now; its own speeds include that."""


class LoadedModel(Protocol):
    """Which file a worker has loaded, and with how many threads it computes."""

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def fingerprint(self) -> str:
        """The file's fingerprint."""

    @property
    def threads(self) -> int:
        """Threads it computes with."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens a second of a prompt and of one answer, and where the figures are from."""

    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    speeds_from: SpeedSource = SpeedSource.NONE


class SpeedBook:
    """The machine's profile, and what was found in it for each loaded model; each complaint is logged once."""

    def __init__(self, profile: Profile | None = None) -> None:
        self._profile = profile
        self._models: dict[tuple[str, int], ModelProfile | None] = {}

    def look_up(self, load: MeasuredLoad | None, facts: LoadedModel | None, prompt_tokens: int | None) -> Speeds:
        """Take what the worker measured, and the profile's figures for what it has not measured yet.

        The profile is of a machine without neighbours; what they cost now makes its figures smaller.
        """
        if load is None:
            return Speeds()
        prefill_tok_s, decode_tok_s = load.prefill_tok_s, load.decode_tok_s
        if prefill_tok_s is not None and decode_tok_s is not None:
            return Speeds(prefill_tok_s, decode_tok_s, SpeedSource.MEASURED)
        model = None if facts is None else self._model(facts)
        if model is None:
            is_measured = prefill_tok_s is not None or decode_tok_s is not None
            return Speeds(prefill_tok_s, decode_tok_s, SpeedSource.MEASURED if is_measured else SpeedSource.NONE)
        slowdown = max(1.0, load.slowdown or 1.0)
        if prefill_tok_s is None and prompt_tokens is not None:
            prefill_tok_s = _slowed(prefill_speed(model, prompt_tokens), slowdown)
        if decode_tok_s is None:
            decode_tok_s = _slowed(decode_speed(model, load.running + 1), slowdown)
        is_known = prefill_tok_s is not None or decode_tok_s is not None
        return Speeds(prefill_tok_s, decode_tok_s, SpeedSource.PROFILE if is_known else SpeedSource.NONE)

    def _model(self, facts: LoadedModel) -> ModelProfile | None:
        key = (facts.fingerprint, facts.threads)
        if key not in self._models:
            found = find_model(self._profile, fingerprint=facts.fingerprint, name=facts.name, on_note=_note)
            if found is not None and found.threads != facts.threads:
                _note(
                    f"the profile's figures for {facts.name} are of {found.threads} threads, it runs with "
                    f"{facts.threads}, so they are not used"
                )
                found = None
            elif found is not None and found.others_cores > BUSY_CORES:
                _note(
                    f"the profile's figures for {facts.name} are too low: other programs kept {found.others_cores:.1f} "
                    "cores busy while they were measured; `hybrid bench` on a quiet machine mends it"
                )
            self._models[key] = found
        return self._models[key]


def _slowed(tok_s: float | None, slowdown: float) -> float | None:
    return None if tok_s is None else tok_s / slowdown


def _note(note: str) -> None:
    log.warning("%s", note)


def open_profile(
    data_dir: Path, hardware: Mapping[str, str] | None = None, *, on_note: OnNote = _note
) -> Profile | None:
    """Read this machine's profile, if there is one that holds; why another does not is told, or else logged."""
    facts = hardware_facts() if hardware is None else hardware
    return load_profile(data_dir, hardware_fingerprint(facts), versions=current_versions(), on_note=on_note)


def open_speed_book(data_dir: Path, hardware: Mapping[str, str] | None = None) -> SpeedBook:
    """Read this machine's profile for the latency rule; why one does not hold is logged."""
    return SpeedBook(open_profile(data_dir, hardware))


def roofs(profile: Profile | None) -> Measured:
    """What predictions for models that nobody measured here start from."""
    if profile is None:
        return Measured()
    return Measured(cpu_read_bytes_s=profile.read_bytes_s, cpu_int8_ops_s=profile.int8_ops_s)


def measured_speed(
    profile: Profile | None, path: Path, *, kv_type: str = "f16", threads: int | None = None
) -> MeasuredSpeed | None:
    """What was measured of a model file here, found by its fingerprint; None where nothing was.

    threads: that it will run with: figures of others do not count. None takes any.
    """
    if profile is None or not profile.models:
        return None
    try:
        found = profile.models.get(model_fingerprint(path, kv_type, kv_type))
    except OSError:
        return None
    if found is None or (threads is not None and found.threads != threads):
        return None
    prefill_tok_s, decode_tok_s = prefill_speed(found, PROMPT_TOKENS), decode_speed(found, 1)
    if prefill_tok_s is None or decode_tok_s is None:
        return None
    return MeasuredSpeed(prefill_tok_s=prefill_tok_s, decode_tok_s=decode_tok_s, measured_by=found.source)
