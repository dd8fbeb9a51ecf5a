"""How long would each side take, and how sure is that? Speeds, queue and lengths, with the errors seen so far."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.policy.model import CloudLatency, CloudOption, Forecast, Limits, Signals
from hybrid.policy.spread import MIDDLE, Spread, constant, lognormal, product, total

FLOOR_S = 0.05
"""Added to both sides before errors are compared: ten times off in 5 ms says nothing about a prompt of seconds."""
PRIOR_PREFILL_ERROR = lognormal(1.0, 0.25)
PRIOR_TTFT_ERROR = lognormal(1.0, 0.5)
PRIOR_TOTAL_ERROR = lognormal(1.0, 0.3)
"""Errors taken for granted until some were seen. Right in the median, so that a first guess decides like a point."""
PRIOR_CLOUD_TTFT = Spread((0.36, 0.45, 0.58, 0.77, 1.0, 1.25, 1.43, 6.2))
PRIOR_CLOUD_TOKEN = lognormal(0.015, 0.5)
"""What a cloud is taken for until its first call, where a time must be assumed: a large model's short answers.

Source: p50, p95 and p99 of published per-query logs of a hosted model on short questions; the rest is between them.
"""
VOTE_TOKENS = 40.0
"""Of a vote with its reasons: 38 on average over MMLU, by recipes.REASONED."""
VOTE_STEP = 0.4
"""How much longer a step takes for each further sequence in it: five at once decode at 1.8 times the rate of one."""
QUEUED_SHARE = 0.5
"""From such a share of waiting in the predicted time on, its error is that of requests that waited."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds to the first token and to the last; None where a speed it needs was never measured."""

    ttft_s: float | None
    total_s: float | None


@dataclass(frozen=True, slots=True)
class Lateness:
    """How likely is each side late, by the limit that is the likelier to be missed locally?

    what: is in time or not: "first token" or "completion". limit_s: after the decision.
    cloud: None before the cloud's first call; it is then not known to be slower.
    """

    what: str
    limit_s: float
    expected: Spread
    local: float
    cloud: float | None


def predict(signals: Signals) -> Prediction:
    """Predict a local run as one number each: queue, then prefill of what is not cached, then a decode step a token.

    The total is of the longest answer that is allowed, or of a usual one where there is no limit but some were seen.
    """
    prefill_s = prefill_point_s(signals)
    if prefill_s is None:
        return Prediction(None, None)
    ttft_s = (signals.queue_wait_s or 0.0) + prefill_s
    lengths = answer_tokens(signals)
    if lengths is None or not signals.decode_tok_s:
        return Prediction(ttft_s, None)
    return Prediction(ttft_s, ttft_s + lengths.values[MIDDLE] / signals.decode_tok_s)


def prefill_point_s(signals: Signals) -> float | None:
    """Predict the seconds from the end of the queue to the first token; None while the speed is unknown."""
    if signals.prompt_tokens is None or not signals.prefill_tok_s:
        return None
    return max(1, signals.prompt_tokens - (signals.cached_tokens or 0)) / signals.prefill_tok_s


def is_queued(signals: Signals) -> bool:
    """Whether waiting is the larger part of the predicted time to the first token."""
    wait_s, prefill_s = signals.queue_wait_s or 0.0, prefill_point_s(signals) or 0.0
    return wait_s > 0.0 and wait_s >= QUEUED_SHARE * (wait_s + prefill_s)


def answer_tokens(signals: Signals) -> Spread | None:
    """How long the answer may be: as answers were, but for the limit; None while unknown.

    While no answer was seen, a limit is taken to be used up: it is the only bound known beforehand.
    """
    seen = signals.errors.answer_tokens
    # What explains a decision asks for a limit of 0 as well: a spread has no logarithm of that.
    limit = None if signals.max_output_tokens is None else float(max(1, signals.max_output_tokens))
    if seen is None:
        return None if limit is None else constant(limit)
    if limit is None or seen.values[-1] <= limit:
        return seen
    return Spread(tuple([min(length, limit) for length in seen.values]))


def voting_s(signals: Signals, limits: Limits | None) -> float:
    """Predict how much longer an answer takes that is voted on: its question once more, then the votes side by side."""
    promise = None if limits is None else limits.promise
    if promise is None or not promise.votes or not signals.decode_tok_s or not signals.prefill_tok_s:
        return 0.0
    tokens = VOTE_TOKENS * (1 + VOTE_STEP * (promise.samples - 2))
    return (signals.prompt_tokens or 0) / signals.prefill_tok_s + tokens / signals.decode_tok_s


def forecast(signals: Signals, limits: Limits | None = None) -> Forecast:
    """Predict a local run with its spread; with limits, no more of it than is needed to judge those."""
    prefill_s = prefill_point_s(signals)
    if prefill_s is None:
        return Forecast()
    errors, wait_s = signals.errors, signals.queue_wait_s or 0.0
    prefill_error = errors.prefill or PRIOR_PREFILL_ERROR
    prefill = prefill_error.scaled(prefill_s + FLOOR_S, FLOOR_S)
    if is_queued(signals):
        ttft = (errors.ttft or PRIOR_TTFT_ERROR).scaled(wait_s + prefill_s + FLOOR_S, FLOOR_S)
    else:
        ttft = prefill_error.scaled(wait_s + prefill_s + FLOOR_S, FLOOR_S) if wait_s else prefill
    if limits is not None and limits.total_s is None and signals.deadline_s is None:
        return Forecast(ttft, prefill)
    lengths = answer_tokens(signals)
    if lengths is None or not signals.decode_tok_s:
        return Forecast(ttft, prefill)
    error = errors.total or PRIOR_TOTAL_ERROR
    step_s, before_s = 1 / signals.decode_tok_s, wait_s + prefill_s + voting_s(signals, limits) + FLOOR_S
    end = product(lengths.scaled(step_s, -before_s), error).scaled(1.0, FLOOR_S)
    if limits is not None and (signals.is_stream or limits.hedge_chance is None):
        return Forecast(ttft, prefill, end)
    return Forecast(ttft, prefill, end, product(lengths.scaled(step_s, -FLOOR_S), error).scaled(1.0, FLOOR_S))


def cloud_total(latency: CloudLatency | None, lengths: Spread | None) -> Spread:
    """Predict the seconds a cloud takes for a whole answer; of an unknown cloud or length, those of a usual one."""
    ttft = PRIOR_CLOUD_TTFT if latency is None else latency.whole or latency.ttft
    token = PRIOR_CLOUD_TOKEN if latency is None else latency.token
    return ttft if lengths is None else total(ttft, product(lengths, token))


def cloud_ttft(latency: CloudLatency | None) -> Spread:
    """Predict the seconds to a cloud's first event."""
    return PRIOR_CLOUD_TTFT if latency is None else latency.ttft


def total_limit_s(signals: Signals, limits: Limits) -> float | None:
    """By when, in seconds from now, the whole answer is wanted; None if nobody said."""
    own_s = None if limits.total_s is None else limits.total_s - signals.elapsed_s
    return tighter_s(own_s, signals.deadline_s)


def tighter_s(one_s: float | None, other_s: float | None) -> float | None:
    """Give the nearer of two deadlines, either of which may be missing."""
    if one_s is None or other_s is None:
        return other_s if one_s is None else one_s
    return min(one_s, other_s)


def lateness(signals: Signals, limits: Limits, expected: Forecast, option: CloudOption | None) -> Lateness | None:
    """Say how likely each side misses a limit: the one that local is likelier to miss. None where none can be judged.

    What was expected of the cloud before its first call is no reason to pay it or not, so it is left open.
    """
    ttft_limit_s = None if limits.ttft_s is None else limits.ttft_s - signals.elapsed_s
    end_limit_s = total_limit_s(signals, limits)
    late_first = late_end = -1.0
    if ttft_limit_s is not None and expected.ttft is not None:
        late_first = expected.ttft.chance_above(ttft_limit_s)
    if end_limit_s is not None and expected.total is not None:
        late_end = expected.total.chance_above(end_limit_s)
    known = None if option is None else option.latency
    if late_first >= max(late_end, 0.0):
        assert expected.ttft is not None
        assert ttft_limit_s is not None
        cloud = None if known is None else known.ttft.chance_above(ttft_limit_s)
        return Lateness("first token", ttft_limit_s, expected.ttft, late_first, cloud)
    if late_end < 0.0:
        return None
    assert expected.total is not None
    assert end_limit_s is not None
    cloud = None if known is None else cloud_total(known, answer_tokens(signals)).chance_above(end_limit_s)
    return Lateness("completion", end_limit_s, expected.total, late_end, cloud)
