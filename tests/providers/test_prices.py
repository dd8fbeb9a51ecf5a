"""Is a list price found where it is known, at its highest, and nowhere else?"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from hybrid.providers.prices import ListedPrice, listed_price, lookup

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
OPENAI = "https://api.openai.com/v1"


def listed(prices, *, at=NOON):
    """The price made of an entry written here, so that a new release of the data changes no test."""
    info = ModelInfo("m", ClauseEquals("m"), prices=prices)
    return listed_price(info, "test", at=at)


def price(input_usd, output_usd, cached_usd=None, since=None):
    """The expected price."""
    cached = None if cached_usd is None else Decimal(cached_usd)
    return ListedPrice(Decimal(input_usd), Decimal(output_usd), cached, "test", since)


def entry(**rates):
    """A price entry of the data, from decimal strings."""
    return ModelPrice(**{key: Decimal(rate) if isinstance(rate, str) else rate for key, rate in rates.items()})


def tiers(base, above_200k):
    """A rate that changes for all tokens once the prompt is longer than 200,000."""
    return TieredPrices(base=Decimal(base), tiers=[Tier(start=200_000, price=Decimal(above_200k))])


def test_a_known_model_costs_what_the_library_says():
    """A million tokens each way at our rates are the library's own figure, and the source can be checked."""
    found = lookup("openai", OPENAI, "gpt-5-mini", at=NOON)
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    theirs = calc_price(usage, "gpt-5-mini", provider_id="openai", genai_request_timestamp=NOON)
    assert (theirs.input_price, theirs.output_price) == (found.input_usd_per_mtok, found.output_usd_per_mtok)
    assert found.source.startswith("genai-prices ")
    assert found.source.endswith(": openai/gpt-5-mini")


def test_a_kind_without_a_url_means_its_own_api():
    """No base URL is the kind's home."""
    assert lookup("openai", None, "gpt-5-mini", at=NOON) == lookup("openai", OPENAI, "gpt-5-mini", at=NOON)


@pytest.mark.parametrize(
    ("kind", "base_url", "model"),
    [
        pytest.param("openai", "http://127.0.0.1:8000/v1", "gpt-5-mini", id="known-name-behind-an-unknown-url"),
        pytest.param("openai", OPENAI, "no-such-model", id="unknown-model"),
        pytest.param("openai", OPENAI, "text-embedding-3-small", id="model-that-writes-nothing"),
        pytest.param("another", None, "gpt-5-mini", id="unknown-kind-without-a-url"),
    ],
)
def test_unknown_is_none(kind, base_url, model):
    """Nothing is guessed from the model's name."""
    assert lookup(kind, base_url, model, at=NOON) is None


HALF_PRICED = [
    pytest.param(entry(), id="listed-without-a-price"),
    pytest.param(entry(input_mtok="1"), id="no-output-price"),
    pytest.param(entry(output_mtok="1"), id="no-input-price"),
    pytest.param(entry(input_mtok="1", output_mtok="1", requests_kcount="5"), id="also-billed-by-request"),
    pytest.param(entry(input_mtok="1", output_mtok="1", output_reasoning_mtok="3"), id="reasoning-has-its-own-rate"),
]


@pytest.mark.parametrize("prices", HALF_PRICED)
def test_what_tokens_alone_do_not_price_has_no_price(prices):
    """A missing rate is unknown and never zero; a fee beside the tokens is not left out."""
    assert listed(prices) is None


def test_the_cached_rate_is_unknown_where_none_is_listed():
    """No cached rate is None, which is not free."""
    assert price("1", "2") == listed(entry(input_mtok="1", output_mtok="2"))
    assert price("1", "2", "0.1") == listed(entry(input_mtok="1", output_mtok="2", cache_read_mtok="0.1"))


def test_writing_the_cache_has_its_rate():
    """Where a provider bills a prompt token as a cache write, that rate is told beside the input's."""
    expected = replace(price("1", "2"), cache_write_usd_per_mtok=Decimal("1.25"))
    assert expected == listed(entry(input_mtok="1", output_mtok="2", cache_write_mtok="1.25"))


def test_a_tiered_price_keeps_its_steps():
    """Each mark of any rate is a step that says what all tokens of a longer prompt pay."""
    expected = replace(price("1", "4"), steps=((200_000, price("2", "6")),))
    assert expected == listed(entry(input_mtok=tiers("1", "2"), output_mtok=tiers("4", "6")))


def test_a_price_by_the_hour_is_the_dearest_hour():
    """The day rate counts at night as well: a call may last until morning."""
    by_hour = [
        ConditionalPrice(prices=entry(input_mtok="1", output_mtok="5")),
        ConditionalPrice(
            TimeOfDateConstraint(time(8, tzinfo=UTC), time(18, tzinfo=UTC)),
            prices=entry(input_mtok="2", output_mtok="4"),
        ),
    ]
    assert price("2", "5") == listed(by_hour, at=NOON.replace(hour=22))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        pytest.param(datetime(2026, 6, 30, 23, tzinfo=UTC), price("2", "8"), id="the-day-before"),
        pytest.param(datetime(2026, 7, 1, tzinfo=UTC), price("1", "4", since=date(2026, 7, 1)), id="the-day-itself"),
    ],
)
def test_a_dated_price_holds_from_its_day_and_says_so(at, expected):
    """Before its day the former price holds; from then on `as_of` is that day."""
    dated = [
        ConditionalPrice(prices=entry(input_mtok="2", output_mtok="8")),
        ConditionalPrice(StartDateConstraint(date(2026, 7, 1)), prices=entry(input_mtok="1", output_mtok="4")),
    ]
    assert expected == listed(dated, at=at)


def test_a_batch_rate_is_not_the_price_of_a_call():
    """No call here goes to a batch API, so its lower rate would book less than is billed."""
    half = PriceVariant(when={"processing": "batch"}, prices=entry(input_mtok="1", output_mtok="2"))
    plain = ModelInfo("m", ClauseEquals("m"), prices=entry(input_mtok="2", output_mtok="4"), price_variants=[half])
    assert price("2", "4") == listed_price(plain, "test", at=NOON)


def test_no_batch_or_flex_rate_is_above_the_price_that_is_booked():
    """Over the whole table as installed: what is left out makes a booked cost too high at most."""
    seen = 0
    for info in (info for provider in get_snapshot().providers for info in provider.models):
        found = listed_price(info, "test", at=NOON)
        for variant in (info.price_variants or ()) if found is not None else ():
            if {"batch", "flex"} & set(variant.when.values()):
                rates = (variant.prices.input_mtok, variant.prices.output_mtok)
                bases = [getattr(rate, "base", rate) for rate in rates]
                booked = (found.input_usd_per_mtok, found.output_usd_per_mtok)
                assert all(rate is None or rate <= most for rate, most in zip(bases, booked, strict=True)), info.id
                seen += 1
    assert seen > 0
