"""Is every token paid once, exactly, and never for less than it costs?"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.pricing import TokenPrice, cost_usd, is_told, saved_usd, worst_case_usd
from hybrid.types import Usage

PRICE = TokenPrice(
    input_usd_per_mtok=Decimal("0.25"),
    output_usd_per_mtok=Decimal("2.00"),
    cached_input_usd_per_mtok=Decimal("0.025"),
    source="config",
    as_of=date(2026, 1, 1),
)
WRITES = TokenPrice(
    input_usd_per_mtok=Decimal("3"),
    output_usd_per_mtok=Decimal("15"),
    cached_input_usd_per_mtok=Decimal("0.30"),
    cache_write_usd_per_mtok=Decimal("3.75"),
    source="config",
)
LONG = TokenPrice(
    input_usd_per_mtok=Decimal("1.25"),
    output_usd_per_mtok=Decimal("10"),
    steps=(
        (
            200_000,
            TokenPrice(input_usd_per_mtok=Decimal("2.50"), output_usd_per_mtok=Decimal("15"), source="config"),
        ),
    ),
    source="config",
)
NO_CACHED_RATE = TokenPrice(input_usd_per_mtok=Decimal("0.25"), output_usd_per_mtok=Decimal("2.00"), source="config")

rates = st.decimals(min_value=0, max_value=1000, places=6)
prices = st.builds(
    TokenPrice,
    input_usd_per_mtok=rates,
    output_usd_per_mtok=rates,
    cached_input_usd_per_mtok=st.none() | rates,
    cache_write_usd_per_mtok=st.none() | rates,
    source=st.just("test"),
)
stepped = st.builds(
    lambda price, start, longer: replace(price, steps=((start, longer),)), prices, st.integers(0, 10_000_000), prices
)
counts = st.integers(min_value=0, max_value=10_000_000)


@pytest.mark.parametrize(
    ("price", "usage", "expected_usd"),
    [
        pytest.param(PRICE, Usage(prompt_tokens=1000, completion_tokens=100), Decimal("0.00045"), id="plain"),
        pytest.param(
            PRICE,
            Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=800),
            Decimal("0.00027"),
            id="cached-at-its-rate",
        ),
        pytest.param(
            NO_CACHED_RATE,
            Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=800),
            Decimal("0.00045"),
            id="no-cached-rate-pays-input",
        ),
        pytest.param(
            PRICE,
            Usage(prompt_tokens=1000, completion_tokens=0, cached_tokens=5000),
            Decimal("0.000025"),
            id="more-cached-than-prompt",
        ),
        pytest.param(
            PRICE,
            Usage(prompt_tokens=10, completion_tokens=100, reasoning_tokens=90),
            Decimal("0.0002025"),
            id="reasoning-is-within-completion",
        ),
        pytest.param(
            PRICE,
            Usage(prompt_tokens=1000, completion_tokens=100, cost_usd=Decimal("0.5")),
            Decimal("0.5"),
            id="reported-cost-wins",
        ),
        pytest.param(
            PRICE,
            Usage(prompt_tokens=1000, completion_tokens=100, cost_usd=Decimal(0)),
            Decimal(0),
            id="reported-zero-is-a-price",
        ),
        pytest.param(PRICE, Usage(prompt_tokens=0, completion_tokens=0), Decimal(0), id="nothing"),
        pytest.param(
            WRITES,
            Usage(prompt_tokens=3_100, completion_tokens=100, cached_tokens=1_000, cache_write_tokens=2_000),
            Decimal("0.0096"),
            id="cache-writes-at-their-rate",
        ),
        pytest.param(
            WRITES,
            Usage(prompt_tokens=3_000, completion_tokens=0, cached_tokens=1_000),
            Decimal("0.0078"),
            id="writes-that-are-not-told-may-be-all-that-is-not-cached",
        ),
        pytest.param(
            WRITES,
            Usage(prompt_tokens=1_000, completion_tokens=0, cached_tokens=600, cache_write_tokens=5_000),
            Decimal("0.00168"),
            id="more-written-than-prompt",
        ),
        pytest.param(
            LONG, Usage(prompt_tokens=200_000, completion_tokens=10), Decimal("0.2501"), id="at-the-mark-of-a-step"
        ),
        pytest.param(
            LONG,
            Usage(prompt_tokens=200_001, completion_tokens=10),
            Decimal("0.5001525"),
            id="beyond-it-all-tokens-pay",
        ),
    ],
)
def test_cost(price, usage, expected_usd):
    """cost_usd() is the exact decimal sum over the tokens, or the provider's own figure."""
    assert expected_usd == cost_usd(price, usage)


@given(price=prices, prompt=counts, cached=counts, written=counts, completion=counts)
def test_every_token_lands_in_one_bucket(price, prompt, cached, written, completion):
    """The cost is that of a one-token answer for each token, summed: none is paid twice and none is free."""
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    fresh_token = cost_usd(price, Usage(prompt_tokens=1, completion_tokens=0, cache_write_tokens=0))
    cached_token = cost_usd(price, Usage(prompt_tokens=1, completion_tokens=0, cached_tokens=1))
    written_token = cost_usd(price, Usage(prompt_tokens=1, completion_tokens=0, cache_write_tokens=1))
    output_token = cost_usd(price, Usage(prompt_tokens=0, completion_tokens=1))
    expected = (prompt - cached - written) * fresh_token + cached * cached_token + completion * output_token
    expected += written * written_token
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, cache_write_tokens=written)
    assert expected == cost_usd(price, usage)


@given(price=prices | stepped, bound=counts, limit=counts, data=st.data())
def test_worst_case_is_never_passed(price, bound, limit, data):
    """No usage within the bounds costs more than the worst case, whichever tokens were cached."""
    prompt = data.draw(st.integers(0, bound))
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=data.draw(st.integers(0, limit)),
        cached_tokens=data.draw(st.integers(0, prompt)),
        cache_write_tokens=data.draw(st.none() | st.integers(0, prompt)),
    )
    assert worst_case_usd(price, prompt_tokens_bound=bound, max_output_tokens=limit) >= cost_usd(price, usage)


def test_worst_case_figure():
    """The worst case of 1,000 prompt and 100 output tokens is theirs at the full rates."""
    assert Decimal("0.00045") == worst_case_usd(PRICE, prompt_tokens_bound=1000, max_output_tokens=100)


@pytest.mark.parametrize(
    ("usage", "spent_usd", "expected_usd"),
    [
        pytest.param(Usage(prompt_tokens=1000, completion_tokens=100), Decimal(0), Decimal("0.00045"), id="local"),
        pytest.param(
            Usage(prompt_tokens=1000, completion_tokens=100, cost_usd=Decimal("9")),
            Decimal("0.00045"),
            Decimal(0),
            id="the-cloud-itself-saves-nothing",
        ),
        pytest.param(
            Usage(prompt_tokens=1000, completion_tokens=100),
            Decimal("0.0009"),
            Decimal("-0.00045"),
            id="paid-twice-is-negative",
        ),
        pytest.param(
            Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=1000),
            Decimal(0),
            Decimal("0.000225"),
            id="our-cache-hits-count-at-the-cached-rate",
        ),
    ],
)
def test_saved(usage, spent_usd, expected_usd):
    """saved_usd() is the counterfactual cost of the tokens less everything paid."""
    assert expected_usd == saved_usd(PRICE, usage, spent_usd)


def test_a_float_is_no_price():
    """A float price is refused: 0.1 as a float is not a tenth."""
    with pytest.raises(TypeError, match="Decimal"):
        TokenPrice(input_usd_per_mtok=0.1, output_usd_per_mtok=Decimal(1), source="test")


@pytest.mark.parametrize("wrong", [Decimal(-1), Decimal("NaN"), Decimal("Infinity")], ids=str)
def test_a_price_is_a_number_from_zero(wrong):
    """A negative or endless price is refused where it enters."""
    with pytest.raises(ValueError, match="USD >= 0"):
        TokenPrice(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=wrong, source="test")


@pytest.mark.parametrize(
    "usage",
    [
        pytest.param(Usage(prompt_tokens=-1, completion_tokens=0), id="prompt"),
        pytest.param(Usage(prompt_tokens=0, completion_tokens=-1), id="completion"),
        pytest.param(Usage(prompt_tokens=0, completion_tokens=0, cost_usd=Decimal(-1)), id="reported-cost"),
    ],
)
def test_negative_usage_is_refused(usage):
    """A negative count or cost cannot lower the bill."""
    with pytest.raises(ValueError, match=">= 0"):
        cost_usd(PRICE, usage)


def test_negative_worst_case_is_refused():
    """A reservation of negative tokens is refused."""
    with pytest.raises(ValueError, match=">= 0"):
        worst_case_usd(PRICE, prompt_tokens_bound=-1, max_output_tokens=0)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(Usage(prompt_tokens=1, completion_tokens=0), True, id="counted"),
        pytest.param(Usage(prompt_tokens=0, completion_tokens=5), False, id="no-prompt"),
        pytest.param(Usage(prompt_tokens=0, completion_tokens=0), False, id="all-zero"),
        pytest.param(Usage(prompt_tokens=0, completion_tokens=0, cost_usd=Decimal(0)), True, id="free-by-its-word"),
    ],
)
def test_a_count_of_nothing_is_no_count(usage, expected):
    """Servers that fill in zeros where they did not count must not make an answer free."""
    assert expected is is_told(usage)


def test_saved_claims_no_cache_writes():
    """A local answer writes no cloud's cache, so the plain rate is what it saves."""
    assert Decimal("0.003") == saved_usd(WRITES, Usage(prompt_tokens=1000, completion_tokens=0), Decimal(0))
