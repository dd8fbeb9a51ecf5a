"""Is every value of the configuration checked, ordered by source, and traceable to where it came from?"""

from __future__ import annotations

import datetime as dt
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.config import Config, Loaded, data_dir, find_file, json_schema, load
from hybrid.errors import ConfigError
from hybrid.types import Capability

CLOUD = '[[cloud]]\nname = "openai"\nbase_url = "https://api.example.com/v1"\nmodels = ["m-1", "m-2"]\n'


def loaded(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: object) -> Loaded:
    """Load `text` as a hybrid.toml; flags are written section__key."""
    path = tmp_path / "hybrid.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ or {}, {key.replace("__", "."): value for key, value in flags.items()})


def complaint_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> str:
    """Load `text`, which must fail, and return the message with the folder left out."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, environ)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_no_file_is_the_embedded_default(tmp_path):
    """Without a file: the starter model, local only, loopback, and every value says `default`."""
    result = load(None, {"HOME": str(tmp_path)})
    assert Config() == result.config
    assert None is result.path
    assert ("127.0.0.1", "smollm2-135m", ()) == (
        result.config.server.host,
        result.config.local.model,
        result.config.cloud,
    )
    assert {"default"} == set(result.origins.values())
    assert () == result.warnings


def test_later_sources_win_and_each_value_knows_its_own(tmp_path):
    """Order is defaults < file < environment < flags, and the origin is the one that won."""
    text = "[server]\nport = 1\nhost = '::1'\nmax_body_bytes = 7\n"
    environ = {"HYBRID_SERVER_PORT": "2", "HYBRID_SERVER_HOST": "localhost"}
    result = loaded(tmp_path, text, environ, server__port=3)
    server = result.config.server
    assert (3, "localhost", 7) == (server.port, server.host, server.max_body_bytes)
    origins = [result.origins[f"server.{key}"] for key in ("port", "host", "max_body_bytes", "allowed_hosts")]
    assert ["flag", "HYBRID_SERVER_HOST", f"{tmp_path}/hybrid.toml:4", "default"] == origins


def test_a_flag_not_given_changes_nothing(tmp_path):
    """A flag of None is one the command line did not have."""
    assert 9 == loaded(tmp_path, "[server]\nport = 9\n", server__port=None).config.server.port


def test_money_keeps_its_digits(tmp_path):
    """TOML numbers become exact Decimals, never through binary floating point."""
    text = "[budget]\nusd_per_day = 0.1\n" + CLOUD + '[prices."openai/m-1"]\n'
    text += "input_usd_per_mtok = 0.30\noutput_usd_per_mtok = 2\nsince = 2026-01-01\n"
    config = loaded(tmp_path, text).config
    price = config.prices["openai/m-1"]
    assert Decimal("0.1") == config.budget.usd_per_day
    assert (Decimal("0.30"), Decimal(2), dt.date(2026, 1, 1)) == (
        price.input_usd_per_mtok,
        price.output_usd_per_mtok,
        price.since,
    )


@given(st.decimals(min_value=0, max_value=1_000_000, places=12, allow_nan=False, allow_infinity=False))
def test_any_amount_survives_the_environment(amount):
    """An amount of up to 12 places comes back digit for digit, whatever notation Decimal prints."""
    config = load(None, {"HOME": "/nonexistent", "HYBRID_BUDGET_USD_PER_DAY": str(amount)}).config
    assert amount == config.budget.usd_per_day


@pytest.mark.parametrize(
    ("name", "text", "key", "expected"),
    [
        pytest.param("HYBRID_POLICY_HEDGE", "true", "policy.hedge", True, id="boolean"),
        pytest.param("HYBRID_POLICY_TTFT_MS", "1500", "policy.ttft_ms", 1500, id="integer"),
        pytest.param("HYBRID_POLICY_TTFT_MS", "none", "policy.ttft_ms", None, id="unset-by-none"),
        pytest.param("HYBRID_BUDGET_USD_PER_DAY", "", "budget.usd_per_day", None, id="unset-by-empty"),
        pytest.param("HYBRID_LOCAL_MODEL", "", "local.model", "", id="no-local-model"),
        pytest.param("HYBRID_LOCAL_TEMPERATURE", "0", "local.temperature", 0.0, id="number"),
        pytest.param("HYBRID_POLICY_PRIVATE_TAGS", "hr, med", "policy.private_tags", ("hr", "med"), id="list"),
        pytest.param("HYBRID_SERVER_ALLOWED_HOSTS", "", "server.allowed_hosts", (), id="empty-list"),
    ],
)
def test_environment_text_takes_the_type_of_its_key(name, text, key, expected):
    """Variables are text; the key says what they mean."""
    config: Any = load(None, {"HOME": "/nonexistent", name: text}).config
    section, _, field = key.partition(".")
    assert expected == getattr(getattr(config, section), field)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "[server]\nprot = 1", "hybrid.toml:2: unknown key server.prot; did you mean server.port?", id="near"
        ),
        pytest.param("[sever]\nport = 1", "hybrid.toml:1: unknown key sever; did you mean server?", id="section"),
        pytest.param(
            "[policy]\nusd_per_day = 1",
            "hybrid.toml:2: unknown key policy.usd_per_day; did you mean budget.usd_per_day?",
            id="other-section",
        ),
        pytest.param(
            CLOUD + 'api_key = "sk-1"',
            "hybrid.toml:5: unknown key cloud.api_key; did you mean cloud.api_key_env?",
            id="cloud",
        ),
        pytest.param(
            "port = 1",
            "hybrid.toml:1: unknown key port; did you mean server.port?",
            id="key-outside-its-table",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, text, expected):
    """A misspelt key is an error with its line and the key that was probably meant."""
    assert expected == complaint_of(tmp_path, text)


def test_a_key_near_nothing_lists_what_is_valid(tmp_path):
    """Even a key that resembles none gets the nearest, and all that could be meant."""
    message = complaint_of(tmp_path, "[budget]\nqqq = 1")
    assert message.startswith("hybrid.toml:2: unknown key budget.qqq; the nearest is budget.")
    assert message.partition("valid: ")[2].startswith("budget.usd_per_day, budget.usd_per_month, ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "[server]\nport = -1",
            "hybrid.toml:2: server.port: expected a whole number from 0 to 65535, such as port = 8484; got -1",
            id="port-below",
        ),
        pytest.param(
            "[server]\nport = 65536",
            "server.port: expected a whole number from 0 to 65535, such as port = 8484; got 65536",
            id="port-above",
        ),
        pytest.param(
            '[server]\nport = "80"',
            "expected a whole number from 0 to 65535, without quotes: port = 80; got '80'",
            id="port-is-text",
        ),
        pytest.param(
            "[server]\nport = 1.5",
            "server.port: expected a whole number from 0 to 65535, such as port = 8484; got 1.5",
            id="port-fraction",
        ),
        pytest.param(
            "[policy]\nhold_tokens = -1",
            "expected a whole number from 0 to 100000, such as hold_tokens = 16; got -1",
            id="hold",
        ),
        pytest.param(
            "[policy]\nmin_confidence = 1.1",
            "expected a number from 0 to 1, such as min_confidence = 0.35; got 1.1",
            id="probability-above",
        ),
        pytest.param(
            "[policy]\ndelta = 0",
            "policy.delta: expected a number above 0 and below 1, such as delta = 0.1; got 0",
            id="delta-zero",
        ),
        pytest.param("[local]\ntemperature = nan", "local.temperature: expected", id="nan"),
        pytest.param("[local]\nkeep_alive_s = inf", "local.keep_alive_s: expected", id="infinite"),
        pytest.param("[budget]\nusd_per_day = -1", "expected an amount in USD from 0", id="negative-money"),
        pytest.param("[budget]\nusd_per_day = nan", "expected an amount in USD from 0", id="nan-money"),
        pytest.param("[budget]\nusd_per_day = 1e999999", "expected an amount in USD from 0", id="absurd-money"),
        pytest.param(
            "[budget]\nusd_per_day = true",
            "expected an amount in USD, such as usd_per_day = 1.00; got true",
            id="money-is-bool",
        ),
        pytest.param('[budget]\ntimezone = "Mars/X"', "IANA time zone such as Europe/Berlin; got 'Mars/X'", id="zone"),
        pytest.param('[budget]\ntimezone = "../etc"', "IANA time zone such as Europe/Berlin", id="zone-is-a-path"),
        pytest.param("[server]\nport = 99999999999999999999999999", "server.port: ", id="integer-too-large"),
        pytest.param('[local]\nbackend = "torch"', "'torch' is not yet supported; this version has: auto", id="later"),
        pytest.param('[local]\nbackend = "x"', "expected one of: auto, llama_cpp, fake; got 'x'", id="no-backend"),
        pytest.param(CLOUD + 'kind = "bedrock"', "expected one of: openai, anthropic, gemini", id="kind"),
        pytest.param(
            CLOUD + "cache_prompts = true",
            "cloud[0].cache_prompts: has no meaning for kind 'openai'; it is for anthropic",
            id="key-of-another-kind",
        ),
        pytest.param(CLOUD + 'api_version = "1 2"', "api_version", id="api-version-with-a-blank"),
        pytest.param(CLOUD + 'capabilities = ["x"]', "expected a list in brackets of tools, images", id="capability"),
        pytest.param(
            '[local]\nkv_layout = "x"',
            "local.kv_layout: expected one of auto, split, unified, such as kv_layout = \"auto\"; got 'x'",
            id="word",
        ),
        pytest.param(
            CLOUD + 'reasoning = "x"',
            "cloud.reasoning: expected one of budget, effort; got 'x'",
            id="word-or-none",
        ),
        pytest.param(
            CLOUD + "total_timeout_s = 0",
            "cloud.total_timeout_s: expected a number above 0 and at most 86400",
            id="timeout",
        ),
        pytest.param(CLOUD + CLOUD, "cloud[1].name: 'openai' is the name of an earlier [[cloud]]", id="same-name"),
        pytest.param('[[cloud]]\nname = "x"', "hybrid.toml:1: cloud[0] lacks base_url, models", id="cloud-lacks"),
        pytest.param('[cloud]\nname = "x"', "write [[cloud]] with double brackets", id="single-brackets"),
        pytest.param("server = 1", "hybrid.toml:1: server is a table: write [server]", id="not-a-table"),
        pytest.param('[prices]\n"a/b" = 1', 'prices."a/b" is a table', id="price-not-a-table"),
        pytest.param('[prices."a/b"]\ninput_usd_per_mtok = 1', 'prices."a/b" lacks output_usd_per_mtok', id="price"),
        pytest.param(
            "[prices.m]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1",
            'hybrid.toml:1: prices."m": expected "provider/model"',
            id="price-without-provider",
        ),
        pytest.param('[aliases]\na = "b"', 'aliases."a": expected hybrid, local, local/NAME', id="alias-target"),
        pytest.param('[aliases]\na = "local/"', "expected hybrid, local, local/NAME", id="alias-half-target"),
        pytest.param('[aliases]\na = "cloud/x"', "no [[cloud]] or model of one is called 'x'", id="alias-cloud"),
        pytest.param('[aliases]\nlocal = "hybrid"', "'local' already means something", id="alias-reserved"),
        pytest.param('[aliases]\ngpt-4.1 = "hybrid"', "quote a name that has dots", id="alias-with-a-dot"),
        pytest.param("[server\nport = 1", "hybrid.toml is not valid TOML: ", id="not-toml"),
        pytest.param("a = " + "[" * 5000, "hybrid.toml is not valid TOML: ", id="nested-too-deep"),
        pytest.param("[server]\nport = " + "9" * 5000, "hybrid.toml is not valid TOML: ", id="endless-integer"),
        pytest.param("#" * 1_100_000, "hybrid.toml is larger than 1 MiB", id="too-large"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(tmp_path, text, expected):
    """Each wrong value says which key, what was expected and what it was."""
    message = complaint_of(tmp_path, text)
    assert expected in message
    assert len(message) < 400


def test_variables_with_another_use_are_no_keys(tmp_path):
    """HYBRID_DATA_DIR and the API key variables the file names are not mistaken for keys."""
    environ = {"HYBRID_DATA_DIR": "/x", "HYBRID_SMALL_KEY": "k"}
    assert "k" not in repr(loaded(tmp_path, CLOUD + 'api_key_env = "HYBRID_SMALL_KEY"', environ).config.cloud[0].name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            CLOUD, ["no cloud is called until [budget] has a cap, such as usd_per_day"], id="cloud-without-budget"
        ),
        pytest.param(CLOUD + "[budget]\nusd_per_day = 1", [], id="cloud-with-budget"),
        pytest.param(
            '[local]\nmodel = ""',
            ["nothing can answer: local.model is empty and there is no [[cloud]]"],
            id="nothing-can-answer",
        ),
        pytest.param(
            CLOUD.replace("https", "http") + "api_key_env = 'K'\n[budget]\nusd_per_day = 1",
            ["cloud 'openai': the API key travels unencrypted to api.example.com; use https://"],
            id="key-in-clear-text",
        ),
        pytest.param(
            CLOUD.replace("https://api.example.com", "http://127.0.0.1:9")
            + "api_key_env = 'K'\n[budget]\nusd_per_day = 1",
            [],
            id="loopback-in-clear-text",
        ),
        pytest.param(
            CLOUD.replace("https://api.example.com/v1", "https://api.anthropic.com/") + "[budget]\nusd_per_day = 1",
            ["cloud 'openai': base_url lacks the API's version; use https://api.anthropic.com/v1"],
            id="host-without-its-version",
        ),
        pytest.param(
            '[prices."openai/m"]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1',
            ['[prices."openai/m"] is for no configured model'],
            id="price-for-nothing",
        ),
        pytest.param(
            CLOUD + "quality = { gpt-9 = 0.9 }\n[budget]\nusd_per_day = 1",
            ["cloud 'openai': quality names 'gpt-9', which is none of its models"],
            id="quality-of-nothing",
        ),
        pytest.param(
            "[policy]\nhedge = true",
            ["policy.hedge: only requests with a deadline of their own are hedged; set policy.ttft_ms or total_ms"],
            id="hedge",
        ),
    ],
)
def test_what_is_allowed_but_doubtful_is_a_warning(tmp_path, text, expected):
    """A configuration that works but not as its writer hopes says so."""
    assert expected == list(loaded(tmp_path, text).warnings)


@pytest.mark.parametrize(
    "target", ["hybrid", "local", "local/x", "cloud", "cloud/openai", "cloud/m-2", "cloud/openai/m-1"]
)
def test_an_alias_may_name_any_route(tmp_path, target):
    """Aliases map any other name to what a client could have asked for itself."""
    config = loaded(tmp_path, f'{CLOUD}[aliases]\n"gpt-4.1" = "{target}"').config
    assert {"gpt-4.1": target} == config.aliases


def test_capabilities_become_the_shared_words(tmp_path):
    """`capabilities` is read into the vocabulary the policy compares."""
    cloud = loaded(tmp_path, CLOUD + 'capabilities = ["tools", "n"]').config.cloud[0]
    assert (Capability.TOOLS, Capability.MULTIPLE_CHOICES) == cloud.capabilities


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    """A file saved by a Windows editor is read, with right line numbers."""
    path = tmp_path / "hybrid.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 9\r\n")
    result = load(path, {})
    assert (9, f"{path}:2") == (result.config.server.port, result.origins["server.port"])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda path: None, "no configuration file", id="missing"),
        pytest.param(lambda path: path.mkdir(), "cannot read .*: Is a directory", id="folder"),
        pytest.param(lambda path: path.write_bytes(b"# \xff"), r"is not UTF-8 text \(byte 2\)", id="not-text"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, make, expected):
    """--config of something that is no readable text file is an error, not the defaults."""
    path = tmp_path / "hybrid.toml"
    make(path)
    with pytest.raises(ConfigError, match=expected):
        load(path, {})


def test_the_users_config_folder_is_searched(tmp_path):
    """Without --config and ./hybrid.toml the file in the user's config folder is taken."""
    path = tmp_path / "hybrid" / "hybrid.toml"
    path.parent.mkdir()
    path.touch()
    assert path == find_file(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert None is find_file(None, {"XDG_CONFIG_HOME": "relative", "HOME": "/nonexistent"})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"HYBRID_DATA_DIR": "own"}, "own", id="own"),
        pytest.param({"XDG_DATA_HOME": "share"}, "share/hybrid", id="xdg"),
        pytest.param({"HOME": "home"}, "home/.local/share/hybrid", id="home"),
    ],
)
def test_the_data_folder_is_private(tmp_path, environ, expected):
    """The data folder is made on use, for its owner only."""
    path = data_dir({name: str(tmp_path / value) for name, value in environ.items()})
    assert tmp_path / expected == path
    assert 0o700 == stat.S_IMODE(path.stat().st_mode)


def test_a_data_folder_that_cannot_be_made_says_so(tmp_path):
    """A file in the way is a ConfigError that names the variable to set."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot make the data folder .* set HYBRID_DATA_DIR"):
        data_dir({"HYBRID_DATA_DIR": str(tmp_path / "file" / "x")})


def test_a_home_that_nobody_has_says_so(tmp_path):
    """`~NAME` of an unknown user is an error of the configuration, in the environment and in the file."""
    with pytest.raises(ConfigError, match="whose home folder is not known"):
        data_dir({"HYBRID_DATA_DIR": "~no-such-user/x"})
    assert "whose home folder is not known" in complaint_of(tmp_path, f'{CLOUD}api_key_file = "~no-such-user/key"\n')


def test_the_schema_describes_what_toml_can_say():
    """Money is a number in TOML, nothing is null, and every key of every table is described."""
    schema = json_schema()
    text = msgspec.json.encode(schema).decode()
    assert '"null"' not in text
    assert '"decimal"' not in text
    bare = [
        f"{table}.{key}"
        for table, definition in schema["$defs"].items()
        for key, value in definition.get("properties", {}).items()
        if table != "Config" and "description" not in value
    ]
    assert [] == bare
    assert all(not table["additionalProperties"] for table in schema["$defs"].values() if "properties" in table)
