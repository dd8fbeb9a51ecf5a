"""Does the latency policy know a tuned model's speeds at once, and is nothing that was measured better thrown away?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from hybrid.catalog.tuned import Tuning, tuned_path
from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.profile import ModelProfile, Profile, current_versions, load_profile, merge, save_profile
from hybrid.devices.snapshot import usable_threads
from hybrid.fingerprints import model_fingerprint
from hybrid.policy.model import SpeedSource
from hybrid.speeds import open_speed_book
from hybrid.tuning.speeds import keep_speeds, to_profile
from tests.tuning.candidates import TINY
from tests.tuning.tuning_world import OPTIONS, tune_with


@dataclass
class Load:
    """A worker that measured nothing yet."""

    running: int = 0
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    slowdown: float | None = None


@dataclass
class Facts:
    """What a worker has loaded."""

    name: str
    fingerprint: str
    threads: int


@pytest.fixture
def source(tmp_path) -> Path:
    """A model to tune."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(TINY)
    return path


def keep(folder: Path, source: Path, tuning: Tuning) -> list[str]:
    """Keep the speeds; give what was said."""
    notes: list[str] = []
    keep_speeds(folder, source, tuning, prompt_tokens=175, on_note=notes.append)
    return notes


def kept(folder: Path) -> Profile:
    """The profile in a folder, without complaints."""
    found = load_profile(
        folder, hardware_fingerprint(hardware_facts()), versions=current_versions(), on_note=pytest.fail
    )
    assert found is not None
    return found


def test_a_tuned_file_needs_no_bench(tmp_path, source):
    """The first request to it is predicted from what tuning measured: 400 tok/s of a prompt, 40 of one answer."""
    assert [] == keep(tmp_path, source, tune_with(source))
    made = tuned_path(source, "Q8_0")
    facts = Facts(made.stem, model_fingerprint(made), usable_threads())
    speeds = open_speed_book(tmp_path).look_up(Load(), facts, 175)
    assert (400.0, pytest.approx(40.0), SpeedSource.PROFILE) == (
        speeds.prefill_tok_s,
        speeds.decode_tok_s,
        speeds.speeds_from,
    )
    eighth = open_speed_book(tmp_path).look_up(Load(running=7), facts, 175)
    assert pytest.approx(160 / 8) == eighth.decode_tok_s
    assert {facts.fingerprint} == kept(tmp_path).models.keys()
    assert "tune" == kept(tmp_path).models[facts.fingerprint].source


def test_a_source_that_stays_is_known_too(tmp_path, source):
    """Where nothing else was kept, the figures are the source's, under its fingerprint."""
    keep(tmp_path, source, tune_with(source, options=replace(OPTIONS, max_kl_nats=0.0001)))
    assert {model_fingerprint(source)} == kept(tmp_path).models.keys()


def test_settings_are_part_of_what_is_known(source):
    """A quantised cache has another fingerprint, and tuned threads are those it will run with."""
    tuning = tune_with(source)
    settings = msgspec.structs.replace(tuning.chosen.settings, kv_type="q8_0", threads=3)
    tuning = msgspec.structs.replace(tuning, chosen=msgspec.structs.replace(tuning.chosen, settings=settings))
    profile = to_profile(source, tuning, prompt_tokens=64, threads=8)
    assert profile is not None
    [(fingerprint, model)] = profile.models.items()
    assert model_fingerprint(tuned_path(source, "Q8_0"), "q8_0", "q8_0") == fingerprint
    assert (3, {64: 400.0}, {1: 40.0, 8: 160.0}) == (model.threads, model.prefill_tok_s, model.decode_tok_s)


def test_other_models_and_roofs_stay(tmp_path, source):
    """Tuning adds to the profile; the machine's figures and other models' are as they were."""
    other = ModelProfile(
        model_fingerprint="f00", model_name="other", measured_at="x", threads=2, prefill_tok_s={}, decode_tok_s={}
    )
    hardware = hardware_facts()
    before = Profile(
        hardware_fingerprint=hardware_fingerprint(hardware),
        hardware=hardware,
        versions=current_versions(),
        measured_at="x",
        read_bytes_s=3e10,
        models={"f00": other},
    )
    save_profile(tmp_path, before)
    keep(tmp_path, source, tune_with(source))
    after = kept(tmp_path)
    assert (3e10, "bench", other, 2) == (
        after.read_bytes_s,
        after.roofs_source,
        after.models["f00"],
        len(after.models),
    )


def test_a_full_bench_is_not_replaced_and_replaces(tmp_path, source):
    """It measures more lengths and numbers than tuning does."""
    tuning = tune_with(source)
    keep(tmp_path, source, tuning)
    [(fingerprint, model)] = kept(tmp_path).models.items()
    full = replace(model, source="bench", prefill_tok_s={32: 1.0, 2048: 2.0})
    save_profile(tmp_path, merge(kept(tmp_path), replace(kept(tmp_path), models={fingerprint: full})))
    assert full == kept(tmp_path).models[fingerprint]
    [note] = keep(tmp_path, source, tuning)
    assert full == kept(tmp_path).models[fingerprint]
    assert "those of tuning do not replace them" in note


def test_a_profile_that_cannot_be_written_is_no_failed_tuning(tmp_path, source):
    """One sentence; the tuning holds without."""
    (tmp_path / "profiles").write_text("in the way")
    *_, note = keep(tmp_path, source, tune_with(source))
    assert "cannot write the profile" in note
    assert "only while it runs" in note
