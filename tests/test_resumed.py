"""Does a restart keep to what was learned: rests that were asked for, refused keys, rates that are used up?"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hybrid import errors
from hybrid.config import CloudConfig
from hybrid.policy.limits import Held, KeyUsage, admit
from hybrid.providers.breaker import BreakerRules
from hybrid.providers.keys import Credential, ring_of
from hybrid.resumed import CloudMemory, usage_of
from hybrid.store.db import migrate
from hybrid.store.history import KeyRequest
from hybrid.store.migrations import MIGRATIONS
from hybrid.store.rests import read_refusals, read_rests
from hybrid.types import KeyRules

RULES = BreakerRules(failures_in_row=2, rest_s=10)
KEYS = ("sk-canary-one", "sk-canary-two")


class Book:
    """The ledger's tables in memory."""

    def __init__(self):
        self.is_closed = False
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        migrate(self._connection, Path(":memory:"), MIGRATIONS)

    def write(self, apply, _what):
        if self.is_closed:
            raise errors.StoreError("closed")
        apply(self._connection)

    @property
    def rests(self):
        return read_rests(self._connection)

    @property
    def refusals(self):
        return read_refusals(self._connection)


class Processes:
    """One process after another, on one clock that only a test moves."""

    def __init__(self):
        self.book, self.now_s = Book(), 0.0

    def start(self, *, key_rest_s=None, keys=KEYS, base_url="http://127.0.0.1:1/v1"):
        """Begin one: its clouds' health, and the ring of keys."""
        memory = CloudMemory(
            self.book, self.book.rests, self.book.refusals, now=lambda: datetime(2026, 6, 1, tzinfo=UTC) + self._passed
        )
        cloud = CloudConfig(name="p", base_url=base_url, models=("m",), key_rest_s=key_rest_s)
        ring = ring_of(memory.keys(cloud, keys), Credential)
        return memory.health(RULES, now_s=lambda: self.now_s), ring

    @property
    def _passed(self):
        return timedelta(seconds=self.now_s)


def called(health, error=None):
    """One call, which ends well or with this error."""
    try:
        with health.admit("p", "m") as trial:
            if error is not None:
                raise error
            trial.heard()
            trial.ended(1)
    except type(error) as seen:
        if seen is not error:
            raise


def unavailable():
    return errors.ProviderUnavailable("p", "answered HTTP 500")


def test_a_rest_that_was_asked_for_goes_on():
    """The rest of its time, whatever happened in between; then it is over."""
    world = Processes()
    called(world.start()[0], errors.ProviderThrottled("p", 120.0))
    world.now_s = 30.0
    health, _ = world.start()
    assert "p/m rests after provider_throttled, 90.0 s more" == health.look_up("p", "m").resting
    world.now_s = 120.0
    assert None is health.look_up("p", "m").rest_s


def test_of_a_rest_of_our_own_one_probe_is_left():
    """It goes at once, where a new circuit would let two fail; if it fails the next rest is the longer one."""
    world = Processes()
    health, _ = world.start()
    for _ in range(2):
        called(health, unavailable())
    assert 10.0 == health.look_up("p", "m").rest_s
    health, _ = world.start()
    assert (None, {"p/m": "half_open"}) == (health.look_up("p", "m").rest_s, health.circuits())
    called(health, unavailable())
    assert 20.0 == health.look_up("p", "m").rest_s


def test_a_circuit_that_closed_is_forgotten():
    """The next process knows nothing of it."""
    world = Processes()
    health, _ = world.start()
    called(health, errors.ProviderThrottled("p", 5.0))
    assert [("p", "m")] == [(rest.provider, rest.model) for rest in world.book.rests]
    world.now_s = 5.0
    called(health)
    assert () == world.book.rests
    assert {} == world.start()[0].circuits()


@pytest.mark.parametrize(
    "change", [{"keys": ("sk-canary-new",)}, {"base_url": "http://127.0.0.1:2/v1"}], ids=["other-key", "other-address"]
)
def test_another_account_or_address_begins_afresh(change):
    """What was asked of the old one says nothing of it."""
    world = Processes()
    called(world.start()[0], errors.ProviderThrottled("p", 120.0))
    assert {} == world.start(**change)[0].circuits()


def test_a_rest_of_long_ago_is_no_news():
    """An hour after its end there is not even a probe."""
    world = Processes()
    called(world.start()[0], errors.ProviderThrottled("p", 120.0))
    world.now_s = 120.0 + 3601
    assert {} == world.start()[0].circuits()


def refused_once(world, status, **start):
    """A process whose first key is refused; what the next one uses first, a moment later."""
    _, ring = world.start(**start)
    ring.take("m").is_to_blame(errors.ProviderRejected("p", status, "no", is_key_fault=True))
    world.now_s += 60.0


def first_key(ring):
    """The header that a call would send."""
    return ring.take("m").headers["authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize(
    ("status", "key_rest_s", "expected"),
    [
        pytest.param(401, None, KEYS[1], id="a-wrong-value-is-not-mended-by-a-start"),
        pytest.param(400, None, KEYS[1], id="said-with-400"),
        pytest.param(402, None, KEYS[0], id="an-account-may-have-been-filled"),
        pytest.param(403, None, KEYS[0], id="or-been-allowed"),
        pytest.param(402, 100.0, KEYS[1], id="who-named-a-time-meant-it"),
        pytest.param(401, 30.0, KEYS[0], id="which-is-over"),
    ],
)
def test_a_refused_key_after_a_restart(status, key_rest_s, expected):
    """One whose value is wrong stays out for an hour or `key_rest_s`, another for `key_rest_s` alone."""
    world = Processes()
    refused_once(world, status, key_rest_s=key_rest_s)
    assert expected == first_key(world.start(key_rest_s=key_rest_s)[1])


def test_a_refused_key_is_tried_again_after_an_hour(caplog):
    """Until then it is said at each start how long it still rests; never which value it is."""
    world = Processes()
    refused_once(world, 401)
    assert KEYS[1] == first_key(world.start()[1])
    assert "1 of its 2 API keys were refused before this start, and rest 3540 s more" in caplog.text
    world.now_s = 3600.0
    assert KEYS[0] == first_key(world.start()[1])
    assert "canary" not in caplog.text + repr(world.book.refusals) + repr(world.book.rests)


def test_a_key_that_was_refused_in_the_future_comes_back(caplog):
    """The clock was a year ahead: from the start that finds it right, the key is out for an hour and no longer."""
    world = Processes()
    world.now_s = 365 * 86_400.0
    refused_once(world, 401)
    world.now_s = 0.0
    world.start()
    assert "rest 3600 s more at most" in caplog.text


def test_another_value_is_used_at_once():
    """And the old one too, where it only changed its place."""
    world = Processes()
    refused_once(world, 401)
    assert "sk-canary-new" == first_key(world.start(keys=("sk-canary-new", KEYS[1]))[1])
    assert KEYS[1] == first_key(world.start(keys=(KEYS[1], KEYS[0]))[1])


def test_a_closed_ledger_stops_nothing(caplog):
    """What cannot be kept holds until the process ends."""
    world = Processes()
    health, ring = world.start()
    world.book.is_closed = True
    called(health, errors.ProviderThrottled("p", 120.0))
    ring.take("m").is_to_blame(errors.ProviderRejected("p", 401, "no", is_key_fault=True))
    assert 120.0 == health.look_up("p", "m").rest_s
    assert KEYS[1] == first_key(ring)
    assert 2 == caplog.text.count("is not kept")


NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def ago(seconds, tokens=10, *, lasted_s=1.0):
    """A request of the key `phone` that came so long ago."""
    came = NOW - timedelta(seconds=seconds)
    return KeyRequest("phone", came, None if lasted_s is None else came + timedelta(seconds=lasted_s), tokens)


@pytest.mark.parametrize(
    ("served", "requests", "tokens"),
    [
        pytest.param([ago(50), ago(10)], 2, 20, id="the-last-minute"),
        pytest.param([ago(62)], 0, 0, id="over"),
        pytest.param([ago(100, lasted_s=50.0)], 0, 10, id="came-before-but-ended-within"),
        pytest.param([ago(5, lasted_s=None)], 1, 0, id="still-open"),
        pytest.param([ago(-30)], 1, 10, id="the-clock-was-set-back"),
    ],
)
def test_what_a_key_used_up_is_used_up_still(served, requests, tokens):
    """The minute goes on over a restart, so that nobody gets a fresh allowance by it."""
    usage = usage_of(served, now=NOW, now_s=3.0).get("phone", KeyUsage())
    for rules, left in (
        (KeyRules(requests_per_minute=requests + 1), 1),
        (KeyRules(tokens_per_minute=tokens + 7), 7),
    ):
        assert not isinstance(admit(rules, usage, 3.0, tokens=left), Held)
    if requests:
        assert isinstance(admit(KeyRules(requests_per_minute=requests), usage, 3.0, tokens=1), Held)
    if tokens:
        assert isinstance(admit(KeyRules(tokens_per_minute=tokens), usage, 3.0, tokens=1), Held)
