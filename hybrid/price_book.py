"""What does each cloud model cost today? Yours goes before the table's; a new day's prices hold without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from hybrid.config import CloudConfig, Config, PriceConfig, own_prices
from hybrid.pricing import TokenPrice

if TYPE_CHECKING:
    from hybrid.providers.prices import ListedPrice

log = logging.getLogger(__name__)

OWN_SOURCE = "config"
"""The source of a price of yours."""

STALE_DAYS = 60
"""The table gets entries every few days. Where its newest is older than this, some price has probably changed."""


def _local_now() -> datetime:
    return datetime.now().astimezone()


class PriceBook:
    """Prices by cloud and model, looked up once a day.

    Args:
        clock: local time, with its zone; your `since` is a day of it, the table's dates are days of UTC.
    """

    def __init__(self, config: Config, *, clock: Callable[[], datetime] = _local_now) -> None:
        self._config, self._clock = config, clock
        self._clouds = {cloud.name: cloud for cloud in config.cloud}
        self._days: tuple[date, date] | None = None
        self._prices: dict[tuple[str, str], TokenPrice | None] = {}
        self._is_warned = False

    def price(self, cloud: str, model: str) -> TokenPrice | None:
        """What a model of a configured cloud costs now; None where nobody knows, or there is no such cloud."""
        now = self._clock()
        days = (now.date(), now.astimezone(UTC).date())
        if days != self._days:
            before, self._prices, self._days = self._prices, {}, days
            for (name, its_model), old in before.items():
                self._tell_change(name, its_model, old, self._look_up(name, its_model, now))
        key = (cloud, model)
        if key not in self._prices:
            self._look_up(cloud, model, now)
        return self._prices[key]

    def _look_up(self, cloud: str, model: str, now: datetime) -> TokenPrice | None:
        configured = self._clouds.get(cloud)
        found = None if configured is None else price_of(self._config, configured, model, now=now)
        self._prices[cloud, model] = found
        if found is None:
            log.warning('no price is known for %s/%s, so it is not called: set [prices."%s/%s"]', *(cloud, model) * 2)
        if found is not None and found.source != OWN_SOURCE:
            self._warn_of_age(now.astimezone(UTC).date())
        return found

    def _tell_change(self, cloud: str, model: str, old: TokenPrice | None, new: TokenPrice | None) -> None:
        if old != new:
            log.warning("the price of %s/%s changed from %s to %s", cloud, model, _shown(old), _shown(new))

    def _warn_of_age(self, today: date) -> None:
        from hybrid.providers.prices import newest_entry

        newest = newest_entry(today)
        if self._is_warned or newest is None or (today - newest).days <= STALE_DAYS:
            return
        self._is_warned = True
        log.warning(
            "the price table's newest entry is of %s, %d days ago: prices may have changed; upgrade genai-prices, "
            'or set [prices."CLOUD/MODEL"]',
            newest,
            (today - newest).days,
        )


def price_of(config: Config, cloud: CloudConfig, model: str, *, now: datetime | None = None) -> TokenPrice | None:
    """Find what a model costs: the configuration first, the price table second, None where neither knows.

    Args:
        now: local time, with its zone; None: now.
    """
    now = now or _local_now()
    own = in_force(own_prices(config, f"{cloud.name}/{model}"), now.date())
    if own is not None:
        return TokenPrice(
            input_usd_per_mtok=own.input_usd_per_mtok,
            output_usd_per_mtok=own.output_usd_per_mtok,
            cached_input_usd_per_mtok=own.cached_input_usd_per_mtok,
            cache_write_usd_per_mtok=own.cache_write_usd_per_mtok,
            source=OWN_SOURCE,
            as_of=own.since,
        )
    from hybrid.providers.prices import lookup

    listed = lookup(cloud.kind, cloud.base_url, model, at=now.astimezone(UTC))
    return None if listed is None else _token_price(listed)


def in_force(prices: Sequence[PriceConfig], day: date) -> PriceConfig | None:
    """Of the prices that have begun by a day, the one that began last; one without a day always held."""
    begun = [price for price in prices if price.since is None or price.since <= day]
    return max(begun, key=lambda price: price.since or date.min, default=None)


def _token_price(listed: ListedPrice) -> TokenPrice:
    return TokenPrice(
        input_usd_per_mtok=listed.input_usd_per_mtok,
        output_usd_per_mtok=listed.output_usd_per_mtok,
        cached_input_usd_per_mtok=listed.cached_input_usd_per_mtok,
        cache_write_usd_per_mtok=listed.cache_write_usd_per_mtok,
        steps=tuple((start, _token_price(step)) for start, step in listed.steps),
        source=listed.source,
        as_of=listed.as_of,
    )


def _shown(price: TokenPrice | None) -> str:
    if price is None:
        return "unknown"
    return f"${price.input_usd_per_mtok} in, ${price.output_usd_per_mtok} out a million ({price.source})"
