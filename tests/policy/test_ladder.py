"""The ladder holds every cloud model that could answer, cheapest first, and says why the others are not on it."""

from dataclasses import replace
from decimal import Decimal

import pytest

from hybrid.policy.calibrated import LinearModel, Platt
from hybrid.policy.ladder import climbable
from hybrid.policy.model import (
    CloudLatency,
    CloudOption,
    CloudOrder,
    Escalate,
    Limits,
    Reason,
    Reject,
    RunLocal,
    Signals,
)
from hybrid.policy.promise import Promise
from hybrid.policy.route import route
from hybrid.policy.spread import constant
from hybrid.policy.tasks import TaskKind
from hybrid.types import Capability, PolicyChoice

LIMITS = Limits(local_context_tokens=2048)
LISTED = replace(LIMITS, cloud_order=CloudOrder.LISTED)
DEAR = CloudOption(provider="a", model="dear", reserve_usd=Decimal("0.90"), expected_usd=Decimal("0.09"))
MIDDLE = CloudOption(provider="b", model="middle", reserve_usd=Decimal("0.10"), expected_usd=Decimal("0.02"))
CHEAP = CloudOption(provider="c", model="cheap", reserve_usd=Decimal("0.20"), expected_usd=Decimal("0.01"))
ALL = (DEAR, MIDDLE, CHEAP)
RESTING = {"is_healthy": False, "resting": "it rests", "rest_s": 7.0}
CLOUD_ONLY = {"policy": PolicyChoice.CLOUD_ONLY, "is_pinned": True}


def usual(ttft_s: float) -> CloudLatency:
    """A cloud whose answers begin after so long, and then come at once."""
    return CloudLatency(constant(ttft_s), constant(0.0), calls=100)


def facts(**changes: object) -> Signals:
    """Three affordable clouds, the dearest listed first, and a ready local model; changed as said."""
    usual: dict[str, object] = {"clouds": ALL, "prompt_tokens": 100, "budget_left_usd": Decimal(5)}
    return Signals(**{**usual, **changes})  # type: ignore[arg-type]


def order(signals: Signals, limits: Limits = LIMITS) -> str:
    """The models in the order they would be tried in."""
    return " ".join(option.model for option in climbable(signals, limits).rungs)


@pytest.mark.parametrize(
    ("changes", "limits", "expected"),
    [
        pytest.param({}, LIMITS, "cheap middle dear", id="by-what-it-will-likely-cost-not-by-its-reserve"),
        pytest.param({}, LISTED, "dear middle cheap", id="as-listed"),
        pytest.param({"clouds": (DEAR, replace(CHEAP, expected_usd=None))}, LIMITS, "dear cheap", id="reserve-instead"),
        pytest.param({"budget_left_usd": Decimal("0.5")}, LIMITS, "cheap middle", id="what-the-budget-cannot-hold"),
        pytest.param({"max_cost_usd": Decimal("0.15")}, LIMITS, "middle", id="what-the-request-allows"),
        pytest.param(
            {"clouds": (replace(DEAR, quality=0.9), MIDDLE, replace(CHEAP, quality=0.8)), "min_quality": 0.85},
            LIMITS,
            "middle dear",
            id="what-is-known-to-be-too-weak",
        ),
        pytest.param(
            {"clouds": (replace(CHEAP, quality=0.85),), "min_quality": 0.85}, LIMITS, "cheap", id="just-so-good"
        ),
        pytest.param(
            {"clouds": (DEAR, replace(CHEAP, missing=frozenset({"tools"})))}, LIMITS, "dear", id="what-cannot"
        ),
        pytest.param({"clouds": (DEAR, replace(CHEAP, **RESTING))}, LIMITS, "dear", id="what-rests"),
        pytest.param({"clouds": (DEAR, replace(CHEAP, context_tokens=50))}, LIMITS, "dear", id="what-is-too-small"),
        pytest.param(
            {
                "clouds": (DEAR, replace(CHEAP, latency=usual(3.0))),
            },
            replace(LIMITS, ttft_s=1.5),
            "dear cheap",
            id="usually-late-goes-last",
        ),
        pytest.param(
            {"clouds": (DEAR, replace(CHEAP, latency=usual(9.0))), "deadline_s": 5.0},
            LIMITS,
            "dear cheap",
            id="own-deadline",
        ),
        pytest.param(
            {"clouds": (replace(CHEAP, latency=usual(2.0)), replace(CHEAP, model="quick", latency=usual(0.5)))},
            LIMITS,
            "quick cheap",
            id="the-quicker-of-two-of-one-price",
        ),
        pytest.param(
            {"clouds": (replace(CHEAP, latency=usual(0.1), quality=0.7), replace(CHEAP, model="better", quality=0.9))},
            LIMITS,
            "better cheap",
            id="the-better-of-two-of-one-price",
        ),
        pytest.param(
            {"clouds": (CHEAP, replace(CHEAP, model="twin"))}, LIMITS, "cheap twin", id="equals-stay-as-listed"
        ),
    ],
)
def test_the_order_of_the_ladder(changes, limits, expected):
    """Capability, money, context and health decide who is on it; price, then quality and speed, who goes first."""
    assert expected == order(facts(**changes), limits)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(
            (replace(CHEAP, **RESTING), replace(MIDDLE, is_healthy=False, rest_s=3.0)), 3.0, id="the-first-to-wake"
        ),
        pytest.param(
            (replace(CHEAP, **RESTING), replace(MIDDLE, is_healthy=False, rest_s=3.0, missing=frozenset({"n"}))),
            7.0,
            id="one-that-could-not-answer-does-not-count",
        ),
    ],
)
def test_when_all_rest_the_ladder_says_when_to_come_back(options, expected):
    """The wait is that of the first cloud which could answer this very request."""
    found = climbable(facts(clouds=options), LIMITS)
    assert ((), Reason.CLOUD_FAILURE, expected) == (found.rungs, found.blocked_by, found.retry_after_s)


def test_a_pinned_cloud_that_rests_is_refused_with_the_wait():
    """Nobody else may answer, so the client is told when to ask again."""
    decision = route(facts(clouds=(replace(CHEAP, **RESTING),), **CLOUD_ONLY), LIMITS)
    assert isinstance(decision, Reject)
    assert (Reason.CLOUD_FAILURE, 7.0) == (decision.reason, decision.retry_after_s)


def test_what_only_a_resting_cloud_could_do_is_no_fault_of_the_request():
    """The same request will be answered later: not a 400 that says to change it."""
    needs = frozenset({Capability.TOOLS})
    decision = route(facts(clouds=(replace(CHEAP, **RESTING),), needs=needs), LIMITS)
    assert isinstance(decision, Reject)
    assert (Reason.CLOUD_FAILURE, 7.0) == (decision.reason, decision.retry_after_s)


def test_local_answers_while_all_clouds_rest_and_a_doubt_would_be_degraded():
    """The way a draft that is doubted would have gone is shut, and the answer will say by what."""
    decision = route(facts(clouds=(replace(CHEAP, **RESTING),)), LIMITS)
    assert isinstance(decision, RunLocal)
    assert (None, Reason.CLOUD_FAILURE) == (decision.fallback, decision.no_fallback)


def test_an_escalation_carries_the_whole_ladder():
    """What local cannot take goes to the cheapest, and the others stand behind it."""
    decision = route(facts(prompt_tokens=9_000), LIMITS)
    assert isinstance(decision, Escalate)
    assert (CHEAP, MIDDLE, DEAR) == decision.ladder


def test_a_local_answer_carries_it_too():
    """Should the draft be doubted, the whole ladder is there."""
    decision = route(facts(), LIMITS)
    assert isinstance(decision, RunLocal)
    assert (CHEAP, (MIDDLE, DEAR)) == (decision.fallback, decision.others)


def promised(**changes: object) -> Limits:
    """A kind of task of which local is right in 0.6 and the cloud `c` in 0.5; changed as said."""
    one = {"features": ("m",), "means": (0.0,), "scales": (1.0,), "coefficients": (1.0,), "intercept": 0.0}
    model = LinearModel(**one, calibration=Platt(1.0, 0.0))
    usual: dict[str, object] = {
        "task": "quiz", "kind": TaskKind.CHOICE, "local": model, "threshold": 0.8, "max_regret": 0.05, "delta": 0.1,
        "local_share": 0.3, "bound": 0.04, "base_rate": 0.6, "cloud_rate": 0.5, "cloud_model": "c",
    }  # fmt: skip
    return replace(LIMITS, promise=Promise(**{**usual, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "clouds", "expected"),
    [
        pytest.param(promised(), ALL, "middle dear", id="the-calibrated-one-is-weaker-than-local"),
        pytest.param(promised(), (replace(CHEAP, quality=0.6),), "cheap", id="what-is-stated-goes-before"),
        pytest.param(promised(), (replace(DEAR, quality=0.59),), "", id="another-is-stated-to-be-weaker"),
        pytest.param(promised(cloud_model="c/cheap"), ALL, "middle dear", id="by-provider-and-model"),
        pytest.param(promised(cloud_model=None), ALL, "cheap middle dear", id="gold-labels-say-nothing-of-a-cloud"),
        pytest.param(promised(is_withdrawn=True), (CHEAP, replace(DEAR, quality=0.1)), "cheap dear", id="withdrawn"),
        pytest.param(LIMITS, (replace(DEAR, quality=0.1),), "dear", id="local-was-not-calibrated"),
    ],
)
def test_a_cloud_that_is_right_less_often_than_local_is_not_paid_in_its_stead(limits, clouds, expected):
    """Doubt and lateness are no reason for a worse answer: where local may answer, such a cloud is no way out."""
    decision = route(facts(clouds=clouds), limits)
    assert isinstance(decision, RunLocal)
    rungs = [one for one in (decision.fallback, *decision.others) if one is not None]
    assert expected == " ".join(one.model for one in rungs)
    assert decision.no_fallback is (None if expected else Reason.CAPABILITY)


def test_what_local_cannot_answer_a_weak_cloud_may():
    """An answer is more than none, and who asks for the cloud gets it."""
    weak = (replace(CHEAP, quality=0.1),)
    for changes in ({"prompt_tokens": 9_000}, {"is_local_ready": False}, CLOUD_ONLY):
        assert isinstance(route(facts(clouds=weak, **changes), promised()), Escalate)


SLOW = {"queue_wait_s": 60.0, "prefill_tok_s": 1_000.0, "decode_tok_s": 100.0}


@pytest.mark.parametrize("min_quality", [None, 0.95], ids=["weaker-than-local", "weaker-than-asked-for"])
def test_neither_lateness_nor_a_promise_that_cannot_be_kept_pays_a_weak_cloud(min_quality):
    """Local answers, late or unpromised, and no hedge asks the weak one either; each check says why."""
    limits = replace(promised(threshold=float("inf")), ttft_s=1.0, hedge_chance=0.1)
    weak = replace(CHEAP, quality=0.59 if min_quality is None else 0.9)
    decision = route(facts(clouds=(weak,), min_quality=min_quality, is_stream=True, **SLOW), limits)
    assert isinstance(decision, RunLocal)
    assert (None, None, Reason.LATENCY) == (decision.fallback, decision.hedge, decision.degraded)
    [check] = [check for check in decision.checks if check.rule == "cloud c/cheap"]
    asked = "local in 0.6" if min_quality is None else "0.95 are asked for"
    assert (False, f"cheap is right in {weak.quality:g}, {asked}") == (check.is_passed, check.detail)


def test_the_checks_say_the_order_and_each_obstacle():
    """For `hybrid explain`: one line a model as they were listed, and one with the order they are tried in."""
    checks = climbable(facts(clouds=(DEAR, replace(MIDDLE, **RESTING), CHEAP)), LIMITS).checks
    assert [
        ("cloud a/dear", True, "may cost $0.90 of $5 left"),
        ("cloud b/middle", False, "it rests"),
        ("cloud c/cheap", True, "may cost $0.20 of $5 left"),
        ("cloud_order", True, "by price: c/cheap (about $0.01), a/dear (about $0.09)"),
    ] == [(check.rule, check.is_passed, check.detail) for check in checks]
