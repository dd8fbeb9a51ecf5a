"""What happened to one request? A record filled in on the way; at the end it becomes the ledger's row."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

from hybrid.errors import HybridError
from hybrid.plain import to_json, to_plain
from hybrid.policy.model import Decision, Limits, Reason, Review, Signals
from hybrid.record import kind_of_decision, write_inputs, write_outcome
from hybrid.store.records import RequestClosed, RequestOpened
from hybrid.types import ChatRequest, Head, Outcome, RateLimit, Route, Usage

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class HedgeRecord:
    """Both sides were asked at once: when, after arrival, how likely each was then to be late, and who won.

    ended_s: when one was ahead. has_failed: the cloud call failed before it gave anything.
    double_usd: what the cloud cost although local won. cost_before_usd: of the request, when the call was made.
    """

    provider: str
    model: str
    started_s: float
    local_late: float
    cloud_late: float
    ended_s: float | None = None
    won: str = "none"
    has_failed: bool = False
    double_usd: Decimal | None = None
    cost_before_usd: Decimal = Decimal(0)


@dataclass(slots=True, kw_only=True)
class Journal:
    """One request's record. Times are `time.monotonic()` seconds; `waited_s` is time that engine or cloud took."""

    id: str
    dialect: str
    arrived_s: float
    requested_model: str
    outcome: Outcome = Outcome.CANCELLED
    """Cancelled until something else is known: that is how a request looks whose client went away."""
    route: Route | None = None
    model: str | None = None
    provider: str | None = None
    reason: Reason | None = None
    degraded: Reason | None = None
    confidence: float | None = None
    is_calibrated: bool = False
    error_code: str | None = None
    usage: Usage | None = None
    local_prompt_tokens: int = 0
    local_completion_tokens: int = 0
    cloud_prompt_tokens: int = 0
    cloud_completion_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    saved_usd: Decimal | None = None
    queue_s: float | None = None
    ttft_s: float | None = None
    overhead_s: float | None = None
    rate_limits: tuple[RateLimit, ...] = ()
    is_private: bool = False
    local_problem: str | None = None
    waited_s: float = 0.0
    signals: Signals | None = None
    limits: Limits | None = None
    decision: Decision | None = None
    decided_s: float = 0.0
    hedge: HedgeRecord | None = None
    waiters: int = 0
    waits_since_s: float = 0.0
    review: Review | None = None
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def elapsed_s(self) -> float:
        """Seconds since arrival."""
        return time.monotonic() - self.arrived_s

    def note(self, what: str) -> None:
        """Write down that something happened now, for `hybrid explain`."""
        self.events.append((round(self.elapsed_s, 6), what))

    def waiting(self) -> Waiting:
        """Count the time inside as the engine's or the cloud's, not as our overhead; once where it overlaps."""
        return Waiting(self)

    def opened(self, request: ChatRequest) -> RequestOpened:
        """Give the row as it is at arrival."""
        return RequestOpened(
            id=self.id,
            created_at=datetime.now(UTC),
            dialect=self.dialect,
            requested_model=request.model,
            client_key=request.client_key,
            tag=request.tag,
            is_stream=request.is_stream,
        )

    def decide(self, signals: Signals, limits: Limits, decision: Decision) -> None:
        """Record the facts, the limits, and what the policy made of them."""
        self.signals, self.limits, self.decision = signals, limits, decision
        self.reason = decision.reason
        self.decided_s = self.elapsed_s
        self.note(f"decided: {kind_of_decision(decision)} ({decision.reason})")

    def judge(self, review: Review) -> None:
        """Record what was made of the draft; one that stands because of its price says so."""
        self.review, self.confidence, self.is_calibrated = review, review.confidence, review.is_calibrated
        if review.is_accepted and review.reason is not Reason.DEFAULT:
            self.reason = review.reason
            self.degraded = Reason.BUDGET if review.reason is Reason.BUDGET else self.degraded

    def released(self, route: Route, model: str, *, provider: str | None = None) -> Head:
        """Record that the answer begins to leave, and give its head."""
        self.route, self.model, self.provider = route, model, provider
        self.ttft_s = self.elapsed_s
        self.overhead_s = max(0.0, self.ttft_s - self.waited_s)
        self.note(f"released from {route}: {model}")
        # What a cloud's answer costs is known at its end, not when it begins.
        return self.head(is_cost_known=route is not Route.CLOUD)

    def head(self, *, is_cost_known: bool = True) -> Head:
        """Give the head with the figures known by now."""
        return Head(
            request_id=self.id,
            route=self.route or Route.LOCAL,
            model=self.model or "",
            reason=str(self.reason or Reason.DEFAULT),
            confidence=self.confidence,
            is_calibrated=self.is_calibrated,
            cost_usd=self.cost_usd if is_cost_known else None,
            saved_usd=self.saved_usd,
            degraded=str(self.degraded) if self.degraded else None,
            overhead_s=self.overhead_s,
            rate_limits=self.rate_limits,
        )

    def fail(self, error: HybridError) -> None:
        """Record how it failed: the caller's fault is a rejection, anything else a failure."""
        error.request_id, error.rate_limits = self.id, self.rate_limits
        self.outcome = Outcome.REJECTED if error.status < 500 else Outcome.FAILED
        self.error_code = error.code
        self.note(f"{self.outcome.value}: {error.code}: {error}")

    def closed(self) -> RequestClosed:
        """Give the row as it is at the end."""
        return RequestClosed(
            id=self.id,
            outcome=self.outcome,
            route=self.route,
            model=self.model,
            provider=self.provider,
            reason=str(self.reason) if self.reason else None,
            degraded=str(self.degraded) if self.degraded else None,
            error_code=self.error_code,
            confidence=self.confidence,
            is_calibrated=self.is_calibrated,
            prompt_tokens=self.usage.prompt_tokens if self.usage else None,
            completion_tokens=self.usage.completion_tokens if self.usage else None,
            cached_tokens=self.usage.cached_tokens if self.usage else None,
            local_prompt_tokens=self.local_prompt_tokens,
            local_completion_tokens=self.local_completion_tokens,
            cloud_prompt_tokens=self.cloud_prompt_tokens,
            cloud_completion_tokens=self.cloud_completion_tokens,
            cost_usd=self.cost_usd,
            saved_usd=self.saved_usd,
            queue_s=self.queue_s,
            ttft_s=self.ttft_s,
            total_s=self.elapsed_s,
            overhead_s=self.overhead_s,
            decision_json=self._decision_json(),
            hedge=None if self.hedge is None else self.hedge.won,
            double_usd=None if self.hedge is None else self.hedge.double_usd,
        )

    def _decision_json(self) -> str:
        body: dict[str, object] = {"facts": {}, "decision": None, "checks": [], "review": None}
        if self.signals is not None and self.limits is not None and self.decision is not None:
            body = write_inputs(self.signals, self.limits, self.review) | write_outcome(self.decision, self.review)
        hedge = None if self.hedge is None else to_plain(self.hedge)
        body["hedge"] = hedge and {name: item for name, item in hedge.items() if name != "cost_before_usd"}
        body["events"] = [{"at_s": at_s, "what": what} for at_s, what in self.events]
        return to_json(body).decode()


class Waiting:
    """The span of `Journal.waiting`. A class, since a generator's context costs several times as much."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        journal = self._journal
        if not journal.waiters:
            journal.waits_since_s = time.monotonic()
        journal.waiters += 1

    def __exit__(self, *_: object) -> None:
        journal = self._journal
        journal.waiters -= 1
        if not journal.waiters:
            journal.waited_s += time.monotonic() - journal.waits_since_s


class Book(Protocol):
    """Who keeps the rows of requests: the ledger."""

    def open_request(self, row: RequestOpened) -> None:
        """Write down a request's arrival, soon and in order."""

    def close_request(self, row: RequestClosed) -> None:
        """Write down how it ended, soon and in order."""


class Recorded:
    """A request's row, opened at its beginning and closed with what came of it, however that ends.

    What is raised inside goes on; of what is a bug a HybridError in its place, and the log has the traceback.
    """

    __slots__ = ("_book", "_journal", "_request")

    def __init__(self, book: Book, journal: Journal, request: ChatRequest) -> None:
        self._book, self._journal, self._request = book, journal, request

    def __enter__(self) -> None:
        self._book.open_request(self._journal.opened(self._request))

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        journal = self._journal
        try:
            if isinstance(error, HybridError):
                journal.fail(error)
            elif isinstance(error, Exception):
                journal.outcome, journal.error_code = Outcome.FAILED, "internal_error"
                log.error("%s failed unexpectedly", journal.id, exc_info=error)
                failure = HybridError("an internal error; the server's log has the details")
                failure.request_id = journal.id
                raise failure from error
        finally:
            if journal.outcome is Outcome.CANCELLED:
                journal.note("cancelled: the client went away, or the server stops")
            self._book.close_request(journal.closed())
