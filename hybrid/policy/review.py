"""Is this draft good enough to release? Pure: the draft and the limits in, a verdict out."""

from __future__ import annotations

import math
from dataclasses import replace

from hybrid.policy.calibrated import probability
from hybrid.policy.confidence import score
from hybrid.policy.model import Basis, Check, Draft, Evidence, Limits, Reason, Review, beginning
from hybrid.policy.promise import Judgement, Promise, draft_features, judge_by
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
    return review_by(Basis(evidence=evidence_of(draft, limits.promise), limits=limits))


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
    for look in promise.looks:
        if seen_tokens < look.tokens <= len(draft.logprobs):
            found = evidence_of(beginning(draft, look.tokens), promise)
            verdict = review_by(Basis(evidence=found, limits=limits, look=look))
            if not verdict.is_accepted:
                return verdict
    return None


def evidence_of(draft: Draft, promise: Promise | None) -> Evidence:
    """Reduce a draft to what a verdict takes of it, under a promise or without one."""
    found: dict[str, float] | None = None
    if promise is not None and draft.logprobs:
        try:
            found = draft_features(draft, promise.option_prior)
        except ValueError:
            # Numbers that are none: the model broke, and what it says of itself is worth nothing.
            found = None
    return Evidence(
        tokens=len(draft.logprobs),
        score=score(draft),
        finish_reason=draft.finish_reason,
        flaw=draft.flaw,
        features=found,
    )


def review_by(basis: Basis, *, assumed: float | None = None) -> Review:
    """Judge by what was found of a draft: the one way from there to a verdict, now and when it is replayed.

    Args:
        assumed: a confidence to take in the place of the draft's own, to ask what would have been; in [0, 1].
    """
    made = _look(basis, assumed) if basis.look is not None else _whole(basis.evidence, basis.limits, assumed)
    return replace(made, basis=basis)


def _whole(found: Evidence, limits: Limits, assumed: float | None) -> Review:
    if found.score is None:
        check = Check("draft_has_tokens", False, "the local model ended its answer without a token")
        return Review(is_accepted=False, reason=Reason.CONFIDENCE, confidence=None, checks=(check,))
    confidence = found.score if assumed is None else assumed
    judgement, promise = _judged(found, limits, assumed), limits.promise
    if judgement is not None:
        confidence = judgement.p_local
    fault = _flaw(found) or _cut(found, limits)
    if fault is not None:
        return Review(
            is_accepted=False,
            reason=Reason.VERIFIER,
            confidence=confidence,
            is_calibrated=judgement is not None and not (promise is not None and promise.is_withdrawn),
            checks=(fault,),
        )
    if promise is None:
        return _uncalibrated(found, limits, confidence)
    if judgement is None:
        return _unjudged(promise, found, confidence)
    return _promised(promise, judgement, found)


def _look(basis: Basis, assumed: float | None) -> Review:
    """Give a growing draft up below the look's line; where it cannot be judged yet, the whole draft will be."""
    look, found = basis.look, basis.evidence
    assert look is not None
    try:
        chance = None if found.features is None else probability(look.model, found.features)
    except ValueError:
        chance = None
    if chance is not None and assumed is not None:
        chance = assumed
    if chance is None or chance >= look.threshold:
        return Review(is_accepted=True, reason=Reason.DEFAULT, confidence=chance, is_calibrated=chance is not None)
    check = Check(
        "growing_draft", False, f"after {look.tokens} tokens its score {chance:.4f} < the line {look.threshold:.4f}"
    )
    return Review(
        is_accepted=False,
        reason=Reason.CONFIDENCE,
        confidence=chance,
        is_calibrated=True,
        score=chance,
        threshold=look.threshold,
        checks=(check,),
    )


def _judged(found: Evidence, limits: Limits, assumed: float | None) -> Judgement | None:
    promise = limits.promise
    if promise is None or found.features is None:
        return None
    try:
        judgement = judge_by(promise, found.features)
    except ValueError:
        return None
    if judgement is None or assumed is None:
        return judgement
    return replace(judgement, p_local=assumed, score=promise.score_of(assumed, judgement.p_cloud))


def _flaw(found: Evidence) -> Check | None:
    return None if found.flaw is None else Check("verifier", False, found.flaw)


def _cut(found: Evidence, limits: Limits) -> Check | None:
    """An answer that ran into a limit before what was asked for; a client's own limit on free text is its wish."""
    if found.finish_reason is not FinishReason.LENGTH:
        return None
    if limits.kind not in ENDS_WITH_ITS_ANSWER and not limits.is_limit_own:
        return None
    return Check("cut_off", False, f"the answer was cut off by its limit of {found.tokens} tokens")


def _uncalibrated(found: Evidence, limits: Limits, confidence: float) -> Review:
    is_accepted = confidence >= limits.min_confidence
    why = "" if limits.no_promise is None else f"; no promise: {limits.no_promise}"
    check = Check(
        "confidence",
        is_accepted,
        f"uncalibrated score {confidence:.4f} of {found.tokens} tokens "
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


def _unjudged(promise: Promise, found: Evidence, confidence: float) -> Review:
    """Escalate what has none of the numbers that the calibration uses: it was counted so, and is promised so."""
    check = Check(
        "confidence", False, f"{promise.task}: {found.tokens} tokens without what the calibration judges by: escalated"
    )
    return Review(is_accepted=False, reason=Reason.CONFIDENCE, confidence=confidence, checks=(check,))


def _promised(promise: Promise, judgement: Judgement, found: Evidence) -> Review:
    is_accepted = judgement.score >= promise.threshold
    likely = max(judgement.p_local, judgement.p_cloud)
    reason = Reason.DEFAULT if is_accepted else Reason.CONFIDENCE
    if is_accepted and likely < LIKELY:
        reason = Reason.ABSTAIN
    name = "gain of staying local" if promise.ranks_by_gain else "probability"
    stated = "uncertified" if promise.is_withdrawn else "calibrated"
    limit = f"{promise.threshold:.4f}" if math.isfinite(promise.threshold) else "none that keeps the promise"
    says = f"regret <= {promise.max_regret:g} with confidence {1 - promise.delta:g}"
    if promise.is_withdrawn:
        says = "no promise"
    alarm = f"; alarm: {promise.alarm}" if promise.alarm else ""
    check = Check(
        "confidence",
        is_accepted,
        f"{stated} {name} {judgement.score:.4f} of {found.tokens} tokens "
        f"{_sign(is_accepted=is_accepted)} threshold {limit} ({promise.task}: {says}{alarm})",
    )
    return Review(
        is_accepted=is_accepted,
        reason=reason,
        confidence=judgement.p_local,
        is_calibrated=not promise.is_withdrawn,
        score=judgement.score,
        threshold=promise.threshold if math.isfinite(promise.threshold) else None,
        p_cloud=judgement.p_cloud,
        checks=(check,),
    )


def _sign(*, is_accepted: bool) -> str:
    return ">=" if is_accepted else "<"
