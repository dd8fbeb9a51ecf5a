"""route() stays local unless local cannot answer, never overspends, and says why."""

from dataclasses import replace
from decimal import Decimal

import pytest

from hybrid.policy.model import CloudOption, Escalate, Limits, Reason, Reject, RunLocal, Signals
from hybrid.policy.route import route
from hybrid.types import Capability, PolicyChoice

LIMITS = Limits(local_context_tokens=2048, ttft_s=1.5, total_s=30.0)
CHEAP = CloudOption(provider="c", model="small", reserve_usd=Decimal("0.01"))
ABLE = CloudOption(provider="c", model="able", reserve_usd=Decimal("0.05"))
UNABLE = replace(CHEAP, missing=frozenset({"tools"}))


def facts(**changes: object) -> Signals:
    """A ready local model, two affordable clouds, a short prompt; changed as said."""
    usual: dict[str, object] = {
        "prompt_tokens": 100,
        "max_output_tokens": 64,
        "clouds": (CHEAP, ABLE),
        "budget_left_usd": Decimal(5),
        "prefill_tok_s": 400.0,
        "decode_tok_s": 20.0,
        "queue_wait_s": 0.0,
    }
    return Signals(**{**usual, **changes})  # type: ignore[arg-type]


def outcome(signals: Signals) -> tuple[type, Reason, str | None]:
    """What was decided, why, and the cloud model involved."""
    decision = route(signals, LIMITS)
    if isinstance(decision, Escalate):
        return Escalate, decision.reason, decision.option.model
    if isinstance(decision, RunLocal):
        return RunLocal, decision.reason, decision.fallback.model if decision.fallback else None
    return Reject, decision.reason, None


TOOLS = frozenset({Capability.TOOLS})
LONG = 9_000
PRIVATE = {"policy": PolicyChoice.LOCAL_ONLY}
CLOUD_ONLY = {"policy": PolicyChoice.CLOUD_ONLY, "is_pinned": True}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, (RunLocal, Reason.DEFAULT, "small"), id="nothing-wrong"),
        pytest.param({"clouds": ()}, (RunLocal, Reason.DEFAULT, None), id="no-cloud-configured"),
        pytest.param({"budget_left_usd": None}, (RunLocal, Reason.DEFAULT, None), id="no-budget-no-fallback"),
        pytest.param({"budget_left_usd": Decimal("0.001")}, (RunLocal, Reason.DEFAULT, None), id="broke-no-fallback"),
        pytest.param({"prompt_tokens": LONG}, (Escalate, Reason.CONTEXT, "small"), id="too-long-for-local"),
        pytest.param({"prompt_tokens": LONG, **PRIVATE}, (Reject, Reason.CONTEXT, None), id="too-long-and-local-only"),
        pytest.param(
            {"prompt_tokens": LONG, "budget_left_usd": Decimal(0)}, (Reject, Reason.CONTEXT, None), id="too-long-broke"
        ),
        pytest.param(
            {"needs": TOOLS, "clouds": (UNABLE, ABLE)}, (Escalate, Reason.CAPABILITY, "able"), id="first-capable-cloud"
        ),
        pytest.param({"needs": TOOLS, "clouds": (UNABLE,)}, (Reject, Reason.CAPABILITY, None), id="nobody-capable"),
        pytest.param({"local_refusal": "odd"}, (Escalate, Reason.CAPABILITY, "small"), id="template-refuses"),
        pytest.param({"is_local_ready": False}, (Escalate, Reason.LOCAL_FAILURE, "small"), id="worker-down"),
        pytest.param(
            {"is_local_ready": False, "clouds": ()}, (Reject, Reason.LOCAL_FAILURE, None), id="worker-down-alone"
        ),
        pytest.param({"queue_wait_s": 2.0}, (Escalate, Reason.LATENCY, "small"), id="queue-too-long"),
        pytest.param({"queue_wait_s": 2.0, "clouds": ()}, (RunLocal, Reason.DEFAULT, None), id="late-but-alone"),
        pytest.param({"max_output_tokens": 1000}, (Escalate, Reason.LATENCY, "small"), id="total-too-long"),
        pytest.param({"deadline_s": 2.0}, (Escalate, Reason.LATENCY, "small"), id="own-deadline"),
        pytest.param(
            {"prefill_tok_s": None, "queue_wait_s": 99.0}, (RunLocal, Reason.DEFAULT, "small"), id="unmeasured"
        ),
        pytest.param(PRIVATE, (RunLocal, Reason.PRIVACY, None), id="local-only-header"),
        pytest.param({**PRIVATE, "is_pinned": True}, (RunLocal, Reason.PINNED, None), id="local-by-name"),
        pytest.param({"is_private": True}, (RunLocal, Reason.PRIVACY, None), id="private-tag"),
        pytest.param({"is_private": True, "prompt_tokens": LONG}, (Reject, Reason.CONTEXT, None), id="private-long"),
        pytest.param(CLOUD_ONLY, (Escalate, Reason.PINNED, "small"), id="cloud-only"),
        pytest.param({**CLOUD_ONLY, "is_private": True}, (Reject, Reason.PRIVACY, None), id="private-beats-cloud"),
        pytest.param(
            {**CLOUD_ONLY, "budget_left_usd": Decimal(0)}, (Reject, Reason.BUDGET, None), id="cloud-only-broke"
        ),
        pytest.param(
            {**CLOUD_ONLY, "max_cost_usd": Decimal("0.001")}, (Reject, Reason.BUDGET, None), id="request-cap-too-low"
        ),
    ],
)
def test_route(changes, expected):
    """Each rule alone decides as the design says, and names itself as the reason."""
    assert expected == outcome(facts(**changes))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        pytest.param({"reserve_usd": None}, "no price is known", id="unknown-price"),
        pytest.param({"is_healthy": False}, "resting", id="unhealthy"),
        pytest.param({"context_tokens": 50}, "holds 50", id="cloud-context"),
    ],
)
def test_a_cloud_that_cannot_be_used_is_passed_over_with_its_reason(option, words):
    """The next option is taken, and the check of the first says what stood in its way."""
    decision = route(facts(clouds=(replace(CHEAP, **option), ABLE), **CLOUD_ONLY), LIMITS)

    assert isinstance(decision, Escalate)
    assert decision.option.model == "able"
    assert any(words in check.detail and not check.is_passed for check in decision.checks)


@pytest.mark.parametrize(
    ("slowdown", "words"),
    [
        pytest.param(3.2, "; other programs make local 3.2 times slower", id="busy-machine"),
        pytest.param(1.1, "", id="nothing-to-speak-of"),
        pytest.param(None, "", id="unknown"),
    ],
)
def test_a_late_answer_says_whether_other_programs_are_why(slowdown, words):
    """The latency check tells a slow machine from a busy one; the speeds already include the slowdown."""
    decision = route(facts(queue_wait_s=2.0, local_slowdown=slowdown, local_threads=1), LIMITS)

    late = next(check for check in decision.checks if check.rule == "latency")
    assert late.detail.endswith(f" s > {LIMITS.ttft_s:g} s{words}")


def test_a_decision_is_a_pure_function_of_its_inputs():
    """The same facts give an equal decision, checks and all, so that explain can replay it."""
    assert route(facts(queue_wait_s=2.0), LIMITS) == route(facts(queue_wait_s=2.0), LIMITS)


def test_an_escalation_for_latency_may_fall_back_and_one_for_context_may_not():
    """What local could still do, if late, it may do when the cloud fails; what it cannot, it may not."""
    late, long = route(facts(queue_wait_s=2.0), LIMITS), route(facts(prompt_tokens=LONG), LIMITS)

    assert isinstance(late, Escalate)
    assert late.may_fall_back
    assert isinstance(long, Escalate)
    assert not long.may_fall_back
