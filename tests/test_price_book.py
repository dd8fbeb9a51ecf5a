"""Does the price of a day hold on that day, without a restart, and is an old table told of?"""

from __future__ import annotations

import logging
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from hybrid.clouds import CloudModel, Clouds
from hybrid.config import load
from hybrid.config_schema import CloudConfig, Config, PriceConfig
from hybrid.price_book import STALE_DAYS, PriceBook, in_force, price_of
from hybrid.providers.openai import OpenAIProvider
from hybrid.providers.prices import newest_entry

BERLIN = timezone(timedelta(hours=1))
NOON = datetime(2026, 11, 30, 12, tzinfo=BERLIN)
CLOUD = CloudConfig(name="big", base_url="http://127.0.0.1:1/v1", models=("m",))
OPENAI = CloudConfig(name="openai", base_url="https://api.openai.com/v1", models=("gpt-5-mini",))


class Clock:
    """A clock that moves when told to."""

    now = NOON

    def __call__(self):
        """Read it."""
        return self.now


def dollars(amount, since=None):
    """A price of yours."""
    return PriceConfig(input_usd_per_mtok=Decimal(amount), output_usd_per_mtok=Decimal(amount), since=since)


def config(*prices, cloud=CLOUD):
    """A configuration of one cloud, whose model has these prices."""
    return Config(cloud=(cloud,), prices={f"{cloud.name}/{cloud.models[0]}": prices} if prices else {})


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        pytest.param(date(2025, 12, 31), "1", id="before-any-day"),
        pytest.param(date(2026, 1, 1), "2", id="the-first-day"),
        pytest.param(date(2026, 11, 30), "2", id="the-last-day-before"),
        pytest.param(date(2026, 12, 1), "3", id="the-new-price"),
    ],
)
def test_the_price_that_began_last_holds(day, expected):
    """Of several the last that has begun counts, in whatever order they are written."""
    prices = [dollars(3, date(2026, 12, 1)), dollars(1), dollars(2, date(2026, 1, 1))]
    assert Decimal(expected) == in_force(prices, day).input_usd_per_mtok


def test_a_price_that_has_not_begun_is_none():
    """A model whose own price begins later and that no table has is not called until then."""
    assert None is price_of(config(dollars(1, date(2026, 12, 1))), CLOUD, "m", now=NOON)


def test_a_price_changes_at_midnight_of_the_users_clock(caplog):
    """A server that runs over midnight takes the new day's price, in every model it offers, and logs the change."""
    clock = Clock()
    both = config(dollars(1), dollars(2, date(2026, 12, 1)))
    model = CloudModel(
        provider=OpenAIProvider("big", base_url=CLOUD.base_url, api_key=None), model="m",
        price=price_of(both, CLOUD, "m", now=NOON), max_output_tokens=10,
    )  # fmt: skip
    clouds = Clouds([model], None, lambda _now, _request: (), prices=PriceBook(both, clock=clock))
    seen = []
    for now in (NOON, NOON.replace(hour=23, minute=59), NOON + timedelta(hours=12), NOON + timedelta(days=30)):
        clock.now = now
        [offered] = clouds.models
        seen.append(offered.price.input_usd_per_mtok)
        assert clouds.reference_price == offered.price
        assert clouds.named("big/m") == (offered,)
    assert [1, 1, 2, 2] == seen
    assert ["the price of big/m changed from $1 in, $1 out a million (config) to $2 in, $2 out a million (config)"] == [
        record.message for record in caplog.records
    ]


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        pytest.param(None, True, id="any"),
        pytest.param("big", True, id="the-cloud"),
        pytest.param("m", True, id="the-model"),
        pytest.param("big/m", True, id="both"),
        pytest.param("big/other", False, id="another-model"),
        pytest.param("other", False, id="another-cloud"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_which_clouds_are_there_is_known_without_prices(name, is_there):
    """A name means a model whether or not a price is known for it, and no price is looked up to tell."""

    def no_clock():
        pytest.fail("a price was looked up")

    model = CloudModel(
        provider=OpenAIProvider("big", base_url=CLOUD.base_url, api_key=None), model="m",
        price=None, max_output_tokens=10,
    )  # fmt: skip
    prices = PriceBook(config(), clock=no_clock)
    assert is_there is Clouds([model], None, lambda _now, _request: (), prices=prices).has(name)
    assert not Clouds([], None, lambda _now, _request: (), prices=prices).has(name)


def test_a_price_is_looked_up_once_a_day():
    """Within a day the same value is given, not another like it."""
    book = PriceBook(config(dollars(1)), clock=Clock())
    assert book.price("big", "m") is book.price("big", "m")
    assert (None, None) == (book.price("big", "other"), book.price("nobody", "m"))


def test_an_old_table_is_told_of_once(caplog):
    """Where the newest entry of the table is older than two months the operator is told, once."""
    clock = Clock()
    clock.now = datetime.now(BERLIN) + timedelta(days=20_000)
    book = PriceBook(config(cloud=OPENAI), clock=clock)
    for _ in range(3):
        assert book.price("openai", "gpt-5-mini") is not None
        clock.now += timedelta(days=1)
    [said] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("the price table's newest entry is of 20")


def test_a_fresh_table_is_not_told_of(caplog):
    """Beside its newest entry, or where every price is yours, nothing is said."""
    clock = Clock()
    newest = newest_entry(date(2100, 1, 1))
    clock.now = datetime(newest.year, newest.month, newest.day, 12, tzinfo=BERLIN) + timedelta(days=STALE_DAYS)
    PriceBook(config(cloud=OPENAI), clock=clock).price("openai", "gpt-5-mini")
    clock.now += timedelta(days=20_000)
    PriceBook(config(dollars(1)), clock=clock).price("big", "m")
    assert [] == caplog.records


def test_the_newest_entry_is_not_of_the_future():
    """Prices that are listed to begin later say nothing of the table's age."""
    assert newest_entry(date(2026, 11, 25)) <= date(2026, 11, 25)
    assert None is newest_entry(date(1999, 1, 1))


def test_several_prices_are_configured(tmp_path):
    """[[prices."x/y"]] lists them, and each is checked with its place."""
    (tmp_path / "h.toml").write_text(
        '[[prices."x/y"]]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n'
        '[[prices."x/y"]]\ninput_usd_per_mtok = 3\noutput_usd_per_mtok = 4\nsince = 2026-12-01\n'
        '[prices."x/z"]\ninput_usd_per_mtok = 5\noutput_usd_per_mtok = 6\n'
    )
    found = load(tmp_path / "h.toml", {})
    assert [1, 3] == [price.input_usd_per_mtok for price in found.config.prices["x/y"]]
    assert 5 == found.config.prices["x/z"].input_usd_per_mtok
    assert found.origins['prices."x/y"[1].since'].endswith("h.toml:7")
