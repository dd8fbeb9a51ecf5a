"""How is one decision carried out? Local with a held-back draft, the cloud, and the ways from one to the other."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias, TypeVar

from hybrid.clouds import Clouds, is_worth_falling_back
from hybrid.engine.frames import Submit
from hybrid.engine.generation import Generation, Started
from hybrid.engine.supervisor import Supervisor
from hybrid.errors import (
    BudgetExhausted,
    ContextLengthExceeded,
    DeadlineExceeded,
    HybridError,
    InvalidRequest,
    LocalError,
    ModelNotReady,
    ProviderUnavailable,
    QueueFull,
    UnsupportedCapability,
)
from hybrid.journal import DraftLog, Journal
from hybrid.policy.model import Escalate, Limits, Reason, Reject, RunLocal, Signals
from hybrid.policy.review import review
from hybrid.pricing import saved_usd
from hybrid.types import ChatRequest, Event, Finished, Head, Route, Sampling, Tail, TextDelta, Usage

Item: TypeAlias = Head | Event | Tail
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """What the runtime is configured to.

    defaults: sampling where a client gives none; no field of it is None. local_name: what `local/NAME` answers to.
    """

    limits: Limits
    defaults: Sampling
    local_name: str | None = None
    max_output_tokens: int | None = None
    aliases: Mapping[str, str]
    private_tags: frozenset[str] = frozenset()
    requires_key: bool = False


class Attempt:
    """Carries out one request's decision. Every item that is yielded may already be on its way to the client."""

    def __init__(
        self,
        request: ChatRequest,
        signals: Signals,
        limits: Limits,
        journal: Journal,
        *,
        local: Supervisor | None,
        clouds: Clouds,
        options: RuntimeOptions,
    ) -> None:
        self._request = request
        self._signals = signals
        self._limits = limits
        self._journal = journal
        self._local = local
        self._clouds = clouds
        self._options = options

    # ---- local

    async def local(self, decision: RunLocal) -> AsyncGenerator[Item, None]:
        """Answer locally. What `review` doubts, and what fails before its release, goes to the decision's fallback."""
        journal, draft = self._journal, DraftLog()
        journal.degraded = decision.degraded
        held: list[Event] = []
        try:
            with await self._generate() as generation:
                doubt = await self._hold(generation, decision, draft, held)
                if doubt is None:
                    yield journal.released(Route.LOCAL, self._options.local_name or "local")
                    for event in held:
                        yield event
                    while not isinstance(held[-1], Finished):
                        held[-1] = await self._next(generation, draft)
                        yield held[-1]
        except (LocalError, QueueFull) as failure:
            if journal.route is not None or decision.fallback is None:
                raise
            journal.note(f"local failed: {failure}")
            reason = Reason.LATENCY if isinstance(failure, QueueFull) else Reason.LOCAL_FAILURE
            doubt = Escalate(reason=reason, option=decision.fallback)
            held = []
        if doubt is None:
            yield self._local_tail(decision, draft, held[-1])
            return
        async with aclosing(self.cloud(doubt, held)) as items:
            async for item in items:
                yield item

    async def _generate(self) -> Generation:
        assert self._local is not None
        prompt_tokens = self._signals.prompt_tokens
        assert prompt_tokens is not None
        given, default = self._request.sampling, self._options.defaults

        def pick(mine: _T | None, fallback: _T | None) -> _T:
            value = fallback if mine is None else mine
            assert value is not None
            return value

        seed = given.seed if given.seed is not None else secrets.randbits(64)
        return await self._local.submit(
            Submit(
                id=self._journal.id,
                max_output_tokens=self._signals.max_output_tokens or self._limits.local_context_tokens - prompt_tokens,
                temperature=pick(given.temperature, default.temperature),
                top_k=pick(given.top_k, default.top_k),
                top_p=pick(given.top_p, default.top_p),
                min_p=pick(given.min_p, default.min_p),
                presence_penalty=pick(given.presence_penalty, default.presence_penalty),
                frequency_penalty=pick(given.frequency_penalty, default.frequency_penalty),
                repetition_penalty=pick(given.repetition_penalty, default.repetition_penalty),
                seed=seed,
                stop=list(self._request.stop),
                isolation=self._request.client_key or "",
                deadline_s=self._deadline_left_s(),
            )
        )

    def _deadline_left_s(self) -> float | None:
        deadline_s = self._request.deadline_s
        return None if deadline_s is None else max(0.0, deadline_s - self._journal.elapsed_s)

    async def _hold(
        self, generation: Generation, decision: RunLocal, draft: DraftLog, held: list[Event]
    ) -> Escalate | None:
        """Fill `held` until it may be judged; None releases it, an `Escalate` sends the request on.

        Without a fallback there is nothing to wait for but the first event, so that a failure before it is still
        an error with a status of its own.
        """
        held.append(await self._next(generation, draft, until_s=self._hold_until_s(decision)))
        while decision.fallback is not None and not self._is_judgeable(draft, held):
            try:
                held.append(await self._next(generation, draft, until_s=self._hold_until_s(decision)))
            except _HoldExpired:
                break
        if decision.fallback is None:
            return None
        finished = held[-1] if isinstance(held[-1], Finished) else None
        verdict = review(draft.draft(finished.reason if finished else None), self._limits)
        journal = self._journal
        journal.review, journal.confidence = verdict, verdict.confidence
        journal.is_calibrated = self._limits.is_calibrated
        journal.note(f"reviewed {len(draft.logprobs)} tokens: {verdict.checks[-1].detail}")
        if verdict.is_accepted:
            return None
        return Escalate(reason=verdict.reason, option=decision.fallback, may_fall_back=True)

    def _is_judgeable(self, draft: DraftLog, held: list[Event]) -> bool:
        if isinstance(held[-1], Finished):
            return True
        return self._request.is_stream and len(draft.logprobs) >= self._limits.hold_tokens

    def _hold_until_s(self, decision: RunLocal) -> float | None:
        """When, in seconds after arrival, a stream is judged by what is there, so that its first token is in time."""
        if decision.fallback is None or self._limits.ttft_s is None or not self._request.is_stream:
            return None
        return self._limits.ttft_s

    def _local_tail(self, decision: RunLocal, draft: DraftLog, last: Event) -> Tail:
        journal = self._journal
        usage = last.usage if isinstance(last, Finished) else None
        if usage is not None:
            journal.local_prompt_tokens = usage.prompt_tokens
            journal.usage = usage
            journal.saved_usd = self._saved(usage)
        verdict = review(draft.draft(last.reason if isinstance(last, Finished) else None), self._limits)
        journal.confidence, journal.is_calibrated = verdict.confidence, self._limits.is_calibrated
        journal.review = journal.review or verdict
        if decision.no_fallback is not None and not verdict.is_accepted:
            journal.degraded = decision.no_fallback
        return Tail(head=journal.head(), usage=usage)

    async def _next(self, generation: Generation, draft: DraftLog, *, until_s: float | None = None) -> Event:
        """Wait for the next event of the local generation, and write down what it tells.

        Raises: DeadlineExceeded, or _HoldExpired `until_s` seconds after arrival if tokens are there to be judged.
        """
        journal = self._journal
        while True:
            hold_s = until_s if draft.logprobs else None
            item = await self._in_time(generation.next(), hold_s)
            if isinstance(item, Started):
                journal.queue_s = journal.elapsed_s
                journal.local_prompt_tokens = self._signals.prompt_tokens or 0
                journal.note("left the queue: prefill begins")
                continue
            if isinstance(item, TextDelta):
                draft.add(item.signals)
                journal.local_completion_tokens += len(item.signals)
            return item

    async def _in_time(self, waited_for: Awaitable[_T], hold_until_s: float | None = None) -> _T:
        """Wait within the request's deadline and, if given, a nearer time to stop holding back."""
        journal, deadline_s = self._journal, self._request.deadline_s
        limits = [s for s in (deadline_s, hold_until_s) if s is not None]
        left_s = min(limits) - journal.elapsed_s if limits else None
        try:
            with journal.waiting():
                async with asyncio.timeout(left_s):
                    return await waited_for
        except TimeoutError as late:
            if deadline_s is not None and journal.elapsed_s >= deadline_s:
                raise DeadlineExceeded(f"no answer within the request's deadline of {deadline_s:g} s") from late
            raise _HoldExpired from late

    # ---- cloud

    async def cloud(self, decision: Escalate, held: list[Event] | None = None) -> AsyncGenerator[Item, None]:
        """Answer from the cloud. If it fails before its first event, a local draft may stand in, marked degraded."""
        journal, cloud = self._journal, self._clouds.find(decision.option)
        journal.reason = decision.reason
        journal.note(f"escalated to {decision.option.provider}/{decision.option.model} ({decision.reason.value})")
        usage: Usage | None = None
        try:
            async with aclosing(self._clouds.call(cloud, self._request, decision.option, journal)) as events:
                # Read to its end, not only to `Finished`: a connection that is read out goes back to the pool.
                while (event := await self._in_time(anext(events, None))) is not None:
                    if journal.route is None:
                        yield journal.released(Route.CLOUD, cloud.model, provider=cloud.provider.name)
                    if isinstance(event, Finished):
                        usage = event.usage
                    yield event
        except HybridError as error:
            if journal.route is not None or not decision.may_fall_back or not is_worth_falling_back(error):
                raise
            journal.note(f"cloud failed: {error}")
            reason = Reason.BUDGET if isinstance(error, BudgetExhausted) else Reason.CLOUD_FAILURE
        else:
            journal.usage = usage
            journal.saved_usd = None if usage is None else self._saved(usage)
            yield Tail(head=journal.head(), usage=usage)
            return
        async with aclosing(self._stand_in(reason, held or [])) as items:
            async for item in items:
                yield item

    async def _stand_in(self, reason: Reason, held: list[Event]) -> AsyncGenerator[Item, None]:
        """Give the local draft the cloud was to replace; one that was broken off is generated again, unreviewed."""
        journal = self._journal
        journal.reason = journal.degraded = reason
        stand_in = RunLocal(reason=reason, degraded=reason)
        if held and isinstance(held[-1], Finished):
            yield journal.released(Route.LOCAL, self._options.local_name or "local")
            for event in held:
                yield event
            usage = held[-1].usage
            journal.usage = usage
            journal.saved_usd = None if usage is None else self._saved(usage)
            yield Tail(head=journal.head(), usage=usage)
            return
        assert self._local is not None
        await self._local.prepare(journal.id, template_messages(self._request))
        async with aclosing(self.local(stand_in)) as items:
            async for item in items:
                yield item

    def _saved(self, usage: Usage) -> Decimal | None:
        price = self._clouds.reference_price
        return None if price is None else saved_usd(price, usage, self._journal.cost_usd)


class _HoldExpired(Exception):
    """The first token is due: judge what is there."""


def template_messages(request: ChatRequest) -> list[dict[str, object]]:
    """Give the conversation as chat templates take it; they know `system`, not OpenAI's newer `developer`."""
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in request.messages
    ]


def rejection(decision: Reject, signals: Signals, limits: Limits, request: ChatRequest) -> HybridError:
    """Turn a rejection into the error its reason calls for."""
    if decision.reason is Reason.CONTEXT and signals.prompt_tokens is not None:
        return ContextLengthExceeded(signals.prompt_tokens, limits.local_context_tokens, request.max_output_tokens)
    if decision.reason is Reason.CAPABILITY and signals.local_refusal is not None:
        return InvalidRequest(signals.local_refusal, param="messages")
    if decision.reason is Reason.CAPABILITY and request.needs:
        where = (
            "this server, with its local model and the clouds that may be paid,"
            if signals.clouds
            else "the local model"
        )
        return UnsupportedCapability(request.needs - signals.local_capabilities, where=where)
    if decision.reason is Reason.BUDGET:
        return BudgetExhausted(decision.detail, left_usd=signals.budget_left_usd)
    if decision.reason is Reason.LOCAL_FAILURE:
        return ModelNotReady(decision.detail)
    if decision.reason is Reason.CLOUD_FAILURE:
        return ProviderUnavailable("cloud", decision.detail)
    return InvalidRequest(decision.detail or f"nobody may answer this request ({decision.reason.value})")
