"""Is this draft good enough to release? Pure: the draft and the limits in, a verdict out."""

from __future__ import annotations

from hybrid.policy.confidence import score
from hybrid.policy.model import Check, Draft, Limits, Reason, Review


def review(draft: Draft, limits: Limits) -> Review:
    """Judge a whole or held-back draft before its first token is released.

    A draft without a single token (the model ended at once) carries no evidence and is not accepted:
    an empty answer is the one failure every user notices. What a verifier proved wrong outranks every score.
    """
    confidence = score(draft)
    if confidence is None:
        check = Check("draft_has_tokens", False, "the local model ended its answer without a token")
        return Review(is_accepted=False, reason=Reason.CONFIDENCE, confidence=None, checks=(check,))
    if draft.flaw is not None:
        check = Check("verifier", False, draft.flaw)
        return Review(is_accepted=False, reason=Reason.VERIFIER, confidence=confidence, checks=(check,))
    is_accepted = confidence >= limits.min_confidence
    kind = "calibrated" if limits.is_calibrated else "uncalibrated"
    check = Check(
        "confidence",
        is_accepted,
        f"{kind} score {confidence:.4f} of {len(draft.logprobs)} tokens "
        f"{'>=' if is_accepted else '<'} threshold {limits.min_confidence:.4f}",
    )
    reason = Reason.DEFAULT if is_accepted else Reason.CONFIDENCE
    return Review(is_accepted=is_accepted, reason=reason, confidence=confidence, checks=(check,))
