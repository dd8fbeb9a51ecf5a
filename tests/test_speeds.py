"""Does the policy get measured speeds where there are some, the profile's before, and is the source told?"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import pytest

from hybrid.devices.fingerprint import hardware_fingerprint
from hybrid.devices.profile import ModelProfile, Profile, current_versions, save_profile
from hybrid.devices.rates import Measured
from hybrid.devices.recommend import MeasuredSpeed
from hybrid.fingerprints import model_fingerprint
from hybrid.policy.model import SpeedSource
from hybrid.speeds import SpeedBook, Speeds, measured_speed, open_speed_book, roofs

MODEL = ModelProfile(
    model_fingerprint="f00",
    model_name="tiny",
    measured_at="2026-11-25T04:00:00+00:00",
    threads=2,
    prefill_tok_s={100: 200.0},
    decode_tok_s={1: 50.0, 2: 80.0},
)
PROFILE = Profile(
    hardware_fingerprint="", hardware={}, versions={}, measured_at=MODEL.measured_at, models={"f00": MODEL}
)


@dataclass
class Load:
    """What a worker tells."""

    running: int = 0
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    slowdown: float | None = None


@dataclass
class Facts:
    """What a worker has loaded."""

    name: str = "tiny"
    fingerprint: str = "f00"
    threads: int = 2


@pytest.mark.parametrize(
    ("load", "facts", "prompt_tokens", "expected"),
    [
        pytest.param(None, None, 100, Speeds(), id="no-local-model"),
        pytest.param(Load(), None, 100, Speeds(), id="not-loaded"),
        pytest.param(Load(), Facts(), 100, Speeds(200.0, 50.0, SpeedSource.PROFILE), id="before-the-first"),
        pytest.param(Load(running=1), Facts(), 100, Speeds(200.0, 40.0, SpeedSource.PROFILE), id="beside-another"),
        pytest.param(Load(slowdown=2.0), Facts(), 100, Speeds(100.0, 25.0, SpeedSource.PROFILE), id="busy-neighbours"),
        pytest.param(Load(slowdown=0.9), Facts(), 100, Speeds(200.0, 50.0, SpeedSource.PROFILE), id="never-faster"),
        pytest.param(Load(0, 300.0, 60.0, 2.0), Facts(), 9, Speeds(300.0, 60.0, SpeedSource.MEASURED), id="has-it-in"),
        pytest.param(Load(0, 300.0, 60.0), Facts(), 100, Speeds(300.0, 60.0, SpeedSource.MEASURED), id="measured"),
        pytest.param(Load(0, 300.0), Facts(), 100, Speeds(300.0, 50.0, SpeedSource.PROFILE), id="half-measured"),
        pytest.param(Load(), Facts(), None, Speeds(None, 50.0, SpeedSource.PROFILE), id="prompt-not-counted"),
        pytest.param(Load(), Facts(fingerprint="f01"), 100, Speeds(), id="another-file"),
        pytest.param(Load(0, 300.0), Facts(fingerprint="f01"), 9, Speeds(300.0, None, SpeedSource.MEASURED), id="own"),
        pytest.param(Load(), Facts(threads=1), 100, Speeds(), id="other-threads"),
    ],
)
def test_speeds(load, facts, prompt_tokens, expected):
    """The worker's own figures outrank the profile's, which stand in for what is not measured yet."""
    assert expected == SpeedBook(PROFILE).look_up(load, facts, prompt_tokens)


def test_without_a_profile_nothing_is_invented():
    """Unknown stays None, from nowhere."""
    assert Speeds() == SpeedBook().look_up(Load(), Facts(), 100)


def test_a_complaint_is_logged_once(caplog):
    """A model that runs with other threads than it was measured with: one line, not one a request."""
    book = SpeedBook(PROFILE)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            book.look_up(Load(), Facts(threads=1), 100)
    assert ["the profile's figures for tiny are of 2 threads, it runs with 1, so they are not used"] == caplog.messages


def test_a_profile_of_a_busy_machine_is_used_and_told_of(caplog):
    """Its figures are too low, which escalates a request too many and none too few."""
    busy = replace(PROFILE, models={"f00": replace(MODEL, others_cores=1.2)})
    assert SpeedSource.PROFILE is SpeedBook(busy).look_up(Load(), Facts(), 100).speeds_from
    assert "other programs kept 1.2 cores busy while they were measured" in caplog.text


def test_the_profile_of_this_machine_is_opened(tmp_path, caplog):
    """Found by the hardware; one of another machine is logged and not used."""
    hardware = {"cpu": "a"}
    saved = replace(PROFILE, hardware_fingerprint=hardware_fingerprint(hardware), versions=current_versions())
    save_profile(tmp_path, saved)
    assert SpeedSource.PROFILE is open_speed_book(tmp_path, hardware).look_up(Load(), Facts(), 100).speeds_from
    assert [] == caplog.messages
    assert Speeds() == open_speed_book(tmp_path, {"cpu": "b"}).look_up(Load(), Facts(), 100)
    assert "are of other hardware" in caplog.text


@pytest.mark.parametrize(
    ("changes", "threads", "expected"),
    [
        pytest.param({}, None, MeasuredSpeed(prefill_tok_s=200.0, decode_tok_s=50.0), id="any-threads"),
        pytest.param({}, 2, MeasuredSpeed(prefill_tok_s=200.0, decode_tok_s=50.0), id="its-threads"),
        pytest.param({}, 4, None, id="other-threads"),
        pytest.param({"prefill_tok_s": {}}, None, None, id="no-prompts"),
        pytest.param({"decode_tok_s": {}}, None, None, id="no-answers"),
        pytest.param(
            {"source": "tune"}, 2, MeasuredSpeed(prefill_tok_s=200.0, decode_tok_s=50.0, measured_by="tune"), id="tune"
        ),
    ],
)
def test_a_file_is_found_by_what_it_holds(tmp_path, changes, threads, expected):
    """Its fingerprint counts, not its name; what is not measured in both ways is predicted instead."""
    path = tmp_path / "any-name.gguf"
    path.write_bytes(b"a model")
    fingerprint = model_fingerprint(path)
    profile = replace(PROFILE, models={fingerprint: replace(MODEL, model_fingerprint=fingerprint, **changes)})
    assert expected == measured_speed(profile, path, threads=threads)
    assert measured_speed(profile, path, kv_type="q8_0") is None
    path.write_bytes(b"another one")
    assert measured_speed(profile, path) is None
    assert measured_speed(profile, tmp_path / "none.gguf") is None
    assert measured_speed(None, path) is None


def test_the_roofs_are_the_profiles():
    """What the machine reads and computes; without a profile nothing is measured."""
    profile = replace(PROFILE, read_bytes_s=3e10, int8_ops_s=9e11)
    assert Measured(cpu_read_bytes_s=3e10, cpu_int8_ops_s=9e11) == roofs(profile)
    assert Measured() == roofs(None)
