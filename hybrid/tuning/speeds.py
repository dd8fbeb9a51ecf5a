"""What does the latency policy know of a tuned model before it served? What tuning measured, put into the profile."""

from __future__ import annotations

from pathlib import Path

from hybrid.catalog.tuned import Tuning, tuned_path
from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.profile import ModelProfile, OnNote, Profile, current_versions, update_profile
from hybrid.devices.snapshot import usable_threads
from hybrid.errors import CommandError
from hybrid.fingerprints import model_fingerprint
from hybrid.tuning.chats import CHATS


def to_profile(source: Path, tuning: Tuning, *, prompt_tokens: int, threads: int) -> Profile | None:
    """Give the figures of what tuning chose, under the fingerprint a worker will tell; None where it was not timed.

    Only what was measured: a prompt of the chats' length read alone, and one and eight chats decoding. How fast the
    eight prompts were read together is no length's speed, and is left out.

    Args:
        prompt_tokens: of the chats that were timed. threads: those that a setting of 0 means.
    """
    chosen = tuning.chosen
    if chosen.speed is None:
        return None
    path = source if tuning.file is None else tuned_path(source, chosen.format)
    fingerprint = model_fingerprint(path, chosen.settings.kv_type, chosen.settings.kv_type)
    speed = ModelProfile(
        model_fingerprint=fingerprint,
        model_name=path.stem,
        measured_at=tuning.tuned_at,
        threads=chosen.settings.threads or threads,
        prefill_tok_s={prompt_tokens: chosen.speed.prefill_1_tok_s},
        decode_tok_s={1: chosen.speed.decode_1_tok_s, CHATS: chosen.speed.decode_8_tok_s},
        others_cores=chosen.speed.others_cores,
        source="tune",
    )
    facts = hardware_facts()
    return Profile(
        hardware_fingerprint=hardware_fingerprint(facts),
        hardware=facts,
        versions=current_versions(),
        measured_at=tuning.tuned_at,
        roofs_source="tune",
        models={fingerprint: speed},
    )


def keep_speeds(data_dir: Path, source: Path, tuning: Tuning, *, prompt_tokens: int, on_note: OnNote) -> None:
    """Put what was measured into this machine's profile. A profile that cannot be written is told of, and no error:
    the tuning holds without it."""
    try:
        new = to_profile(source, tuning, prompt_tokens=prompt_tokens, threads=usable_threads())
        if new is not None:
            update_profile(data_dir, new, on_note)
    except (CommandError, OSError) as failed:
        on_note(f"{failed}; so `serve` learns the speeds of {source.name} only while it runs")
