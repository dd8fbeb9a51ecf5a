"""Does `hybrid keys` show a secret once, on stdout alone, and say clearly what it cannot do?"""

from __future__ import annotations

import json

import pytest

from hybrid.cli import main
from hybrid.store.keys import ClientKeys


@pytest.fixture
def keys(tmp_path, capsys):
    """Run `hybrid keys` on an empty folder: the exit code, stdout and stderr."""

    def run(*args: str) -> tuple[int, str, str]:
        code = main(["keys", *args, "--data-dir", str(tmp_path)])
        return code, *capsys.readouterr()

    return run


def test_a_key_lives_and_dies(keys, tmp_path):
    """add prints the secret alone on stdout, list never shows it, revoke ends it."""
    code, secret, said = keys("add", "phone")
    assert (0, "phone") == (code, ClientKeys(tmp_path / "hybrid.sqlite3").verify(secret.strip()))
    assert "only time" in said
    code, listed, _ = keys("list")
    assert (0, True, False) == (code, "phone" in listed, secret.strip() in listed)
    assert "valid" in listed
    assert keys("revoke", "phone")[0] == 0
    assert ClientKeys(tmp_path / "hybrid.sqlite3").verify(secret.strip()) is None


def test_a_data_folder_may_lie_at_home(tmp_path, monkeypatch, capsys):
    """A shell leaves the ~ in `--data-dir=~/x`; it means home all the same."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert 0 == main(["keys", "add", "phone", "--data-dir=~/here"])
    assert capsys.readouterr().out
    assert (tmp_path / "here" / "hybrid.sqlite3").exists()


def test_json(keys):
    """list --json is a list of names and ISO times for programs."""
    keys("add", "phone")
    keys("add", "laptop")
    keys("revoke", "phone")
    _, listed, _ = keys("list", "--json")
    found = json.loads(listed)
    assert [("phone", True), ("laptop", False)] == [(key["name"], key["revoked_at"] is not None) for key in found]
    rules = {"usd_per_day", "usd_per_month", "requests_per_minute", "tokens_per_minute", "concurrency", "models"}
    assert {"name", "created_at", "revoked_at", "is_private", *rules} == set(found[0])


def test_what_a_key_may_do(keys):
    """add takes every rule, set changes those it names and no other, `none` takes one away, list shows them all."""
    given = ("--usd-per-day", "0.10", "--usd-per-month", "2", "--rpm", "60", "--tpm", "9000", "--concurrency", "4")
    keys("add", "phone", *given, "--models", "hybrid, cloud/m", "--private")
    before = json.loads(keys("list", "--json")[1])[0]
    assert (0.1, 2, 60, 9000, 4) == tuple(
        before[name]
        for name in ("usd_per_day", "usd_per_month", "requests_per_minute", "tokens_per_minute", "concurrency")
    )
    assert (["hybrid", "cloud/m"], True) == (before["models"], before["is_private"])
    assert keys("set", "phone", "--rpm", "none", "--usd-per-day", "5", "--no-private")[0] == 0
    after = json.loads(keys("list", "--json")[1])[0]
    assert {**before, "requests_per_minute": None, "usd_per_day": 5, "is_private": False} == after
    assert "valid; $5 a day; $2 a month; 9000 tokens a minute; 4 at once; models hybrid, cloud/m" in keys("list")[1]
    keys("set", "phone", "--models", "none")
    assert [] == json.loads(keys("list", "--json")[1])[0]["models"]


def test_no_keys_yet(keys):
    """An empty list is empty on stdout and says on stderr how to make a key."""
    assert (0, "", "no keys; `hybrid keys add NAME` makes one\n") == keys("list")
    assert (0, "[]\n") == keys("list", "--json")[:2]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(("add", "a/b"), "letters, digits", id="bad-name"),
        pytest.param(("revoke", "nobody"), "no valid key 'nobody'", id="unknown"),
        pytest.param(("set", "nobody", "--rpm", "1"), "no valid key 'nobody'", id="set-unknown"),
        pytest.param(("add", "a", "--rpm", "0"), "--rpm: expected a whole number from 1", id="no-requests"),
        pytest.param(("add", "a", "--tpm", "1.5"), "--tpm: expected a whole number", id="half-a-token"),
        pytest.param(("add", "a", "--usd-per-day", "nan"), "--usd-per-day: expected an amount", id="no-amount"),
        pytest.param(("add", "a", "--usd-per-month", "-1"), "--usd-per-month: expected an amount", id="negative"),
        pytest.param(("add", "a", "--models", "a,,b"), "--models: expected model names", id="no-name"),
    ],
)
def test_what_cannot_be_done(keys, args, expected):
    """A wrong name ends with exit code 1 and one sentence on stderr."""
    code, out, err = keys(*args)
    assert (1, "") == (code, out)
    assert expected in err
