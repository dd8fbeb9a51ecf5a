"""Is this draft good enough to release? Pure: the draft and the limits in, a verdict out."""

from __future__ import annotations

import math

from hybrid.policy.calibrated import probability
from hybrid.policy.confidence import score
from hybrid.policy.model import Check, Draft, Limits, Reason, Review, beginning
from hybrid.policy.promise import Judgement, Look, Promise, draft_features, judge
from hybrid.policy.tasks import ENDS_WITH_ITS_ANSWER
from hybrid.types import FinishReason

LIKELY = 0.5
"""Where neither local nor cloud is likelier right than wrong, an answer that stays local is an abstention."""


def review(draft: Draft, limits: Limits) -> Review:
    """Judge a whole or held-back draft before its first token is released.

    A draft without a single token (the model ended at once) carries no evidence and is not accepted:
    an empty answer is the one failure every user notices. What a verifier proved wrong outranks every score, and
    an answer whose end is missing is no answer, however sure the model was of its beginning.
    """
    confidence = score(draft)
    if confidence is None:
        check = Check("draft_has_tokens", False, "the local model ended its answer without a token")
        return Review(is_accepted=False, reason=Reason.CONFIDENCE, confidence=None, checks=(check,))
    judgement, promise = _judged(draft, limits), limits.promise
    if judgement is not None:
        confidence = judgement.p_local
    is_calibrated = judgement is not None
    fault = _flaw(draft) or _cut(draft, limits)
    if fault is not None:
        return Review(
            is_accepted=False,
            reason=Reason.VERIFIER,
            confidence=confidence,
            is_calibrated=is_calibrated,
            checks=(fault,),
        )
    if promise is None or judgement is None:
        return _uncalibrated(draft, limits, confidence)
    return _promised(promise, judgement, draft)


def look_at(draft: Draft, limits: Limits, *, seen_tokens: int = 0) -> Review | None:
    """Judge a growing draft at the calibrated points of its length: a verdict gives it up, None lets it grow.

    Each point has its own model and line, certified so that few of the drafts that are given up would have been
    accepted at their end. Between the points nothing is asked, so the number of looks is fixed beforehand.

    Args:
        seen_tokens: how long it was when it was looked at last.
    """
    promise = limits.promise
    if promise is None:
        return None
    due = (look for look in promise.looks if seen_tokens < look.tokens <= len(draft.logprobs))
    return next((verdict for look in due if (verdict := _look(draft, promise, look)) is not None), None)


def _look(draft: Draft, promise: Promise, look: Look) -> Review | None:
    try:
        score = probability(look.model, draft_features(beginning(draft, look.tokens), promise.option_prior))
    except ValueError:
        return None  # the whole draft will be judged by what is then there
    if score is None or score >= look.threshold:
        return None
    check = Check(
        "growing_draft", False, f"after {look.tokens} tokens its score {score:.4f} < the line {look.threshold:.4f}"
    )
    return Review(
        is_accepted=False,
        reason=Reason.CONFIDENCE,
        confidence=score,
        is_calibrated=True,
        score=score,
        threshold=look.threshold,
        checks=(check,),
    )


def _judged(draft: Draft, limits: Limits) -> Judgement | None:
    if limits.promise is None:
        return None
    try:
        return judge(limits.promise, draft)
    except ValueError:
        # Numbers that are none: the model broke, and what it says of itself is worth nothing.
        return None


def _flaw(draft: Draft) -> Check | None:
    return None if draft.flaw is None else Check("verifier", False, draft.flaw)


def _cut(draft: Draft, limits: Limits) -> Check | None:
    """An answer that ran into a limit before what was asked for; a client's own limit on free text is its wish."""
    if draft.finish_reason is not FinishReason.LENGTH:
        return None
    if limits.kind not in ENDS_WITH_ITS_ANSWER and not limits.is_limit_own:
        return None
    return Check("cut_off", False, f"the answer was cut off by its limit of {len(draft.logprobs)} tokens")


def _uncalibrated(draft: Draft, limits: Limits, confidence: float) -> Review:
    is_accepted = confidence >= limits.min_confidence
    why = "" if limits.no_promise is None else f"; no promise: {limits.no_promise}"
    check = Check(
        "confidence",
        is_accepted,
        f"uncalibrated score {confidence:.4f} of {len(draft.logprobs)} tokens "
        f"{_sign(is_accepted=is_accepted)} threshold {limits.min_confidence:.4f}{why}",
    )
    return Review(
        is_accepted=is_accepted,
        reason=Reason.DEFAULT if is_accepted else Reason.CONFIDENCE,
        confidence=confidence,
        score=confidence,
        threshold=limits.min_confidence,
        checks=(check,),
    )


def _promised(promise: Promise, judgement: Judgement, draft: Draft) -> Review:
    is_accepted = judgement.score >= promise.threshold
    likely = max(judgement.p_local, judgement.p_cloud)
    reason = Reason.DEFAULT if is_accepted else Reason.CONFIDENCE
    if is_accepted and likely < LIKELY:
        reason = Reason.ABSTAIN
    name = "gain of staying local" if promise.ranks_by_gain else "probability"
    limit = f"{promise.threshold:.4f}" if math.isfinite(promise.threshold) else "none that keeps the promise"
    check = Check(
        "confidence",
        is_accepted,
        f"calibrated {name} {judgement.score:.4f} of {len(draft.logprobs)} tokens "
        f"{_sign(is_accepted=is_accepted)} threshold {limit} ({promise.task}: regret <= {promise.max_regret:g} "
        f"with confidence {1 - promise.delta:g})",
    )
    return Review(
        is_accepted=is_accepted,
        reason=reason,
        confidence=judgement.p_local,
        is_calibrated=True,
        score=judgement.score,
        threshold=promise.threshold if math.isfinite(promise.threshold) else None,
        p_cloud=judgement.p_cloud,
        checks=(check,),
    )


def _sign(*, is_accepted: bool) -> str:
    return ">=" if is_accepted else "<"
