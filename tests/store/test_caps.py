"""Can any order of reserving, settling, dying and clocks that jump pass a cap of anybody's?"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hybrid.policy.budget import Allowance, caps, day_window, month_window
from hybrid.store import money, rows
from hybrid.store.db import migrate
from hybrid.store.migrations import MIGRATIONS
from hybrid.store.records import Balance, Refused, Reservation, Reserved
from hybrid.types import Cap, Window

DEAD = rows.ProcessMark(pid=2**22 + 1, started_s=1.0)
# Beginnings beside a month's end, both changes of Berlin's clocks, and a midnight that Sao Paulo's clocks skipped.
STARTS = [
    (datetime(2026, 6, 30, 21, 50, tzinfo=UTC), "Europe/Berlin"),
    (datetime(2026, 3, 28, 22, 50, tzinfo=UTC), "Europe/Berlin"),
    (datetime(2026, 10, 24, 21, 50, tzinfo=UTC), "Europe/Berlin"),
    (datetime(2018, 11, 4, 2, 50, tzinfo=UTC), "America/Sao_Paulo"),
]
KEYS = st.sampled_from([None, "phone", "laptop"])
TAGS = st.sampled_from([None, "nightly"])
limits = st.decimals(min_value=0, max_value=8, places=3)


def store() -> sqlite3.Connection:
    """A migrated store in memory. The caller closes it."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    migrate(connection, Path(":memory:"), MIGRATIONS)
    return connection


@dataclass
class Call:
    """One granted call as the plain model keeps it: what it counts now, set aside or settled."""

    at: datetime
    key: str | None
    tag: str | None
    nusd: int
    reserved_nusd: int
    is_open: bool = True


class EveryCapHolds(RuleBasedStateMachine):
    """The runtime, two keys and a tag with caps a day, a month and any five hours, against a plain list of calls."""

    @initialize(start=st.sampled_from(STARTS), usd=st.lists(limits, min_size=7, max_size=7))
    def begin(self, start: tuple[datetime, str], usd: list[Decimal]) -> None:
        """A new store, and an allowance for everybody."""
        self.connection = store()
        self.owner_id = rows.register(self.connection, DEAD, 0)
        self.now, self.zone = start[0], ZoneInfo(start[1])
        self.calls: list[Call] = []
        self.ids: list[str] = []
        self.runtime = Allowance(usd_per_day=usd[0], usd_per_month=usd[1], usd_per_window=usd[2], window_hours=5)
        self.of_key = {
            "phone": Allowance(usd_per_day=usd[3], usd_per_month=usd[4], client_key="phone"),
            "laptop": Allowance(usd_per_window=usd[5], window_hours=5, client_key="laptop"),
        }
        self.of_tag = {"nightly": Allowance(usd_per_day=usd[6], tag="NIGHTLY")}

    def teardown(self) -> None:
        """Close the store."""
        self.connection.close()

    @rule(step=st.timedeltas(min_value=timedelta(hours=-30), max_value=timedelta(hours=30)))
    def move_the_clock(self, step: timedelta) -> None:
        """Time passes, or the clock is set back, also across midnights and months."""
        self.now += step

    @rule(step=st.timedeltas(min_value=timedelta(minutes=-20), max_value=timedelta(minutes=20)))
    def move_the_clock_a_little(self, step: timedelta) -> None:
        """A little time passes, or the clock is corrected."""
        self.now += step

    @rule(usd=st.decimals(min_value=0, max_value=3, places=3), key=KEYS, tag=TAGS)
    def reserve(self, usd: Decimal, key: str | None, tag: str | None) -> None:
        """Granted exactly when every cap that applies has room for it; refused by the one with the least."""
        held = (
            *caps(self.runtime, self.now, self.zone, name="budget"),
            *(caps(self.of_key[key], self.now, self.zone, name=f"key {key}") if key else ()),
            *(caps(self.of_tag[tag], self.now, self.zone, name=f"tags.{tag}") if tag else ()),
        )
        wish = Reservation(
            id=f"rsv_{len(self.calls)}_{self.now}_{usd}", request_id="req_1", provider="openai", model="gpt",
            amount_usd=usd, now=self.now, caps=held, client_key=key, tag=tag,
        )  # fmt: skip
        money.check(wish)
        room = min(money.limit_nusd(cap.limit_usd) - self._counted(cap, with_all_open=True) for cap in held)
        grant = money.reserve(self.connection, self.owner_id, wish)
        assert (money.cost_nusd(usd) <= room) == isinstance(grant, Reserved)
        if isinstance(grant, Refused):
            assert money.usd_of(max(0, room)) == grant.left_usd
            return
        self.calls.append(Call(self.now, key, tag, money.cost_nusd(usd), money.cost_nusd(usd)))
        self.ids.append(wish.id)

    @rule(share=st.fractions(min_value=0, max_value=1), which=st.integers(min_value=0))
    def settle(self, share: object, which: int) -> None:
        """A call ends and costs a part of what was set aside."""
        still_open = [number for number, call in enumerate(self.calls) if call.is_open]
        if still_open:
            number = still_open[which % len(still_open)]
            call = self.calls[number]
            call.nusd, call.is_open = int(call.nusd * share), False  # type: ignore[operator]
            money.settle(self.connection, self.ids[number], call.nusd, "usage", 0)

    @rule()
    def die(self) -> None:
        """The process dies: all that is open counts at its worst case from now on."""
        rows.recover(self.connection, 0)
        for call in self.calls:
            call.is_open = False

    @invariant()
    def nobody_is_over(self) -> None:
        """No day, no month and no five hours, wherever they begin, hold more than the cap of any whose they are."""
        for allowance in (self.runtime, *self.of_key.values(), *self.of_tag.values()):
            for window, limit_usd in self._spans(allowance):
                cap = Cap("", window, limit_usd, allowance.client_key, allowance.tag and allowance.tag.casefold())
                assert self._counted(cap, with_all_open=False) <= money.limit_nusd(limit_usd)

    @invariant()
    def the_file_counts_as_we_do(self) -> None:
        """What the ledger says of a cap is what was put in."""
        held = caps(self.runtime, self.now, self.zone, name="b") + caps(self.of_key["phone"], self.now, None, name="k")
        for cap, balance in zip(held, money.balances(self.connection, held), strict=True):
            inside = [call for call in self._whose(cap) if cap.window.start <= call.at < cap.window.end]
            spent = money.usd_of(sum(call.nusd for call in inside if not call.is_open))
            assert Balance(spent, money.usd_of(sum(c.nusd for c in self._whose(cap) if c.is_open))) == balance

    def _spans(self, allowance: Allowance) -> Iterator[tuple[Window, Decimal]]:
        for call in self.calls:
            if allowance.usd_per_day is not None:
                yield day_window(call.at, self.zone), allowance.usd_per_day
            if allowance.usd_per_month is not None:
                yield month_window(call.at, self.zone), allowance.usd_per_month
            if allowance.usd_per_window is not None:
                yield Window(call.at, call.at + timedelta(hours=5)), allowance.usd_per_window

    def _whose(self, cap: Cap) -> list[Call]:
        return [call for call in self.calls if cap.client_key in (None, call.key) and cap.tag in (None, call.tag)]

    def _counted(self, cap: Cap, *, with_all_open: bool) -> int:
        return sum(
            call.nusd
            for call in self._whose(cap)
            if (call.is_open and with_all_open) or cap.window.start <= call.at < cap.window.end
        )


TestEveryCapHolds = EveryCapHolds.TestCase
TestEveryCapHolds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_cap_of_another_is_a_mistake():
    """A cap that would not count the call is refused, not granted for nothing."""
    at, zone = STARTS[0][0], UTC
    [cap] = caps(Allowance(usd_per_day=Decimal(1), client_key="phone"), at, zone, name="key phone")
    wish = Reservation(
        id="a", request_id="r", provider="p", model="m", amount_usd=Decimal(1), now=at, caps=(cap,), client_key="laptop"
    )
    with pytest.raises(ValueError, match=r"key phone\.usd_per_day does not count a"):
        money.check(wish)


def test_an_older_ledger_keeps_its_money():
    """A store from before keys and tags had caps knows afterwards whose each settled and open dollar was."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        migrate(connection, Path(":memory:"), MIGRATIONS[:2])
        owner_id, at_us = rows.register(connection, DEAD, 0), 1_780_000_000_000_000
        for number, (key, tag) in enumerate([("phone", "Nightly"), ("phone", None), (None, None), ("laptop", None)]):
            connection.execute(
                "INSERT INTO requests (id, owner_id, created_at_us, dialect, requested_model, client_key, tag,"
                " is_stream) VALUES (?, ?, ?, 'openai', 'hybrid', ?, ?, 0)",
                (f"req_{number}", owner_id, at_us, key, tag),
            )
            connection.execute(
                "INSERT INTO reservations (id, request_id, owner_id, provider, model, reserved_at_us, reserved_nusd)"
                " VALUES (?, ?, ?, 'p', 'm', ?, 1000)",
                (f"rsv_{number}", f"req_{number}", owner_id, at_us + number * 86_400_000_000),
            )
            if number < 3:
                money.settle(connection, f"rsv_{number}", 10**number, "usage", 0)
        migrate(connection, Path(":memory:"), MIGRATIONS)
        always = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
        scopes = ("", "key:phone", "key:laptop", "tag:nightly", "tag:other")
        assert [111, 11, 0, 1, 0] == [money.spent_nusd(connection, always, scope) for scope in scopes]
        assert [1000, 0, 1000, 0, 0] == [money.open_nusd(connection, scope) for scope in scopes]
