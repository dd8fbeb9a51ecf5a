"""Which cloud models are there, what would each cost, and how is a call to one paid for?"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from hybrid.cloud_health import CloudHealth, ModelHealth
from hybrid.errors import BudgetExhausted, HybridError, ProviderError
from hybrid.ids import new_id
from hybrid.journal import Journal
from hybrid.latencies import LatencyBook
from hybrid.policy.model import CloudLatency, CloudOption
from hybrid.price_book import PriceBook
from hybrid.pricing import TokenPrice, cost_usd, is_told, tokens_usd, worst_case_usd
from hybrid.providers.base import CloudCall, Provider
from hybrid.providers.bounds import upper_bound_prompt_tokens
from hybrid.providers.tokenizers import Tokenizers
from hybrid.store.ledger import Ledger
from hybrid.store.records import Refused, Reservation
from hybrid.types import Cap, ChatRequest, Event, Finished, Usage

log = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4
"""Of English prose, where no tokenizer counted the prompt: for the order of the ladder, never for a reservation."""

USUAL_ANSWER_TOKENS = 256
"""How long an answer is expected to be until some were seen; only the order of the ladder hangs on it."""

_NONE: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudModel:
    """One paid model: who serves it, its price (None: unknown, so never called), its bounds, and how often it is right.

    patience_s: how long its first event is waited for where a local draft could be given instead.
    max_wait_s: the longest that its own wish to be asked later is heeded where nobody else could answer.
    tokenizer: what counts prompts as its provider does, by name; None where nothing does.
    is_repriced: whether its price has changed since the start, so that an option may have been made at an older one.
    """

    provider: Provider
    model: str
    price: TokenPrice | None
    max_output_tokens: int
    context_tokens: int | None = None
    quality: float | None = None
    patience_s: float = 60.0
    max_wait_s: float = 10.0
    is_repriced: bool = False
    tokenizer: str | None = None

    def output_bound(self, request: ChatRequest) -> int:
        """The most answer tokens a call may make; the provider is told, so the reservation holds."""
        return request.max_output_tokens or self.max_output_tokens

    def option(
        self,
        request: ChatRequest,
        health: ModelHealth | None = None,
        *,
        prompt_tokens: int | None = None,
        prompt_tokens_bound: int | None = None,
        latency: CloudLatency | None = None,
    ) -> CloudOption:
        """Describe this model to the policy, with what `request` could cost at most, and what it likely will.

        prompt_tokens: as the local model's tokenizer counted them, where one did. latency: as it was learned.
        prompt_tokens_bound: as the provider's own tokenizer found it, where one did; else the prompt's bytes bound it.
        """
        health = health or ModelHealth()
        reserve_usd = expected_usd = None
        prompt_tokens_bound = prompt_tokens_bound or upper_bound_prompt_tokens(request)
        if self.price is not None and prompt_tokens_bound is not None:
            # The bound that is sent holds for each of several answers.
            copies, output_bound = request.extra.get("n") or 1, self.output_bound(request)
            reserve_usd = worst_case_usd(
                self.price, prompt_tokens_bound=prompt_tokens_bound, max_output_tokens=output_bound * copies
            )
            answer_tokens = min(round(health.answer_tokens or USUAL_ANSWER_TOKENS), output_bound) * copies
            prompt_tokens = prompt_tokens or prompt_tokens_bound // BYTES_PER_TOKEN
            likely = Usage(prompt_tokens=prompt_tokens, completion_tokens=answer_tokens)
            expected_usd = min(tokens_usd(self.price, likely), reserve_usd)
        return CloudOption(
            provider=self.provider.name,
            model=self.model,
            missing=self.provider.missing(request),
            context_tokens=self.context_tokens,
            prompt_tokens_bound=prompt_tokens_bound,
            reserve_usd=reserve_usd,
            expected_usd=expected_usd,
            is_healthy=health.resting is None,
            resting=health.resting,
            rest_s=health.rest_s,
            quality=self.quality,
            latency=latency,
        )

    def repriced(self, option: CloudOption, request: ChatRequest, spent_usd: Decimal) -> CloudOption:
        """An option of this model with what it may cost at the price of now, as it may have been made at another one.

        It is billed by the price of now, so that must be what is set aside. Never less than before, which was decided.

        spent_usd: what the request has cost so far.
        Raises: BudgetExhausted if it is more now than the request allows.
        """
        if not self.is_repriced or option.reserve_usd is None:
            return option
        now = self.option(request, prompt_tokens_bound=option.prompt_tokens_bound)
        now_usd, most_usd = now.reserve_usd, request.max_cost_usd
        if now_usd is not None and now_usd <= option.reserve_usd:
            return option
        if now_usd is not None and most_usd is not None and spent_usd + now_usd > most_usd:
            what = f"at its price of now {self.model} may cost ${now_usd}, and ${most_usd - spent_usd} are allowed"
            raise BudgetExhausted(what, needed_usd=now_usd, left_usd=most_usd - spent_usd)
        return replace(option, reserve_usd=now_usd)


class _Bill:
    """What one call is known to cost. has_left: it may be billed. usd: None until the provider told its usage."""

    __slots__ = ("_cloud", "_journal", "has_left", "usage", "usd")

    def __init__(self, cloud: CloudModel, journal: Journal) -> None:
        self._cloud, self._journal = cloud, journal
        self.has_left = False
        self.usd: Decimal | None = None
        self.usage: Usage | None = None

    def sent(self) -> None:
        """The first byte may have left."""
        self.has_left = True

    def heard(self, event: Event) -> None:
        """Take the usage from the answer's end."""
        if not isinstance(event, Finished) or event.usage is None or not is_told(event.usage):
            return
        assert self._cloud.price is not None
        self.usage = event.usage
        self.usd = cost_usd(self._cloud.price, event.usage)
        self._journal.cloud_prompt_tokens += event.usage.prompt_tokens
        self._journal.cloud_completion_tokens += event.usage.completion_tokens


class Clouds:
    """All configured cloud models and the one way to call them: reserve, call, settle, however it ends."""

    def __init__(
        self,
        models: Sequence[CloudModel],
        ledger: Ledger,
        caps: Callable[[datetime, ChatRequest], tuple[Cap, ...]],
        *,
        prices: PriceBook | None = None,
        health: CloudHealth | None = None,
        latencies: LatencyBook | None = None,
        tokenizers: Tokenizers | None = None,
    ) -> None:
        self._tokenizers = tokenizers or Tokenizers()
        self._models = tuple(models)
        self._prices = prices
        self.health = health or CloudHealth()
        self._ledger = ledger
        self._caps = caps
        self.latencies = latencies or LatencyBook()

    @property
    def models(self) -> tuple[CloudModel, ...]:
        """All of them, the preferred first, at the prices of today."""
        if self._prices is None:
            return self._models
        today = [self._prices.price(cloud.provider.name, cloud.model) for cloud in self._models]
        if today != [cloud.price for cloud in self._models]:
            self._models = tuple(
                replace(c, price=price, is_repriced=c.is_repriced or price != c.price)
                for c, price in zip(self._models, today, strict=True)
            )
        return self._models

    def named(self, name: str | None) -> tuple[CloudModel, ...]:
        """The models a client's `cloud` or `cloud/NAME` may mean; NAME is a provider, a model, or both."""
        if name is None:
            return self.models
        return tuple(cloud for cloud in self.models if _is_meant(cloud, name))

    def has(self, name: str | None) -> bool:
        """Whether `named` gives any, which does not hang on the prices."""
        return bool(self._models) if name is None else any(_is_meant(cloud, name) for cloud in self._models)

    async def bounds(self, request: ChatRequest, clouds: Sequence[CloudModel]) -> Mapping[str, int]:
        """Bound the request's prompt tokens from above by the tokenizers of these models, as far as they are there."""
        return await self._tokenizers.bounds(request, [cloud.tokenizer for cloud in clouds])

    def option(
        self, cloud: CloudModel, request: ChatRequest, prompt_tokens: int | None, bounds: Mapping[str, int] = _NONE
    ) -> CloudOption:
        """Describe a model to the policy, with how it is doing now and how long it usually takes.

        bounds: of the prompt's tokens, by tokenizer.
        """
        bound = None if cloud.tokenizer is None else bounds.get(cloud.tokenizer)
        health = self.health.look_up(cloud.provider.name, cloud.model)
        latency = self.latencies.cloud(cloud.provider.name, cloud.model)
        return cloud.option(request, health, prompt_tokens=prompt_tokens, prompt_tokens_bound=bound, latency=latency)

    def find(self, option: CloudOption) -> CloudModel:
        """The model behind an option this object made, at the prices that the option was made with or newer ones."""
        return next(m for m in self._models if (m.provider.name, m.model) == (option.provider, option.model))

    def warm(self, option: CloudOption | None) -> None:
        """Have a connection ready while a draft is made that `option` may replace. Nothing of the request is sent."""
        if option is not None:
            self.find(option).provider.warm()

    @property
    def reference_price(self) -> TokenPrice | None:
        """The price that local answers are said to save: that of the preferred cloud model with a known one."""
        return next((m.price for m in self._models if m.price is not None), None)

    async def call(
        self,
        cloud: CloudModel,
        request: ChatRequest,
        option: CloudOption,
        journal: Journal,
        *,
        max_wait_s: float = 0.0,
    ) -> AsyncGenerator[Event, None]:
        """Make one paid call. Its worst case is on record before a byte leaves; what was used replaces it after.

        A call that ends without the provider telling its usage settles at the worst case: what it will bill for
        an answer that was broken off is not known, and the cap must hold. How it ends moves the circuits.

        max_wait_s: how long a provider that sheds load may be waited for.

        Raises: CloudResting if a circuit is open, BudgetExhausted if the money went to another request meanwhile,
            ProviderError, StoreError.
        """
        with self.health.admit(cloud.provider.name, cloud.model) as trial:
            option = cloud.repriced(option, request, journal.cost_usd)
            reservation = await self._reserve(request, option, journal)
            bill = _Bill(cloud, journal)
            call = CloudCall(request, cloud.model, cloud.output_bound(request), bill.sent, max_wait_s)
            try:
                with self.latencies.timing(option.provider, option.model, is_stream=request.is_stream) as timing:
                    async with aclosing(cloud.provider.stream(call)) as events:
                        async for event in events:
                            timing.heard(event)
                            trial.heard()
                            bill.heard(event)
                            yield event
                trial.ended(None if bill.usage is None else bill.usage.completion_tokens)
            except ProviderError as error:
                if not error.may_have_billed:
                    bill.usd = Decimal(0)
                raise
            finally:
                self._settle(reservation, journal, bill.usd, has_left=bill.has_left)

    def _settle(self, reservation: Reservation, journal: Journal, known_usd: Decimal | None, *, has_left: bool) -> None:
        """Write down what a call cost: what is known, nothing if it never left, else the worst case.

        Nobody waits for it: until it is written, the reservation counts in full, and the next one stands behind it in
        the ledger's line.
        """
        if known_usd == 0 or (known_usd is None and not has_left):
            journal.note("nothing to pay: the call did not leave, or was refused")
            self._ledger.release_soon(reservation.id)
            return
        amount_usd = reservation.amount_usd if known_usd is None else known_usd
        journal.cost_usd += amount_usd
        journal.note(f"settled ${amount_usd}" + (" (worst case: usage unknown)" if known_usd is None else ""))
        self._ledger.settle_soon(reservation.id, amount_usd, is_estimated=known_usd is None)

    async def _reserve(self, request: ChatRequest, option: CloudOption, journal: Journal) -> Reservation:
        now = datetime.now(UTC)
        caps = self._caps(now, request)
        if option.reserve_usd is None or not caps:
            raise BudgetExhausted(f"{option.model} has no known price or no budget is configured")
        reservation = Reservation(
            id=new_id("rsv_", 16),
            request_id=journal.id,
            provider=option.provider,
            model=option.model,
            amount_usd=option.reserve_usd,
            now=now,
            caps=caps,
            client_key=request.client_key,
            tag=None if request.tag is None else request.tag.casefold(),
        )
        grant = await self._ledger.reserve(reservation)
        if isinstance(grant, Refused):
            raise BudgetExhausted(
                f"{option.model} may cost ${option.reserve_usd}, ${grant.left_usd} are left of {grant.cap.name}",
                needed_usd=option.reserve_usd,
                left_usd=grant.left_usd,
            )
        journal.note(f"reserved ${option.reserve_usd} for {option.provider}/{option.model}")
        return reservation


def _is_meant(cloud: CloudModel, name: str) -> bool:
    return name in (cloud.provider.name, cloud.model, f"{cloud.provider.name}/{cloud.model}")


def is_worth_falling_back(error: HybridError) -> bool:
    """Say whether a failed cloud call may be answered locally instead: the cloud's or the money's failure, not ours."""
    return isinstance(error, ProviderError | BudgetExhausted) or error.code == "store_error"
