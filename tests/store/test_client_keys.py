"""Are client keys shown once, kept as hashes, and refused from the moment they are revoked?"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from hybrid.errors import CommandError, StoreError, Unauthorized
from hybrid.store.keys import ClientKeys
from hybrid.types import KeyRules


class Clock:
    """A clock that moves when told to."""

    now_s = 0.0

    def __call__(self) -> float:
        """Read it."""
        return self.now_s


@pytest.fixture
def path(tmp_path):
    """Where the keys lie."""
    return tmp_path / "hybrid.sqlite3"


@pytest.fixture
def keys(path):
    """The keys of an empty store."""
    return ClientKeys(path)


def test_a_key_is_known_by_its_secret(keys):
    """The secret that was shown names its key, any other text names none."""
    phone, laptop = keys.add("phone"), keys.add("laptop")
    presented = (phone, laptop, phone + "x", phone[:-1], "", "hyb_", "ключ", "\ud800", "x" * 10_000_000)
    assert ["phone", "laptop", *[None] * 7] == [keys.verify(text) for text in presented]


def test_secrets_are_kept_nowhere(keys, path):
    """No byte of the store holds the secret; it begins with the prefix and is long enough not to be guessed."""
    secret = keys.add("phone")
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() not in stored
    assert secret.removeprefix("hyb_").encode() not in stored
    assert ("hyb_", 47) == (secret[:4], len(secret))


def test_no_store_has_no_keys(keys, path):
    """Where nothing was ever added there is no key, and asking makes no file."""
    assert (False, None, ()) == (keys.has_any(), keys.verify("hyb_x"), keys.list())
    assert not path.exists()


def test_a_revoked_key_is_refused(keys):
    """A revoked key names nobody, stays in the list with its date, and frees its name for a new secret."""
    old = keys.add("phone")
    keys.revoke("phone")
    assert (None, False) == (keys.verify(old), keys.has_any())
    new = keys.add("phone")
    assert [None, "phone"] == [keys.verify(old), keys.verify(new)]
    assert [("phone", False), ("phone", True)] == [(key.name, key.revoked_at is None) for key in keys.list()]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", ".a", "é", "a" * 65, "a\n", "a\x1b[31m"])
def test_a_malformed_name(keys, name):
    """A name that would garble a report or a command line is refused, and the error says what is allowed."""
    with pytest.raises(CommandError, match="1 to 64 letters"):
        keys.add(name)


@pytest.mark.parametrize("name", ["a", "a" * 64, "Team.A_phone-2", "7"])
def test_a_good_name(keys, name):
    """Letters, digits, dots, underscores and hyphens make a name."""
    assert name == keys.verify(keys.add(name))


def test_a_name_names_one_key(keys):
    """A second valid key of the same name is refused and the first goes on."""
    secret = keys.add("phone")
    with pytest.raises(CommandError, match="already"):
        keys.add("phone")
    assert keys.verify(secret) == "phone"


def test_revoking_what_is_not_there(keys):
    """Revoking an unknown name lists the valid ones."""
    keys.add("phone")
    with pytest.raises(CommandError, match="there are: phone"):
        keys.revoke("laptop")


def test_two_who_change_a_key_at_once(keys, path):
    """What a key has cannot change between its reading and its writing, so neither undoes what the other set."""
    keys.add("phone")

    def amend(rules):
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("UPDATE client_keys SET requests_per_minute = 60")
        return replace(rules, concurrency=4)

    keys.change("phone", lambda rules: replace(rules, requests_per_minute=60))
    keys.change("phone", amend)
    assert KeyRules(requests_per_minute=60, concurrency=4) == ClientKeys(path).rules_of("phone")


def test_a_change_that_fails_changes_nothing(keys):
    """What the amendment raises is raised, and others may change the key then."""
    keys.add("phone")
    with pytest.raises(ZeroDivisionError):
        keys.change("phone", lambda _rules: 1 / 0)
    assert KeyRules(concurrency=1) == keys.change("phone", lambda rules: replace(rules, concurrency=1))


def test_another_process_changes_the_keys(path):
    """What another process adds or revokes is noticed once the set in memory is old enough, and not before."""
    clock = Clock()
    server, command = ClientKeys(path, refresh_after_s=1.0, monotonic_s=clock), ClientKeys(path)
    assert not server.has_any()
    secret = command.add("phone")
    assert server.verify(secret) is None
    clock.now_s = 1.0
    assert server.verify(secret) == "phone"
    command.revoke("phone")
    assert server.verify(secret) == "phone"
    clock.now_s = 2.0
    assert server.verify(secret) is None


def test_a_store_that_cannot_be_read_again(path):
    """Keys that were known stay known while the file cannot be read; with none known nobody gets in."""
    clock = Clock()
    keys = ClientKeys(path, monotonic_s=clock)
    secret = keys.add("phone")
    assert keys.verify(secret) == "phone"
    path.write_text("broken " * 1000)
    clock.now_s = 5.0
    assert keys.verify(secret) == "phone"
    with pytest.raises(StoreError, match="not a hybrid ledger"):
        ClientKeys(path).verify(secret)


@pytest.mark.parametrize("is_required", [True, False], ids=["required", "not-required"])
def test_a_valid_key_names_its_client(keys, is_required):
    """A valid key is recognised whether or not one is required, so that reports name the client."""
    assert keys.authenticate(keys.add("phone"), is_required=is_required) == "phone"


@pytest.mark.parametrize(
    ("presented", "is_required"),
    [
        pytest.param(None, True, id="missing"),
        pytest.param("sk-other", True, id="foreign-where-required"),
        pytest.param("hyb_unknown", True, id="unknown"),
        pytest.param("hyb_unknown", False, id="unknown-of-our-form-where-not-required"),
    ],
)
def test_who_is_kept_out(keys, presented, is_required):
    """Without a valid key nobody passes where one is required, and a wrong one of our form passes nowhere."""
    with pytest.raises(Unauthorized, match="key"):
        keys.authenticate(presented, is_required=is_required)


@pytest.mark.parametrize("presented", [None, "", "sk-anything", "not-needed"])
def test_where_no_key_is_required(keys, presented):
    """On loopback a client may send nothing, or the dummy its SDK insists on."""
    assert keys.authenticate(presented, is_required=False) is None
