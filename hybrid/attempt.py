"""How is one decision carried out? Local with a held-back draft, the cloud, and the ways from one to the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import replace
from typing import TypeAlias, TypeVar

from hybrid.audit import Answered, both
from hybrid.climb import Climb
from hybrid.clouds import Clouds, is_worth_falling_back
from hybrid.engine.checker import Checker
from hybrid.engine.generation import Generation, Started
from hybrid.engine.supervisor import Supervisor
from hybrid.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    HybridError,
    LocalError,
    LocalFailure,
    ProviderTimeout,
    QueueFull,
    StoreError,
)
from hybrid.further import FurtherSamples, Sample
from hybrid.journal import Journal
from hybrid.latencies import LocalRun
from hybrid.local_answer import HoldExpired, LocalAnswers, count_ends
from hybrid.local_request import GREEDY, LocalRequest
from hybrid.policy.latency import tighter_s
from hybrid.policy.model import Escalate, Limits, Reason, RunLocal, Signals, without_promise
from hybrid.policy.worth import weigh
from hybrid.pricing import saved_usd
from hybrid.race import Race
from hybrid.runtime_options import RuntimeOptions
from hybrid.types import ChatRequest, Event, Finished, Head, Route, Tail, TextDelta, Usage

Item: TypeAlias = Head | Event | Tail
_T = TypeVar("_T")


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
        local_name: str,
        adapter: int | None = None,
        checker: Checker,
        clouds: Clouds,
        options: RuntimeOptions,
    ) -> None:
        self._request = request
        self._signals = signals
        self._limits = limits
        self._journal = journal
        self._local = local
        self._local_name = local_name
        self._adapter = adapter
        self._checker = checker
        self._clouds = clouds
        self._options = options
        self._answers: LocalAnswers | None = None
        self._heard: deque[Event] = deque()
        self._has_started = False
        self._further: FurtherSamples | None = None
        self._race: Race | None = None
        self._runs: list[LocalRun] = []
        self._cloud_said: list[Event] = []

    def answered(self) -> Answered | None:
        """What both sides said, once the answer is out; None without a whole local draft to compare."""
        return both(self._request, self._signals, self._limits, self._local, self._answers, self._cloud_said)

    def _in_local_terms(self) -> LocalRequest:
        facts = self._local.facts if self._local is not None else None
        bound = self._options.max_reasoning_tokens
        return LocalRequest(request=self._request, facts=facts, max_reasoning_tokens=bound)

    # ---- local

    async def local(self, decision: RunLocal) -> AsyncGenerator[Item, None]:
        """Answer locally. What `review` doubts, and what fails before its release, goes to the decision's fallback.

        A decision with a hedge may ask the cloud as well; who is first answers, and the other is ended.
        """
        self._journal.degraded = decision.degraded
        self._clouds.warm(decision.fallback)
        async with Race(decision.hedge, self._journal, lambda: self._hedge_call(decision)) as race:
            self._race = race
            try:
                async with aclosing(self._raced(decision, race)) as items:
                    async for item in items:
                        yield item
            finally:
                # What was predicted at the decision says nothing of a draft that began much later, in a cloud's stead.
                if self._journal.decision is decision and self._runs:
                    learn = self._clouds.latencies.learn
                    learn(self._request, self._local_name, self._signals, self._runs[0], self._journal)

    async def _raced(self, decision: RunLocal, race: Race) -> AsyncGenerator[Item, None]:
        journal = self._journal
        held: list[Event] = []
        try:
            with await self._generate(is_reviewed=decision.fallback is not None) as generation:
                doubt = await race.first(self._hold(generation, decision, held))
                if doubt is None:
                    yield journal.released(Route.LOCAL, self._local_name)
                    for event in held:
                        yield event
                    left = self._wanted_ends - count_ends(held)
                    while left:
                        event = await self._next(generation)
                        left -= isinstance(event, Finished)
                        yield event
        except (LocalError, QueueFull) as failure:
            self._runs[-1].has_failed = True
            if journal.route is not None or decision.fallback is None:
                raise
            journal.note(f"local failed: {failure}")
            reason = Reason.LATENCY if isinstance(failure, QueueFull) else Reason.LOCAL_FAILURE
            doubt = Escalate(reason=reason, option=decision.fallback)
            held = []
        finally:
            if self._further is not None:
                journal.local_completion_tokens += self._further.cancel()
                self._further = None
        if doubt is None:
            await race.close()
            yield self._local_tail(decision)
            return
        async with aclosing(self.cloud(replace(doubt, others=decision.others), held, race.events)) as items:
            async for item in items:
                yield item

    def _hedge_call(self, decision: RunLocal) -> AsyncGenerator[Event, None]:
        assert decision.hedge is not None
        option = decision.hedge.option
        return self._clouds.call(self._clouds.find(option), self._request, option, self._journal)

    async def _generate(self, *, is_reviewed: bool) -> Generation:
        """Order the draft and, where the calibration compares answers and one may be refused, further samples."""
        assert self._local is not None
        prompt_tokens = self._signals.prompt_tokens
        assert prompt_tokens is not None
        local, is_thinking = self._in_local_terms(), self._local.is_thinking(self._journal.id)
        self._answers = LocalAnswers(local, self._checker, is_thinking=is_thinking)
        self._heard, self._has_started = deque(), False
        self._runs.append(LocalRun(self._journal.elapsed_s))
        order = local.submit(
            self._journal.id,
            # What was calibrated is drawn as it was calibrated, unless the client wishes otherwise.
            defaults=self._options.defaults if self._limits.promise is None else GREEDY,
            max_output_tokens=self._signals.max_output_tokens or self._limits.local_context_tokens - prompt_tokens,
            is_thinking=is_thinking,
            deadline_s=self._deadline_left_s(),
            adapter=self._adapter,
        )
        generation = await self._local.submit(order)
        self._further = FurtherSamples.beside(self._local, local, order, self._limits) if is_reviewed else None
        return generation

    def _deadline_left_s(self) -> float | None:
        deadline_s = self._request.deadline_s
        return None if deadline_s is None else max(0.0, deadline_s - self._journal.elapsed_s)

    async def _hold(self, generation: Generation, decision: RunLocal, held: list[Event]) -> Escalate | None:
        """Fill `held` until it may be judged; None releases it, an `Escalate` sends the request on.

        Without a fallback there is nothing to wait for but the first event, so that a failure before it is still
        an error with a status of its own.
        """
        while not held or (decision.fallback is not None and not self._is_judgeable(held)):
            hopeless = self._said.hopeless(self._limits) if held else None
            if (
                hopeless is not None
                and decision.fallback is not None
                and not weigh(hopeless, decision.fallback, self._signals.budget_lambda, self._limits).is_accepted
            ):
                self._journal.judge(hopeless)
                self._journal.note(f"given up after {self._said.tokens} tokens: {hopeless.checks[-1].detail}")
                return Escalate(reason=hopeless.reason, option=decision.fallback, may_fall_back=True)
            try:
                held.append(await self._next(generation, until_s=self._hold_until_s(decision)))
            except HoldExpired:
                self._withdraw("it was judged before its end, for the first token was due")
                break
        answers = self._said
        await self._compare(held, self._hold_until_s(decision))
        if decision.fallback is None:
            if answers.unfit is not None:
                raise LocalFailure(answers.unfit)
            return None
        verdict = weigh(answers.verdict(self._limits), decision.fallback, self._signals.budget_lambda, self._limits)
        journal = self._journal
        journal.judge(verdict)
        journal.note(f"reviewed {answers.tokens} tokens: {verdict.checks[-1].detail}")
        if verdict.is_accepted:
            return None
        return Escalate(reason=verdict.reason, option=decision.fallback, may_fall_back=answers.unfit is None)

    async def _compare(self, held: list[Event], until_s: float | None) -> None:
        """Wait for the further samples, and let the answer that they speak for take the draft's place."""
        further = self._further
        if further is None or self._limits.promise is None:
            return
        try:
            others = await self._in_time(further.result(self._said.draft), until_s)
        except HoldExpired:
            self._withdraw("it was judged before it could be compared with others")
            return
        picked = further.compare(Sample(tuple(held), self._said.signals), others)
        self._journal.note(picked if isinstance(picked, str) else picked.note)
        if not isinstance(picked, str):
            held[:] = self._said.compared(picked, held)

    def _withdraw(self, why: str) -> None:
        self._journal.note("judged early: the first token is due")
        self._limits = without_promise(self._limits, why)

    @property
    def _said(self) -> LocalAnswers:
        assert self._answers is not None, "a generation has begun"
        return self._answers

    @property
    def _wanted_ends(self) -> int:
        return self._in_local_terms().choices

    def _is_judgeable(self, held: list[Event]) -> bool:
        if count_ends(held) == self._wanted_ends:
            return True
        # What was calibrated on whole answers judges whole answers.
        is_growing = self._request.is_stream and self._limits.promise is None
        return is_growing and self._said.are_held(self._limits.hold_tokens)

    def _hold_until_s(self, decision: RunLocal) -> float | None:
        """When, in seconds after arrival, a stream is judged by what is there, so that its first token is in time."""
        if decision.fallback is None or self._limits.ttft_s is None or not self._request.is_stream:
            return None
        return self._limits.ttft_s

    def _local_tail(self, decision: RunLocal) -> Tail:
        journal = self._journal
        usage = self._used(self._said.usage)
        verdict = self._said.verdict(self._limits)
        journal.confidence, journal.is_calibrated = verdict.confidence, verdict.is_calibrated
        journal.review = journal.review or verdict
        if decision.no_fallback is not None and not verdict.is_accepted:
            journal.degraded = decision.no_fallback
        return Tail(head=journal.head(), usage=usage)

    async def _next(self, generation: Generation, *, until_s: float | None = None) -> Event:
        """Wait for the next event of the local generation, and write down what it tells.

        Raises: DeadlineExceeded, or HoldExpired `until_s` seconds after arrival if tokens are there to be judged.
        """
        journal, answers = self._journal, self._said
        while not self._heard:
            item = await self._in_time(generation.next(), until_s if answers.tokens else None)
            self._runs[-1].hear(item, journal.elapsed_s)
            if self._race is not None:
                self._race.heard(self._runs[-1])
            if isinstance(item, Started):
                # Once a generation: after a preemption it leaves the queue again, and pays for nothing new.
                if not self._has_started:
                    self._has_started = True
                    journal.queue_s = journal.queue_s or journal.elapsed_s
                    journal.local_prompt_tokens += self._signals.prompt_tokens or 0
                    journal.note("left the queue: prefill begins")
                continue
            if isinstance(item, TextDelta):
                journal.local_completion_tokens += len(item.signals)
            self._heard.extend(answers.hear(item))
            if isinstance(item, Finished):
                unfit = await self._in_time(answers.check(item.choice))
                if unfit is not None and journal.route is not None:
                    raise LocalFailure(unfit)
        return self._heard.popleft()

    async def _in_time(self, waited_for: Awaitable[_T], hold_until_s: float | None = None) -> _T:
        """Wait within the request's deadline and, if given, a nearer time to stop holding back."""
        journal, deadline_s = self._journal, self._request.deadline_s
        until_s = tighter_s(deadline_s, hold_until_s)
        if until_s is None and journal.route is not None:
            return await waited_for  # its answer has begun: what is waited for now is nobody's overhead
        try:
            with journal.waiting():
                if until_s is None:
                    return await waited_for
                async with asyncio.timeout(until_s - journal.elapsed_s):
                    return await waited_for
        except TimeoutError as late:
            # Which limit it was is known beforehand; the clock may be read a little before the timer's own time.
            if until_s is not None and until_s == deadline_s:
                raise DeadlineExceeded(f"no answer within the request's deadline of {deadline_s:g} s") from late
            raise HoldExpired from late

    # ---- cloud

    async def cloud(
        self,
        decision: Escalate,
        held: list[Event] | None = None,
        running: AsyncGenerator[Event, None] | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Answer from the cloud. If all fail before the first event, a local draft may stand in, marked degraded.

        running: the events of the call, where it was made already.
        """
        journal = self._journal
        climb = Climb(self._clouds, decision, self._request, journal, running)
        journal.reason = decision.reason
        journal.note(f"escalated to {decision.option.provider}/{decision.option.model} ({decision.reason})")
        usage: Usage | None = None
        patience_until_s = journal.elapsed_s + climb.patience_s if decision.may_fall_back else None
        try:
            async with aclosing(climb.events(patience_until_s)) as events:
                # Read to its end, not only to `Finished`: a connection that is read out goes back to the pool.
                while (event := await self._in_time(anext(events, None), patience_until_s)) is not None:
                    if journal.route is None:
                        patience_until_s = None
                        yield journal.released(Route.CLOUD, climb.cloud.model, provider=climb.cloud.provider.name)
                    if isinstance(event, Finished):
                        usage = event.usage
                    self._cloud_said += [event] if held else []
                    yield event
        except HoldExpired:
            waited = f"no answer within {climb.patience_s:g} s, and a local draft waits"
            failed: HybridError = ProviderTimeout(climb.cloud.provider.name, waited)
        except HybridError as error:
            failed = error
        else:
            self._used(usage)
            yield Tail(head=journal.head(), usage=usage)
            return
        async with aclosing(self._after_failure(failed, decision, held or [])) as items:
            async for item in items:
                yield item

    async def _after_failure(
        self, failed: HybridError, decision: Escalate, held: list[Event]
    ) -> AsyncGenerator[Item, None]:
        """Let local stand in for a failed cloud, if it may and can; else the failure is the answer."""
        journal = self._journal
        reason = Reason.BUDGET if isinstance(failed, BudgetExhausted | StoreError) else Reason.CLOUD_FAILURE
        is_worth = is_worth_falling_back(failed) or (isinstance(failed, DeadlineExceeded) and self._is_whole(held))
        if journal.route is not None or not decision.may_fall_back or not is_worth:
            if journal.route is None and reason is Reason.BUDGET:
                journal.reason = reason
            raise failed
        journal.note(f"cloud failed: {failed}")
        try:
            async with aclosing(self._stand_in(reason, held)) as items:
                async for item in items:
                    yield item
        except LocalError as second:
            if journal.route is not None:
                raise
            journal.note(f"local cannot stand in: {second}")
            raise failed from second

    async def _stand_in(self, reason: Reason, held: list[Event]) -> AsyncGenerator[Item, None]:
        """Give the local draft the cloud was to replace; one that was broken off is generated again, unreviewed."""
        journal = self._journal
        journal.reason = journal.degraded = reason
        stand_in = RunLocal(reason=reason, degraded=reason)
        if self._is_whole(held):
            yield journal.released(Route.LOCAL, self._local_name)
            for event in held:
                yield event
            usage = self._used(self._said.usage)
            yield Tail(head=journal.head(), usage=usage)
            return
        assert self._local is not None
        await self._in_local_terms().prepare(self._local, journal.id)
        async with aclosing(self.local(stand_in)) as items:
            async for item in items:
                yield item

    def _is_whole(self, held: list[Event]) -> bool:
        """Whether the answers that were held back are there to their ends."""
        return count_ends(held) == self._wanted_ends

    def _used(self, usage: Usage | None) -> Usage | None:
        """Write down what the answer took, and what it saved beside the reference cloud."""
        journal, price = self._journal, self._clouds.reference_price
        journal.usage = usage
        journal.saved_usd = None if price is None or usage is None else saved_usd(price, usage, journal.cost_usd)
        return usage
