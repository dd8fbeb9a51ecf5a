"""Which cloud models may answer a request, and in which order are they tried? Cheapest capable first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from hybrid.policy.latency import answer_tokens, cloud_total, total_limit_s
from hybrid.policy.model import Check, CloudOption, CloudOrder, Limits, Reason, Signals

LATE = 0.5
"""The chance to be late from which a cloud goes behind those that are likely in time."""

NEAREST = (Reason.CLOUD_FAILURE, Reason.BUDGET, Reason.CONTEXT, Reason.CAPABILITY)
"""What stands in the way, the obstacle nearest to success first.

A cloud that only rests says more than one that lacks money, and that more than one that cannot see images.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The cloud models that may be paid, in order, with a check for each that was looked at.

    blocked_by: what keeps the nearest one from it where there is none. retry_after_s: when that may change by itself.
    """

    rungs: tuple[CloudOption, ...] = ()
    checks: tuple[Check, ...] = ()
    blocked_by: Reason | None = None
    retry_after_s: float | None = None

    @property
    def detail(self) -> str:
        """What stood in the way of each."""
        return "; ".join(check.detail for check in self.checks if not check.is_passed)


def climbable(signals: Signals, limits: Limits, *, local_quality: float | None = None) -> Ladder:
    """Take the options that nothing keeps from answering, and put them into the order they are tried in.

    local_quality: how often local, which can answer, is right; a cloud known to be right less often is not paid.
    """
    rungs: list[CloudOption] = []
    checks: list[Check] = []
    obstacles: list[Reason] = []
    for option in signals.clouds:
        reason, detail = _obstacle(option, signals, limits, local_quality)
        checks.append(Check(f"cloud {option.provider}/{option.model}", reason is None, detail))
        if reason is None:
            rungs.append(option)
        else:
            obstacles.append(reason)
    if not rungs:
        nearest = next((reason for reason in NEAREST if reason in obstacles), None)
        rests = [
            one.rest_s
            for one in signals.clouds
            if one.rest_s is not None and _lasting_obstacle(one, signals, limits, local_quality)[0] is None
        ]
        wait_s = min(rests, default=None) if nearest is Reason.CLOUD_FAILURE else None
        return Ladder(checks=tuple(checks), blocked_by=nearest, retry_after_s=wait_s)
    ordered = in_order(rungs, signals, limits)
    if len(ordered) > 1:
        checks.append(Check("cloud_order", True, _said(ordered, signals, limits)))
    return Ladder(rungs=tuple(ordered), checks=tuple(checks))


def in_order(options: Sequence[CloudOption], signals: Signals, limits: Limits) -> list[CloudOption]:
    """Put options that all could answer into the order they are tried in; what is equal stays as it was listed.

    By price: those that usually answer within the request's limits of time, then the cheaper for this request, then
    the better and the quicker as far as either is known. A price that is not known to differ decides nothing.
    """
    if limits.cloud_order is CloudOrder.LISTED or len(options) == 1:
        return list(options)

    def key(option: CloudOption) -> tuple[bool, Decimal, float, float]:
        cost = option.expected_usd if option.expected_usd is not None else option.reserve_usd
        assert cost is not None, "what has no price is no rung"
        quality = 0.0 if option.quality is None else -option.quality
        usual_s = option.ttft_p50_s
        return _is_late(option, signals, limits), cost, quality, float("inf") if usual_s is None else usual_s

    return sorted(options, key=key)


def _is_late(option: CloudOption, signals: Signals, limits: Limits) -> bool:
    """Whether it is likelier late for this request than in time; of what was never called nobody knows."""
    first_s = None if limits.ttft_s is None else limits.ttft_s - signals.elapsed_s
    if option.latency is None:
        return False
    if first_s is not None and option.latency.ttft.chance_above(first_s) >= LATE:
        return True
    end_s = total_limit_s(signals, limits)
    return end_s is not None and cloud_total(option.latency, answer_tokens(signals)).chance_above(end_s) >= LATE


def quality_of(option: CloudOption, limits: Limits) -> float | None:
    """How often a cloud model is right: as somebody states, else as calibrated for this kind of task, else unknown."""
    promise = limits.promise
    if option.quality is not None or promise is None or promise.is_withdrawn:
        return option.quality
    names = (option.provider, option.model, f"{option.provider}/{option.model}")
    return promise.cloud_rate if promise.cloud_model in names else None


def _obstacle(
    option: CloudOption, signals: Signals, limits: Limits, local_quality: float | None
) -> tuple[Reason | None, str]:
    reason, detail = _lasting_obstacle(option, signals, limits, local_quality)
    if reason is None and not option.is_healthy:
        return Reason.CLOUD_FAILURE, option.resting or f"{option.provider} failed lately and is resting"
    return reason, detail


def _lasting_obstacle(
    option: CloudOption, signals: Signals, limits: Limits, local_quality: float | None
) -> tuple[Reason | None, str]:
    """What keeps an option from answering this request, its health aside."""
    if option.missing:
        return Reason.CAPABILITY, f"{option.model} cannot do: {', '.join(sorted(option.missing))}"
    quality = quality_of(option, limits)
    if quality is not None and signals.min_quality is not None and quality < signals.min_quality:
        return Reason.CAPABILITY, f"{option.model} is right in {quality:g}, {signals.min_quality:g} are asked for"
    if quality is not None and local_quality is not None and quality < local_quality:
        return Reason.CAPABILITY, f"{option.model} is right in {quality:g}, local in {local_quality:g}"
    wanted = (signals.prompt_tokens or 0) + (signals.max_output_tokens or 1)
    if option.context_tokens is not None and wanted > option.context_tokens:
        return Reason.CONTEXT, f"needs {wanted} tokens, {option.model} holds {option.context_tokens}"
    if signals.budget_left_usd is None:
        return Reason.BUDGET, "no budget is configured ([budget] has no cap), so no cloud is called"
    if option.reserve_usd is None:
        return Reason.BUDGET, f'no price is known for {option.model} (set [prices."{option.provider}/{option.model}"])'
    if signals.max_cost_usd is not None and option.reserve_usd > signals.max_cost_usd:
        return Reason.BUDGET, f"may cost ${option.reserve_usd}, the request allows ${signals.max_cost_usd}"
    if option.reserve_usd > signals.budget_left_usd:
        return Reason.BUDGET, f"may cost ${option.reserve_usd}, ${signals.budget_left_usd} are left"
    return None, f"may cost ${option.reserve_usd} of ${signals.budget_left_usd} left"


def _said(ordered: Sequence[CloudOption], signals: Signals, limits: Limits) -> str:
    if limits.cloud_order is CloudOrder.LISTED:
        return "as listed: " + ", ".join(f"{one.provider}/{one.model}" for one in ordered)
    words = []
    for one in ordered:
        cost = one.reserve_usd if one.expected_usd is None else one.expected_usd
        late = ", usually too late for this request" if _is_late(one, signals, limits) else ""
        words.append(f"{one.provider}/{one.model} (about ${cost}{late})")
    return "by price: " + ", ".join(words)
