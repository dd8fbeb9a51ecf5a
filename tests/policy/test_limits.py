"""Is a key never over its limits in any minute, wherever that begins, and is it told truly when to come again?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.limits import Admitted, Held, KeyUsage, admit, ended, rate_limits
from hybrid.types import KeyRules, RateLimit

MINUTE_S = 60.0
gaps = st.lists(
    st.tuples(st.floats(min_value=0, max_value=40), st.integers(min_value=0, max_value=60)), min_size=1, max_size=60
)


@given(gaps=gaps, requests=st.integers(1, 8), tokens=st.integers(1, 120))
def test_no_minute_is_over(gaps, requests, tokens):
    """Of whatever comes whenever, no 60 seconds hold more admitted requests or charged tokens than the limits."""
    rules, usage, now_s = KeyRules(requests_per_minute=requests, tokens_per_minute=tokens), KeyUsage(), 1000.0
    taken: list[tuple[float, int]] = []
    for gap_s, wanted in gaps:
        now_s += gap_s
        verdict = admit(rules, usage, now_s, tokens=wanted)
        if isinstance(verdict, Admitted):
            usage = ended(
                verdict.usage, now_s, admitted_s=now_s, charged_tokens=verdict.charged_tokens,
                used_tokens=verdict.charged_tokens,
            )  # fmt: skip
            taken.append((now_s, verdict.charged_tokens))
    for start_s, _ in taken:
        inside = [charged for at_s, charged in taken if start_s <= at_s < start_s + MINUTE_S]
        assert len(inside) <= requests
        assert sum(inside) <= tokens


@given(gaps=gaps, requests=st.integers(1, 8), tokens=st.integers(1, 120), running=st.integers(1, 4))
def test_who_waits_as_told_comes_in(gaps, requests, tokens, running):
    """After the time it was told, with nothing else coming and what ran at its end, a held request is admitted."""
    rules = KeyRules(requests_per_minute=requests, tokens_per_minute=tokens, concurrency=running)
    usage, now_s = KeyUsage(), 1000.0
    for gap_s, wanted in gaps:
        now_s += gap_s
        verdict = admit(rules, usage, now_s, tokens=wanted)
        if isinstance(verdict, Held):
            assert 0 < verdict.retry_after_s <= 61
            usage = KeyUsage(requests=usage.requests, tokens=usage.tokens)
            now_s += verdict.retry_after_s
            verdict = admit(rules, usage, now_s, tokens=wanted)
        assert isinstance(verdict, Admitted)
        usage = verdict.usage


def test_too_large_for_any_minute():
    """A request of more tokens than the limit comes in after a quiet minute, and its whole length counts then."""
    rules = KeyRules(tokens_per_minute=100)
    first = admit(rules, KeyUsage(), 0.0, tokens=1_000)
    assert isinstance(first, Admitted)
    assert 100 == first.charged_tokens
    usage = ended(first.usage, 30.0, admitted_s=0.0, charged_tokens=100, used_tokens=900)
    assert Held("tokens", 61.0) == admit(rules, usage, 30.0, tokens=1)
    assert isinstance(admit(rules, usage, 91.0, tokens=1), Admitted)


def test_an_overestimate_is_given_back():
    """What an answer did not take is free again at once."""
    rules = KeyRules(tokens_per_minute=100)
    first = admit(rules, KeyUsage(), 0.0, tokens=90)
    assert isinstance(first, Admitted)
    assert Held("tokens", 61.0) == admit(rules, first.usage, 0.0, tokens=20)
    usage = ended(first.usage, 1.0, admitted_s=0.0, charged_tokens=90, used_tokens=10)
    assert isinstance(admit(rules, usage, 1.0, tokens=90), Admitted)


def test_an_overestimate_of_long_ago_is_nothing():
    """A long answer that took less than its charge gives nothing back of what counts no more."""
    usage = ended(KeyUsage(running=1), 100.0, admitted_s=0.0, charged_tokens=90, used_tokens=10)
    assert KeyUsage() == usage


def test_places_are_given_back():
    """As many run at once as may, and an end makes room for one."""
    rules, usage = KeyRules(concurrency=2), KeyUsage()
    for _ in range(2):
        verdict = admit(rules, usage, 0.0, tokens=1)
        assert isinstance(verdict, Admitted)
        usage = verdict.usage
    assert Held("concurrency", 1.0) == admit(rules, usage, 0.0, tokens=1)
    usage = ended(usage, 0.0, admitted_s=0.0, charged_tokens=1, used_tokens=1)
    assert isinstance(admit(rules, usage, 0.0, tokens=1), Admitted)


def test_how_a_key_stands():
    """Each limit by the minute is told with what is left and when all of it is free; others are not told."""
    rules = KeyRules(requests_per_minute=10, tokens_per_minute=1_000, concurrency=3)
    verdict = admit(rules, KeyUsage(), 5.25, tokens=300)
    assert isinstance(verdict, Admitted)
    assert (
        RateLimit("requests", 10, 9, 60.75),
        RateLimit("tokens", 1_000, 700, 60.75),
    ) == rate_limits(rules, verdict.usage, 5.25)
    assert (RateLimit("requests", 10, 10, 0.0),) == rate_limits(KeyRules(requests_per_minute=10), KeyUsage(), 5.25)
    assert () == rate_limits(KeyRules(concurrency=1), verdict.usage, 5.25)


@pytest.mark.parametrize("rules", [KeyRules(), KeyRules(models=("hybrid",))])
def test_without_limits_all_come_in(rules):
    """A key without rates is never held."""
    usage = KeyUsage()
    for _ in range(1000):
        verdict = admit(rules, usage, 0.0, tokens=10**9)
        assert isinstance(verdict, Admitted)
        usage = verdict.usage
