"""What may be promised of a local answer to this request? The calibration of its kind of task, as it stands now."""

from __future__ import annotations

from dataclasses import replace

from hybrid.audit import Auditor, Serving
from hybrid.policy.model import Limits
from hybrid.policy.tasks import TaskKind, kind_of
from hybrid.promise_book import PromiseBook
from hybrid.types import ChatRequest

FORMED = (TaskKind.CALL, TaskKind.STRUCTURED)
"""Kinds whose tokens a grammar may choose."""
NOT_OF_THIS = "the calibration does not speak of this request"


def promised(
    limits: Limits,
    request: ChatRequest,
    serving: Serving | None,
    promises: PromiseBook,
    audits: Auditor,
    *,
    has_adapter: bool = False,
) -> Limits:
    """Add what may be promised of a local answer to this request, or why nothing may.

    has_adapter: the answer is that of the model with an adapter.
    """
    asked = [message.text for message in request.messages if message.role == "user"]
    kind = kind_of(asked[-1] if asked else "", request.needs)
    found = promises.find(None if serving is None else serving.facts, kind, request.tag)
    is_limit_own = request.max_output_tokens is None
    made = replace(limits, promise=found.promise, no_promise=found.why, kind=kind, is_limit_own=is_limit_own)
    made = audits.in_force(made)
    if made.promise is None:
        return made
    if has_adapter:  # another model: its drafts say nothing of this one's, nor the other way round
        return replace(made, promise=None, no_promise=f"{NOT_OF_THIS}: it is of the model without an adapter")
    if not made.promise.is_feasible:
        return made  # what keeps nothing local keeps nothing that is drawn in another way either
    difference = _difference(request)
    if kind in FORMED and made.promise.kind is not kind:
        difference = "it is of free answers, and this one is kept to a form"
    return made if difference is None else replace(made, promise=None, no_promise=f"{NOT_OF_THIS}: {difference}")


def _difference(request: ChatRequest) -> str | None:
    """In what an answer to this request is not drawn as calibrations draw theirs; None where it is."""
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
