"""Do budget windows tile time in every zone, and is what is left of a cap right?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.budget import Allowance, caps, day_window, left_usd, month_window, rolling_window
from hybrid.types import Cap, Window

# Ordinary zones, and those whose clocks changed at midnight, one minute past it, by half an hour or by a whole day.
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo",
    "America/Havana", "America/St_Johns", "Atlantic/Azores", "Asia/Beirut", "Pacific/Apia", "America/Toronto",
]  # fmt: skip

instants = st.datetimes(min_value=datetime(1915, 1, 1), max_value=datetime(2037, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
zones = st.sampled_from(ZONES).map(ZoneInfo)


windows = pytest.mark.parametrize("span", [day_window, month_window])


@windows
@given(now=instants, zone=zones)
def test_the_window_holds_now(span, now, zone):
    """A day or month always encloses the instant it was asked for."""
    window = span(now, zone)
    assert window.start <= now < window.end


@windows
@given(now=instants, zone=zones)
def test_windows_tile_time(span, now, zone):
    """The window before ends where this one starts, and the one after starts where this one ends."""
    window = span(now, zone)
    before = span(window.start - timedelta(microseconds=1), zone)
    after = span(window.end, zone)
    assert (before.end, after.start) == (window.start, window.end)


@windows
@given(now=instants, zone=zones, share=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_one_window_for_the_whole_span(span, now, zone, share):
    """Every instant of a window names the same window, so a clock that steps back within it changes nothing."""
    window = span(now, zone)
    other = window.start + (window.end - window.start) * share
    assert window == span(min(other, window.end - timedelta(microseconds=1)), zone)


@given(now=instants, zone=zones)
def test_days_tile_months(now, zone):
    """A month begins and ends with a day, so a day's money is all of one month."""
    day, month = day_window(now, zone), month_window(now, zone)
    assert month.start <= day.start < day.end <= month.end
    assert (month.start, month.end) == (
        day_window(month.start, zone).start,
        day_window(month.end - timedelta(microseconds=1), zone).end,
    )


@pytest.mark.parametrize(
    ("now", "expected_hours"),
    [
        pytest.param(datetime(2026, 3, 31, 21, 59, tzinfo=UTC), 31 * 24 - 1, id="spring"),
        pytest.param(datetime(2026, 10, 31, 22, 30, tzinfo=UTC), 31 * 24 + 1, id="autumn"),
        pytest.param(datetime(2026, 2, 1, tzinfo=UTC), 28 * 24, id="february"),
        pytest.param(datetime(2028, 2, 29, 22, 59, tzinfo=UTC), 29 * 24, id="leap"),
        pytest.param(datetime(2026, 12, 31, 22, tzinfo=UTC), 31 * 24, id="december"),
    ],
)
def test_length_of_a_month(now, expected_hours):
    """A month is as long as its zone and calendar make it."""
    window = month_window(now, ZoneInfo("Europe/Berlin"))
    assert timedelta(hours=expected_hours) == window.end - window.start


@given(
    times=st.lists(st.timedeltas(min_value=timedelta(hours=-40), max_value=timedelta(hours=40)), min_size=1),
    hours=st.floats(min_value=0.25, max_value=30),
)
def test_the_last_granted_has_counted_the_rest(times, hours):
    """Of all times within one stretch of the window's length, in whatever order the clock gave them, each sees all."""
    origin = datetime(2026, 6, 1, tzinfo=UTC)
    first, span = min(times), rolling_window(origin, hours).end - origin
    stretch = [origin + time for time in times if time < first + span]
    for at in stretch:
        window = rolling_window(at, hours)
        assert all(window.start <= other < window.end for other in stretch)


def test_an_allowance_names_its_caps():
    """Each cap says where it is from and whose money it counts; what is not set gives none."""
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    allowance = Allowance(usd_per_day=Decimal(1), usd_per_window=Decimal(2), window_hours=5, tag="Nightly")
    assert (
        Cap("tags.Nightly.usd_per_day", day_window(now, UTC), Decimal(1), tag="nightly"),
        Cap("tags.Nightly.usd_per_window", rolling_window(now, 5), Decimal(2), tag="nightly", is_rolling=True),
    ) == caps(allowance, now, UTC, name="tags.Nightly")
    assert () == caps(Allowance(), now, UTC, name="budget")


@pytest.mark.parametrize("hours", [0, -1, float("nan")])
def test_a_window_of_no_length_is_refused(hours):
    """A rolling window needs a span above zero."""
    with pytest.raises(ValueError, match="above 0"):
        rolling_window(datetime(2026, 6, 1, tzinfo=UTC), hours)


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
