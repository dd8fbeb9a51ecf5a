"""route() stays local unless local cannot answer, never overspends, and says why."""

from dataclasses import replace
from decimal import Decimal

import msgspec
import pytest

from hybrid.policy.model import (
    CloudLatency,
    CloudOption,
    Escalate,
    Limits,
    LocalErrors,
    Reason,
    Reject,
    RunLocal,
    Signals,
)
from hybrid.policy.route import route
from hybrid.policy.spread import lognormal
from hybrid.types import Capability, PolicyChoice

LIMITS = Limits(local_context_tokens=2048, ttft_s=1.5, total_s=30.0)
CHEAP = CloudOption(provider="c", model="small", reserve_usd=Decimal("0.01"))
ABLE = CloudOption(provider="c", model="able", reserve_usd=Decimal("0.05"))
UNABLE = replace(CHEAP, missing=frozenset({"tools"}))
QUICK = replace(CHEAP, latency=CloudLatency(lognormal(0.4, 0.3), lognormal(0.01, 0.3), 50))
SLOW = replace(CHEAP, latency=CloudLatency(lognormal(3.0, 0.3), lognormal(0.01, 0.3), 50))


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
            {"queue_wait_s": 2.0, "clouds": (QUICK,)}, (Escalate, Reason.LATENCY, "small"), id="cloud-known-to-be-quick"
        ),
        pytest.param(
            {"queue_wait_s": 2.0, "clouds": (SLOW,)}, (RunLocal, Reason.DEFAULT, "small"), id="cloud-known-to-be-slow"
        ),
        pytest.param(
            {"max_output_tokens": 1000, "errors": LocalErrors(answer_tokens=lognormal(60.0, 0.4))},
            (RunLocal, Reason.DEFAULT, "small"),
            id="answers-are-short",
        ),
        pytest.param(
            {"max_output_tokens": None, "errors": LocalErrors(answer_tokens=lognormal(2000.0, 0.4))},
            (Escalate, Reason.LATENCY, "small"),
            id="answers-are-long",
        ),
        pytest.param(
            {"prompt_tokens": 1900, "cached_tokens": 1800}, (RunLocal, Reason.DEFAULT, "small"), id="prompt-is-cached"
        ),
        pytest.param(
            {"queue_wait_s": 1.0, "errors": LocalErrors(ttft=lognormal(2.0, 0.2))},
            (Escalate, Reason.LATENCY, "small"),
            id="queues-take-longer-than-predicted",
        ),
        pytest.param({"elapsed_s": 1.4}, (Escalate, Reason.LATENCY, "small"), id="half-the-time-is-gone"),
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
        pytest.param({"resting": "c is resting"}, "resting", id="unhealthy"),
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
    assert late.detail.endswith(f", limit {LIMITS.ttft_s:g} s: local is late with 78%{words}")


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


@pytest.mark.parametrize("queue_wait_s", [0.0, 0.75, 2.0])
def test_a_decision_replays_from_the_facts_as_they_are_written_down(queue_wait_s):
    """JSON and back gives equal facts, spreads to the last digit, and so an equal decision."""
    learned = LocalErrors(prefill=lognormal(1.1, 0.2), ttft=lognormal(1.3, 0.5), answer_tokens=lognormal(60.0, 0.4))
    signals = facts(queue_wait_s=queue_wait_s, clouds=(QUICK, ABLE), errors=learned, is_stream=True)
    written = msgspec.json.encode(msgspec.to_builtins(signals, builtin_types=()))
    again = msgspec.json.decode(written, type=Signals)

    assert signals == again
    assert route(signals, HEDGING) == route(again, HEDGING)


HEDGING = replace(LIMITS, hedge_chance=0.1)


@pytest.mark.parametrize(
    ("changes", "limits", "is_planned"),
    [
        pytest.param({"is_stream": True}, HEDGING, True, id="stream"),
        pytest.param({}, HEDGING, True, id="whole-answer"),
        pytest.param({"is_stream": True}, LIMITS, False, id="not-configured"),
        pytest.param({"is_stream": True, **PRIVATE}, HEDGING, False, id="local-only"),
        pytest.param({"is_stream": True, "is_private": True}, HEDGING, False, id="private"),
        pytest.param({"is_stream": True, "budget_left_usd": Decimal(0)}, HEDGING, False, id="no-money"),
        pytest.param({"is_stream": True, "budget_left_usd": None}, HEDGING, False, id="no-budget"),
        pytest.param({"is_stream": True, "clouds": ()}, HEDGING, False, id="no-cloud"),
        pytest.param({"is_stream": True}, replace(HEDGING, ttft_s=None, total_s=None), False, id="no-limit"),
        pytest.param({"is_stream": True}, replace(HEDGING, ttft_s=None), True, id="a-stream-that-must-end-in-time"),
        pytest.param(
            {"is_stream": True, "deadline_s": 5.0},
            replace(HEDGING, ttft_s=None, total_s=None),
            True,
            id="a-deadline-of-its-own",
        ),
        pytest.param({"prefill_tok_s": None, "is_stream": True}, HEDGING, False, id="unmeasured"),
    ],
)
def test_a_hedge_is_planned_only_where_it_may_be_paid_and_can_be_timed(changes, limits, is_planned):
    """Never for a request that may not leave, never without money, and only with a limit and a prediction."""
    decision = route(facts(**changes), limits)

    assert isinstance(decision, RunLocal)
    assert is_planned == (decision.hedge is not None)


def test_late_on_both_sides_is_degraded():
    """A cloud that is known to be no quicker is not paid for being late as well, and the answer says so."""
    decision = route(facts(queue_wait_s=2.0, clouds=(SLOW,)), LIMITS)

    assert isinstance(decision, RunLocal)
    assert Reason.LATENCY == decision.degraded


def test_a_lower_price_of_being_late_escalates_sooner():
    """`late_chance` is the chance that a call must save: at a tenth, a quarter of misses is reason enough."""
    signals = facts(queue_wait_s=0.75, clouds=(QUICK,))

    assert isinstance(route(signals, LIMITS), RunLocal)
    assert isinstance(route(signals, replace(LIMITS, late_chance=0.1)), Escalate)


def test_a_stream_must_begin_early_enough_to_end_in_time():
    """With five seconds in all and three of decoding, the first token is wanted within two; or sooner, if asked."""
    signals = facts(is_stream=True, deadline_s=5.0, max_output_tokens=60)
    whole, first = (
        route(signals, replace(HEDGING, ttft_s=ttft_s, total_s=None, late_chance=1.0)) for ttft_s in (None, 1.5)
    )

    assert isinstance(whole, RunLocal)
    assert isinstance(first, RunLocal)
    assert whole.hedge.limit_s == pytest.approx(5.0 - 60 / 20)
    assert first.hedge.limit_s == pytest.approx(1.5)
