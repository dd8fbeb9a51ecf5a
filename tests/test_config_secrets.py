"""Is an API key found where the configuration says, refused where others may read it, and never printed?"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from hybrid.config import CloudConfig, Secret, load, read_secrets, secret_source
from hybrid.errors import ConfigError

CLOUD = '[[cloud]]\nname = "openai"\nbase_url = "https://api.example.com/v1"\nmodels = ["m-1"]\n'


def cloud_of(tmp_path: Path, text: str = "") -> CloudConfig:
    """The one cloud of a hybrid.toml that ends in `text`."""
    path = tmp_path / "hybrid.toml"
    path.write_text(CLOUD + text)
    return load(path, {}).config.cloud[0]


def test_a_secret_never_prints():
    """Every way to print a Secret gives the mask; only reveal() gives the value."""
    secret = Secret("sk-live")
    assert "sk-live" == secret.reveal()
    assert not any(
        "sk-live" in text for text in (str(secret), repr(secret), f"{secret}", f"{[secret]}", secret.__format__(""))
    )
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_the_key_comes_from_the_variable_first(tmp_path):
    """api_key_env goes first; the file, found beside hybrid.toml, is taken where the variable is not set."""
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "key").chmod(0o600)
    cloud = cloud_of(tmp_path, 'api_key_env = "K"\napi_key_file = "key"')
    found = [read_secrets(cloud, environ) for environ in ({"K": "from-env "}, {}, {"K": " "})]
    assert [["from-env"], ["from-file"], ["from-file"]] == [[one.reveal() for one in secrets] for secrets in found]
    assert "******** from K" == secret_source(cloud, {"K": "from-env"})


def test_a_cloud_may_need_no_key(tmp_path):
    """A cloud with neither variable nor file is one that asks for no key."""
    cloud = cloud_of(tmp_path)
    assert () == read_secrets(cloud, {})
    assert "none configured" == secret_source(cloud, {})


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        pytest.param(b"sk-live", 0o640, "has mode 0640, so others may read it; run: chmod 600 ", id="wide-mode"),
        pytest.param(b"\n", 0o600, "is empty", id="empty"),
        pytest.param(b"sk-live\nmore", 0o600, "holds spaces, line breaks", id="two-lines"),
        pytest.param(b"sk-live\xff", 0o600, "is not text", id="binary"),
        pytest.param(None, 0o600, "No such file", id="missing"),
    ],
)
def test_a_doubtful_key_file_is_refused(tmp_path, content, mode, expected):
    """A key file others may read, or that holds no single key, is refused without printing what it holds."""
    if content is not None:
        (tmp_path / "key").write_bytes(content)
        (tmp_path / "key").chmod(mode)
    cloud = cloud_of(tmp_path, 'api_key_file = "key"')
    with pytest.raises(ConfigError) as caught:
        read_secrets(cloud, {})
    assert expected in str(caught.value)
    assert "sk-live" not in str(caught.value)
    assert secret_source(cloud, {}).startswith("missing: cloud 'openai'")


def test_a_variable_that_is_not_set_says_what_to_do(tmp_path):
    """A configured but missing key names the variable and the way out."""
    cloud = cloud_of(tmp_path, 'api_key_env = "OPENAI_API_KEY"')
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set; export it, or put the key in a file"):
        read_secrets(cloud, {})


def test_more_keys_follow_the_first(tmp_path):
    """They stand behind the one of api_key_env, or of the file, in their order, or alone."""
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "key").chmod(0o600)
    environ = {"A": "a", "B": "b", "C": "c"}
    found = []
    for lines in ('api_key_env = "A"\n', 'api_key_file = "key"\n', ""):
        cloud = cloud_of(tmp_path, f'{lines}api_keys_env = ["B", "C"]')
        found.append(([one.reveal() for one in read_secrets(cloud, environ)], secret_source(cloud, environ)))
    assert [
        (["a", "b", "c"], "******** from A, B, C"),
        (["from-file", "b", "c"], f"******** from {tmp_path / 'key'}, B, C"),
        (["b", "c"], "******** from B, C"),
    ] == found


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        pytest.param({"B": "b"}, "of api_keys_env the variable C is not set", id="one-unset"),
        pytest.param({}, "of api_keys_env the variables B, C are not set", id="both-unset"),
        pytest.param({"B": "sk-one", "C": "sk-one"}, "two of its keys are the same", id="twice"),
        pytest.param({"B": "sk-b", "C": "sk-c d"}, "C holds spaces", id="not-a-key"),
    ],
)
def test_a_further_key_that_is_not_there_is_an_error(tmp_path, environ, words):
    """It is named by its variable, and no key is quoted."""
    cloud = cloud_of(tmp_path, 'api_keys_env = ["B", "C"]')
    with pytest.raises(ConfigError, match=words) as caught:
        read_secrets(cloud, environ)
    assert not any(value in str(caught.value) for value in environ.values() if len(value) > 1)


def test_a_key_pasted_into_the_list_is_not_repeated(tmp_path):
    """The list wants names of variables; what looks like the key itself is not in the error."""
    path = tmp_path / "hybrid.toml"
    path.write_text(CLOUD + 'api_keys_env = ["sk-live-1234"]')
    with pytest.raises(ConfigError, match="api_keys_env") as caught:
        load(path, {})
    assert "sk-live" not in str(caught.value)
