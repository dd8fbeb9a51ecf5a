"""Is an answer drawn as calibrations draw theirs? Else it says nothing of what is promised, nor a promise of it."""

from __future__ import annotations

from hybrid.policy.promise import Promise
from hybrid.policy.tasks import TaskKind
from hybrid.types import ChatRequest

FORMED = (TaskKind.CALL, TaskKind.STRUCTURED)
"""Kinds whose tokens a grammar may choose."""


def drawn_otherwise(request: ChatRequest, kind: TaskKind, promise: Promise | None) -> str | None:
    """In what an answer to this request is not drawn as calibrations draw theirs; None where it is.

    Args:
        kind: of the request's task. promise: that would speak of it, if there is one.
    """
    if kind in FORMED and promise is not None and promise.kind is not kind:
        return "it is of free answers, and this one is kept to a form"
    sampling = request.sampling
    if sampling.temperature and sampling.top_k != 1:
        return f"it is of the likeliest tokens, and these are drawn at temperature {sampling.temperature:g}"
    if sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty not in (None, 1.0):
        return "it is of answers without penalties"
    if request.extra.get("logit_bias"):
        return "it is of answers without logit_bias"
    if (request.extra.get("n") or 1) > 1:
        return "it is of one answer, and several are wanted"
    return None
