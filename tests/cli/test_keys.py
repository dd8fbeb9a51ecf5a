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


def test_json(keys):
    """list --json is a list of names and ISO times for programs."""
    keys("add", "phone")
    keys("add", "laptop")
    keys("revoke", "phone")
    _, listed, _ = keys("list", "--json")
    found = json.loads(listed)
    assert [("phone", True), ("laptop", False)] == [(key["name"], key["revoked_at"] is not None) for key in found]
    assert {"name", "created_at", "revoked_at"} == set(found[0])


def test_no_keys_yet(keys):
    """An empty list is empty on stdout and says on stderr how to make a key."""
    assert (0, "", "no keys; `hybrid keys add NAME` makes one\n") == keys("list")
    assert (0, "[]\n") == keys("list", "--json")[:2]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(("add", "a/b"), "letters, digits", id="bad-name"),
        pytest.param(("revoke", "nobody"), "no valid key 'nobody'", id="unknown"),
    ],
)
def test_what_cannot_be_done(keys, args, expected):
    """A wrong name ends with exit code 1 and one sentence on stderr."""
    code, out, err = keys(*args)
    assert (1, "") == (code, out)
    assert expected in err
