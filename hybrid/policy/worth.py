"""Is a better answer worth its price? The gain rule, and what becomes of a draft that is not worth one. Pure."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hybrid.policy.model import Check, CloudOption, Limits, Reason, Review
from hybrid.policy.promise import Promise


def is_worth(
    gain: float,
    value_usd: Decimal,
    cost_usd: Decimal,
    lambda_: float,
    *,
    extra_s: float = 0.0,
    usd_per_s: Decimal = Decimal(0),
) -> bool:
    """Say whether an escalation pays: `gain * value_usd > (1 + lambda) * cost_usd + usd_per_s * extra_s`.

    Args:
        gain: p_cloud - p_local, in [-1, 1]; what is not above 0 is never worth anything.
        value_usd: what a right answer is worth where a wrong one would be given.
        cost_usd: what the call is expected to cost; not its worst case, which is for the cap to hold.
        lambda_: the budget's shadow price, >= 0.
        extra_s, usd_per_s: how much longer the client waits, and what a second of that is worth.
    Raises: ValueError if an argument is out of range.
    """
    if not (-1 <= gain <= 1 and lambda_ >= 0 and min(value_usd, cost_usd, usd_per_s) >= 0):
        raise ValueError(f"gain {gain} in [-1, 1]; lambda {lambda_}, {value_usd}, {cost_usd}, {usd_per_s} USD >= 0")
    if gain <= 0:
        return False
    price_usd = (1 + Decimal(lambda_)) * cost_usd + usd_per_s * Decimal(max(0.0, extra_s))
    return Decimal(gain) * value_usd > price_usd


def weigh(review: Review, option: CloudOption, lambda_: float | None, limits: Limits) -> Review:
    """Let a doubted draft stand where its escalation is not worth the money now, and no promise forbids it.

    A promise in force is a constraint, and the price decides inside it: what its threshold doubts is escalated at any
    price the cap allows, or the regret of what stays would be more than was certified. Of what it accepts, with
    `limits.value_usd`, that is escalated as well whose gain pays; that only lowers the regret.

    Otherwise only doubt is weighed: what a verifier found wrong, and an answer that is none, is escalated at any price
    the cap allows. With `limits.value_usd` the rule is `is_worth`, an uncalibrated score standing for p_local.
    Without it nobody said what a right answer is worth, and only scarcity is weighed: the doubt must be
    `lambda / (1 + lambda)` at least, so that at lambda 0 all that is doubted is escalated, and at any higher price the
    most doubtful first.
    The doubt is the share of p_cloud that is to be gained, and without calibration how far the score is from its
    threshold to 0.

    Args:
        lambda_: None where nothing is paced; counts as 0.
    Returns: the review as it was; an accepted one whose reason is `budget` (worth it, were money less scarce) or
        `abstain` (not worth it even with money to spare); or under a promise one that is escalated because it pays.
    """
    if limits.promise is not None and not limits.promise.is_withdrawn:
        return _inside(limits.promise, review, option, lambda_ or 0.0, limits)
    if review.is_accepted or review.reason is not Reason.CONFIDENCE or review.confidence is None:
        return review
    price = lambda_ or 0.0
    if limits.value_usd is None:
        doubt, bar = _doubt(review, review.confidence), price / (1 + price)
        check = Check("worth", doubt >= bar, f"doubt {doubt:.3f}, lambda {price:.3f} asks for {bar:.3f}")
        return _decided(review, check, otherwise=Reason.BUDGET)
    p_cloud = limits.p_cloud if review.p_cloud is None else review.p_cloud
    check, is_ever = _worth(p_cloud - review.confidence, limits.value_usd, option, price)
    return _decided(review, check, otherwise=Reason.BUDGET if is_ever else Reason.ABSTAIN)


def _inside(promise: Promise, review: Review, option: CloudOption, price: float, limits: Limits) -> Review:
    """Decide by the price what the promise leaves open: whether an accepted answer is worth a better one."""
    if not review.is_accepted:
        if review.reason is not Reason.CONFIDENCE or (price == 0 and limits.value_usd is None):
            return review
        detail = f"not weighed (lambda {price:.3f}): regret <= {promise.max_regret:g} goes before the price"
        return replace(review, checks=(*review.checks, Check("worth", True, detail)))
    if limits.value_usd is None or review.reason is not Reason.DEFAULT or review.confidence is None:
        return review
    # Where the cloud was taken to be always right, to be strict about regret, that is no reason to pay it.
    is_known = review.p_cloud is not None and (promise.cloud is not None or promise.cloud_rate is not None)
    p_cloud = review.p_cloud if is_known and review.p_cloud is not None else limits.p_cloud
    check, _ = _worth(p_cloud - review.confidence, limits.value_usd, option, price)
    checks = (*review.checks, check)
    if not check.is_passed:
        return replace(review, checks=checks)
    return replace(review, is_accepted=False, reason=Reason.CONFIDENCE, checks=checks)


def _worth(gain: float, value_usd: Decimal, option: CloudOption, price: float) -> tuple[Check, bool]:
    """Weigh a gain now, and whether it would pay with money to spare."""
    cost_usd = option.expected_usd or option.reserve_usd or Decimal(0)
    detail = f"gain {gain:.3f} x ${value_usd}, (1 + lambda {price:.3f}) x ${cost_usd:f}"
    check = Check("worth", is_worth(gain, value_usd, cost_usd, price), detail)
    return check, is_worth(gain, value_usd, cost_usd, 0.0)


def _doubt(review: Review, confidence: float) -> float:
    whole = review.threshold if review.p_cloud is None else review.p_cloud
    score = confidence if review.p_cloud is not None or review.score is None else review.score
    return 0.0 if whole is None or whole <= 0 else max(0.0, min(1.0, (whole - score) / whole))


def _decided(review: Review, check: Check, *, otherwise: Reason) -> Review:
    checks = (*review.checks, check)
    if check.is_passed:
        return replace(review, checks=checks)
    return replace(review, is_accepted=True, reason=otherwise, checks=checks)
