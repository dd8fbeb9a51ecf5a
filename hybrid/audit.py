"""Which local answers are compared with the cloud's, and what comes of it? After the client has its answer.

An escalated draft has the cloud's answer already. Of those that stayed local a configured share is asked of the cloud
as well: in the background, within the budget, and never what may not leave this machine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from hybrid.artefact import Loaded
from hybrid.clouds import Clouds
from hybrid.drawn import drawn_otherwise
from hybrid.drift_book import DriftBook, draw
from hybrid.errors import HybridError, StoreError
from hybrid.journal import Journal
from hybrid.labelling import COMPARABLE, Said, agree, said
from hybrid.local_request import GREEDY
from hybrid.policy.model import CloudOption, Draft, Limits, Reason, RunLocal, Signals
from hybrid.policy.promise import Promise, draft_features, judge_by
from hybrid.store.labels import Label, Origin
from hybrid.store.ledger import Ledger
from hybrid.types import ChatRequest, Event, Json, Outcome, PolicyChoice, Route, Sampling

log = logging.getLogger(__name__)

DIALECT = "audit"
"""What the ledger's rows of audits have in the place of a client's dialect."""
MOST_AT_ONCE = 2
MOST_WAITING = 32
"""Of audits; what is drawn beyond is left out, whatever it says."""
END_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A request whose answer is out.

    loaded: the local model. limits: by which its draft was judged. draft, local: the draft, if all of it is there.
    cloud: the events of the cloud's answer, where one came.
    """

    request: ChatRequest
    signals: Signals
    limits: Limits
    loaded: Loaded
    draft: Draft
    local: Said
    cloud: Sequence[Event]


class Drafted(Protocol):
    """The local side of an answer: `local_answer.LocalAnswers`."""

    @property
    def whole(self) -> tuple[Draft, Said] | None:
        """The one answer, as a draft and as what it says."""


class Serving(Protocol):
    """Who made it: `engine.supervisor.Supervisor`."""

    @property
    def facts(self) -> Loaded | None:
        """What is loaded."""


def both(
    request: ChatRequest,
    signals: Signals,
    limits: Limits,
    serving: Serving | None,
    drafted: Drafted | None,
    cloud: Sequence[Event],
) -> Answered | None:
    """Put both sides of an answer together; None without a whole local draft."""
    whole = None if drafted is None else drafted.whole
    loaded = None if serving is None else serving.facts
    if whole is None or loaded is None:
        return None
    draft, local = whole
    return Answered(
        request=request, signals=signals, limits=limits, loaded=loaded, draft=draft, local=local, cloud=cloud
    )


class Auditor:
    """Makes labels of requests that local and cloud answered, and asks the cloud for a share of the others.

    Args:
        share: of accepted local answers that are audited; 0 asks for none, and escalations are labelled all the same.
        defaults: how tokens are drawn where a client says nothing and nothing is promised.
    """

    def __init__(
        self, clouds: Clouds, ledger: Ledger, book: DriftBook, *, share: float, defaults: Sampling = GREEDY
    ) -> None:
        self._clouds, self._ledger, self._book, self._share = clouds, ledger, book, share
        self._is_greedy = not defaults.temperature or defaults.top_k == 1
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(MOST_AT_ONCE)
        self._waiting = self._left_out = 0
        self._is_closed = False

    def in_force(self, limits: Limits) -> Limits:
        """Put what labels say of a promise in its place: it holds, holds at a tighter threshold, or is withdrawn."""
        if limits.promise is None or not limits.promise.id:
            return limits
        promise = self._book.in_force(limits.promise)
        return replace(limits, promise=promise, no_promise=promise.alarm if promise.is_withdrawn else None)

    def is_for_calibration(self, request_id: str, request: ChatRequest, limits: Limits) -> bool:
        """Whether a request that nothing is promised of is to be drawn as calibrations are, for one to be made of it.

        Those that are audited if they are accepted: elsewhere the client has what is configured.
        """
        may_teach = limits.promise is None and limits.kind in COMPARABLE and not request.is_stream
        is_sample = may_teach and drawn_otherwise(request, limits.kind, None) is None
        return is_sample and draw(request_id, "audit") < self._share

    def facts(self) -> dict[str, Json]:
        """How audits stand, for /readyz."""
        return {
            "share": self._share,
            "running": len(self._tasks),
            "left_out": self._left_out,
            "promises": self._book.facts(),
        }

    def answered(self, answered: Answered, journal: Journal) -> None:
        """Take a request whose client has its answer. Waits for nothing.

        One that is drawn otherwise than calibrations draw theirs is left out: no promise speaks of it, and among the
        others it would pass for a sample of what one speaks of, and could certify a withdrawn one again.
        """
        # A stream that was judged early for its first token's sake has its end by now: without those drift would be
        # told by the short ones alone.
        promise = answered.limits.promise or (None if journal.limits is None else journal.limits.promise)
        if drawn_otherwise(answered.request, answered.limits.kind, promise) is not None:
            return
        judgement = _judged(answered, promise)
        if promise is not None and promise.id and judgement is not None:
            self._book.saw(promise, answered.draft, judgement.features, judgement.p_local)
        if self._is_closed:
            return
        if journal.route is Route.CLOUD:
            cloud = said(answered.cloud)
            provider, model = journal.provider or "", journal.model or ""
            if cloud is not None:
                origin = Origin.ESCALATION if journal.hedge is None else Origin.HEDGE
                self._start(self._label(answered, journal, cloud, origin, (provider, model)))
        elif (option := self._drawn(answered, journal)) is not None:
            # As long as nobody has answered, it is one without an answer, should this process end.
            waiting = self._labelled(answered, journal, Origin.AUDIT, (option.provider, option.model), agrees=None)
            if self._waiting >= MOST_WAITING:
                self._left_out += 1
                self._keep(waiting)
                return
            self._waiting += 1
            self._write(waiting)
            self._start(self._audit(answered, journal, option))

    async def aclose(self) -> None:
        """Cancel what runs, and let it settle. Never waits longer than `END_LIMIT_S`; restarts settle the rest."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_LIMIT_S)

    def _drawn(self, answered: Answered, journal: Journal) -> CloudOption | None:
        """The cloud to ask about an accepted local answer; None where it is not drawn, or may not be asked."""
        decision, signals, request = journal.decision, answered.signals, answered.request
        may_leave = signals.policy is PolicyChoice.AUTO and not signals.is_private
        if not isinstance(decision, RunLocal) or decision.fallback is None or not may_leave:
            return None
        is_accepted = journal.route is Route.LOCAL and journal.degraded is None
        if not is_accepted or journal.review is None or not journal.review.is_accepted:
            return None
        option = decision.fallback
        dearest_usd = request.max_cost_usd
        if dearest_usd is not None and (option.reserve_usd is None or option.reserve_usd > dearest_usd):
            return None
        is_drawn = answered.limits.kind in COMPARABLE and draw(journal.id, "audit") < self._share
        return option if is_drawn else None

    async def _audit(self, answered: Answered, asked: Journal, option: CloudOption) -> None:
        """Ask the cloud, with a row of its own in the ledger; what fails is in that row, and a label without answer."""
        names = option.provider, option.model
        cloud: Said | None = None
        try:
            async with self._turn:
                journal = Journal(
                    id=f"aud_{asked.id.removeprefix('req_')}",
                    dialect=DIALECT,
                    arrived_s=time.monotonic(),
                    requested_model=answered.request.model,
                    reason=Reason.AUDIT,
                )
                journal.provider, journal.model = option.provider, option.model
                self._ledger.open_request(journal.opened(answered.request))
                try:
                    cloud = await self._ask(answered.request, option, journal)
                    journal.outcome = Outcome.OK
                except HybridError as failed:
                    journal.fail(failed)
                    return
                finally:
                    self._ledger.close_request(journal.closed())
        finally:
            self._waiting -= 1
            if cloud is None:
                self._keep(self._labelled(answered, asked, Origin.AUDIT, names, agrees=None))
        if cloud is not None:
            await self._label(answered, asked, cloud, Origin.AUDIT, names)

    async def _ask(self, request: ChatRequest, option: CloudOption, journal: Journal) -> Said | None:
        # Nobody waits for it: a deadline of the client's is over, and no stream is looked at.
        request = replace(request, is_stream=False, deadline_s=None)
        call = self._clouds.call(self._clouds.find(option), request, option, journal)
        async with aclosing(call) as events:
            return said([event async for event in events])

    async def _label(
        self,
        answered: Answered,
        journal: Journal,
        cloud: Said,
        origin: Origin,
        names: tuple[str, str],
    ) -> None:
        """Compare, and keep the label; in a thread, for long texts take long to compare."""
        kind = answered.limits.kind
        question = [message.text for message in answered.request.messages if message.role == "user"]
        agrees = await asyncio.to_thread(agree, kind, question[-1] if question else "", answered.local, cloud)
        if agrees is not None:
            self._keep(self._labelled(answered, journal, origin, names, agrees=agrees))
        elif origin is Origin.AUDIT:  # an answer that says nothing to compare with is none to be sorry for
            with suppress(StoreError):
                self._ledger.drop_label(journal.id)

    def _labelled(
        self, answered: Answered, journal: Journal, origin: Origin, names: tuple[str, str], *, agrees: bool | None
    ) -> Label:
        """Write a label. agrees: None where the cloud was asked in vain."""
        promise, review = answered.limits.promise, journal.review
        judged = _judged(answered, promise)
        # A draft that was not compared as its calibration does is one of a chosen few: nothing is to be learned of it.
        is_of_several = promise is not None and promise.samples > 1
        return Label(
            request_id=journal.id,
            made_at=datetime.now(UTC),
            origin=origin,
            weight=1 / self._share if origin is Origin.AUDIT else 1.0,
            rate=self._rate(answered, journal, origin),
            kind=answered.limits.kind.value,
            task=None if promise is None else promise.task,
            calibration=None if promise is None else promise.id,
            fingerprint=answered.loaded.fingerprint,
            template_fingerprint=answered.loaded.template_fingerprint,
            provider=names[0],
            model=names[1],
            p_local=None if judged is None else judged.p_local,
            p_cloud=None if judged is None else judged.p_cloud,
            score=None if judged is None else judged.score,
            is_accepted=origin is Origin.AUDIT,
            is_flawed=review is not None and review.reason is Reason.VERIFIER,
            agrees=bool(agrees),
            features={} if judged is None and is_of_several else _features(answered.draft, promise),
            is_answered=agrees is not None,
        )

    def _rate(self, answered: Answered, journal: Journal, origin: Origin) -> float:
        """The least chance with which any draft that was drawn as calibrations are was compared at its time.

        Where nothing is promised only some are drawn so, and all of those are asked about.
        """
        limits = answered.limits
        rate = least_chance(limits, answered.signals, self._share)
        was_promised = limits.promise is not None or (journal.limits is not None and journal.limits.promise is not None)
        if self._is_greedy or was_promised or not rate:
            return rate
        if not self.is_for_calibration(journal.id, answered.request, limits):
            return 0.0
        return rate if origin is Origin.AUDIT else 1.0

    def _keep(self, label: Label) -> None:
        if self._write(label):
            self._book.take(label)

    def _write(self, label: Label) -> bool:
        try:
            self._ledger.keep_label(label)
        except StoreError as closed:
            log.warning("a comparison with the cloud was not kept: %s", closed)
            return False
        return True

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("a comparison with the cloud failed unexpectedly", exc_info=bug)


def least_chance(limits: Limits, signals: Signals, share: float) -> float:
    """Give the least chance with which any draft of a request's time was compared with the cloud.

    Under a withdrawn promise all are, if money is no object: where it is, the least doubtful stay, and are not. Without
    any promise a share of what is accepted is, but nothing of what is doubted and stays because money is scarce, and of
    streams nothing that is doubted: it is ended before there is an answer to compare.

    Args:
        share: of accepted answers that are audited.
    """
    if limits.promise is None:
        return 0.0 if signals.budget_lambda or signals.is_stream else share
    if limits.promise.is_feasible:
        return share
    return 0.0 if signals.budget_lambda or limits.value_usd is not None else 1.0


@dataclass(frozen=True, slots=True)
class _Judged:
    p_local: float
    p_cloud: float
    score: float
    features: Mapping[str, float]


def _judged(answered: Answered, promise: Promise | None) -> _Judged | None:
    if promise is None:
        return None
    try:
        found = judge_by(promise, draft_features(answered.draft, promise.option_prior))
    except ValueError:
        return None
    if found is None:
        return None
    return _Judged(found.p_local, found.p_cloud, found.score, _features(answered.draft, promise))


def _features(draft: Draft, promise: Promise | None) -> dict[str, float]:
    """The draft's features that are finite numbers; none where the model broke."""
    try:
        found = draft_features(draft, () if promise is None else promise.option_prior)
    except ValueError:
        return {}
    return {name: value for name, value in found.items() if abs(value) < float("inf")}
