"""Are amounts kept exactly, and can no order of reserving and settling pass a cap?"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from hybrid.errors import StoreError
from hybrid.policy.budget import day_window
from hybrid.store import money, rows
from hybrid.store.db import migrate
from hybrid.store.migrations import MIGRATIONS, SPEND_WIDTHS_US
from hybrid.store.records import Refused, Reservation, Reserved
from hybrid.types import Cap, Window

START = datetime(2026, 6, 1, 23, 50, tzinfo=UTC)
DAY_US, QUARTER_US = SPEND_WIDTHS_US
DEAD = rows.ProcessMark(pid=2**22 + 1, started_s=1.0)  # above the highest pid that Linux can be told to give

amounts = st.decimals(min_value=0, max_value=3, places=10)


def store() -> sqlite3.Connection:
    """A migrated store in memory. The caller closes it."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    migrate(connection, Path(":memory:"), MIGRATIONS)
    return connection


def wish(name: str, amount_usd: Decimal, *caps: Cap, now: datetime = START) -> Reservation:
    """A reservation by its id and amount."""
    return Reservation(
        id=name, request_id="req_1", provider="openai", model="gpt", amount_usd=amount_usd, now=now, caps=caps
    )


class CapsHold(RuleBasedStateMachine):
    """Any order of reserving, settling, dying and clocks that jump, against a plain model of the same."""

    open_ids = Bundle("open_ids")
    all_ids = Bundle("all_ids")

    @initialize(cap_usd=st.decimals(min_value=0, max_value=5, places=10))
    def begin(self, cap_usd: Decimal) -> None:
        """A new store and one cap a day."""
        self.connection = store()
        self.owner_id = rows.register(self.connection, DEAD, 0)
        self.cap_usd, self.now, self.count = cap_usd, START, 0
        self.reserved: dict[str, tuple[datetime, int]] = {}
        self.settled: dict[str, int] = {}

    def teardown(self) -> None:
        """Close the store."""
        self.connection.close()

    @rule(step=st.timedeltas(min_value=timedelta(hours=-30), max_value=timedelta(hours=30)))
    def move_the_clock(self, step: timedelta) -> None:
        """Time passes, or the clock is set back, also across midnight."""
        self.now += step

    @rule(target=all_ids, amount_usd=amounts)
    def reserve(self, amount_usd: Decimal) -> str:
        """A reservation is granted exactly when the day's spend, all that is open and it fit under the cap."""
        name, self.count = f"rsv_{self.count}", self.count + 1
        window = day_window(self.now, UTC)
        room = money.limit_nusd(self.cap_usd) - self._spent(window) - self._open()
        grant = money.reserve(
            self.connection, self.owner_id, wish(name, amount_usd, Cap("day", window, self.cap_usd), now=self.now)
        )
        assert (money.cost_nusd(amount_usd) <= room) == isinstance(grant, Reserved)
        if isinstance(grant, Reserved):
            self.reserved[name] = (self.now, money.cost_nusd(amount_usd))
        else:
            assert money.usd_of(max(0, room)) == grant.left_usd
        return name

    @rule(name=all_ids, share=st.fractions(min_value=0, max_value=1))
    def settle(self, name: str, share: object) -> None:
        """A settlement within the reservation counts once; a second one, whatever it says, changes nothing."""
        if name not in self.reserved:
            with pytest.raises(StoreError, match="no reservation"):
                money.settle(self.connection, name, 0, "usage", 0)
            return
        amount = int(self.reserved[name][1] * share)  # type: ignore[operator]
        before = money.settle(self.connection, name, amount, "usage", 0)
        assert (None if name in self.settled else self.reserved[name][1]) == before
        self.settled.setdefault(name, amount)

    @rule(name=consumes(all_ids))
    def release(self, name: str) -> None:
        """A release of what was never granted is no error."""
        if money.settle(self.connection, name, 0, "release", 0) is not None:
            self.settled[name] = 0

    @rule()
    def die(self) -> None:
        """The process dies: all that is open is settled at its worst case."""
        recovery = rows.recover(self.connection, 0)
        lost = {name: amount for name, (_, amount) in self.reserved.items() if name not in self.settled}
        assert (len(lost), money.usd_of(sum(lost.values()))) == (recovery.settled_reservations, recovery.settled_usd)
        self.settled.update(lost)

    @invariant()
    def sums_agree(self) -> None:
        """What SQL adds up is what was put in, day by day and over all of time."""
        assert self._open() == money.open_nusd(self.connection)
        for window in (*self._days(), Window(START - timedelta(days=9999), START + timedelta(days=9999))):
            assert self._spent(window) == money.spent_nusd(self.connection, window)

    @invariant()
    def the_cap_holds(self) -> None:
        """No day's settled and open money is above its cap, ever."""
        for window in self._days():
            open_then = sum(
                amount
                for name, (at, amount) in self.reserved.items()
                if name not in self.settled and window.start <= at < window.end
            )
            assert self._spent(window) + open_then <= money.limit_nusd(self.cap_usd)

    def _days(self) -> set[Window]:
        return {day_window(at, UTC) for at, _ in self.reserved.values()}

    def _open(self) -> int:
        return sum(amount for name, (_, amount) in self.reserved.items() if name not in self.settled)

    def _spent(self, window: Window) -> int:
        return sum(
            amount for name, amount in self.settled.items() if window.start <= self.reserved[name][0] < window.end
        )


TestCapsHold = CapsHold.TestCase
TestCapsHold.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(usd=st.decimals(min_value=0, max_value=1_000_000_000, allow_nan=False, allow_infinity=False))
def test_rounding_never_favours_spending(usd):
    """A cost is kept as at least itself and a limit as at most itself, both within a nano-USD."""
    assert Decimal(0) <= money.usd_of(money.cost_nusd(usd)) - usd < Decimal("1e-9")
    assert Decimal(0) <= usd - money.usd_of(money.limit_nusd(usd)) < Decimal("1e-9")


@given(nusd=st.integers(min_value=-9 * 10**18 + 1, max_value=9 * 10**18 - 1))
def test_amounts_survive(nusd):
    """An amount comes back as it was stored, to the last of its digits."""
    assert nusd == money.saving_nusd(money.usd_of(nusd))


@pytest.mark.parametrize(
    ("usd", "expected_nusd"),
    [
        pytest.param("0.0000000001", 1, id="any-cost-is-at-least-one"),
        pytest.param("1.00000000000000000000000000000000000000001", 1_000_000_001, id="beyond-decimal-precision"),
        pytest.param("1e-999999", 1, id="tiny-exponent"),
        pytest.param("5", 5_000_000_000, id="whole"),
    ],
)
def test_costs_round_up(usd, expected_nusd):
    """A cost rounds up from its very last digit."""
    assert expected_nusd == money.cost_nusd(Decimal(usd))


@pytest.mark.parametrize("usd", ["-0.000000001", "NaN", "sNaN", "Infinity", "-Infinity", "9e9", "1e999999"])
def test_what_is_no_amount(usd):
    """A negative, endless or absurd amount is refused before it reaches the file."""
    with pytest.raises(ValueError, match="amount of USD"):
        money.cost_nusd(Decimal(usd))


def test_savings_round_down():
    """A saving is never made larger: gains round down and losses away from zero."""
    assert (0, -1) == (money.saving_nusd(Decimal("0.0000000009")), money.saving_nusd(Decimal("-0.0000000001")))


def test_every_cap_must_have_room():
    """With several caps the tightest decides, and the refusal names it and its room."""
    with closing(store()) as connection:
        owner_id = rows.register(connection, DEAD, 0)
        wide = Cap("usd_per_month", Window(START - timedelta(days=20), START + timedelta(days=10)), Decimal(5))
        tight = Cap("usd_per_day", day_window(START, UTC), Decimal(1))
        assert Reserved(Decimal("0.75")) == money.reserve(connection, owner_id, wish("a", Decimal("0.75"), wide, tight))
        refused = money.reserve(connection, owner_id, wish("b", Decimal("0.26"), wide, tight))
        assert Refused(tight, Decimal("0.25")) == refused


steps = st.one_of(
    st.integers(min_value=-3 * QUARTER_US, max_value=3 * QUARTER_US),
    st.integers(min_value=-3 * DAY_US, max_value=3 * DAY_US),
    st.integers(min_value=-3, max_value=3).map(lambda days: days * DAY_US),
)


@given(offsets=st.lists(steps, max_size=12), start=steps, length=st.integers(min_value=0, max_value=6 * DAY_US))
@settings(deadline=None)
def test_any_window_is_exact(offsets, start, length):
    """A window that cuts days and quarters anywhere counts each reservation inside it once: start in, end out."""
    with closing(store()) as connection:
        owner_id = rows.register(connection, DEAD, 0)
        middle = START.replace(minute=45)
        window = Window(middle + timedelta(microseconds=start), middle + timedelta(microseconds=start + length))
        everything = Cap("all", Window(START - timedelta(days=9), START + timedelta(days=9)), Decimal(100))
        for number, offset in enumerate(offsets):
            at = middle + timedelta(microseconds=offset)
            money.reserve(connection, owner_id, wish(f"r{number}", Decimal(1), everything, now=at))
            money.settle(connection, f"r{number}", 1 << number, "usage", 0)
        expected = sum(1 << number for number, offset in enumerate(offsets) if start <= offset < start + length)
        assert expected == money.spent_nusd(connection, window)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE reservations SET settled_nusd = 0", id="settled-again"),
        pytest.param(
            "UPDATE reservations SET settled_nusd = NULL, settled_at_us = NULL, settled_by = NULL", id="undone"
        ),
        pytest.param("DELETE FROM reservations", id="deleted"),
    ],
)
def test_the_file_itself_keeps_settled_money(statement):
    """Not even a statement beside our code can change or remove a settled reservation."""
    with closing(store()) as connection:
        owner_id = rows.register(connection, DEAD, 0)
        money.reserve(
            connection, owner_id, wish("a", Decimal(1), Cap("usd_per_day", day_window(START, UTC), Decimal(1)))
        )
        money.settle(connection, "a", 7, "usage", 0)
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)
