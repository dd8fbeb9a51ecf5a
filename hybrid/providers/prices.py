"""What does a provider list as its price for a model? From the genai-prices data; unknown is None, never zero."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

HOME_URLS = {"openai": "https://api.openai.com/v1"}
"""Where a kind's own API is."""

BEYOND_TOKENS = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok", "input_text_messages_kcount")
"""Price keys that any chat call may run up and that no price per prompt and output token can hold."""


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """List price of one model in USD per million tokens, each the highest that a plain call can be billed at.

    input_usd_per_mtok: where the provider charges more for writing its prompt cache, that: it may do so unasked.
    cached_input_usd_per_mtok: for prompt tokens read from its cache; None where none is listed.
    source: the data's name and version, and the provider and model that matched.
    as_of: since when the data says the price holds; None where it gives no date.
    """

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None
    source: str
    as_of: date | None


def lookup(
    kind: str, base_url: str | None, model: str, *, at: datetime | None = None, prompt_tokens: int | None = None
) -> ListedPrice | None:
    """Find the list price of `model` at an API. Reads no network.

    The API is known by its URL, never guessed from the model's name: behind another URL the same model has another
    price. Of prices that change with the hour the highest counts, so that a call may last across the change.

    Args:
        kind: the provider kind; names the API where `base_url` is None.
        at: when the call is made, with a time zone; None: now.
        prompt_tokens: picks the tier where the price depends on the prompt's length; None: the dearest tier.
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
    return listed_price(info, source, at=at or datetime.now(UTC), prompt_tokens=prompt_tokens)


def listed_price(info: ModelInfo, source: str, *, at: datetime, prompt_tokens: int | None) -> ListedPrice | None:
    """Read one model's entry. Pure; see `lookup`."""
    prices, since = _in_force(info, at)
    if any(getattr(price, key) is not None for price in prices for key in BEYOND_TOKENS):
        return None
    inputs = _highest(prices, "input_mtok", prompt_tokens)
    outputs = _highest(prices, "output_mtok", prompt_tokens)
    if inputs is None or outputs is None:
        return None
    return ListedPrice(
        input_usd_per_mtok=max(inputs, _highest(prices, "cache_write_mtok", prompt_tokens) or inputs),
        output_usd_per_mtok=outputs,
        cached_input_usd_per_mtok=_highest(prices, "cache_read_mtok", prompt_tokens),
        source=source,
        as_of=since,
    )


def _highest(prices: list[ModelPrice], key: str, prompt_tokens: int | None) -> Decimal | None:
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


def _rate(price: ModelPrice, key: str, prompt_tokens: int | None) -> Decimal | None:
    listed: Decimal | TieredPrices | None = getattr(price, key)
    if listed is None or isinstance(listed, Decimal):
        return listed
    if prompt_tokens is None:
        return max(listed.base, *(tier.price for tier in listed.tiers))
    reached = [tier.price for tier in listed.tiers if prompt_tokens > tier.start]
    return reached[-1] if reached else listed.base
