"""Where should this request run? Decided before any token exists, as a pure function of facts."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.policy.hedge import plan_hedge
from hybrid.policy.ladder import Ladder, climbable
from hybrid.policy.latency import Lateness, forecast, lateness
from hybrid.policy.model import (
    Check,
    Decision,
    Escalate,
    Forecast,
    Limits,
    Reason,
    Reject,
    RunLocal,
    Signals,
)
from hybrid.policy.spread import LEVELS, MIDDLE, Spread
from hybrid.types import PolicyChoice

NOTABLY_SLOW = 1.25
"""A slowdown from which a check says that other programs are why."""
LIKELY = 0.5
"""Who misses a limit by this chance or more is likely late, and what is then done, or not, is said."""
_LOW, _HIGH = LEVELS.index(0.1), LEVELS.index(0.9)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the local side's rules said: the checks in order, and the first failing reason, if any."""

    checks: tuple[Check, ...] = ()
    blocked_by: Reason | None = None

    @property
    def detail(self) -> str:
        return "; ".join(check.detail for check in self.checks if not check.is_passed)


def route(signals: Signals, limits: Limits) -> Decision:
    """Choose where to run. Hard rules first, then latency; money only decides whether the cloud is there at all.

    Never local when the client pinned the cloud, never the cloud when the request is local-only or private;
    when the wanted side cannot answer and the other may, it does, and the decision says so.
    """
    local = _local_rules(signals, limits)
    cloud = _cloud_rules(signals, limits, local)
    checks = local.checks + cloud.checks
    if signals.policy is PolicyChoice.CLOUD_ONLY:
        if not cloud.rungs:
            reason = cloud.blocked_by or Reason.PINNED
            return Reject(reason=reason, detail=cloud.detail, retry_after_s=cloud.retry_after_s, checks=checks)
        return Escalate(reason=Reason.PINNED, option=cloud.rungs[0], others=cloud.rungs[1:], checks=checks)
    if local.blocked_by is None:
        return _stay_local(signals, limits, cloud, checks)
    if cloud.rungs:
        return Escalate(reason=local.blocked_by, option=cloud.rungs[0], others=cloud.rungs[1:], checks=checks)
    detail = _join(local.detail, cloud.detail)
    if cloud.blocked_by is Reason.CLOUD_FAILURE:
        # A cloud that could answer rests: sent again later, the same request may succeed as it is.
        return Reject(reason=cloud.blocked_by, detail=detail, retry_after_s=cloud.retry_after_s, checks=checks)
    # What the caller can mend comes first: a prompt that is too long stays so however much money there is. Where only
    # clouds could ever answer, what stops them is what is told.
    is_cloud_the_reason = not signals.is_local_configured and bool(signals.clouds) and cloud.blocked_by is not None
    told = cloud.blocked_by if is_cloud_the_reason else local.blocked_by
    return Reject(reason=told or local.blocked_by, detail=detail, checks=checks)


def _stay_local(signals: Signals, limits: Limits, cloud: Ladder, checks: tuple[Check, ...]) -> Decision:
    if signals.is_private or signals.policy is PolicyChoice.LOCAL_ONLY:
        reason = Reason.PINNED if signals.is_pinned and not signals.is_private else Reason.PRIVACY
        return RunLocal(reason=reason, checks=checks)
    first, others = (cloud.rungs[0], cloud.rungs[1:]) if cloud.rungs else (None, ())
    expected = forecast(signals, limits)
    late = lateness(signals, limits, expected, first)
    check = _latency_check(signals, late, expected)
    checks = checks if check is None else (*checks, check)
    hedge = plan_hedge(signals, limits, expected, first)
    is_late = late is not None and late.local >= LIKELY
    if late is not None and first is not None and late.local - (late.cloud or 0.0) >= limits.late_chance:
        return Escalate(reason=Reason.LATENCY, option=first, others=others, may_fall_back=True, checks=checks)
    hopeless = _promise_check(limits)
    if hopeless is not None:
        checks = (*checks, hopeless)
        if first is not None:
            return Escalate(reason=Reason.CONFIDENCE, option=first, others=others, may_fall_back=True, checks=checks)
    if hedge is not None:
        name = f"{hedge.option.provider}/{hedge.option.model}"
        checks = (
            *checks,
            Check("hedge", True, f"{name} may be asked beside local, to be in time by {hedge.limit_s:.3g} s"),
        )
    return RunLocal(
        reason=Reason.DEFAULT,
        fallback=first,
        others=others,
        no_fallback=cloud.blocked_by if signals.clouds else None,
        # Nobody is likely to be on time: the cloud may not be paid, or is known to be no quicker.
        degraded=Reason.LATENCY if is_late and hedge is None else None,
        hedge=hedge,
        checks=checks,
    )


def _local_rules(signals: Signals, limits: Limits) -> _Verdict:
    checks: list[Check] = []
    blocked: Reason | None = None

    def rule(name: str, reason: Reason, *, is_passed: bool, detail: str) -> None:
        nonlocal blocked
        checks.append(Check(name, is_passed, detail))
        if not is_passed and blocked is None:
            blocked = reason

    missing = signals.needs - signals.local_capabilities
    rule(
        "local_capability",
        Reason.CAPABILITY,
        is_passed=not missing,
        detail=f"the local model cannot do: {', '.join(sorted(missing))}" if missing else "local can do all it needs",
    )
    if signals.local_refusal is not None:
        rule("local_request", Reason.CAPABILITY, is_passed=False, detail=signals.local_refusal)
    is_there = signals.is_local_configured and signals.is_local_ready
    state = "is ready" if is_there else "is not ready" if signals.is_local_configured else "is not configured"
    detail = f"the local model {state}" + (f": {signals.local_problem}" if signals.local_problem else "")
    rule("local_ready", Reason.LOCAL_FAILURE, is_passed=is_there, detail=detail)
    if signals.prompt_tokens is not None:
        wanted = signals.prompt_tokens + (signals.max_output_tokens or 1)
        rule(
            "local_context",
            Reason.CONTEXT,
            is_passed=wanted <= limits.local_context_tokens,
            detail=f"prompt {signals.prompt_tokens} + answer {signals.max_output_tokens or 1} tokens, "
            f"local context {limits.local_context_tokens}",
        )
    return _Verdict(tuple(checks), blocked)


def _cloud_rules(signals: Signals, limits: Limits, local: _Verdict) -> Ladder:
    if signals.is_private:
        return Ladder(checks=(Check("privacy", True, "private: no cloud may see it"),), blocked_by=Reason.PRIVACY)
    if signals.policy is PolicyChoice.LOCAL_ONLY:
        check = Check("pinned_local", True, "the client asked for local only")
        return Ladder(checks=(check,), blocked_by=Reason.PINNED)
    if not signals.clouds:
        check = Check("cloud_configured", False, "no cloud is configured")
        return Ladder(checks=(check,), blocked_by=Reason.CAPABILITY)
    return climbable(signals, limits, local_quality=_local_quality(signals, limits, local))


def _local_quality(signals: Signals, limits: Limits, local: _Verdict) -> float | None:
    """How often local is right in such questions, where it may answer and that was calibrated and still holds."""
    promise = limits.promise
    may_answer = local.blocked_by is None and signals.policy is PolicyChoice.AUTO
    return promise.base_rate if may_answer and promise is not None and not promise.is_withdrawn else None


def _latency_check(signals: Signals, late: Lateness | None, expected: Forecast) -> Check | None:
    """Write down what was expected of both sides; it fails where local is likelier late than not."""
    # Why it is late matters to whoever reads it: this is no slow machine but a busy one.
    slowed = signals.local_slowdown is not None and signals.local_slowdown >= NOTABLY_SLOW
    because = f"; other programs make local {signals.local_slowdown:.1f} times slower" if slowed else ""
    if late is None:
        if expected.ttft is None:
            return None
        return Check("latency", True, f"first token predicted {_in(expected.ttft)}, no limit{because}")
    cloud = "" if late.cloud is None else f", the cloud with {late.cloud:.0%}"
    return Check(
        "latency",
        late.local < LIKELY,
        f"{late.what} predicted {_in(late.expected)}, limit {late.limit_s:.3g} s: local is late with {late.local:.0%}"
        f"{cloud}{because}",
    )


def _in(spread: Spread) -> str:
    values = spread.values
    return f"in {values[MIDDLE]:.2f} s (80 %: {values[_LOW]:.2f} to {values[_HIGH]:.2f})"


def _promise_check(limits: Limits) -> Check | None:
    """Tell a kind of task of which calibration says that no local answer can keep the promise: drafting is in vain."""
    promise = limits.promise
    if promise is None or promise.is_feasible or promise.is_withdrawn:
        return None
    why = "its drafts do not tell right from wrong" if promise.is_at_chance else "no threshold keeps the promise"
    detail = (
        f"{promise.task}: local is right in {promise.base_rate:.0%} and {why} "
        f"(regret <= {promise.max_regret:g} with confidence {1 - promise.delta:g})"
    )
    return Check("promise", False, detail)


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
