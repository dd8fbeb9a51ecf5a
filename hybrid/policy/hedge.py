"""When is a second call worth its price? Pure: what is expected of both sides, and how far local has come."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hybrid.policy.latency import answer_tokens, cloud_total, cloud_ttft, tighter_s, total_limit_s
from hybrid.policy.model import CloudOption, Forecast, HedgePlan, Limits, Signals
from hybrid.policy.spread import LEVELS, MIDDLE, Spread

SURPRISE = 0.01
"""The chance that something is going on that was never seen, such as a neighbour that will not end.

Without it an answer that is later than all before would be expected any moment, however long it stays away. How long
such a thing lasts has a long tail: its chance falls with the square root of the time.
"""
OVERHEAD_S = 0.02
"""What a call takes of us before it leaves: its reservation on disk, and waking up a little late."""
_MOMENTS = tuple(range(MIDDLE, len(LEVELS)))
"""Of the cloud's quantiles, those that a call is given at least: it is not made to be late more often than not."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a local answer has come, in seconds after the decision; None for what has not happened."""

    now_s: float
    started_s: float | None = None
    first_token_s: float | None = None


def plan_hedge(signals: Signals, limits: Limits, expected: Forecast, option: CloudOption | None) -> HedgePlan | None:
    """Say what a hedge of this request would be about; None where it may not or cannot be hedged.

    A stream is hedged for its first token, by when it must begin to end in time; a whole answer for its end.
    """
    if option is None or limits.hedge_chance is None:
        return None
    if signals.is_stream:
        wanted, limit_s = expected.ttft, _begun_by_s(signals, limits, expected)
        cloud = cloud_ttft(option.latency)
    else:
        wanted, limit_s = expected.total, total_limit_s(signals, limits)
        cloud = cloud_total(option.latency, answer_tokens(signals))
    if wanted is None or limit_s is None or limit_s <= 0:
        return None
    return HedgePlan(
        option=option,
        limit_s=limit_s,
        is_whole=not signals.is_stream,
        least_gain=limits.hedge_chance,
        local=expected,
        cloud=cloud,
    )


def _begun_by_s(signals: Signals, limits: Limits, expected: Forecast) -> float | None:
    """By when a stream must begin: as wanted of its first token, and early enough for its end."""
    begun_by_s = None if limits.ttft_s is None else limits.ttft_s - signals.elapsed_s
    end_by_s = total_limit_s(signals, limits)
    if end_by_s is None or expected.total is None or expected.ttft is None:
        return begun_by_s
    rest_s = max(0.0, expected.total.values[MIDDLE] - expected.ttft.values[MIDDLE])
    return tighter_s(begun_by_s, end_by_s - rest_s)


def start_at(plan: HedgePlan, progress: Progress) -> float | None:
    """Choose when to ask the cloud as well, in seconds after the decision; None: not at all, as things stand.

    The moment with the least loss: the chance that both are late, and `least_gain` for a call that is made. Waiting
    saves the call whenever local comes meanwhile, and leaves the cloud less time; so it is asked as late as it will
    still make it, and only if by then local has become unlikely to.
    """
    left = _left(plan, progress)
    if left is None or progress.now_s >= plan.limit_s:
        return None
    spread, since_s = left
    here = _chance_above(spread, progress.now_s - since_s)
    late = _chance_above(spread, plan.limit_s - since_s) / here
    best_s, least = None, late
    for at_s in _moments(plan, progress.now_s):
        is_asked = _chance_above(spread, at_s - since_s) / here
        loss = late * plan.cloud.chance_above(plan.limit_s - at_s - OVERHEAD_S) + plan.least_gain * is_asked
        if loss < least:
            best_s, least = at_s, loss
    return best_s


def chance_late(plan: HedgePlan, progress: Progress) -> float:
    """Give the chance that local misses the limit, now that it has come so far."""
    left = _left(plan, progress)
    if left is None:
        return 0.0
    spread, since_s = left
    here = _chance_above(spread, progress.now_s - since_s)
    return min(1.0, _chance_above(spread, plan.limit_s - since_s) / here)


def _chance_above(spread: Spread, value: float) -> float:
    """The chance of what was seen, and a little of what was not."""
    if value <= 0.0:
        return 1.0
    unseen = min(1.0, math.sqrt(spread.values[MIDDLE] / value))
    return (1.0 - SURPRISE) * spread.chance_above(value) + SURPRISE * unseen


def _moments(plan: HedgePlan, now_s: float) -> list[float]:
    """Moments that may be best: now, and those that leave the cloud just the time of one of its quantiles."""
    latest = [plan.limit_s - OVERHEAD_S - plan.cloud.values[index] for index in _MOMENTS]
    return [now_s, *(at_s for at_s in latest if at_s > now_s)]


def _left(plan: HedgePlan, progress: Progress) -> tuple[Spread, float] | None:
    """The spread of what local still has to do, and since when; None if what is waited for is there."""
    local = plan.local
    if progress.first_token_s is not None:
        return (local.decode, progress.first_token_s) if plan.is_whole and local.decode is not None else None
    wanted = local.total if plan.is_whole else local.ttft
    assert wanted is not None
    if progress.started_s is None or local.ttft is None or local.prefill is None:
        return wanted, 0.0
    if not plan.is_whole:
        return local.prefill, progress.started_s
    # The rest of a whole answer once it has left the queue: the wait that was expected is over, however long it was.
    wait_s = max(0.0, local.ttft.at(0.5) - local.prefill.at(0.5))
    rest = Spread(tuple(max(value - wait_s, local.prefill.at(0.5)) for value in wanted.values))
    return rest, progress.started_s
