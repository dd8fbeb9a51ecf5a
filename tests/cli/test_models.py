"""Do `hybrid models list|pull|show|rm` print data on stdout, sentences on stderr, and exit as documented?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.catalog import load_cards
from hybrid.cli import main
from hybrid.config import data_dir
from hybrid.devices.fingerprint import hardware_facts, hardware_fingerprint
from hybrid.devices.profile import ModelProfile, Profile, current_versions, save_profile
from hybrid.fingerprints import model_fingerprint
from tests.tiny_gguf import STRING, TinyGguf, entry, text

TINY = TinyGguf().build()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A models folder with one model in it that no card describes, and a pull that was interrupted."""
    (tmp_path / "mine.gguf").write_bytes(TINY)
    left = tmp_path / ".partial" / "smollm2-135m"
    left.mkdir(parents=True)
    (left / "wheel").write_bytes(bytes(40_000_000))
    return tmp_path


def run(*arguments: str, folder: Path) -> int:
    """Run `hybrid models` on a folder."""
    return main(["models", *arguments, "--models-dir", str(folder)])


def test_list_shows_the_catalogue_and_what_is_here(folder, capsys):
    """Every card has a line, the smallest first; own files come last; what is left of a pull is told."""
    assert 0 == run("list", folder=folder)
    lines = capsys.readouterr().out.splitlines()
    assert ["NAME", "smollm2-135m", "mine"] == [lines[number].split()[0] for number in (0, 1, -1)]
    assert len(load_cards()) + 2 == len(lines)
    assert lines[1].endswith("40 MB of it")
    assert lines[-1].endswith("here")


@pytest.mark.parametrize("command", [("list",), ("recommend",), ("show", "smollm2-135m"), ("tune", "smollm2-135m")])
def test_a_file_is_no_folder_of_models(folder, capsys, command):
    """What is no folder is said to be none; every model seemed not to be here."""
    assert 1 == run(*command, folder=folder / "mine.gguf")
    assert f"{folder / 'mine.gguf'} is no folder; name the folder" in capsys.readouterr().err


def test_list_json_has_stable_keys(folder, capsys):
    """A program gets the same keys for each card, installed or not, and sizes in bytes."""
    assert 0 == run("list", "--json", folder=folder)
    told = json.loads(capsys.readouterr().out)
    assert str(folder) == told["models_dir"]
    *cards, mine = told["models"]
    assert 1 == len({tuple(sorted(card)) for card in cards})
    assert {"name", "bytes", "licence", "sha256", "source", "is_installed", "partial_bytes", "path"} <= cards[0].keys()
    assert (False, 40_000_000, None) == (cards[0]["is_installed"], cards[0]["partial_bytes"], cards[0]["path"])
    assert ("mine", True, len(TINY)) == (mine["name"], mine["is_installed"], mine["installed_bytes"])


def test_show_tells_what_a_card_says(folder, capsys):
    """Licence, size, source and hash of a model that is not here."""
    assert 0 == run("show", "gemma-3-1b", folder=folder)
    shown = capsys.readouterr().out
    for fact in ("Gemma Terms of Use (https://", "806 MB, Q4_K_M, 1 B parameters", "on Hugging Face", "not pulled"):
        assert fact in shown


@pytest.mark.parametrize("model", ["mine", "{folder}/mine.gguf"])
def test_show_tells_what_a_file_says(folder, capsys, model):
    """A file's header, hash and place, by its name or its path."""
    assert 0 == run("show", model.format(folder=folder), "--json", folder=folder)
    told = json.loads(capsys.readouterr().out)
    assert (str(folder / "mine.gguf"), 64) == (told["path"], len(told["installed_sha256"]))
    assert ("llama", 2048, True) == tuple(
        told["header"][key] for key in ("architecture", "context_tokens", "has_chat_template")
    )


def test_show_refuses_a_damaged_file(folder, capsys):
    """A file that is no whole GGUF is one sentence and exit code 1."""
    (folder / "cut.gguf").write_bytes(TINY[:-100])
    assert 1 == run("show", "cut", folder=folder)
    said = capsys.readouterr()
    assert "" == said.out
    assert "hybrid: " in said.err
    assert "is truncated" in said.err


def test_a_file_never_steers_the_terminal(tmp_path, capsys):
    """Control codes in a model's own words are written out, be the file sound or not; a line stays one line."""
    sound, broken = tmp_path / "sound.gguf", tmp_path / "broken.gguf"
    words = [
        entry("general.architecture", STRING, "llama"),
        entry("general.name", STRING, "\x1b[31mred\nstate: pulled"),
    ]
    sound.write_bytes(TinyGguf(entries=words).build())
    broken.write_bytes(TinyGguf(entries=[text("\x1b[31m") + (77).to_bytes(4, "little")]).build())
    assert (0, 1) == (main(["models", "show", str(sound)]), main(["models", "show", str(broken)]))
    said = capsys.readouterr()
    assert "maker's name:      \\x1b[31mred\\nstate: pulled\n" in said.out
    assert "\\x1b[31m the unknown type 77" in said.err
    assert "\x1b" not in said.out + said.err


def test_pull_of_what_is_here_prints_its_path(tmp_path, starter_model, capsys):
    """stdout is the path and nothing else, so that a script can use it."""
    (tmp_path / "smollm2-135m.gguf").symlink_to(starter_model)
    assert 0 == run("pull", "smollm2-135m", folder=tmp_path)
    said = capsys.readouterr()
    assert f"{tmp_path}/smollm2-135m.gguf\n" == said.out
    assert "verifying smollm2-135m: 98 MB of 98 MB (100 %)" in said.err


def test_pull_offline_fetches_nothing(folder, capsys):
    """--offline with a model that is not here says so and fails."""
    assert 1 == run("pull", "qwen3-4b", "--offline", folder=folder)
    assert "--offline forbids fetching it" in capsys.readouterr().err


def test_pull_of_an_unknown_model_names_the_nearest(folder, capsys):
    """A mistyped name is answered with the right one."""
    assert 1 == run("pull", "qwen3-4", folder=folder)
    assert "did you mean qwen3-4b?" in capsys.readouterr().err


def test_rm_deletes_models_and_leftovers(folder, capsys):
    """Several names at once; what came free is told, and afterwards nothing is there."""
    assert 0 == run("rm", "mine", "smollm2-135m", "--json", folder=folder)
    said = capsys.readouterr()
    freed = {row["name"]: row["freed_bytes"] for row in json.loads(said.out)["removed"]}
    assert {"mine": len(TINY), "smollm2-135m": 40_000_000} == freed
    assert "removed smollm2-135m, 40 MB freed" in said.err
    assert [] == [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["rm", "nothing"], 1), (["rm", "../mine"], 1), (["rm"], 2), (["show"], 2), (["list", "--jsno"], 2), (["pul"], 2)],
    ids=["nothing-there", "no-name", "no-argument", "nothing-to-show", "mistyped-option", "mistyped-command"],
)
def test_bad_usage_is_told_apart_from_failure(folder, capsys, arguments, code):
    """Exit code 2 is for a command line that cannot be understood, 1 for one that cannot be done."""
    assert code == main(["models", *arguments, *(["--models-dir", str(folder)] if code == 1 else [])])
    said = capsys.readouterr()
    assert "" == said.out
    assert said.err


def test_recommend_sorts_the_catalogue_for_this_machine(folder, capsys):
    """Every card is listed once; the first is what is recommended; speeds say where they come from."""
    assert 0 == run("recommend", "--json", folder=folder)
    told = json.loads(capsys.readouterr().out)
    assert set(load_cards()) == {model["name"] for model in told["models"]}
    first = told["models"][0]
    assert (told["recommended"], True) == (first["name"], first["fits"])
    assert first["basis"].startswith("predicted-")
    assert {"tier", "memory_bytes", "prefill_tok_s", "decode_tok_s", "limited_by", "why"} <= first.keys()
    assert 0 == run("recommend", folder=folder)
    said = capsys.readouterr()
    assert first["name"] == said.out.splitlines()[1].split()[0]
    where = "it is here already" if first["is_installed"] else f"`hybrid models pull {first['name']}` fetches it"
    assert f"recommended: {first['name']} ({first['why']}); {where}. " in said.err


def test_recommend_takes_what_was_measured_here(tmp_path, starter_model, capsys):
    """A model that was benched shows its own figures; the others are predicted from the machine's, and both say so."""
    (tmp_path / "smollm2-135m.gguf").symlink_to(starter_model)
    fingerprint, hardware = model_fingerprint(starter_model), hardware_facts()
    model = ModelProfile(
        model_fingerprint=fingerprint,
        model_name="smollm2-135m",
        measured_at="2026-11-25T04:00:00+00:00",
        threads=2,
        prefill_tok_s={512: 234.5},
        decode_tok_s={1: 67.8},
    )
    profile = Profile(
        hardware_fingerprint=hardware_fingerprint(hardware),
        hardware=hardware,
        versions=current_versions(),
        measured_at=model.measured_at,
        read_bytes_s=3e10,
        int8_ops_s=9e11,
        models={fingerprint: model},
    )
    save_profile(data_dir(), profile)
    assert 0 == run("recommend", "--json", folder=tmp_path)
    told = {one["name"]: one for one in json.loads(capsys.readouterr().out)["models"]}
    starter = told.pop("smollm2-135m")
    assert (234.5, 67.8) == (starter["prefill_tok_s"], starter["decode_tok_s"])
    assert ("measured", "bench") == (starter["basis"], starter["measured_by"])
    assert {("predicted-measured", None)} == {
        (one["basis"], one["measured_by"]) for one in told.values() if one["fits"]
    }
    assert 0 == run("recommend", folder=tmp_path)
    rows = capsys.readouterr().out.splitlines()
    assert any(row.startswith("smollm2-135m ") and "measured (bench)" in row for row in rows)
    assert any("predicted, bandwidth measured" in row for row in rows)

    save_profile(data_dir(), replace(profile, versions={"hybrid": "\x1b[31m"}))
    assert 0 == run("recommend", folder=tmp_path)
    said = capsys.readouterr()
    assert "\x1b" not in said.err
    assert "measured (bench)" not in said.out
    assert "out of date" in said.err


def test_pull_without_a_name_offers_and_does_not_choose(folder, capsys):
    """Off a terminal nobody can agree, so nothing is fetched; the hint names what to type. --yes agrees."""
    assert 2 == run("pull", folder=folder)
    said = capsys.readouterr()
    assert "" == said.out
    assert "agree with --yes: hybrid models pull " in said.err
    assert 1 == run("pull", "--yes", "--offline", folder=folder)
    assert "--offline forbids fetching it" in capsys.readouterr().err
