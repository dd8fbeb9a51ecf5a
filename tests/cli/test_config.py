"""Does `hybrid config` show what holds and where it came from, without ever printing a key?"""

from __future__ import annotations

import json
import tomllib

import pytest

from hybrid.cli import main
from hybrid.config import load

KEY = "sk-live-secret"
TOML = """
[server]
port = 9
[budget]
usd_per_day = 0.10
[[cloud]]
name = "openai"
base_url = "https://api.example.com/v1"
api_key_env = "SOME_API_KEY"
models = ["m-1"]
[prices."openai/m-1"]
input_usd_per_mtok = 0.25
output_usd_per_mtok = 2.00
since = 2026-01-01
[aliases]
"gpt-4.1" = "cloud/openai"
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    """A hybrid.toml with one of everything, and its API key in the environment."""
    path = tmp_path / "hybrid.toml"
    path.write_text(TOML)
    monkeypatch.setenv("SOME_API_KEY", KEY)
    return path


def test_show_prints_toml_with_origins(config_file, capsys):
    """The text is TOML again, says where each value came from, and masks the API key."""
    assert 0 == main(["config", "show", "--config", str(config_file)])
    out = capsys.readouterr().out
    values = tomllib.loads(out)
    assert (9, 0.1, {"gpt-4.1": "cloud/openai"}) == (
        values["server"]["port"],
        values["budget"]["usd_per_day"],
        values["aliases"],
    )
    assert ["m-1"] == values["cloud"][0]["models"]
    assert f"# {config_file}:3\n" in out
    assert "# API key: ******** from SOME_API_KEY" in out
    assert KEY not in out


def test_show_output_loads_again(config_file, tmp_path, capsys):
    """What show prints is a configuration with the same meaning."""
    main(["config", "show", "--config", str(config_file), "--json"])
    first = json.loads(capsys.readouterr().out)
    main(["config", "show", "--config", str(config_file)])
    (tmp_path / "again.toml").write_text(capsys.readouterr().out)
    main(["config", "show", "--config", str(tmp_path / "again.toml"), "--json"])
    again = json.loads(capsys.readouterr().out)
    assert {key: fact["value"] for key, fact in first["values"].items()} == {
        key: fact["value"] for key, fact in again["values"].items()
    }


def test_show_json_is_for_programs(config_file, capsys):
    """--json holds each key's value and origin, the masked keys and the warnings."""
    assert 0 == main(["config", "show", "--json", "--config", str(config_file)])
    out = capsys.readouterr().out
    facts = json.loads(out)
    assert {"value": 9, "origin": f"{config_file}:3"} == facts["values"]["server.port"]
    assert {"value": "127.0.0.1", "origin": "default"} == facts["values"]["server.host"]
    assert {"openai": "******** from SOME_API_KEY"} == facts["api_keys"]
    assert KEY not in out


def test_show_works_while_a_key_is_missing(config_file, monkeypatch, capsys):
    """show is for finding out what is wrong, so a missing key is shown and not an error."""
    monkeypatch.delenv("SOME_API_KEY")
    assert 0 == main(["config", "show", "--config", str(config_file)])
    assert "# API key: missing: cloud 'openai': the environment variable SOME_API_KEY" in capsys.readouterr().out


def test_check_says_right(config_file, capsys):
    """A right configuration is one line on stdout and exit 0."""
    assert 0 == main(["config", "check", "--config", str(config_file)])
    assert f"{config_file}: right\n" == capsys.readouterr().out


def test_check_json(config_file, capsys):
    """check --json says which file was right and what to be warned of."""
    assert 0 == main(["config", "check", "--json", "--config", str(config_file)])
    assert {"path": str(config_file), "ok": True, "warnings": []} == json.loads(capsys.readouterr().out)


def test_check_finds_a_missing_key(config_file, monkeypatch, capsys):
    """check also resolves each cloud's key, and fails where it is not there."""
    monkeypatch.delenv("SOME_API_KEY")
    assert 2 == main(["config", "check", "--config", str(config_file)])
    assert "hybrid: cloud 'openai': the environment variable SOME_API_KEY is not set" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["model", "embedding_model", "draft_model"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param("smollm2-136m", "no model 'smollm2-136m' in the catalogue", id="a-slip"),
        pytest.param("/no/such.gguf", "there is no file /no/such.gguf", id="no-file"),
    ],
)
def test_check_finds_a_model_that_nobody_has(key, name, problem, tmp_path, capsys):
    """What `serve` would stop at is found before."""
    file = tmp_path / "hybrid.toml"
    file.write_text(f'[local]\n{key} = "{name}"\n')
    assert 2 == main(["config", "check", "--config", str(file)])
    assert f"local.{key}: {problem}" in capsys.readouterr().err


def test_check_takes_a_model_that_is_not_pulled_yet(tmp_path):
    """`serve` would pull it."""
    file = tmp_path / "hybrid.toml"
    file.write_text('[local]\nmodel = "smollm2-135m"\n')
    assert 0 == main(["config", "check", "--config", str(file)])


def test_warnings_are_for_people(config_file, capsys):
    """A warning goes to stderr and does not fail the check."""
    config_file.write_text(TOML.replace("usd_per_day", "# usd_per_day"))
    assert 0 == main(["config", "check", "--config", str(config_file)])
    assert (
        "hybrid: warning: no cloud is called until [budget] has a cap, such as usd_per_day\n" == capsys.readouterr().err
    )


def test_show_can_be_read_again(tmp_path, capsys):
    """What show prints of tags and of a price that changes on a day is a configuration that says the same."""
    text = (
        '[budget]\nusd_per_month = 3\n[tags."a b"]\nusd_per_day = 0.5\n'
        '[[prices."x/y"]]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n'
        '[[prices."x/y"]]\ninput_usd_per_mtok = 3\noutput_usd_per_mtok = 4\nsince = 2026-12-01\n'
    )
    (tmp_path / "a.toml").write_text(text)
    assert 0 == main(["config", "show", "--config", str(tmp_path / "a.toml")])
    (tmp_path / "b.toml").write_text(capsys.readouterr().out)
    first, second = (load(tmp_path / name, {}).config for name in ("a.toml", "b.toml"))
    assert (first.tags, first.prices, first.budget) == (second.tags, second.prices, second.budget)


def test_show_quotes_what_toml_must_have_quoted(tmp_path, capsys):
    """Measured shares by model and a tag with quotes in its name come back as they were."""
    text = (
        '[[cloud]]\nname = "x"\nbase_url = "https://example.com/v1"\nmodels = ["a/b", "c"]\n'
        'quality = { "a/b" = 0.75, c = 0.5 }\n[tags."say \\"hi\\" [now]"]\nusd_per_day = 0.5\n'
    )
    (tmp_path / "a.toml").write_text(text)
    assert 0 == main(["config", "show", "--config", str(tmp_path / "a.toml")])
    (tmp_path / "b.toml").write_text(capsys.readouterr().out)
    first, second = (load(tmp_path / name, {}).config for name in ("a.toml", "b.toml"))
    assert {"a/b": 0.75, "c": 0.5} == second.cloud[0].quality
    assert (first.cloud, first.tags) == (second.cloud, second.tags)


def test_schema_is_json_schema(capsys):
    """schema prints a JSON Schema whose root is the whole file."""
    assert 0 == main(["config", "schema"])
    schema = json.loads(capsys.readouterr().out)
    assert "https://json-schema.org/draft/2020-12/schema" == schema["$schema"]
    assert {"server", "local", "cloud", "lora", "policy", "budget", "tags", "prices", "aliases"} == set(
        schema["$defs"]["Config"]["properties"]
    )
