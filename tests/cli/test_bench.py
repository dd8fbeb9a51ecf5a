"""Does `hybrid bench` print, write and keep what it measured, and leave nothing behind when it is interrupted?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import msgspec
import pytest

from hybrid.cli import main
from hybrid.cli.bench import keep, task_of
from hybrid.config import Config, data_dir
from hybrid.devices.bench import BenchReport, report_schema
from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.profile import Profile, current_versions, load_profile, profile_path
from hybrid.devices.snapshot import usable_threads
from tests.e2e.serving import FAKE_MODEL, HYBRID, Serving
from tests.tiny_gguf import TinyGguf


@dataclass(frozen=True)
class Ran:
    """A finished `hybrid bench` and its folder."""

    folder: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
    """One quick bench of the fake backend, everything written."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "hybrid.toml").write_text(FAKE_MODEL + "[policy]\nttft_ms = 1200\n")
    command = [*HYBRID, "bench", "--quick", "--config", "hybrid.toml", "--json", "b.json", "--html", "b.html"]
    return Ran(folder, subprocess.run(command, cwd=folder, env=environ(folder), capture_output=True, text=True))


def environ(folder: Path) -> dict[str, str]:
    """The environment of a command with its data in a folder."""
    return {**os.environ, "HYBRID_DATA_DIR": str(folder)}


def test_a_bench_prints_and_writes_what_it_measured(ran):
    """Data on stdout, progress on stderr; the JSON keeps to its schema; the page is there; no part file is left."""
    assert 0 == ran.done.returncode, ran.done.stderr
    for told in ("GB/s", "int8", "decode      1 together", "memory at most"):
        assert told in ran.done.stdout
    assert "this machine: " in ran.done.stderr
    written = (ran.folder / "b.json").read_bytes()
    jsonschema.Draft202012Validator(report_schema()).validate(json.loads(written))
    report = msgspec.json.decode(written, type=BenchReport)
    assert (["fake"], 1.2, True, True) == (
        [model.speed.name for model in report.models],
        report.ttft_s,
        report.is_ttft_configured,
        report.is_quick,
    )
    assert "<!doctype html>" in (ran.folder / "b.html").read_text()
    assert [] == [path for path in ran.folder.rglob("*") if "part" in path.name]


def test_a_folder_in_the_profiles_place_is_told_at_once(capsys):
    """The profile could not be kept at the end; nothing is measured."""
    path = profile_path(data_dir(), hardware_fingerprint(hardware_facts()))
    path.mkdir(parents=True)
    assert 1 == main(["bench"])
    assert f"hybrid: {path} is a folder, where this machine's profile goes; move it away\n" == capsys.readouterr().err


def test_a_bench_keeps_a_profile(ran):
    """Keyed by this hardware and the installed versions, with the model's figures."""
    fingerprint = hardware_fingerprint(hardware_facts())
    profile = load_profile(ran.folder, fingerprint, versions=current_versions(), on_note=pytest.fail)
    assert profile is not None
    assert {"fake"} == profile.models.keys()
    assert [1, 2, 4, 8, 16] == list(profile.models["fake"].decode_tok_s)


def test_the_first_request_is_predicted_from_the_profile(ran):
    """Before the worker measured anything, the facts of a decision hold the bench's speeds, and say so."""
    with Serving(ran.folder, FAKE_MODEL) as server:
        first = server.ask("hello", max_tokens=8)
        facts = server.explain(first.headers["x-hybrid-request-id"])["decision"]["facts"]
    assert "profile" == facts["speeds_from"]
    assert 0 < facts["prefill_tok_s"]
    assert 0 < facts["decode_tok_s"]


def test_a_quick_bench_does_not_replace_a_full_one(ran, own_data_dir, capsys):
    """The full one's figures stay, and it is said; a full one after it replaces them."""
    quick = msgspec.json.decode((ran.folder / "b.json").read_bytes(), type=BenchReport)
    full = msgspec.structs.replace(quick, is_quick=False, measured_at="2026-11-25T04:00:00+00:00")

    def kept() -> Profile | None:
        return load_profile(own_data_dir, quick.hardware_fingerprint, versions=quick.versions, on_note=pytest.fail)

    for report, source in ((quick, "quick bench"), (full, "bench"), (quick, "bench")):
        capsys.readouterr()
        keep(report, None, None)
        profile = kept()
        assert profile is not None
        assert (source, source) == (profile.models["fake"].source, profile.roofs_source)
    assert "keeps fake's figures of the full bench of 2026-11-25T04:00:00+00:00" in capsys.readouterr().err


def test_a_second_bench_agrees_with_the_first(ran, tmp_path):
    """Its ranges hold the first one's medians, which it says; nothing else of the first is taken for its own."""
    shutil.copytree(ran.folder / "profiles", tmp_path / "profiles")
    command = [*HYBRID, "bench", "--quick", "--config", str(ran.folder / "hybrid.toml"), "--json", "b.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environ(tmp_path), capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    assert "- ranges hold this run's samples and the medians of one earlier run" in done.stdout
    first, second = (
        msgspec.json.decode((folder / "b.json").read_bytes(), type=BenchReport) for folder in (ran.folder, tmp_path)
    )
    for count, figure in second.models[0].speed.decode_tok_s.items():
        earlier = first.models[0].speed.decode_tok_s[count].median
        assert (2, True) == (figure.runs, figure.low <= earlier <= figure.high)
    assert first.machine is not None
    assert second.machine is not None
    runs = {one.read_bytes_s.runs for one in second.machine.bandwidth}
    assert {2 if second.machine.is_beyond_cache and first.machine.is_beyond_cache else 1} == runs


def test_a_bench_runs_with_the_threads_that_serve_takes():
    """Otherwise `serve` would find figures of other threads and not use them; what is configured goes before."""
    config = msgspec.convert({"local": {"backend": "fake"}}, Config)
    assert usable_threads() == task_of(config, [], is_quick=True).threads
    chosen = msgspec.structs.replace(config, local=msgspec.structs.replace(config.local, threads=7))
    assert 7 == task_of(chosen, [], is_quick=True).threads


def test_ctrl_c_leaves_nothing(tmp_path):
    """Interrupted while it measures: exit code 130, one sentence, no file and no profile."""
    (tmp_path / "hybrid.toml").write_text(FAKE_MODEL)
    command = [*HYBRID, "bench", "--config", "hybrid.toml", "--json", "b.json", "--html", "b.html"]
    with subprocess.Popen(command, cwd=tmp_path, env=environ(tmp_path), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert "this machine: " in said
    assert 130 == process.returncode, rest
    assert "interrupted: nothing was written" in rest
    assert ["hybrid.toml"] == [path.name for path in tmp_path.rglob("*")]


def test_the_schema_is_printed(capsys):
    """--schema measures nothing and prints the JSON Schema of --json."""
    assert 0 == main(["bench", "--schema"])
    assert msgspec.json.decode(msgspec.json.encode(report_schema())) == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--json", "{tmp}"], "is a folder; name the file to write", id="folder"),
        pytest.param(["--html", "{tmp}/nowhere/b.html"], "its folder is not there", id="no-folder"),
        pytest.param(["--model", "{tmp}/none.gguf"], "there is no file", id="no-model"),
        pytest.param(["--model", "qwen3-4b"], "is not pulled yet", id="not-pulled"),
        pytest.param(["--config", "{tmp}/none.toml"], "no configuration file", id="no-config"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_measured(tmp_path, capsys, arguments, expected):
    """One sentence, exit code 1 or 2, and no progress yet."""
    assert main(["bench", *(argument.format(tmp=tmp_path) for argument in arguments)]) in (1, 2)
    said = capsys.readouterr()
    assert "" == said.out
    assert expected in said.err
    assert "this machine" not in said.err


def test_a_model_that_cannot_be_loaded_fails_and_the_rest_is_kept(tmp_path):
    """Exit code 1; the machine's figures are written all the same, with the reason."""
    (tmp_path / "tiny.gguf").write_bytes(TinyGguf().build())
    command = [*HYBRID, "bench", "--quick", "--model", "./tiny.gguf", "--json", "b.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environ(tmp_path), capture_output=True, text=True)
    assert 1 == done.returncode
    assert "tiny could not be measured: tiny.gguf has a sound header, but" in done.stdout
    report = msgspec.json.decode((tmp_path / "b.json").read_bytes(), type=BenchReport)
    assert report.machine is not None
    assert ["tiny"] == [failed.name for failed in report.failed]
