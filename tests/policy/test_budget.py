"""Do budget windows tile time in every zone, and is what is left of a cap right?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.budget import day_window, left_usd
from hybrid.types import Cap, Window

# Ordinary zones, and those whose clocks changed at midnight, one minute past it, by half an hour or by a whole day.
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo",
    "America/Havana", "America/St_Johns", "Atlantic/Azores", "Asia/Beirut", "Pacific/Apia", "America/Toronto",
]  # fmt: skip

instants = st.datetimes(min_value=datetime(1915, 1, 1), max_value=datetime(2037, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
zones = st.sampled_from(ZONES).map(ZoneInfo)


@given(now=instants, zone=zones)
def test_the_window_holds_now(now, zone):
    """day_window() always encloses the instant it was asked for."""
    window = day_window(now, zone)
    assert window.start <= now < window.end


@given(now=instants, zone=zones)
def test_windows_tile_time(now, zone):
    """The window before ends where this one starts, and the one after starts where this one ends."""
    window = day_window(now, zone)
    before = day_window(window.start - timedelta(microseconds=1), zone)
    after = day_window(window.end, zone)
    assert (before.end, after.start) == (window.start, window.end)


@given(now=instants, zone=zones, share=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_one_window_for_the_whole_day(now, zone, share):
    """Every instant of a window names the same window, so a clock that steps back within a day changes nothing."""
    window = day_window(now, zone)
    other = window.start + (window.end - window.start) * share
    assert window == day_window(min(other, window.end - timedelta(microseconds=1)), zone)


@pytest.mark.parametrize(
    ("zone", "now", "expected_hours"),
    [
        pytest.param("Europe/Berlin", datetime(2026, 3, 29, 12, tzinfo=UTC), 23, id="spring"),
        pytest.param("Europe/Berlin", datetime(2026, 10, 25, 12, tzinfo=UTC), 25, id="autumn"),
        pytest.param("Europe/Berlin", datetime(2026, 6, 1, 12, tzinfo=UTC), 24, id="ordinary"),
        pytest.param("America/Sao_Paulo", datetime(2018, 11, 4, 12, tzinfo=UTC), 23, id="midnight-skipped"),
        pytest.param("Australia/Lord_Howe", datetime(2026, 4, 4, 20, tzinfo=UTC), 24.5, id="half-an-hour"),
    ],
)
def test_length_of_a_day(zone, now, expected_hours):
    """A day is as long as its zone makes it."""
    window = day_window(now, ZoneInfo(zone))
    assert timedelta(hours=expected_hours) == window.end - window.start


def test_day_in_a_zone_is_given_in_utc():
    """00:30 in Berlin belongs to the Berlin day that began at 22:00 UTC the evening before."""
    expected = Window(datetime(2026, 6, 1, 22, tzinfo=UTC), datetime(2026, 6, 2, 22, tzinfo=UTC))
    assert expected == day_window(datetime(2026, 6, 1, 22, 30, tzinfo=UTC), ZoneInfo("Europe/Berlin"))


def test_a_time_without_zone_is_refused():
    """A naive time is an error: guessing its zone would move money between days."""
    with pytest.raises(ValueError, match="zone"):
        day_window(datetime(2026, 6, 1), UTC)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("spent", "reserved", "expected"),
    [
        pytest.param("0", "0", "5", id="untouched"),
        pytest.param("1.25", "0.75", "3", id="both-count"),
        pytest.param("4", "1", "0", id="exactly-gone"),
        pytest.param("4", "2", "0", id="never-below-zero"),
    ],
)
def test_left(spent, reserved, expected):
    """left_usd() takes settled and open money from the cap and stops at zero."""
    cap = Cap("usd_per_day", Window(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 2, tzinfo=UTC)), Decimal(5))
    assert Decimal(expected) == left_usd(cap, Decimal(spent), Decimal(reserved))
