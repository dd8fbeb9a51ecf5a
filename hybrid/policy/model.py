"""What does a decision take, and what does it give? Facts in, a verdict with its reasons out. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from hybrid.policy.spread import Spread
from hybrid.policy.tasks import TaskKind
from hybrid.types import Capability, FinishReason, PolicyChoice

if TYPE_CHECKING:
    from hybrid.policy.promise import Look, Promise


class Reason(StrEnum):
    """Why a request went where it went: one vocabulary in headers, ledger, metrics and docs."""

    DEFAULT = "default"
    PINNED = "pinned"
    PRIVACY = "privacy"
    CONTEXT = "context"
    CAPABILITY = "capability"
    LATENCY = "latency"
    CONFIDENCE = "confidence"
    VERIFIER = "verifier"
    BUDGET = "budget"
    ABSTAIN = "abstain"
    CACHE = "cache"
    LOCAL_FAILURE = "local_failure"
    CLOUD_FAILURE = "cloud_failure"
    AUDIT = "audit"
    """Of a call that no client waits for: the cloud is asked to compare it with a local answer that was given."""


class SpeedSource(StrEnum):
    """Where predicted speeds are from: the worker's own steps, the last bench of this machine, or nowhere."""

    MEASURED = "measured"
    PROFILE = "profile"
    NONE = "none"


class CloudOrder(StrEnum):
    """Which capable cloud model is tried first: the cheapest for this request, or the first that was listed."""

    PRICE = "price"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class CloudLatency:
    """What was seen of a cloud model: seconds to the first event, and per answer token after it; of how many calls.

    whole: what an answer fetched whole takes beside its tokens; None until one was there sooner than `ttft` has it.
    """

    ttft: Spread
    token: Spread
    calls: int = 0
    whole: Spread | None = None


@dataclass(frozen=True, slots=True)
class LocalErrors:
    """How far predictions of a local model were off: spreads of (actual + floor) / (predicted + floor).

    prefill: of the time from the queue's end to the first token. ttft: to the first token, of requests that waited
    in the queue. total: of the whole answer, predicted from the length it then had; None, all three, before anything
    was seen. answer_tokens: how long its answers were; None before there were some.
    """

    prefill: Spread | None = None
    ttft: Spread | None = None
    total: Spread | None = None
    answer_tokens: Spread | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOption:
    """One cloud model that could be paid, in the configured order of preference.

    missing: what the request wants and this model cannot do, capabilities and single parameters; empty: it can.
    prompt_tokens_bound: the most prompt tokens it can count. reserve_usd: the most this request can cost there; None
    where no price is known, which blocks it.
    expected_usd: what it will likely cost, an answer of the model's usual length; never above `reserve_usd`.
    context_tokens: None where unknown; then the provider is the judge.
    is_healthy: whether it may be called now, as far as its circuits know. resting: why not, for people.
    rest_s: how long that lasts at most.
    quality: the share of its answers that are right, in [0, 1], as somebody measured it; None where nobody did.
    latency: None before its first call.
    """

    provider: str
    model: str
    missing: frozenset[str] = frozenset()
    context_tokens: int | None = None
    prompt_tokens_bound: int | None = None
    reserve_usd: Decimal | None = None
    expected_usd: Decimal | None = None
    is_healthy: bool = True
    resting: str | None = None
    rest_s: float | None = None
    quality: float | None = None
    latency: CloudLatency | None = None

    @property
    def ttft_p50_s(self) -> float | None:
        """Seconds in which half of its answers begin; None while unknown."""
        return None if self.latency is None else self.latency.ttft.at(0.5)

    @property
    def ttft_p99_s(self) -> float | None:
        """Seconds in which all but a hundredth of its answers begin; None while unknown."""
        return None if self.latency is None else self.latency.ttft.at(0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Everything `route` may know about one request, gathered by `Runtime.observe` before any token exists.

    prompt_tokens: as the local tokenizer counts them; None while no local model can count.
    local_problem: why the local model is not ready; None if it is.
    local_refusal: why the local model does not take this request; None if it does. local_refusal_param: for what in it,
    local_refusal_code: with which error code.
    queue_wait_s, prefill_tok_s, decode_tok_s: predicted or measured; None while nothing was measured.
    local_threads, local_slowdown: that compute, and how many times slower than undisturbed; the speeds include it.
    speeds_from: `profile` while any of the two speeds is the last bench's.
    budget_left_usd: None where no budget is configured, which means no cloud.
    budget_lambda: the budget's shadow price, >= 0; None where nothing is paced.
    cached_tokens: of the prompt, expected to be in the local cache; None while unknown.
    errors: how far such predictions were off. elapsed_s: since the request arrived. deadline_s: left of its own.
    """

    policy: PolicyChoice = PolicyChoice.AUTO
    is_pinned: bool = False
    is_private: bool = False
    needs: frozenset[Capability] = frozenset()
    prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    is_local_configured: bool = True
    is_local_ready: bool = True
    local_problem: str | None = None
    local_refusal: str | None = None
    local_refusal_param: str | None = None
    local_refusal_code: str | None = None
    local_capabilities: frozenset[Capability] = frozenset()
    queue_wait_s: float | None = None
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    local_threads: int | None = None
    local_slowdown: float | None = None
    speeds_from: SpeedSource = SpeedSource.NONE
    clouds: tuple[CloudOption, ...] = ()
    budget_left_usd: Decimal | None = None
    budget_lambda: float | None = None
    deadline_s: float | None = None
    max_cost_usd: Decimal | None = None
    min_quality: float | None = None
    is_stream: bool = False
    elapsed_s: float = 0.0
    cached_tokens: int | None = None
    errors: LocalErrors = LocalErrors()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The promises and thresholds of this runtime, from its configuration and calibration.

    min_confidence: drafts scoring below it are escalated where no promise holds; in [0, 1].
    promise: what was calibrated for this kind of task; None where the score is no probability and nothing is promised.
    no_promise: why there is none, for people.
    kind: of the task, as far as the request tells.
    is_limit_own: whether the limit of the answer's tokens is ours, and not the client's wish.
    hold_tokens: tokens of a stream held back for review before the first is released.
    value_usd: what a right answer is worth where a wrong one would be given; None where nobody said.
    p_cloud: the probability that a cloud's answer is right, where nothing better is known.
    cloud_order: which of the cloud models that could answer is tried first.
    late_chance: the cloud is asked instead where that lowers the chance to be late by at least this much.
    hedge_chance: the same for asking it as well, once local has become so unlikely; None: never both at once.
    """

    local_context_tokens: int = 8192
    ttft_s: float | None = None
    total_s: float | None = None
    hold_tokens: int = 16
    min_confidence: float = 0.35
    promise: Promise | None = None
    no_promise: str | None = None
    kind: TaskKind = TaskKind.TEXT
    is_limit_own: bool = False
    value_usd: Decimal | None = None
    p_cloud: float = 0.9
    cloud_order: CloudOrder = CloudOrder.PRICE
    late_chance: float = 0.5
    hedge_chance: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One rule as it was applied: its name, whether local stayed possible, and the numbers it compared."""

    rule: str
    is_passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a local answer is expected, in seconds after the decision; None where a speed it needs is unknown.

    ttft, total: its first token and its end. prefill: from the end of the queue to the first token.
    decode: from there to the end.
    """

    ttft: Spread | None = None
    prefill: Spread | None = None
    total: Spread | None = None
    decode: Spread | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePlan:
    """Ask `option` beside the local model, as soon as that is worth its price; `policy.hedge` says when.

    limit_s: after the decision: by when an answer is wanted, its first token of a stream, else its end (`is_whole`).
    least_gain: by how much a second call must lower the chance to be late. cloud: seconds it takes to be there.
    """

    option: CloudOption
    limit_s: float
    is_whole: bool
    least_gain: float
    local: Forecast
    cloud: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLocal:
    """Answer here. With a `fallback`, `review` may still send the draft there.

    others: the cloud models to try after `fallback`, in order.
    no_fallback: why a configured cloud may not be paid; a draft that review doubts is then `degraded` by it.
    degraded: set when the policy wanted the cloud already before the first token.
    """

    reason: Reason
    fallback: CloudOption | None = None
    others: tuple[CloudOption, ...] = ()
    no_fallback: Reason | None = None
    degraded: Reason | None = None
    hedge: HedgePlan | None = None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalate:
    """Pay `option`, or should it fail before its first token, one of `others`, in order.

    may_fall_back: whether local may answer should all of them fail.
    """

    reason: Reason
    option: CloudOption
    others: tuple[CloudOption, ...] = ()
    may_fall_back: bool = False
    checks: tuple[Check, ...] = ()

    @property
    def ladder(self) -> tuple[CloudOption, ...]:
        """Every cloud model that may be paid, in the order they are tried."""
        return (self.option, *self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Nobody may answer. `reason` picks the error the client gets; `detail` says what stood in the way.

    retry_after_s: when the first cloud that could answer may be called again, where only that is in the way.
    """

    reason: Reason
    detail: str
    retry_after_s: float | None = None
    checks: tuple[Check, ...] = ()


Decision: TypeAlias = RunLocal | Escalate | Reject


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far several samples of one prompt say the same.

    share: of all samples, those in the largest group of equal answers; in (0, 1]. samples: how many there are.
    is_majority: whether the draft that would be released is in that group.
    Of reasoned answers to a choice: those for the draft's option, in [0, 1], and whether no other has more.
    """

    share: float
    samples: int
    is_majority: bool


@dataclass(frozen=True, slots=True)
class Ballot:
    """What reasoned answers to a choice say, beside the letter that the model says at once.

    votes: the share of them that names each option, shape (n_options,); what names none leaves their sum below 1.
    said: the place of that letter among the options.
    """

    votes: tuple[float, ...]
    said: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A local answer, whole or held back, as `review` sees it.

    logprobs, entropies, margins: one per generated token, natural units as in `TokenSignal`.
    finish_reason: None while the draft is still growing. flaw: what a verifier found wrong; outranks any score.
    options: log-probabilities of a question's options at the answer's first token; empty where it has none.
    agreement: with further samples of the same prompt, where some were drawn. ballot: reasoned answers to a choice.
    """

    logprobs: tuple[float, ...] = field(default=())
    entropies: tuple[float, ...] = field(default=())
    margins: tuple[float, ...] = field(default=())
    finish_reason: FinishReason | None = None
    flaw: str | None = None
    options: tuple[float, ...] = ()
    agreement: Agreement | None = None
    ballot: Ballot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a verdict takes of a draft, however long it was: a few numbers, which can be written down.

    tokens: how many it has. score: uncalibrated, as `confidence.score` gives it; None without tokens.
    features: as `promise.draft_features` gives them; None where no promise asks for any, or its numbers are none.
    """

    tokens: int
    score: float | None
    finish_reason: FinishReason | None = None
    flaw: str | None = None
    features: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """All that a verdict was made from. look: the point of a growing draft it was made at; None for what was held."""

    evidence: Evidence
    limits: Limits
    look: Look | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """The verdict on a draft: release it or escalate.

    confidence: the chance that it is right where `is_calibrated`, else a score; None without tokens.
    threshold: what was compared with `score`; both None where a rule that needs none decided.
    p_cloud: the chance that the cloud would be right; None where nothing is known of it.
    basis: what it was made from, which is no part of what it says.
    """

    is_accepted: bool
    reason: Reason
    confidence: float | None
    is_calibrated: bool = False
    score: float | None = None
    threshold: float | None = None
    p_cloud: float | None = None
    checks: tuple[Check, ...] = ()
    basis: Basis | None = field(default=None, compare=False, repr=False)


def beginning(draft: Draft, tokens: int) -> Draft:
    """A draft as it was when it had so many tokens."""
    return replace(
        draft,
        logprobs=draft.logprobs[:tokens],
        entropies=draft.entropies[:tokens],
        margins=draft.margins[:tokens],
        finish_reason=None,
        agreement=None,
        ballot=None,
    )


def without_promise(limits: Limits, why: str) -> Limits:
    """Take back what was promised for a draft that cannot be judged as the calibration did."""
    return limits if limits.promise is None else replace(limits, promise=None, no_promise=why)
