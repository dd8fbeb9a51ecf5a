"""What does an answer cost? Exact decimal arithmetic on token counts and dated prices; no table and no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from hybrid.types import Usage

_TOKENS_PER_MTOK_EXPONENT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    """What one model charges, in USD per million tokens.

    cached_input_usd_per_mtok: for prompt tokens the provider already held; None where it has no such rate.
    cache_write_usd_per_mtok: for prompt tokens it keeps for later calls; None where it has no such rate.
    steps: (start, price) in rising order: a prompt of more than `start` tokens pays `price` for all its tokens instead.
    source: who says so, for people to check ("config", "genai-prices 0.2.1").
    as_of: the day the price took effect or was recorded; None where the source is undated.
    Raises: ValueError if a price is negative or not finite, TypeError if it is a float.
    """

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    steps: tuple[tuple[int, TokenPrice], ...] = ()
    source: str
    as_of: date | None = None

    def __post_init__(self) -> None:
        rates = (self.input_usd_per_mtok, self.output_usd_per_mtok)
        for price in (*rates, self.cached_input_usd_per_mtok, self.cache_write_usd_per_mtok):
            if price is None:
                continue
            if not isinstance(price, Decimal):
                raise TypeError(f"a price is a Decimal, not {type(price).__name__}: a float is not the written number")
            if not price.is_finite() or price < 0:
                raise ValueError(f"a price is a number of USD >= 0 per million tokens; got {price}")

    @property
    def cached_usd_per_mtok(self) -> Decimal:
        """The rate a cached prompt token pays: the input rate where there is no rate of its own."""
        cached = self.cached_input_usd_per_mtok
        return self.input_usd_per_mtok if cached is None else cached

    @property
    def written_usd_per_mtok(self) -> Decimal:
        """The rate a prompt token pays that is written to the cache: the input rate where there is no other."""
        written = self.cache_write_usd_per_mtok
        return self.input_usd_per_mtok if written is None else written

    @property
    def dearest_input_usd_per_mtok(self) -> Decimal:
        """The most that a prompt token of this step can be billed at."""
        return max(self.input_usd_per_mtok, self.cached_usd_per_mtok, self.written_usd_per_mtok)

    def reached(self, prompt_tokens: int) -> list[TokenPrice]:
        """The prices that prompts of up to `prompt_tokens` may pay, the one of the longest last."""
        return [self, *[price for start, price in self.steps if prompt_tokens > start]]


def cost_usd(price: TokenPrice, usage: Usage) -> Decimal:
    """Price an answer. The provider's own figure wins where it reported one; nothing is rounded.

    Every token is paid once: a prompt token at the cached, the cache-write or the input rate, a completion token
    (reasoning included, as providers count it) at the output rate. More cached tokens than the prompt has is a
    provider's slip; the surplus is ignored. A provider that charges for writing its cache and does not tell how
    much it wrote may have written all that it had not cached: so it is priced, for the cap must hold.

    Raises: ValueError if a count or the reported cost is negative.
    """
    if usage.cost_usd is not None:
        if not usage.cost_usd.is_finite() or usage.cost_usd < 0:
            raise ValueError(f"a reported cost is a number of USD >= 0; got {usage.cost_usd}")
        return usage.cost_usd
    untold = usage.prompt_tokens if usage.cache_write_tokens is None else usage.cache_write_tokens
    return _tokens_usd(price, usage, cache_write_tokens=untold)


def is_told(usage: Usage) -> bool:
    """Say whether a usage can be billed by. No prompt has no tokens: who counts none did not count."""
    return usage.prompt_tokens > 0 or usage.cost_usd is not None


def tokens_usd(price: TokenPrice, usage: Usage) -> Decimal:
    """Price the token counts alone, whatever a provider reported; cache writes that were not told of are none.

    Raises: ValueError if a count is negative.
    """
    return _tokens_usd(price, usage, cache_write_tokens=usage.cache_write_tokens or 0)


def _tokens_usd(price: TokenPrice, usage: Usage, *, cache_write_tokens: int) -> Decimal:
    prompt_tokens = usage.prompt_tokens
    if prompt_tokens < 0 or usage.completion_tokens < 0 or usage.cached_tokens < 0 or cache_write_tokens < 0:
        raise ValueError(f"token counts are >= 0; got {usage}")
    rate = price.reached(prompt_tokens)[-1]
    input_usd, written_usd = rate.input_usd_per_mtok, rate.written_usd_per_mtok
    cached_tokens = min(usage.cached_tokens, prompt_tokens)
    written_tokens = min(cache_write_tokens, prompt_tokens - cached_tokens)
    if usage.cache_write_tokens is None and written_usd < input_usd:
        written_tokens = 0
    micro_usd = (
        (prompt_tokens - cached_tokens - written_tokens) * input_usd
        + cached_tokens * rate.cached_usd_per_mtok
        + written_tokens * written_usd
        + usage.completion_tokens * rate.output_usd_per_mtok
    )
    return micro_usd.scaleb(-_TOKENS_PER_MTOK_EXPONENT)


def worst_case_usd(price: TokenPrice, *, prompt_tokens_bound: int, max_output_tokens: int) -> Decimal:
    """The most a call can cost: each prompt token at its dearest rate and every allowed token generated.

    Args:
        prompt_tokens_bound: an upper bound on the prompt as the provider will count it.
        max_output_tokens: the limit sent with the call, reasoning included.
    Raises: ValueError if a count is negative.
    """
    if prompt_tokens_bound < 0 or max_output_tokens < 0:
        raise ValueError(f"token counts are >= 0; got {prompt_tokens_bound} and {max_output_tokens}")
    # A step may be dearer for the prompt and cheaper for the answer; whichever the true count reaches, this holds.
    rates = price.reached(prompt_tokens_bound)
    dearest_input = max([rate.dearest_input_usd_per_mtok for rate in rates])
    dearest_output = max([rate.output_usd_per_mtok for rate in rates])
    micro_usd = prompt_tokens_bound * dearest_input + max_output_tokens * dearest_output
    return micro_usd.scaleb(-_TOKENS_PER_MTOK_EXPONENT)


def saved_usd(counterfactual: TokenPrice, usage: Usage, spent_usd: Decimal) -> Decimal:
    """What the request would have cost at the cloud model, less what it did cost.

    The released answer's tokens stand in for those the cloud would have written, and tokens from our own prefix
    cache count at the cloud's cached rate: it would have held them as well, so we do not claim that difference.
    Negative when we paid more than the plain cloud call (a hedge that was lost).

    Args:
        counterfactual: the price of the configured cloud model.
        usage: of the released answer; a cost reported in it belongs to another price and is not read.
        spent_usd: everything this request paid, every attempt included.
    """
    return tokens_usd(counterfactual, usage) - spent_usd
