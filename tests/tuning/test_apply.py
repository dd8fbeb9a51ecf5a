"""Does a record hold only where it was measured: this source, this tuned file, this machine, this llama.cpp?"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from hybrid.catalog.tuned import Tuning, read_tuning, tuned_path, tuning_path, write_tuning
from hybrid.errors import CatalogError
from hybrid.tuning.apply import find_tuned, mismatch
from hybrid.tuning.machine import these_versions, this_machine
from hybrid.tuning.speeds import to_profile
from tests.tuning.candidates import TINY
from tests.tuning.tuning_world import tune_with


@pytest.fixture
def source(tmp_path) -> Path:
    """A model that was tuned to Q8_0."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(TINY)
    tune_with(path)
    return path


def record(source: Path) -> Tuning:
    """Its record."""
    tuning = read_tuning(source)
    assert tuning is not None
    return tuning


def test_a_record_comes_back_as_it_was_written(source):
    """Through JSON and back, nothing lost."""
    tuning = replace(record(source), why="another reason: 1.5 times as fast, for 3 €")
    write_tuning(source, tuning)
    assert tuning == read_tuning(source)


def test_without_a_record_there_is_none(tmp_path):
    """A model that was never tuned runs as it is, and nothing is said."""
    path = tmp_path / "other.gguf"
    path.write_bytes(TINY)
    assert read_tuning(path) is None
    assert find_tuned(path) is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "damaged", id="empty"),
        pytest.param(b'{"schema": 1, "tuned_at": "2026', "damaged", id="cut-off"),
        pytest.param(b'{"schema": 1}', "damaged", id="incomplete"),
        pytest.param(b'{"schema": 3, "anything": true}', "schema 3, and this version reads 2", id="newer"),
        pytest.param(b"[]", "damaged", id="another-thing"),
        pytest.param(b"\xff\xfe", "damaged", id="no-text"),
        pytest.param(b'{"a":' * 100_000, "damaged", id="nested-too-deep"),
    ],
)
def test_a_record_that_cannot_be_read_is_ignored_and_told_of(source, caplog, content, expected):
    """The source runs; the log says why, and what to do."""
    tuning_path(source).write_bytes(content)
    with pytest.raises(CatalogError, match=expected):
        read_tuning(source)
    with caplog.at_level(logging.WARNING):
        assert find_tuned(source) is None
    assert "mine.gguf runs untuned" in caplog.text
    assert "`hybrid models tune` measures again" in caplog.text


def test_a_record_that_timed_several_steps_as_one_keeps_its_choice_only(source):
    """The file is as near to its source as it was, so it runs; no time of it is told, nor put into a profile."""
    timed = record(source)
    write_tuning(source, replace(timed, schema=1))
    tuned = find_tuned(source)
    assert tuned is not None
    assert (tuned_path(source, "Q8_0"), timed.chosen.settings) == (tuned.path, tuned.settings)
    assert timed.chosen.divergence == tuned.tuning.chosen.divergence
    assert {None} == {one.speed for one in (*tuned.tuning.candidates, tuned.tuning.chosen)}
    assert tuned.tuning.speedup is None
    assert "an earlier version" in tuned.tuning.why
    assert to_profile(source, tuned.tuning, prompt_tokens=175, threads=2) is None


@pytest.mark.parametrize(("key", "value"), [("batch_tokens", 0), ("batch_tokens", 1 << 30), ("threads", -1)])
def test_settings_that_native_code_must_not_see_are_damage(source, key, value):
    """A record is a file that anyone may have edited."""
    told = msgspec.json.decode(tuning_path(source).read_bytes())
    told["chosen"]["settings"][key] = value
    tuning_path(source).write_bytes(msgspec.json.encode(told))
    with pytest.raises(CatalogError, match="damaged"):
        read_tuning(source)


def test_another_machine(source):
    """A record that came along with the file says nothing of the machine it came to."""
    elsewhere = replace(this_machine(), fingerprint="0" * 64, words="a big one")
    assert "another machine" in (mismatch(record(source), source, elsewhere, these_versions()) or "")
    assert find_tuned(source, machine=elsewhere) is None


@pytest.mark.parametrize("changed", [{"llama_cpp_python": "0.3.99"}, {"llama_build": "0" * 64}])
def test_another_llama_cpp(source, changed):
    """Another version, or the same built for another device."""
    versions = replace(these_versions(), **changed)
    assert "another llama.cpp" in (mismatch(record(source), source, this_machine(), versions) or "")


def test_our_own_version_may_change(source):
    """What speed depends on is llama.cpp; a change of the record's meaning is another schema."""
    assert mismatch(record(source), source, this_machine(), replace(these_versions(), hybrid="9.9")) is None


def test_another_source(source):
    """A model pulled anew in another revision is not what was tuned."""
    source.write_bytes(TINY + b"\0" * 32)
    assert "the file has changed" in (mismatch(record(source), source, this_machine(), these_versions()) or "")


def test_another_tuned_file(source):
    """Same name, same size, other bytes: not the one that was measured."""
    made = tuned_path(source, "Q8_0")
    made.write_bytes(made.read_bytes()[::-1])
    assert "not the one that was measured" in (mismatch(record(source), source, this_machine(), these_versions()) or "")


def test_no_tuned_file(source):
    """Deleted by hand: the source runs."""
    tuned_path(source, "Q8_0").unlink()
    assert "is not there" in (mismatch(record(source), source, this_machine(), these_versions()) or "")


@pytest.mark.parametrize("name", ["../../etc/model.gguf", "other.gguf", "mine.tuned-Q4_0.gguf"])
def test_a_record_leads_nowhere_else(source, name):
    """Only the file that tuning would have made is ever loaded."""
    tuning = record(source)
    assert tuning.file is not None
    led = replace(tuning, file=replace(tuning.file, name=name))
    assert "no tuned file of it" in (mismatch(led, source, this_machine(), these_versions()) or "")


def test_a_machine_is_known_by_its_processor(tmp_path):
    """Another processor is another machine, and its words say which it is; the clock of the moment is no part of it."""
    for name, text in {
        "1": "model name\t: A\ncpu MHz\t\t: 2100.5\n",
        "2": "model name\t: A\ncpu MHz\t\t: 3300.1\n",
        "3": "model name\t: B\ncpu MHz\t\t: 2100.5\n",
    }.items():
        (tmp_path / name / "proc").mkdir(parents=True)
        (tmp_path / name / "proc" / "cpuinfo").write_text(text)
    first, second, third = (this_machine(tmp_path / name) for name in "123")
    assert first == second
    assert first.fingerprint != third.fingerprint
    assert f"A, {len(os.sched_getaffinity(0))} core" in first.words
