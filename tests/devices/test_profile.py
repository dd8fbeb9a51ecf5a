"""Does a profile survive being written and read, and is one that does not hold noticed, said and not used?"""

from __future__ import annotations

import threading
from dataclasses import replace

import msgspec
import pytest

from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.profile import (
    ModelProfile,
    Profile,
    current_versions,
    decode_speed,
    find_model,
    load_profile,
    merge,
    prefill_speed,
    profile_path,
    save_profile,
    update_profile,
)
from hybrid.errors import CommandError
from tests.refusals import as_nobody, full_disk, open_folder

VERSIONS = {"hybrid": "0.1.0", "llama-cpp-python": "0.3.36"}
MODEL = ModelProfile(
    model_fingerprint="f00",
    model_name="tiny",
    measured_at="2026-11-25T04:00:00+00:00",
    threads=2,
    prefill_tok_s={100: 200.0, 300: 150.0},
    decode_tok_s={1: 50.0, 2: 80.0, 4: 100.0},
)
PROFILE = Profile(
    hardware_fingerprint="abcd",
    hardware={"cpu": "a", "cores": "2"},
    versions=VERSIONS,
    measured_at="2026-11-25T04:00:00+00:00",
    read_bytes_s=3e10,
    cache_bytes=(32768,),
    models={"f00": MODEL},
)


def load(folder, fingerprint="abcd", versions=VERSIONS) -> tuple[Profile | None, list[str]]:
    """Load, and keep what was said."""
    notes: list[str] = []
    return load_profile(folder, fingerprint, versions=versions, on_note=notes.append), notes


def test_a_profile_comes_back_as_it_was_written(tmp_path):
    """Every field, numbers as keys too; nothing is said, and no part file stays."""
    path = save_profile(tmp_path, PROFILE)
    assert (PROFILE, []) == load(tmp_path)
    assert [path] == list(path.parent.iterdir())


def test_without_a_profile_nothing_is_said(tmp_path):
    """A machine that was never measured is no fault."""
    assert (None, []) == load(tmp_path)


def test_a_profile_of_other_hardware_is_told_of(tmp_path):
    """The data folder moved to another machine: its profile is not used, and that is said."""
    save_profile(tmp_path, PROFILE)
    profile, [note] = load(tmp_path, "other")
    assert profile is None
    assert "are of other hardware; `hybrid bench` measures again" in note
    profile_path(tmp_path, "abcd").rename(profile_path(tmp_path, "other"))
    profile, [note] = load(tmp_path, "other")
    assert profile is None
    assert "out of date: it was measured on other hardware" in note


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({**VERSIONS, "llama-cpp-python": "0.3.40"}, "llama-cpp-python 0.3.36 -> 0.3.40"),
        ({"hybrid": "0.1.0"}, "llama-cpp-python 0.3.36 -> none"),
    ],
    ids=["newer", "gone"],
)
def test_a_profile_of_other_versions_is_told_of(tmp_path, versions, expected):
    """Which program changed, from what to what."""
    save_profile(tmp_path, PROFILE)
    profile, [note] = load(tmp_path, versions=versions)
    assert profile is None
    assert f"out of date: {expected}" in note


def test_a_profile_of_another_format_is_told_of(tmp_path):
    """What a later version wrote is not guessed at."""
    save_profile(tmp_path, replace(PROFILE, format=99))
    profile, [note] = load(tmp_path)
    assert profile is None
    assert "it has format 99" in note


def test_what_tuning_told_before_runs_were_counted_is_left_out(tmp_path):
    """What a bench measured of the same machine stays, and what is saved next says nothing of it any more."""
    tuned = replace(MODEL, model_fingerprint="f01", model_name="tuned", source="tune")
    save_profile(tmp_path, replace(PROFILE, format=1, models={"f00": MODEL, "f01": tuned}))
    profile, [note] = load(tmp_path)
    assert profile == PROFILE
    assert "figures for tuned are of an earlier version" in note
    save_profile(tmp_path, merge(profile, replace(PROFILE, models={"f01": tuned})))
    assert (replace(PROFILE, models={"f00": MODEL, "f01": tuned}), []) == load(tmp_path)


def test_a_bench_of_the_format_before_holds(tmp_path):
    """Nothing is said where nothing is left out."""
    save_profile(tmp_path, replace(PROFILE, format=1))
    assert (PROFILE, []) == load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="no-text"),
        pytest.param(b"[1, 2", id="cut"),
        pytest.param(b"{}", id="no-fields"),
        pytest.param(msgspec.json.encode(replace(PROFILE, models={})).replace(b"{}", b"[3]"), id="wrong-type"),
        pytest.param(
            msgspec.json.encode(replace(PROFILE, models={"x": replace(MODEL, prefill_tok_s={1: 0.0})})),
            id="no-speed",
        ),
        pytest.param(
            msgspec.json.encode(replace(PROFILE, models={"x": replace(MODEL, decode_tok_s={-1: 5.0})})),
            id="no-sequences",
        ),
        pytest.param(msgspec.json.encode(replace(PROFILE, fp32_ops_s=0.0)), id="no-arithmetic"),
        pytest.param(msgspec.json.encode(replace(PROFILE, read_bytes_s=-3e10)), id="negative-bandwidth"),
        pytest.param(msgspec.json.encode(replace(PROFILE, int8_ops_s=1e300)), id="no-machine-has"),
        pytest.param(b'{"a":' * 100_000, id="nested-too-deep"),
    ],
)
def test_a_damaged_profile_is_told_of_and_replaced(tmp_path, content):
    """It is not used, the sentence names the file, and saving anew mends it."""
    path = profile_path(tmp_path, "abcd")
    path.parent.mkdir()
    path.write_bytes(content)
    profile, [note] = load(tmp_path)
    assert profile is None
    assert "is damaged" in note
    assert str(path) in note
    save_profile(tmp_path, PROFILE)
    assert (PROFILE, []) == load(tmp_path)


def test_a_profile_that_cannot_be_read_is_told_of(tmp_path):
    """A folder where the file should be, as good as no permission."""
    profile_path(tmp_path, "abcd").mkdir(parents=True)
    profile, [note] = load(tmp_path)
    assert profile is None
    assert "cannot be read: Is a directory" in note


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    """What stands in the way is named."""
    (tmp_path / "profiles").write_text("a file")
    with pytest.raises(CommandError, match=r"cannot write the profile .*: File exists"):
        save_profile(tmp_path, PROFILE)


def test_a_folder_without_permission_is_told_of():
    """Neither read nor written: a sentence each, and no speeds rather than wrong ones."""
    with open_folder() as folder:
        path = save_profile(folder, PROFILE)
        path.parent.chmod(0o755)
        path.chmod(0)
        with as_nobody():
            profile, [note] = load(folder)
            with pytest.raises(CommandError, match=r"cannot write the profile .*: Permission denied"):
                save_profile(folder, PROFILE)
        path.parent.chmod(0)
        with as_nobody():
            hidden, [cannot_enter] = load(folder)
    assert (None, None) == (profile, hidden)
    assert "cannot be read: Permission denied" in note
    assert "cannot be read: Permission denied" in cannot_enter


def test_a_full_disk_keeps_the_profile_that_was_there(tmp_path):
    """The new one is not written, in a sentence; the old one is whole, and nothing half-written is left."""
    path = save_profile(tmp_path, PROFILE)
    with full_disk(), pytest.raises(CommandError, match=r"cannot write the profile .*: File too large"):
        save_profile(tmp_path, replace(PROFILE, read_bytes_s=1e10))
    assert (PROFILE, []) == load(tmp_path)
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("measured_at", ["1970-01-01T00:00:00+00:00", "2099-12-31T23:59:59+00:00", "no time at all"])
def test_a_clock_that_was_wrong_changes_nothing(tmp_path, measured_at):
    """When it was measured is for people to read: hardware and versions decide whether a profile holds."""
    model = replace(MODEL, measured_at=measured_at)
    save_profile(tmp_path, replace(PROFILE, measured_at=measured_at, models={"f00": model}))
    profile, notes = load(tmp_path)
    assert [] == notes
    assert profile is not None
    newer = merge(profile, replace(PROFILE, models={"f00": replace(MODEL, decode_tok_s={1: 1.0})}))
    assert {1: 1.0} == newer.models["f00"].decode_tok_s


def test_a_model_is_found_by_its_file():
    """By fingerprint; a file of the same name with another content is told of, an unknown model is not."""
    notes: list[str] = []
    assert MODEL == find_model(PROFILE, fingerprint="f00", name="renamed", on_note=notes.append)
    assert find_model(PROFILE, fingerprint="f01", name="unknown", on_note=notes.append) is None
    assert find_model(None, fingerprint="f00", name="tiny", on_note=notes.append) is None
    assert [] == notes
    assert find_model(PROFILE, fingerprint="f01", name="tiny", on_note=notes.append) is None
    assert "the profile's figures for tiny are of another file of that name" in notes[0]


def test_merging_keeps_other_models_and_roofs():
    """A bench of one model forgets neither the others nor the roofs it did not measure."""
    second = replace(MODEL, model_fingerprint="f01", model_name="other")
    new = replace(PROFILE, models={"f01": second}, read_bytes_s=None, cache_bytes=())
    merged = merge(PROFILE, new)
    assert ({"f00": MODEL, "f01": second}, 3e10, (32768,)) == (merged.models, merged.read_bytes_s, merged.cache_bytes)
    assert new == merge(None, new)


def test_benches_at_once_lose_nothing(tmp_path):
    """Eight that end in the same moment, each of another model: the profile is whole afterwards and holds all."""
    together = threading.Barrier(8)
    names = [f"f{number:02}" for number in range(8)]

    def update(name: str) -> None:
        new = replace(PROFILE, models={name: replace(MODEL, model_fingerprint=name, model_name=name)})
        together.wait(30)
        update_profile(tmp_path, new)

    threads = [threading.Thread(target=update, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    profile, notes = load(tmp_path)
    assert profile is not None
    assert (names, []) == (sorted(profile.models), notes)


def test_a_folder_that_takes_no_lock_is_an_error(tmp_path):
    """A file where the folder of profiles goes is told before anything is read or written."""
    (tmp_path / "profiles").write_text("a file")
    with pytest.raises(CommandError, match=r"cannot write the profile .*: File exists"):
        update_profile(tmp_path, PROFILE)


FULL, QUICK, TUNED = MODEL, replace(MODEL, source="quick bench"), replace(MODEL, source="tune")


@pytest.mark.parametrize(
    ("old", "new", "is_kept"),
    [
        pytest.param(FULL, QUICK, True, id="quick-after-full"),
        pytest.param(FULL, TUNED, True, id="tune-after-full"),
        pytest.param(FULL, FULL, False, id="full-after-full"),
        pytest.param(QUICK, FULL, False, id="full-after-quick"),
        pytest.param(QUICK, QUICK, False, id="quick-after-quick"),
        pytest.param(QUICK, TUNED, False, id="tune-after-quick"),
        pytest.param(TUNED, QUICK, False, id="quick-after-tune"),
        pytest.param(TUNED, FULL, False, id="full-after-tune"),
        pytest.param(replace(FULL, threads=1), QUICK, False, id="quick-after-full-with-other-threads"),
    ],
)
def test_only_a_full_bench_replaces_a_full_one(old, new, is_kept):
    """A quick look does not throw away five minutes of measuring, and says what it left; what is not used may go."""
    notes: list[str] = []
    new = replace(new, measured_at="2026-11-26T04:00:00+00:00")
    merged = merge(replace(PROFILE, models={"f00": old}), replace(PROFILE, models={"f00": new}), notes.append)
    assert {"f00": old if is_kept else new} == merged.models
    assert is_kept == bool(notes)
    if notes:
        assert "keeps tiny's figures of the full bench of 2026-11-25T04:00:00+00:00" in notes[0]
        assert "`hybrid bench` does" in notes[0]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [("bench", "quick bench", 3e10), ("bench", "bench", 1e10), ("quick bench", "quick bench", 1e10)],
)
def test_a_quick_bench_keeps_the_roofs_of_a_full_one(old, new, expected):
    """The machine's own figures follow the same rule as a model's, and keep saying what measured them."""
    merged = merge(replace(PROFILE, roofs_source=old), replace(PROFILE, read_bytes_s=1e10, roofs_source=new))
    assert (expected, old if expected == 3e10 else new) == (merged.read_bytes_s, merged.roofs_source)


@pytest.mark.parametrize(
    ("prompt_tokens", "expected_s"),
    [
        pytest.param(0, 0.005, id="nothing"),
        pytest.param(50, 0.25, id="below-the-first-in-proportion"),
        pytest.param(100, 0.5, id="at-a-point"),
        pytest.param(200, 1.25, id="between"),
        pytest.param(300, 2.0, id="at-the-last"),
        pytest.param(500, 3.5, id="beyond-as-between-the-last-two"),
    ],
)
def test_prefill_speed_is_interpolated_in_time(prompt_tokens, expected_s):
    """0.5 s for 100 tokens and 2 s for 300: what lies between and beyond is on the line through them."""
    speed = prefill_speed(MODEL, prompt_tokens)
    assert speed is not None
    assert expected_s == pytest.approx(max(prompt_tokens, 1) / speed, rel=1e-9)


@pytest.mark.parametrize(
    ("sequences", "expected_step_s"),
    [
        pytest.param(0, 0.02, id="nobody"),
        pytest.param(1, 0.02, id="alone"),
        pytest.param(2, 0.025, id="two"),
        pytest.param(3, 0.0325, id="between"),
        pytest.param(8, 0.07, id="beyond"),
    ],
)
def test_decode_speed_is_of_one_sequence(sequences, expected_step_s):
    """80 tokens a second of two sequences are 40 of each: a step of 25 ms."""
    speed = decode_speed(MODEL, sequences)
    assert speed is not None
    assert expected_step_s == pytest.approx(1 / speed, rel=1e-9)


def test_speeds_of_one_or_no_point():
    """One measured length stands for all; none gives None."""
    one = replace(MODEL, prefill_tok_s={128: 100.0}, decode_tok_s={4: 100.0})
    assert (100.0, 100.0) == (prefill_speed(one, 32), prefill_speed(one, 4096))
    assert (25.0, 25.0) == (decode_speed(one, 1), decode_speed(one, 4))
    none = replace(MODEL, prefill_tok_s={}, decode_tok_s={})
    assert (None, None, None) == (prefill_speed(none, 32), decode_speed(none, 1), decode_speed(none, 0))


def test_the_fingerprint_follows_the_hardware(tmp_path):
    """Another CPU, quota or graphics card is another machine; nothing readable is still a fingerprint."""
    bare = hardware_facts(tmp_path)
    assert bare.keys() <= {"machine", "memory_gib", "cores", "cpu"}
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nmodel name\t: A 1\n\nprocessor : 1\nmodel name : A 2\n")
    card = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    for name, value in (("class", "0x030200"), ("vendor", "0x10de"), ("device", "0x2330")):
        (card / name).write_text(f"{value}\n")
    full = hardware_facts(tmp_path)
    assert ("A 1", "0x10de:0x2330") == (full["cpu"], full["graphics"])
    fingerprints = {hardware_fingerprint(facts) for facts in (bare, full, {**full, "cpu_quota": "50000 100000"})}
    assert (3, {16}) == (len(fingerprints), {len(one) for one in fingerprints})
    assert hardware_fingerprint(full) == hardware_fingerprint(dict(reversed(full.items())))


def test_the_versions_are_those_installed():
    """Ours and the bindings'."""
    assert {"hybrid", "llama-cpp-python", "multiplier"} == current_versions().keys()
