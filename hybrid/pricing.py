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
    source: who says so, for people to check ("config", "genai-prices 0.2.1").
    as_of: the day the price took effect or was recorded; None where the source is undated.
    Raises: ValueError if a price is negative or not finite, TypeError if it is a float.
    """

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None
    source: str
    as_of: date | None = None

    def __post_init__(self) -> None:
        for price in (self.input_usd_per_mtok, self.output_usd_per_mtok, self.cached_input_usd_per_mtok):
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


def cost_usd(price: TokenPrice, usage: Usage) -> Decimal:
    """Price an answer. The provider's own figure wins where it reported one; nothing is rounded.

    Every token is paid once: a prompt token at the cached or at the input rate, a completion token (reasoning
    included, as providers count it) at the output rate. More cached tokens than the prompt has is a provider's
    slip; the surplus is ignored.

    Raises: ValueError if a count or the reported cost is negative.
    """
    if usage.cost_usd is not None:
        if not usage.cost_usd.is_finite() or usage.cost_usd < 0:
            raise ValueError(f"a reported cost is a number of USD >= 0; got {usage.cost_usd}")
        return usage.cost_usd
    return tokens_usd(price, usage)


def tokens_usd(price: TokenPrice, usage: Usage) -> Decimal:
    """Price the token counts alone, whatever a provider reported.

    Raises: ValueError if a count is negative.
    """
    if min(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) < 0:
        raise ValueError(f"token counts are >= 0; got {usage}")
    cached_tokens = min(usage.cached_tokens, usage.prompt_tokens)
    micro_usd = (
        (usage.prompt_tokens - cached_tokens) * price.input_usd_per_mtok
        + cached_tokens * price.cached_usd_per_mtok
        + usage.completion_tokens * price.output_usd_per_mtok
    )
    return micro_usd.scaleb(-_TOKENS_PER_MTOK_EXPONENT)


def worst_case_usd(price: TokenPrice, *, prompt_tokens_bound: int, max_output_tokens: int) -> Decimal:
    """The most a call can cost: no token cached (unless that is dearer) and every allowed token generated.

    Args:
        prompt_tokens_bound: an upper bound on the prompt as the provider will count it.
        max_output_tokens: the limit sent with the call, reasoning included.
    Raises: ValueError if a count is negative.
    """
    if min(prompt_tokens_bound, max_output_tokens) < 0:
        raise ValueError(f"token counts are >= 0; got {prompt_tokens_bound} and {max_output_tokens}")
    dearest_input = max(price.input_usd_per_mtok, price.cached_usd_per_mtok)
    micro_usd = prompt_tokens_bound * dearest_input + max_output_tokens * price.output_usd_per_mtok
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
