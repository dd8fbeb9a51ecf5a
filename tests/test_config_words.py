"""Is a wrong value told in a user's words: what the key takes, its bounds, an example?"""

from __future__ import annotations

import re

import pytest

from hybrid.config import (
    BudgetConfig,
    CloudConfig,
    LocalConfig,
    LoraConfig,
    PolicyConfig,
    PriceConfig,
    ServerConfig,
    load,
)
from hybrid.config_words import wrong
from hybrid.errors import ConfigError
from tests.test_config import CLOUD, complaint_of

STRUCTS = (ServerConfig, LocalConfig, CloudConfig, LoraConfig, PolicyConfig, BudgetConfig, PriceConfig)


@pytest.mark.parametrize(("struct", "key"), [(struct, key) for struct in STRUCTS for key in struct.__struct_fields__])
def test_every_key_has_words_and_bounds(struct, key):
    """No key is told in a library's words, and no number is without its largest value."""
    told = wrong("", struct, f"x.{key}", object(), "hybrid.toml:1")
    assert "another kind" not in told
    assert "number" not in told or re.search(r"from \S+ to \d|at most \d|below \d", told), told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[policy]\nttft_ms = 1e300", "from 1 to 86400000, such as ttft_ms = 1500; got 1E+300", id="ages"),
        pytest.param("[policy]\ntotal_ms = 99999999999", "expected a whole number from 1 to 86400000", id="years"),
        pytest.param("[local]\nmax_output_tokens = 99999999999", "number from 1 to 16777216", id="endless-answer"),
        pytest.param("[local]\nmax_reasoning_tokens = 99999999999", "from 1 to 16777216", id="endless-thought"),
        pytest.param(CLOUD + "context_tokens = 99999999999", "from 1 to 1000000000", id="context-of-a-cloud"),
        pytest.param('[local]\nnice = "5"', "from 0 to 19, without quotes: nice = 5; got '5'", id="quoted-number"),
        pytest.param('[local]\ntuned = "yes"', "expected true or false, such as tuned = true; got 'yes'", id="bool"),
        pytest.param("[local]\nmodel = 5", 'expected text in quotes, such as model = "smollm2-135m"; got 5', id="text"),
        pytest.param('[policy]\nprivate_tags = "hr"', "expected a list in brackets, each text in quotes", id="list"),
        pytest.param('[policy]\nprivate_tags = ["a", 1]', "(not so item 2), such as private_tags = [", id="item"),
        pytest.param(CLOUD + "quality = 5", "expected a table in braces, each value a number from 0 to 1", id="table"),
    ],
)
def test_a_wrong_value_says_what_to_write(tmp_path, text, expected):
    """What is wanted, within which bounds, and a line to copy; never a library's type names."""
    message = complaint_of(tmp_path, text)
    assert expected in message
    assert not re.search(r"\b(int|float|bool|str|null|decimal)\b", message)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("api.example.com/v1", id="no-scheme"),
        pytest.param("ftp://api.example.com", id="not-http"),
        pytest.param("https://", id="no-host"),
        pytest.param("https://h:99999/", id="port-out-of-range"),
        pytest.param("https://a b/", id="space"),
        pytest.param("https://user:sk-secret@h/", id="credentials"),
        pytest.param("https://h/v1?key=sk-secret", id="query"),
    ],
)
def test_a_base_url_is_checked_and_not_repeated(tmp_path, url):
    """A URL with a password in it is refused without printing the password."""
    message = complaint_of(tmp_path, CLOUD.replace("https://api.example.com/v1", url))
    assert "hybrid.toml:3: cloud.base_url: expected" in message
    assert "sk-secret" not in message


def test_a_key_pasted_as_the_variable_name_is_not_repeated(tmp_path):
    """Users paste the key itself into api_key_env; the error must not print it on."""
    message = complaint_of(tmp_path, CLOUD + 'api_key_env = "sk-live-abc123"')
    assert "cloud.api_key_env: expected" in message
    assert "abc123" not in message


def test_a_wrong_variable_is_named():
    """A wrong value from the environment names the variable it came from."""
    with pytest.raises(
        ConfigError, match=r"^HYBRID_SERVER_PORT: server.port: expected .* such as HYBRID_SERVER_PORT=8484; got 'x'$"
    ):
        load(None, {"HOME": "/nonexistent", "HYBRID_SERVER_PORT": "x"})


def test_an_unknown_variable_names_the_nearest():
    """A misspelt HYBRID_ variable is an error, as a misspelt key is."""
    with pytest.raises(ConfigError, match=r"variable HYBRID_SERVER_PROT; did you mean HYBRID_SERVER_PORT\?"):
        load(None, {"HOME": "/nonexistent", "HYBRID_SERVER_PROT": "1"})


def test_a_wrong_flag_is_told_as_one(tmp_path):
    """Who gave --port reads how that is written, not a line of a file."""
    with pytest.raises(ConfigError, match=r"server.port: expected .* such as --port 8484; got 99999$"):
        load(None, {"HOME": str(tmp_path)}, {"server.port": 99999})
