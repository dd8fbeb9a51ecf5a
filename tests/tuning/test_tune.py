"""Is a tuning whole or not there? Scripted trials, ended at every moment; real files, real locks, real kills."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.catalog.lock import hold
from hybrid.catalog.tuned import lock_path, read_tuning, tuned_path, tuning_path, workshop_path
from hybrid.errors import CatalogError, LocalFailure
from hybrid.tuning.apply import find_tuned
from hybrid.tuning.choose import FORMATS
from hybrid.tuning.jobs import Measure, Quantise
from hybrid.tuning.tune import Room, quick, tune
from tests.tuning.candidates import SOURCE_FORMAT, TINY
from tests.tuning.tuning_world import OPTIONS, PLENTY, Trials, ignore, tune_with

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = 19
"""Jobs and steps of a tuning of two formats, counted together: 8 and 11."""


@pytest.fixture
def source(tmp_path) -> Path:
    """A model in a folder of its own."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(TINY)
    return path


def names(source: Path) -> set[str]:
    """What lies beside a model, but the records of hashes."""
    return {path.name for path in source.parent.iterdir() if not path.name.endswith(".gguf.json")}


def test_the_best_lies_beside_its_source_with_a_record(source):
    """File and record under clear names, the source untouched, nothing else left; and it is what runs."""
    tuning = tune_with(source)
    assert {"mine.gguf", "mine.tuned-Q8_0.gguf", "mine.tuned.json"} == names(source)
    assert TINY == source.read_bytes()
    assert b"a model as Q8_0" == tuned_path(source, "Q8_0").read_bytes()
    assert tuning == read_tuning(source)
    assert 2.5 == tuning.speedup
    assert ["Q4_0", "Q8_0", "Q5_1"] == [tried.format for tried in tuning.candidates]
    found = find_tuned(source)
    assert found is not None
    assert (tuned_path(source, "Q8_0"), "Q8_0") == (found.path, found.words)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_at_any_moment_nothing_half_made_is_used(source, moment):
    """After kill -9 the source runs as if nothing had been; the next tuning takes the leftovers away and succeeds."""
    command = [sys.executable, "-m", "tests.tuning.tuning_world", str(source), str(moment)]
    died = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
    assert -signal.SIGKILL == died.returncode, died.stderr
    is_finished = read_tuning(source) is not None
    assert is_finished == (moment == MOMENTS - 1)
    assert is_finished == (find_tuned(source) is not None)
    tune_with(source)
    assert {"mine.gguf", "mine.tuned-Q8_0.gguf", "mine.tuned.json"} == names(source)


def test_there_are_no_more_moments(source):
    """The test above goes through all of them."""
    command = [sys.executable, "-m", "tests.tuning.tuning_world", str(source), "-1"]
    assert f"{MOMENTS}\n" == subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout


def test_a_tuned_file_without_a_record_is_not_used(source):
    """Killed between the two renames at the end: the file has its name, and nothing says that it counts."""
    tuned_path(source, "Q5_1").write_bytes(b"whole, and never vouched for")
    assert find_tuned(source) is None
    tune_with(source)
    assert not tuned_path(source, "Q5_1").exists()


@pytest.mark.parametrize("number", range(8))
def test_interrupted_by_hand_nothing_is_left(source, number):
    """Ctrl-C during any job removes everything that was made."""

    def interrupt(seen: int) -> None:
        if seen == number:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_with(source, Trials(before=interrupt))
    assert {"mine.gguf"} == names(source)


def test_an_interrupted_tuning_keeps_the_one_before(source):
    """What was chosen before stays in use until the new record is there."""
    tune_with(source)

    def interrupt(seen: int) -> None:
        if seen == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_with(source, Trials(before=interrupt))
    assert find_tuned(source) is not None


def test_a_new_tuning_takes_the_old_file_away(source):
    """Only the chosen file stays."""
    tune_with(source)
    tune_with(source, options=replace(OPTIONS, max_kl_nats=1.0))
    assert {"mine.gguf", "mine.tuned-Q5_1.gguf", "mine.tuned.json"} == names(source)


def test_where_the_source_is_best_no_file_is_kept(source):
    """The record says so, and the source runs."""
    tuning = tune_with(source, options=replace(OPTIONS, max_kl_nats=0.0001))
    assert {"mine.gguf", "mine.tuned.json"} == names(source)
    assert (None, None, "Q4_0") == (tuning.file, tuning.speedup, tuning.chosen.format)
    found = find_tuned(source)
    assert found is not None
    assert source == found.path


def test_what_does_not_last_in_turns_is_not_kept(source):
    """A candidate that was fast only once is no gain: the source stays."""

    def slow_down(seen: int) -> None:
        if seen == 7:  # the last two jobs are the turns of source and choice
            trials.chats_s = {"Q8_0": 9.9}

    trials = Trials(before=slow_down)
    tuning = tune_with(source, trials)
    assert tuning.file is None
    assert "Q8_0 was faster at first, but 1.01 times as fast in turns" in tuning.why


def test_a_crash_of_a_candidate_is_recorded_and_the_rest_goes_on(source):
    """Its process died: the record says how, and another one is chosen."""
    tuning = tune_with(source, Trials(problems={"Q5_1": "it was ended by signal 6"}))
    assert [None, None, "it was ended by signal 6"] == [tried.problem for tried in tuning.candidates]
    assert "Q8_0" == tuning.chosen.format


@pytest.mark.parametrize("failing", ["reference", "measure mine"])
def test_a_source_that_cannot_be_measured_is_an_error(source, failing):
    """Nothing to compare with: one sentence, and nothing left."""
    with pytest.raises(LocalFailure, match=r"mine.gguf cannot be measured: no space left"):
        tune_with(source, Trials(problems={failing: "no space left"}))
    assert {"mine.gguf"} == names(source)


def test_a_full_disk_is_a_sentence(source):
    """The error names the reason, and what was made is gone."""

    def fill(_done: int, _total: int, words: str) -> None:
        if words == "keeping the best":
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CatalogError, match="No space left on device"):
        tune(source, OPTIONS, run=Trials(), room=PLENTY, on_step=fill)
    assert {"mine.gguf"} == names(source)


def test_too_little_disk_is_told_before_anything_is_made(source):
    """How much is needed, how much is there, how much to free; and no job is run."""
    trials = Trials()
    with pytest.raises(CatalogError, match=r"needs \d+ MB in .* and 1 MB are free; free \d+ MB"):
        tune_with(source, trials, room=Room(disk_free_bytes=lambda _: 10**6, memory_free_bytes=lambda: 1 << 50))
    assert [] == trials.seen


@pytest.mark.parametrize("is_scarce", [False, True])
def test_the_largest_format_is_tried_where_there_is_disk_for_it(source, is_scarce, monkeypatch):
    """A disk that holds all but F16 is no reason to refuse; who asks for F16 is told what is missing."""
    usual = [name for name in FORMATS if name not in ("F16", SOURCE_FORMAT)]
    # A model of a few bytes is as large in any format.
    monkeypatch.setattr(
        "hybrid.tuning.tune.disk_bytes", lambda _header, formats, _chunks: 100 + 100 * ("F16" in formats)
    )
    room = replace(PLENTY, disk_free_bytes=lambda _: 150) if is_scarce else PLENTY
    tuning = tune_with(source, options=replace(OPTIONS, formats=None), room=room)
    assert usual == [tried.format for tried in tuning.candidates[1:] if tried.format != "F16"]
    assert is_scarce == ("F16" not in [tried.format for tried in tuning.candidates])
    if is_scarce:
        with pytest.raises(CatalogError, match="or try fewer --formats"):
            tune_with(source, options=replace(OPTIONS, formats=("F16", *usual)), room=room)


def test_too_little_memory_is_told_before_anything_is_made(source):
    """The same for memory."""
    with pytest.raises(CatalogError, match=r"needs \d+ MB of memory and 1 MB are free"):
        tune_with(source, room=Room(disk_free_bytes=lambda _: 1 << 50, memory_free_bytes=lambda: 10**6))


def test_one_tuning_of_a_model_at_a_time(source):
    """The second is refused while the first runs."""
    with hold(lock_path(source)), pytest.raises(CatalogError, match=r"another process is tuning mine.gguf"):
        tune_with(source)


def test_a_folder_in_the_records_place_is_told_before_anything_is_made(source):
    """The record could not be put at the end, when minutes had been spent; no job is run."""
    tuning_path(source).mkdir()
    trials = Trials()
    with pytest.raises(CatalogError, match=r"mine.tuned.json is a folder, .*move it away"):
        tune_with(source, trials)
    assert [] == trials.seen


def test_what_was_tuned_is_not_tuned_again(source):
    """Formats are made from what was shipped, not from what was made of it."""
    made = tuned_path(source, "Q8_0")
    made.write_bytes(TINY)
    with pytest.raises(CatalogError, match="tune the model it was made from"):
        tune_with(made)


def test_settings_are_tried_on_the_best_format(source):
    """Divergence is measured again only where the numbers change."""
    trials = Trials()
    tuning = tune_with(source, trials, replace(OPTIONS, axes=("KV cache", "batch")))
    settings = [tried.settings for tried in tuning.candidates[3:]]
    assert ["q8_0", "f16", "f16", "f16"] == [tried.kv_type for tried in settings]
    assert [512, 256, 1024, 2048] == [tried.batch_tokens for tried in settings]
    measured = [job for job in trials.seen if isinstance(job, Measure)]
    assert [True, False, False, False] == [job.reference is not None for job in measured[3:7]]
    assert 0.005 == tuning.candidates[5].divergence.mean_nats


def test_quick_tries_few_formats_and_no_settings(source):
    """A first look: less text, shorter chats, one run."""
    trials = Trials()
    tune_with(source, trials, quick(replace(OPTIONS, formats=None)))
    assert ["F16", "Q8_0"] == [job.format for job in trials.seen if isinstance(job, Quantise)]  # the source is Q4_0
    assert {(64, 16, 1)} == {
        (job.prompt_tokens, job.answer_tokens, job.runs) for job in trials.seen if isinstance(job, Measure)
    }


def test_the_paths_stay_beside_the_source(source):
    """Record, workshop and lock are told apart by name."""
    paths = (tuning_path(source), workshop_path(source), lock_path(source))
    assert ["mine.tuned.json", ".mine.tuning", ".mine.tuning.lock"] == [path.name for path in paths]
    assert {source.parent} == {path.parent for path in paths}
    with pytest.raises(CatalogError):
        tune(source.with_name("mine.tuned-Q8_0.gguf"), OPTIONS, run=Trials(), room=PLENTY, on_step=ignore)
