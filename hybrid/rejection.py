"""Which error does a rejected request get? The one its reason calls for."""

from __future__ import annotations

from hybrid.errors import (
    BudgetExhausted,
    CloudResting,
    ContextLengthExceeded,
    HybridError,
    InvalidRequest,
    ModelNotReady,
    UnsupportedCapability,
)
from hybrid.policy.model import Limits, Reason, Reject, Signals
from hybrid.types import ChatRequest


def rejection(decision: Reject, signals: Signals, limits: Limits, request: ChatRequest) -> HybridError:
    """Turn a rejection into the error its reason calls for."""
    if decision.reason is Reason.CONTEXT and signals.prompt_tokens is not None:
        return ContextLengthExceeded(signals.prompt_tokens, limits.local_context_tokens, request.max_output_tokens)
    if decision.reason is Reason.CAPABILITY and signals.local_refusal is not None:
        code = signals.local_refusal_code or InvalidRequest.code
        return InvalidRequest(signals.local_refusal, param=signals.local_refusal_param, code=code)
    if decision.reason is Reason.CAPABILITY and request.needs:
        where = (
            "this server, with its local model and the clouds that may be paid,"
            if signals.clouds
            else "the local model"
        )
        return UnsupportedCapability(request.needs - signals.local_capabilities, where=where)
    if decision.reason is Reason.BUDGET:
        return BudgetExhausted(decision.detail, left_usd=signals.budget_left_usd)
    if decision.reason is Reason.LOCAL_FAILURE:
        return ModelNotReady(decision.detail)
    if decision.reason is Reason.CLOUD_FAILURE:
        return CloudResting("cloud", decision.detail, decision.retry_after_s)
    return InvalidRequest(decision.detail or f"nobody may answer this request ({decision.reason.value})")
