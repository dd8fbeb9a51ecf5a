"""What may be promised of a local answer to this request? The calibration of its kind of task, as it stands now."""

from __future__ import annotations

from dataclasses import replace

from hybrid.audit import Auditor, Serving
from hybrid.drawn import drawn_otherwise
from hybrid.policy.model import Limits
from hybrid.policy.tasks import kind_of
from hybrid.promise_book import PromiseBook
from hybrid.types import ChatRequest

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
    asked = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
    kind = kind_of(asked, request.needs)
    found = promises.find(None if serving is None else serving.facts, kind, request.tag)
    is_limit_own = request.max_output_tokens is None
    made = replace(limits, promise=found.of(asked), no_promise=found.why, kind=kind, is_limit_own=is_limit_own)
    made = audits.in_force(made)
    if made.promise is None:
        return made
    if has_adapter:  # another model: its drafts say nothing of this one's, nor the other way round
        return replace(made, promise=None, no_promise=f"{NOT_OF_THIS}: it is of the model without an adapter")
    if not made.promise.is_feasible:
        return made  # what keeps nothing local keeps nothing that is drawn in another way either
    difference = drawn_otherwise(request, kind, made.promise)
    return made if difference is None else replace(made, promise=None, no_promise=f"{NOT_OF_THIS}: {difference}")
