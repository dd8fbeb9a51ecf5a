"""How is a paid answer got when a cloud fails? Rung after rung of the ladder, until one says its first word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from hybrid.cloud_health import is_callers_fault, never_connected
from hybrid.clouds import CloudModel, Clouds
from hybrid.errors import (
    BudgetExhausted,
    HybridError,
    ProviderError,
    ProviderTimeout,
    UnsupportedCapability,
)
from hybrid.journal import Journal
from hybrid.policy.latency import tighter_s
from hybrid.policy.model import CloudOption, Escalate
from hybrid.types import ChatRequest, Event


class Climb:
    """One request's way up its ladder. After the first event of an answer the cloud never changes.

    Each rung reserves for itself and settles by what is known of it before the next one is tried, so the caps hold
    however many fail. `cloud` is the rung that is tried, and from the first event on the one that answers. `patience_s`
    is how long the first event is waited for where a local draft could be given instead.
    """

    def __init__(
        self,
        clouds: Clouds,
        decision: Escalate,
        request: ChatRequest,
        journal: Journal,
        running: AsyncGenerator[Event, None] | None = None,
    ) -> None:
        """`running`: the events of the first rung's call, where it was made already."""
        self._clouds, self._request, self._journal = clouds, request, journal
        self._options, self._running = decision.ladder, running
        self._unreached: set[str] = set()
        self.cloud = clouds.find(decision.option)
        self.patience_s = self.cloud.patience_s

    async def events(self, until_s: float | None = None) -> AsyncGenerator[Event, None]:
        """Yield the events of the first rung that answers.

        until_s: seconds after the request's arrival that its first event is waited for, if anything bounds that.

        Raises: what kept the last rung from answering, or at once what every rung would say of the request.
        """
        failures: list[HybridError] = []
        for number, option in enumerate(self._options):
            if option.provider in self._unreached:
                self._note(option, f"passed over: {option.provider} could not be reached a moment ago")
                continue
            if self._running is None and (too_dear := self._too_dear(option)) is not None:
                self._note(option, f"passed over: {too_dear}")
                failures.append(too_dear)
                continue
            rungs_left = len(self._options) - number
            self.cloud = cloud = self._clouds.find(option)
            bound_s = self._bound_s(until_s)
            # Who sheds load asks to wait. With another rung at hand nobody does; on the last, as far as there is time.
            last_wait_s = cloud.max_wait_s if bound_s is None else min(cloud.max_wait_s, bound_s)
            max_wait_s = 0.0 if rungs_left > 1 else last_wait_s
            has_begun = False
            try:
                running, self._running = self._running, None
                call = running or self._clouds.call(cloud, self._request, option, self._journal, max_wait_s=max_wait_s)
                async with aclosing(call) as events:
                    event = await self._first(events, self._share_s(cloud, bound_s, rungs_left))
                    while event is not None:
                        has_begun = True
                        yield event
                        event = await anext(events, None)
                return
            except HybridError as failure:
                if has_begun or not is_next_tried(failure):
                    raise
                failures.append(failure)
                if never_connected(failure):
                    self._unreached.add(option.provider)
                if rungs_left > 1:
                    self._note(option, f"left: {failure.code}: {failure}")
        raise _told(failures)

    def _too_dear(self, option: CloudOption) -> BudgetExhausted | None:
        """What rungs that failed may have cost counts to what the request allows."""
        most_usd, spent_usd = self._request.max_cost_usd, self._journal.cost_usd
        if most_usd is None or not spent_usd or spent_usd + (option.reserve_usd or 0) <= most_usd:
            return None
        what = f"{option.model} may cost ${option.reserve_usd}, and of the ${most_usd} allowed ${spent_usd} are gone"
        return BudgetExhausted(what, needed_usd=option.reserve_usd, left_usd=most_usd - spent_usd)

    async def _first(self, events: AsyncGenerator[Event, None], share_s: float | None) -> Event | None:
        """Await the first event, for no longer than this rung's share of the time."""
        if share_s is None:
            return await anext(events, None)
        try:
            async with asyncio.timeout(share_s):
                return await anext(events, None)
        except TimeoutError as late:
            why = f"no token within {share_s:.1f} s, and another cloud can be tried in the time that is left"
            raise ProviderTimeout(self.cloud.provider.name, why) from late

    def _bound_s(self, until_s: float | None) -> float | None:
        """Seconds left for the first event: of the request's deadline, and of the patience it has with all rungs."""
        nearest_s = tighter_s(until_s, self._request.deadline_s)
        return None if nearest_s is None else max(0.0, nearest_s - self._journal.elapsed_s)

    def _share_s(self, cloud: CloudModel, bound_s: float | None, rungs_left: int) -> float | None:
        """How long a stream's first event is waited for, so that what comes after has its share of the time left.

        An answer fetched whole is given all of it: it has no first token to tell by whether it will come.
        """
        if bound_s is None or rungs_left == 1 or not self._request.is_stream:
            return None
        return min(bound_s / rungs_left, cloud.patience_s)

    def _note(self, option: CloudOption, what: str) -> None:
        self._journal.note(f"{option.provider}/{option.model} {what}")


def is_next_tried(failure: HybridError) -> bool:
    """Whether another cloud may answer what this one did not: its fault or the money's, not the request's."""
    if isinstance(failure, ProviderError):
        return not is_callers_fault(failure)
    return isinstance(failure, BudgetExhausted | UnsupportedCapability)


def _told(failures: list[HybridError]) -> HybridError:
    """The failure that is told of several: the last, with the first moment at which any of them may be tried again."""
    last = failures[-1]
    waits = [one.retry_after_s for one in failures if one.retry_after_s is not None]
    if last.is_retryable and waits:
        last.retry_after_s = min(waits)
    return last
