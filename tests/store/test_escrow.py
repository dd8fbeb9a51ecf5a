"""Do reservations that never waited for the disk count for good, whichever death comes?"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from hybrid.policy.budget import day_window, month_window, rolling_window
from hybrid.store import escrow, money, rows
from hybrid.store.records import Refused, Reservation, Reserved
from hybrid.types import Cap, Window
from tests.store.test_money import DEAD, START, store

BOOT, OTHER_BOOT = "boot-1", "boot-2"
HOURS = 3.0
EVER = Window(START - timedelta(days=9999), START + timedelta(days=9999))
CENT = Decimal("0.01")


def wish(
    name: str,
    amount_usd: Decimal = CENT,
    *,
    now: datetime = START,
    cap_usd: Decimal = Decimal(100),
    client_key: str | None = None,
    tag: str | None = None,
) -> Reservation:
    """A reservation under caps of everybody, and of its key and tag."""
    caps = [
        Cap("day", day_window(now, UTC), cap_usd),
        Cap("month", month_window(now, UTC), cap_usd * 2),
        Cap("window", rolling_window(now, HOURS), cap_usd, is_rolling=True),
    ]
    if client_key is not None:
        caps.append(Cap("key", day_window(now, UTC), cap_usd / 2, client_key=client_key))
    if tag is not None:
        caps.append(Cap("tag", day_window(now, UTC), cap_usd / 3, tag=tag))
    return Reservation(
        id=name,
        request_id="req_1",
        provider="openai",
        model="gpt",
        amount_usd=amount_usd,
        now=now,
        caps=tuple(caps),
        client_key=client_key,
        tag=tag,
    )


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was granted and left: what is known of it outside the ledger."""

    wish: Reservation
    billed_nusd: int


class NothingBilledIsLost(RuleBasedStateMachine):
    """Calls out of blocks and beside them, by several keys, under clocks that jump, power cuts and deaths.

    The disk is simulated by what SQLite promises of its log: after a power cut the file is as it was after some commit,
    and that is the last one which waited for the disk or a later one.
    """

    @initialize(cap_usd=st.decimals(min_value=1, max_value=40, places=2))
    def begin(self, cap_usd: Decimal) -> None:
        """A new store, every commit of which may be what a power cut leaves."""
        self.connection = store()
        self.owner_id = rows.register(self.connection, DEAD, 0)
        self.cap_usd, self.now, self.boot = cap_usd, START, 1
        self.calls: list[Call] = []
        self.open: set[str] = set()
        self.states: list[bytes] = []
        self.committed(has_waited=True)

    def teardown(self) -> None:
        """Close the store."""
        self.connection.close()

    def committed(self, *, has_waited: bool) -> None:
        """Keep the file as it is now, and forget what the disk can no longer go back to."""
        self.states = [self.connection.serialize()] if has_waited else [*self.states, self.connection.serialize()]

    @rule(step=st.timedeltas(min_value=timedelta(minutes=-40), max_value=timedelta(minutes=40)))
    def move_the_clock(self, step: timedelta) -> None:
        """Time passes, or the clock is set back; midnight is near."""
        self.now += step

    @rule(
        amount_usd=st.decimals(min_value=0, max_value=Decimal("0.05"), places=4),
        share=st.fractions(min_value=0, max_value=1),
        client_key=st.sampled_from([None, "k", "l"]),
        tag=st.sampled_from([None, "t"]),
        times=st.integers(min_value=1, max_value=8),
    )
    def call(self, amount_usd: Decimal, share: object, client_key: str | None, tag: str | None, times: int) -> None:
        """Reserve as the ledger does, a few times; what is granted leaves and is billed for at once."""
        for _ in range(times):
            wanted = wish(
                f"rsv_{len(self.calls)}_{self.boot}",
                amount_usd,
                now=self.now,
                cap_usd=self.cap_usd,
                client_key=client_key,
                tag=tag,
            )
            drawn = escrow.draw(self.connection, self.owner_id, wanted, f"boot-{self.boot}")
            if drawn is None:
                grant, _ = escrow.reserve(self.connection, self.owner_id, wanted, f"boot-{self.boot}")
                # The reservation alone decides, as if there were no blocks.
                room_nusd = min(room for room, _ in money.rooms(self.connection, wanted.caps))
                assert isinstance(grant, Reserved) or money.cost_nusd(amount_usd) > room_nusd
            else:
                grant = drawn.grant
            self.committed(has_waited=drawn is None)
            if isinstance(grant, Reserved):
                self.calls.append(Call(wanted, int(money.cost_nusd(amount_usd) * share)))  # type: ignore[operator]
                self.open.add(wanted.id)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """A call that is out ends and costs its bill; nobody waits for the disk."""
        if self.open:
            name = data.draw(st.sampled_from(sorted(self.open)))
            self.open.remove(name)
            [call] = [call for call in self.calls if call.wish.id == name]
            money.settle(self.connection, name, call.billed_nusd, "usage", 0)
            self.committed(has_waited=False)

    @rule(amount_usd=st.decimals(min_value=0, max_value=1, places=2), client_key=st.sampled_from([None, "k"]))
    def fill(self, amount_usd: Decimal, client_key: str | None) -> None:
        """A block is filled ahead."""
        wanted = wish("none", amount_usd, now=self.now, cap_usd=self.cap_usd, client_key=client_key)
        escrow.fill(self.connection, self.owner_id, wanted, f"boot-{self.boot}")
        self.committed(has_waited=True)

    @rule()
    def give_back(self) -> None:
        """The blocks are idle."""
        escrow.close(self.connection)
        self.committed(has_waited=True)

    @rule()
    def die(self) -> None:
        """The process dies and the machine goes on: every row is there, and blocks come back whole."""
        still_open = money.open_nusd(self.connection)
        assert 0 == escrow.recover(self.connection, f"boot-{self.boot}", 0)
        recovery = rows.recover(self.connection, 0)
        assert (len(self.open), money.usd_of(still_open)) == (recovery.settled_reservations, recovery.settled_usd)
        self.open.clear()
        self.committed(has_waited=True)

    @rule(data=st.data())
    def cut_the_power(self, data: st.DataObject) -> None:
        """The file goes back to some commit since the disk was last waited for; spend is not below what was billed."""
        left = data.draw(st.sampled_from(range(len(self.states))))
        self.connection.close()
        self.connection = store()
        self.connection.deserialize(self.states[left])
        worst_nusd = sum(_blocks(self.connection).values())
        self.boot += 1
        assert worst_nusd == escrow.recover(self.connection, f"boot-{self.boot}", 0)
        rows.recover(self.connection, 0)
        self.open.clear()
        # At most what was set aside is counted for calls that are lost: all spend is a row that was there, or that.
        known = "SELECT COALESCE(SUM(settled_nusd), 0) FROM reservations WHERE id NOT LIKE 'rsv_power_cut_%'"
        assert worst_nusd <= money.limit_nusd(self.cap_usd) // escrow.SHARE
        (known_nusd,) = self.connection.execute(known).fetchone()
        assert known_nusd <= sum(money.cost_nusd(call.wish.amount_usd) for call in self.calls)
        self.committed(has_waited=True)

    @invariant()
    def spend_is_never_below_the_bill(self) -> None:
        """In no day, month or rolling window, for everybody, a key or a tag."""
        for scope, calls in self._by_scope().items():
            still_open = money.open_nusd(self.connection, scope)
            for window in self._windows():
                billed = sum(c.billed_nusd for c in calls if window.start <= c.wish.now < window.end)
                assert billed <= money.spent_nusd(self.connection, window, scope) + still_open, (scope, window)

    @invariant()
    def the_caps_hold(self) -> None:
        """Spend, what is open and the blocks together are within the day's cap."""
        for day in {day_window(call.wish.now, UTC) for call in self.calls}:
            spent_nusd = money.spent_nusd(self.connection, day)
            (still_open,) = self.connection.execute(
                "SELECT COALESCE(SUM(reserved_nusd), 0) FROM reservations"
                " WHERE settled_nusd IS NULL AND reserved_at_us >= ? AND reserved_at_us < ?",
                (money.to_us(day.start), money.to_us(day.end)),
            ).fetchone()
            blocks_nusd = sum(left for start_us, left in _blocks_by_start(self.connection) if _holds(day, start_us))
            assert spent_nusd + still_open + blocks_nusd <= money.limit_nusd(self.cap_usd)

    def _by_scope(self) -> dict[str, list[Call]]:
        return {
            "": self.calls,
            "key:k": [call for call in self.calls if call.wish.client_key == "k"],
            "key:l": [call for call in self.calls if call.wish.client_key == "l"],
            "tag:t": [call for call in self.calls if call.wish.tag == "t"],
        }

    def _windows(self) -> set[Window]:
        times = {call.wish.now for call in self.calls}
        days = {window(at, UTC) for at in times for window in (day_window, month_window)}
        # A clock that was set back by a whole window does not see money of its future; any other sees all.
        later = max(times, default=self.now)
        return {EVER, *days, *({rolling_window(self.now, HOURS)} if self.now >= later else ())}


def _blocks(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    return {(row[0], row[1]): row[2] for row in connection.execute("SELECT client_key, tag, left_nusd FROM escrow")}


def _blocks_by_start(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    return [(row[0], row[1]) for row in connection.execute("SELECT start_us, left_nusd FROM escrow")]


def _holds(window: Window, at_us: int) -> bool:
    return money.to_us(window.start) <= at_us < money.to_us(window.end)


TestNothingBilledIsLost = NothingBilledIsLost.TestCase
TestNothingBilledIsLost.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(
    amount=st.integers(min_value=0, max_value=10**12),
    room=st.integers(min_value=-(10**12), max_value=10**15),
    others=st.integers(min_value=0, max_value=10**12),
)
def test_a_block_is_a_small_share(amount, room, others):
    """A block is worth some calls, and all blocks together a small share of what is left; else there is none."""
    size = escrow.block_nusd(amount, room_nusd=room, others_nusd=others)
    assert 0 == size or escrow.LEAST_CALLS * amount <= size <= escrow.CALLS * amount
    assert 0 == size or (size + others) * escrow.SHARE <= room


def filled(connection: sqlite3.Connection, **more: object) -> int:
    """Open a block of 64 cents by a first call; give the owner."""
    owner_id = rows.register(connection, DEAD, 0)
    grant, has_block = escrow.reserve(connection, owner_id, wish("first", **more), BOOT)  # type: ignore[arg-type]
    assert (Reserved(CENT), True) == (grant, has_block)
    return owner_id


def test_calls_draw_until_the_block_is_used_up():
    """The block's worth of calls is granted out of it, the second half of them asking for more; then none is."""
    with closing(store()) as connection:
        owner_id = filled(connection)
        drawn = [escrow.draw(connection, owner_id, wish(f"r{n}"), BOOT) for n in range(escrow.CALLS + 1)]
        assert [False] * (escrow.CALLS // 2) + [True] * (escrow.CALLS // 2) == [
            one.is_low for one in drawn if one is not None
        ]
        assert drawn[-1] is None
        assert (escrow.CALLS + 1) * 10_000_000 == money.open_nusd(connection)
        assert escrow.fill(connection, owner_id, wish("more"), BOOT)
        assert escrow.draw(connection, owner_id, wish("more"), BOOT) is not None


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(datetime(2026, 6, 1, tzinfo=UTC), id="first-moment-of-a-month"),
        pytest.param(datetime(2026, 5, 31, 23, 59, 59, 999_999, tzinfo=UTC), id="last-moment-of-one"),
    ],
)
def test_a_charge_counts_wherever_a_lost_call_would(now):
    """On the call's day, in its month and key's budget, and in a rolling window until the call would have left it."""
    with closing(store()) as connection:
        filled(connection, now=now, client_key="k")
        assert escrow.CALLS * 10_000_000 == escrow.recover(connection, OTHER_BOOT, 0)
        almost_over = now + timedelta(hours=HOURS) - timedelta(microseconds=1)
        for window in (day_window(now, UTC), month_window(now, UTC), rolling_window(almost_over, HOURS)):
            assert escrow.CALLS * 10_000_000 == money.spent_nusd(connection, window, "key:k")
            assert escrow.CALLS * 10_000_000 == money.spent_nusd(connection, window)


@pytest.mark.parametrize(
    ("more", "boot"),
    [
        pytest.param({"now": START + timedelta(minutes=10)}, BOOT, id="midnight"),
        pytest.param({"now": START - timedelta(minutes=10)}, BOOT, id="clock-set-back"),
        pytest.param({}, OTHER_BOOT, id="another-boot"),
        pytest.param({"client_key": "k"}, BOOT, id="a-key's"),
        pytest.param({"tag": "t"}, BOOT, id="a-tag's"),
        pytest.param({"amount_usd": Decimal("0.65")}, BOOT, id="too-dear"),
        pytest.param({"cap_usd": Decimal("0.64")}, BOOT, id="a-cap-was-lowered"),
    ],
)
def test_what_may_not_draw(more, boot):
    """A block serves calls of its quarter of an hour, its boot, its key and its tag, while the caps hold all of it."""
    with closing(store()) as connection:
        owner_id = filled(connection)
        before = connection.serialize()
        assert escrow.draw(connection, owner_id, wish("other", **more), boot) is None
        assert before == connection.serialize()


def test_a_window_shorter_than_a_quarter_has_no_block():
    """Its edge may pass between a call and the charge that would stand in for it, so each call waits for the disk."""
    with closing(store()) as connection:
        owner_id = rows.register(connection, DEAD, 0)
        short = (Cap("window", rolling_window(START, 0.1), Decimal(100), is_rolling=True),)
        grant, has_block = escrow.reserve(connection, owner_id, replace(wish("first"), caps=short), BOOT)
        assert (Reserved(CENT), False, {}) == (grant, has_block, _blocks(connection))


def test_blocks_starve_nobody():
    """A cap's last cent is granted though blocks of all kinds hold some of it, and they are given back then."""
    with closing(store()) as connection:
        owner_id = filled(connection)
        escrow.reserve(connection, owner_id, wish("k", client_key="k"), BOOT)
        assert 2 == len(_blocks(connection))
        rest = wish("rest", Decimal("99.98"))
        assert escrow.draw(connection, owner_id, rest, BOOT) is None
        assert (Reserved(Decimal("99.98")), False) == escrow.reserve(connection, owner_id, rest, BOOT)
        assert {} == _blocks(connection)
        refused, has_block = escrow.reserve(connection, owner_id, wish("more", Decimal("0.000001")), BOOT)
        assert (True, False) == (isinstance(refused, Refused), has_block)
