"""Does a circuit breaker open, rest, probe once and close as its rules say, whatever the order of ends?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.providers.breaker import Breaker, BreakerRules, Circuit

RULES = BreakerRules(
    failures_in_row=3, failure_share=0.5, window_s=60, window_calls=10, least_calls=6, rest_s=10, max_rest_s=40
)


def called(breaker: Breaker, now_s: float, *, is_good: bool, hint_s: float | None = None) -> None:
    """One call that begins and ends at this moment."""
    ticket = breaker.admit(now_s)
    assert ticket is not None
    if is_good:
        breaker.succeeded(ticket, now_s)
    else:
        breaker.failed(ticket, now_s, hint_s)


def opened(now_s: float = 0.0) -> Breaker:
    """A breaker that three failures in a row just opened."""
    breaker = Breaker(RULES)
    for _ in range(3):
        called(breaker, now_s, is_good=False)
    return breaker


def test_failures_in_a_row_open_it():
    """The third failure opens; until then, and with a success between, it stays closed."""
    breaker = Breaker(RULES)
    for is_good in (False, False, True, False, False):
        called(breaker, 0.0, is_good=is_good)
    assert Circuit.CLOSED == breaker.circuit(0.0)
    called(breaker, 1.0, is_good=False)
    assert (Circuit.OPEN, 10.0, None) == (breaker.circuit(1.0), breaker.rest_s(1.0), breaker.admit(1.0))


def test_a_share_of_failures_opens_it():
    """Every second call fails: never three in a row, and yet too much, once enough calls ended."""
    breaker = Breaker(RULES)
    for is_good in (True, False, True, False, True):
        called(breaker, 0.0, is_good=is_good)
    assert Circuit.CLOSED == breaker.circuit(0.0)
    called(breaker, 0.0, is_good=False)
    assert Circuit.OPEN == breaker.circuit(0.0)


def test_old_failures_do_not_count():
    """The same share over more than the window's time is a failure now and then."""
    breaker = Breaker(RULES)
    for number in range(12):
        called(breaker, 30.0 * number, is_good=number % 2 == 0)
    assert Circuit.CLOSED == breaker.circuit(360.0)


def test_after_its_rest_one_probe_goes_and_closes_it():
    """Half-open lets one call through and no second; its success lets all through again."""
    breaker = opened()
    assert (Circuit.HALF_OPEN, None) == (breaker.circuit(10.0), breaker.rest_s(10.0))
    probe = breaker.admit(10.0)
    assert (None, 1.0) == (breaker.admit(10.0), breaker.rest_s(10.0))
    breaker.succeeded(probe, 10.5)
    assert (Circuit.CLOSED, True, True) == (
        breaker.circuit(10.5),
        breaker.admit(10.5) is not None,
        breaker.admit(10.5) is not None,
    )


def test_a_probe_that_says_nothing_for_long_lets_another_one_go():
    """An answer of a minute must not keep everybody else out; whichever comes back well closes the circuit."""
    breaker = opened()
    first = breaker.admit(10.0)
    second = breaker.admit(11.0)
    assert (True, None) == (second is not None, breaker.admit(11.5))
    breaker.succeeded(first, 11.5)
    breaker.failed(second, 12.0)
    assert Circuit.CLOSED == breaker.circuit(12.0)


def test_a_failed_probe_doubles_the_rest_up_to_its_bound():
    """10, 20, 40, 40 seconds; a success begins anew with 10."""
    breaker, now_s, rests = opened(), 0.0, []
    for _ in range(4):
        rest_s = breaker.rest_s(now_s)
        rests.append(rest_s)
        now_s += rest_s
        called(breaker, now_s, is_good=False)
    now_s += breaker.rest_s(now_s)
    called(breaker, now_s, is_good=True)
    for _ in range(3):
        called(breaker, now_s, is_good=False)
    assert ([10.0, 20.0, 40.0, 40.0], 10.0) == (rests, breaker.rest_s(now_s))


@pytest.mark.parametrize(("hint_s", "expected"), [(7.5, 7.5), (0.0, None), (1e9, 3600.0)])
def test_a_hint_opens_it_at_once_for_that_time(hint_s, expected):
    """Retry-After needs no second failure, and is bounded; a hint of nothing may be tried at once, by a probe."""
    breaker = Breaker(RULES)
    called(breaker, 0.0, is_good=False, hint_s=hint_s)
    assert expected == breaker.rest_s(0.0)
    assert Circuit.CLOSED is not breaker.circuit(0.0)


def test_a_probe_that_says_nothing_frees_its_place():
    """A client that hangs up on the probe leaves the circuit half-open for the next one."""
    breaker = opened()
    probe = breaker.admit(10.0)
    breaker.abandoned(probe)
    assert (Circuit.HALF_OPEN, True) == (breaker.circuit(10.0), breaker.admit(10.0) is not None)


def test_calls_from_before_it_opened_are_old_news():
    """Neither their success closes it, nor their failure lengthens the rest, nor their end frees the probe's place."""
    breaker = Breaker(RULES)
    slow = [breaker.admit(0.0) for _ in range(3)]
    for _ in range(3):
        called(breaker, 0.0, is_good=False)
    breaker.succeeded(slow[0], 1.0)
    breaker.failed(slow[1], 1.0, hint_s=1000.0)
    probe = breaker.admit(10.0)
    breaker.abandoned(slow[2])
    assert (True, None) == (probe is not None, breaker.admit(10.0))


STEPS = st.lists(
    st.tuples(st.sampled_from(["good", "bad", "hint", "gone", "begin"]), st.floats(0, 30), st.integers(0, 5)),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_it_may_be_tried_again_in_time(steps):
    """No order of beginnings and ends, old or new, keeps it shut beyond its longest rest, or lets two probes out."""
    breaker, now_s, out = Breaker(RULES), 0.0, []
    for what, later_s, which in steps:
        now_s += later_s
        is_half_open = breaker.circuit(now_s) is Circuit.HALF_OPEN
        if what == "begin" or not out:
            ticket = breaker.admit(now_s)
            out += [] if ticket is None else [ticket]
            assert not is_half_open or breaker.admit(now_s) is None
            continue
        ticket = out.pop(which % len(out))
        if what == "good":
            breaker.succeeded(ticket, now_s)
        elif what == "gone":
            breaker.abandoned(ticket)
        else:
            breaker.failed(ticket, now_s, 35.0 if what == "hint" else None)
    for ticket in out:
        breaker.abandoned(ticket)
    assert breaker.admit(now_s + RULES.max_rest_s) is not None
