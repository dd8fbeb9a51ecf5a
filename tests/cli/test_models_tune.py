"""Does `hybrid models tune` print its table, and do list, show and rm know of what it made?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid.cli import main
from hybrid.cli.models_tune import notes, table
from hybrid.config import data_dir
from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.profile import current_versions, load_profile
from hybrid.fingerprints import model_fingerprint
from hybrid.tuning.apply import find_tuned
from tests.tiny_gguf import TinyGguf
from tests.tuning.tuning_world import Trials, tune_with


@pytest.fixture
def folder(tmp_path) -> Path:
    """A models folder with a model in it that was tuned to Q8_0."""
    (tmp_path / "mine.gguf").write_bytes(TinyGguf().build())
    tune_with(tmp_path / "mine.gguf", Trials(problems={"Q5_1": "its process was ended by signal 6"}))
    return tmp_path


def run(*arguments: str, folder: Path) -> int:
    """Run `hybrid models` on a folder."""
    return main(["models", *arguments, "--models-dir", str(folder)])


def test_the_table_marks_the_choice(tmp_path):
    """One line a candidate with its numbers, what is over the bound, and the reason under it."""
    (tmp_path / "mine.gguf").write_bytes(TinyGguf().build())
    tuning = tune_with(tmp_path / "mine.gguf")
    lines = table(tuning)
    assert ["CANDIDATE", "SIZE"] == lines[0].split()[:2]
    assert lines[1].startswith("   Q4_0")
    assert "the source" in lines[1]
    assert lines[2].startswith("*  Q8_0")
    assert "0.0050 (0.0045 to 0.0055)" in lines[2]
    assert lines[3].endswith("over the bound  90.0%")
    assert tuning.why == lines[-1]
    said = "\n".join(notes(tuning))
    assert "cannot regain" in said
    assert "mine.tuned-Q8_0.gguf" in said
    assert "busy" not in said


def test_a_failed_candidate_says_why(folder):
    """Its line has the problem where the numbers would be."""
    tuning = tune_with(folder / "mine.gguf", Trials(problems={"Q5_1": "its process was ended by signal 6"}))
    assert "its process was ended by signal 6" in table(tuning)[3]


def test_a_record_never_steers_the_terminal(folder, capsys):
    """A record that came with a model can say anything; control codes in it are written out."""
    record = folder / "mine.tuned.json"
    told = json.loads(record.read_text())
    told["chosen"]["format"] = "\x1b[31mQ8_0"
    record.write_text(json.dumps(told))
    assert (0, 0) == (run("list", folder=folder), run("show", "mine", folder=folder))
    said = capsys.readouterr()
    assert "tuned: \\x1b[31mQ8_0" in said.out
    assert "\x1b" not in said.out + said.err


def test_list_tells_what_is_tuned(folder, capsys):
    """One line for the model, none for the file that was made of it."""
    assert 0 == run("list", folder=folder)
    mine = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mine")]
    assert 1 == len(mine)
    assert mine[0].endswith("here, tuned: Q8_0")


def test_show_tells_the_numbers(folder, capsys):
    """To what, why, and which file; the record itself in JSON."""
    assert 0 == run("show", "mine", folder=folder)
    shown = capsys.readouterr().out
    for fact in ("Q8_0", "0.0050 nats a token", "mine.tuned-Q8_0.gguf"):
        assert fact in shown
    assert "tuning ignored" not in shown
    assert 0 == run("show", "mine", "--json", folder=folder)
    told = json.loads(capsys.readouterr().out)
    assert ("Q8_0", None, 2) == (told["tuned_to"], told["tuning_problem"], told["tuning"]["schema"])


def test_show_tells_why_a_tuning_is_ignored(folder, capsys):
    """A damaged record is no reason to fail."""
    (folder / "mine.tuned.json").write_text("{}")
    assert 0 == run("show", "mine", folder=folder)
    assert "is damaged" in capsys.readouterr().out


def test_rm_takes_everything_along(folder, capsys):
    """Model, tuned file, record and hashes; their bytes are counted."""
    size = (folder / "mine.gguf").stat().st_size + len(b"a model as Q8_0")
    assert 0 == run("rm", "mine", "--json", folder=folder)
    assert [{"name": "mine", "freed_bytes": size}] == json.loads(capsys.readouterr().out)["removed"]
    assert [] == [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["tune"], 2, "Missing argument"),
        (["tune", "mine", "--max-kl", "-1"], 2, "max-kl"),
        (["tune", "mine", "--formats", "Q9"], 1, "no format Q9"),
        (["tune", "mine", "--formats", ","], 1, "no format is named"),
        (["tune", "qwen3-4b"], 1, "hybrid models pull qwen3-4b"),
        (["tune", "{folder}/mine.tuned-Q8_0.gguf"], 1, "is not a GGUF"),
        (["tune", "{folder}/none.gguf"], 1, "there is no file"),
    ],
)
def test_bad_input_is_one_sentence(folder, capsys, arguments, code, said):
    """What is wrong and what to do; nothing on stdout."""
    assert code == run(*(argument.format(folder=folder) for argument in arguments), folder=folder)
    captured = capsys.readouterr()
    assert "" == captured.out
    assert said in captured.err


@pytest.mark.timeout(400)  # 20 s where nothing else runs
def test_a_quick_tuning_of_the_starter(starter_model, tmp_path, capsys):
    """The command itself, with one format: JSON on stdout, a line a step on stderr, and a record that holds.

    Which of the two is faster depends on the machine and on what else it does.
    """
    (tmp_path / "smollm2-135m.gguf").symlink_to(starter_model)
    assert 0 == run("tune", "smollm2-135m", "--quick", "--formats", "q8_0", "--json", folder=tmp_path)
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert ["Q4_1", "Q8_0"] == [tried["format"] for tried in told["candidates"]]
    assert told["candidates"][1]["divergence"]["mean_nats"] < told["max_kl_nats"]
    assert "measuring Q8_0" in captured.err
    found = find_tuned(tmp_path / "smollm2-135m.gguf")
    assert found is not None
    assert found.path.name in ("smollm2-135m.gguf", "smollm2-135m.tuned-Q8_0.gguf")
    profile = load_profile(data_dir(), hardware_fingerprint(hardware_facts()), versions=current_versions())
    assert profile is not None
    known = profile.models[model_fingerprint(found.path)]
    assert ("tune", [64], [1, 8]) == (known.source, [*known.prefill_tok_s], [*known.decode_tok_s])
    for tried in told["candidates"]:
        assert min(tried["speed"][rate] for rate in ("prefill_8_tok_s", "decode_1_tok_s", "decode_8_tok_s")) > 0
