"""What does a provider list as its price for a model? From the genai-prices data; unknown is None, never zero."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Tier, TieredPrices

HOME_URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
}
"""Where a kind's own API is."""

BEYOND_TOKENS = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok", "input_text_messages_kcount")
"""Price keys that any chat call may run up and that no price per prompt and output token can hold."""


RATES = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
"""Price keys of the tokens of a plain call. Caches that live for an hour are never asked for."""


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """List price of one model in USD per million tokens, each the highest that a plain call can be billed at.

    cached_input_usd_per_mtok: for prompt tokens read from its cache; None where none is listed.
    source: the data's name and version, and the provider and model that matched.
    as_of: since when the data says the price holds; None where it gives no date.
    cache_write_usd_per_mtok: for prompt tokens written to its cache, which it may do unasked; None: none is listed.
    steps: (start, price) in rising order: what all tokens of a prompt of more than `start` tokens pay instead.
    """

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None
    source: str
    as_of: date | None
    cache_write_usd_per_mtok: Decimal | None = None
    steps: tuple[tuple[int, ListedPrice], ...] = ()


def lookup(kind: str, base_url: str | None, model: str, *, at: datetime | None = None) -> ListedPrice | None:
    """Find the list price of `model` at an API. Reads no network.

    The API is known by its URL, never guessed from the model's name: behind another URL the same model has another
    price. Of prices that change with the hour the highest counts, so that a call may last across the change.

    Args:
        kind: the provider kind; names the API where `base_url` is None.
        at: when the call is made, with a time zone; None: now.
    Returns: None for an unknown API or model, and for one that is also billed by more than tokens.
    """
    url = base_url or HOME_URLS.get(kind)
    if url is None:
        return None
    # Imported on the first look-up: it costs 0.2 s and some 25 MB, which a runtime without a cloud should not pay.
    from genai_prices.data_snapshot import get_snapshot

    try:
        provider, info = get_snapshot().find_provider_model(model, None, None, url)
    except LookupError:
        return None
    source = f"genai-prices {version('genai-prices')}: {provider.id}/{info.id}"
    return listed_price(info, source, at=at or datetime.now(UTC))


def newest_entry(today: date) -> date | None:
    """The newest day, up to today, that any entry of the data names: the data is at least as new. Reads no network.

    The data does not say itself of when it is. Days are those prices hold from, and those its keepers noted.
    """
    from genai_prices.data_snapshot import get_snapshot

    days = {day for provider in get_snapshot().providers for info in provider.models for day in _days(info)}
    return max((day for day in days if day <= today), default=None)


def _days(info: ModelInfo) -> Iterator[date]:
    noted = re.findall(r"\b20\d\d-[01]\d-[0-3]\d\b", info.price_comments or "")
    entries = [] if not isinstance(info.prices, list) else info.prices
    for day in noted:
        with contextlib.suppress(ValueError):
            yield date.fromisoformat(day)
    for entry in (*entries, *(getattr(info, "price_variants", None) or ())):
        start = getattr(entry.constraint, "start_date", None)
        if start is not None:
            yield start


def listed_price(info: ModelInfo, source: str, *, at: datetime) -> ListedPrice | None:
    """Read one model's entry. Pure; see `lookup`."""
    prices, since = _in_force(info, at)
    if any(getattr(price, key) is not None for price in prices for key in BEYOND_TOKENS):
        return None
    base = _step(prices, 0, source, since)
    if base is None:
        return None
    starts = sorted({tier.start for price in prices for key in RATES for tier in _tiers(getattr(price, key))})
    steps = [(start, _step(prices, start + 1, source, since)) for start in starts]
    return replace(base, steps=tuple((start, step) for start, step in steps if step is not None))


def _step(prices: list[ModelPrice], prompt_tokens: int, source: str, since: date | None) -> ListedPrice | None:
    """What a prompt of this length pays; None where the prompt or the answer has no rate."""
    inputs, outputs, cached, written = (_highest(prices, key, prompt_tokens) for key in RATES)
    if inputs is None or outputs is None:
        return None
    return ListedPrice(inputs, outputs, cached, source, since, written)


def _tiers(listed: Decimal | TieredPrices | None) -> list[Tier]:
    return [] if listed is None or isinstance(listed, Decimal) else listed.tiers


def _highest(prices: list[ModelPrice], key: str, prompt_tokens: int) -> Decimal | None:
    """The highest rate of all prices in force; None where one of them has none."""
    rates = [_rate(price, key, prompt_tokens) for price in prices]
    known = [rate for rate in rates if rate is not None]
    return max(known) if len(known) == len(rates) else None


def _in_force(info: ModelInfo, at: datetime) -> tuple[list[ModelPrice], date | None]:
    """The prices that hold on that day, by whatever hour, and since when they are dated to hold."""
    from genai_prices.types import ModelPrice, StartDateConstraint, TimeOfDateConstraint

    if isinstance(info.prices, ModelPrice):
        return [info.prices], None
    hourly = [one.prices for one in info.prices if isinstance(one.constraint, TimeOfDateConstraint)]
    dated = [one for one in info.prices if not isinstance(one.constraint, TimeOfDateConstraint)]
    active = [one for one in dated if one.constraint is None or one.constraint.active(at)]
    # As the library chooses: the last that is active, and the first of all where none is.
    base = (active or dated or info.prices)[-1 if active else 0]
    since = base.constraint.start_date if isinstance(base.constraint, StartDateConstraint) else None
    return [base.prices, *hourly], since


def _rate(price: ModelPrice, key: str, prompt_tokens: int) -> Decimal | None:
    listed: Decimal | TieredPrices | None = getattr(price, key)
    if listed is None or isinstance(listed, Decimal):
        return listed
    reached = [tier.price for tier in listed.tiers if prompt_tokens > tier.start]
    return reached[-1] if reached else listed.base
