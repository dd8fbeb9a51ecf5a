"""What may be promised of a local answer to this request? The calibration of its kind of task, as it stands now."""

from __future__ import annotations

from dataclasses import replace

from hybrid.artefact import PromiseBook
from hybrid.audit import Auditor, Serving
from hybrid.policy.model import Limits
from hybrid.policy.tasks import kind_of
from hybrid.types import ChatRequest


def promised(
    limits: Limits, request: ChatRequest, serving: Serving | None, promises: PromiseBook, audits: Auditor
) -> Limits:
    """Add what may be promised of a local answer to this request, or why nothing may."""
    asked = [message.text for message in request.messages if message.role == "user"]
    kind = kind_of(asked[-1] if asked else "", request.needs)
    found = promises.find(None if serving is None else serving.facts, kind, request.tag)
    is_limit_own = request.max_output_tokens is None
    made = replace(limits, promise=found.promise, no_promise=found.why, kind=kind, is_limit_own=is_limit_own)
    return audits.in_force(made)
