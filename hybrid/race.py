"""How do a local draft and a cloud call run side by side? The first acceptable answer wins, the other is ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from hybrid.errors import HybridError
from hybrid.journal import HedgeRecord, Journal
from hybrid.latencies import LocalRun
from hybrid.policy.hedge import Progress, chance_late, start_at
from hybrid.policy.model import Escalate, HedgePlan, Reason
from hybrid.types import Event, Route

WAITING_EVENTS = 16
"""Events of a streamed call that are fetched ahead; the rest waits at the provider, as without a race."""


class Call:
    """A cloud call that runs by itself: a task of its own pulls it, whoever reads the events or waits for them.

    One task from the first event to the last, so that its time limits and its settlement are that task's, and ending
    it is cancelling that task.

    Args:
        is_whole: acceptable at its end; else at its first event.
    """

    def __init__(self, events: AsyncGenerator[Event, None], *, is_whole: bool) -> None:
        self._is_whole = is_whole
        self._events: asyncio.Queue[Event | Exception | None] = asyncio.Queue(0 if is_whole else WAITING_EVENTS)
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it may be had, or has failed."""
        self.failure: Exception | None = None
        self._task = asyncio.create_task(self._pull(events), name="hedge")

    @property
    def is_acceptable(self) -> bool:
        """Whether there is an answer to be had from it."""
        return self.ready.done() and self.failure is None

    async def _pull(self, events: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await self._events.put(event)
                    if not self._is_whole:
                        self._settle()
            await self._events.put(None)
        except Exception as error:  # noqa: BLE001 - a task's boundary, see below
            # Whoever reads the events raises it.
            if not self.ready.done():
                self.failure = error
            await self._events.put(error)
        finally:
            self._settle()

    def _settle(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield its events from the first on, and raise what it raised.

        Who stops reading is told only when the call has ended: what is paid next must find it settled.
        """
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.give_up()
            await self.ended()

    def give_up(self) -> None:
        """Begin to end it."""
        self._task.cancel()

    async def ended(self) -> None:
        """Wait until its connection is closed and what it reserved is settled."""
        await asyncio.wait((self._task,))


class Race:
    """One request's race, if its decision planned one. Nothing of it outlives the `async with`.

    Args:
        call: makes the cloud call; its worst case is reserved before its first byte leaves, and refused without money.
    """

    def __init__(
        self, plan: HedgePlan | None, journal: Journal, call: Callable[[], AsyncGenerator[Event, None]]
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._make_call = call
        self._run: LocalRun | None = None
        self._stage: tuple[float | None, bool] | None = None
        self._call: Call | None = None
        self._changed: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    def heard(self, run: LocalRun) -> None:
        """Take note of how far the local answer has come; it may be worth waiting for now, or no longer."""
        # The run is one object that is written on, so what was last seen of it is kept beside it.
        stage = (run.started_s, run.first_token_s is not None)
        has_moved = stage != self._stage
        self._run, self._stage = run, stage
        if self._changed is not None and not self._changed.done() and has_moved:
            self._changed.set_result(None)

    async def first(self, draft: Awaitable[Escalate | None]) -> Escalate | None:
        """Wait for the local draft, and ask the cloud beside it as soon as that is worth its price.

        Returns: what `draft` gives, None for an accepted one; or that the cloud was first. Its answer, or what comes
            of it where local failed or was doubted meanwhile, is in `events`.
        Raises: what the draft raises.
        """
        if self._plan is None:
            return await draft
        drafting = asyncio.ensure_future(draft)
        try:
            while not drafting.done():
                if self._call is not None and self._call.is_acceptable:
                    return self._won_by_cloud()
                await self._wait(drafting)
            return self._judged(drafting.result())
        finally:
            if not drafting.done():
                drafting.cancel()
                await asyncio.wait((drafting,))

    async def _wait(self, drafting: asyncio.Future[Escalate | None]) -> None:
        """Wait for either side, or for the moment to start the second."""
        assert self._plan is not None
        self._changed = asyncio.get_running_loop().create_future()
        waited_for: set[asyncio.Future[Any]] = {drafting, self._changed}
        wait_s: float | None = None
        if self._call is None:
            progress = self._progress()
            at_s = start_at(self._plan, progress)
            if at_s is not None and at_s <= progress.now_s:
                self._start(progress)
            elif at_s is not None:
                wait_s = at_s - progress.now_s
        if self._call is not None and not self._call.ready.done():
            waited_for.add(self._call.ready)
        done, _ = await asyncio.wait(waited_for, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            # The moment has come. Not asked again whether it is the best: it was to be the last one, and is a little
            # past. But a loop that was held up may come too late for any.
            progress = self._progress()
            if start_at(self._plan, progress) is not None:
                self._start(progress)
        if self._call is not None and self._call.failure is not None:
            self._note_failure(self._call.failure)

    def _progress(self) -> Progress:
        """How far local has come, in seconds after the decision."""
        decided_s, run = self._journal.decided_s, self._run
        started_s, first_s = (None, None) if run is None else (run.started_s, run.first_token_s)
        return Progress(
            now_s=self._journal.elapsed_s - decided_s,
            started_s=None if started_s is None else started_s - decided_s,
            first_token_s=None if first_s is None else first_s - decided_s,
        )

    def _start(self, progress: Progress) -> None:
        plan, journal = self._plan, self._journal
        assert plan is not None
        record = HedgeRecord(
            provider=plan.option.provider,
            model=plan.option.model,
            started_s=journal.elapsed_s,
            local_late=round(chance_late(plan, progress), 4),
            cloud_late=round(plan.cloud.chance_above(plan.limit_s - progress.now_s), 4),
            cost_before_usd=journal.cost_usd,
        )
        journal.hedge = record
        journal.note(
            f"hedge: {record.provider}/{record.model} asked beside local, which is late by now with "
            f"{record.local_late:.0%}, the cloud with {record.cloud_late:.0%}"
        )
        self._call = Call(self._make_call(), is_whole=plan.is_whole)

    def _note_failure(self, failure: Exception) -> None:
        """The cloud is out of the race. What it was is told to who reads the events, and to nobody else."""
        assert self._journal.hedge is not None
        if not self._journal.hedge.has_failed:
            self._journal.hedge.has_failed = True
            self._journal.note(f"hedge: the cloud failed: {failure}")

    def _judged(self, doubt: Escalate | None) -> Escalate | None:
        if doubt is None and self._call is not None:
            self._decided("local")
            self._call.give_up()
        return doubt

    def _won_by_cloud(self) -> Escalate:
        assert self._plan is not None
        self._decided("the cloud")
        return Escalate(reason=Reason.LATENCY, option=self._plan.option)

    def _decided(self, winner: str) -> None:
        record = self._journal.hedge
        assert record is not None
        record.ended_s = self._journal.elapsed_s
        self._journal.note(f"hedge: {winner} is first")

    @property
    def events(self) -> AsyncGenerator[Event, None] | None:
        """What the cloud said and will say, to be read once; None if it was not asked, or has failed."""
        call = self._call
        return None if call is None or isinstance(call.failure, HybridError) else call.events()

    async def close(self) -> None:
        """End a call that is still out. What it cost in vain is then known, and written down."""
        if self._call is None:
            return
        call, self._call = self._call, None
        call.give_up()
        await call.ended()
        record, journal = self._journal.hedge, self._journal
        assert record is not None
        record.won = "none" if journal.route is None else journal.route.value
        if journal.route is Route.LOCAL:
            record.double_usd = journal.cost_usd - record.cost_before_usd
