"""What would have changed a decision: one fact, its nearest other value, and where the request would have gone."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.policy.calibrated import LinearModel, Platt
from hybrid.policy.counterfactual import Place, Where, counterfactuals, place_of, place_with
from hybrid.policy.model import CloudLatency, CloudOption, Draft, Limits, Signals
from hybrid.policy.promise import Look, Promise
from hybrid.policy.replay import replay, taken_by
from hybrid.policy.review import look_at, review
from hybrid.policy.spread import constant
from hybrid.policy.tasks import TaskKind
from hybrid.policy.words import said
from hybrid.types import Capability, FinishReason, PolicyChoice
from tests.taken import LIMITS, SIGNALS, drafts

CLOUD = CloudOption(provider="c", model="small", reserve_usd=Decimal("0.01"))
FACTS = Signals(
    prompt_tokens=100, max_output_tokens=64, clouds=(CLOUD,), budget_left_usd=Decimal(5),
    prefill_tok_s=400.0, decode_tok_s=20.0, queue_wait_s=0.0,
)  # fmt: skip
SET = Limits(local_context_tokens=8192, ttft_s=1.5, total_s=30.0)
SURE = Draft(logprobs=(-0.1, -0.1), finish_reason=FinishReason.STOP)
UNSURE = Draft(logprobs=(-0.5, -1.9), finish_reason=FinishReason.STOP)
MODEL = LinearModel(
    features=("min_logprob",),
    means=(0.0,),
    scales=(1.0,),
    coefficients=(1.0,),
    intercept=0.0,
    calibration=Platt(1.0, 0.0),
)
PROMISE = Promise(
    task="t", kind=TaskKind.TEXT, local=MODEL, threshold=0.4, max_regret=0.05, delta=0.1, local_share=0.5, bound=0.04,
    base_rate=0.5, looks=(Look(tokens=1, threshold=0.45, model=MODEL),),
)  # fmt: skip
PROMISED = replace(SET, promise=PROMISE)
DRAFTED = "it would have been drafted locally, and judged then"
RESTING = replace(CLOUD, is_healthy=False, resting="c failed lately")


def taken(signals=FACTS, limits=SET, draft=None):
    """What a request's decisions took, of a draft that was judged if there is one."""
    return taken_by(signals, limits, None if draft is None else review(draft, limits))


def given_up(draft):
    """What was taken where a look gave a draft up."""
    verdict = look_at(draft, PROMISED)
    assert verdict is not None
    return taken_by(FACTS, PROMISED, verdict)


NEEDY = replace(FACTS, needs=frozenset({Capability.TOOLS}), clouds=())


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        pytest.param(
            taken(draft=UNSURE),
            "with a confidence of at least 0.35 instead of 0.1496, it would have been answered locally",
            id="doubted",
        ),
        pytest.param(
            taken(draft=UNSURE),
            "with policy.min_confidence = 0.14 instead of 0.35, it would have been answered locally",
            id="doubted-by-what-is-set",
        ),
        pytest.param(
            taken(draft=SURE),
            "with a confidence of at most 0.34 instead of 0.9048, c/small would have answered",
            id="trusted",
        ),
        pytest.param(
            taken(limits=PROMISED, draft=UNSURE),
            "with a confidence of at least 0.4 instead of 0.1301, it would have been answered locally",
            id="doubted-by-a-promise",
        ),
        pytest.param(
            given_up(UNSURE),
            f"with a confidence of at least 0.45 instead of 0.3775, {DRAFTED}",
            id="given-up-at-a-look",
        ),
        pytest.param(
            taken(replace(FACTS, prompt_tokens=9120, prefill_tok_s=None)),
            f"with a prompt of at most 8,128 tokens instead of 9,120, {DRAFTED}",
            id="too-long",
        ),
        pytest.param(
            taken(replace(FACTS, prompt_tokens=9120, prefill_tok_s=None)),
            f"with local.context_tokens = 9184 instead of 8192, {DRAFTED}",
            id="too-long-for-what-is-set",
        ),
        pytest.param(
            taken(replace(FACTS, prompt_tokens=830)),
            f"with policy.ttft_ms = 2100 instead of 1500, {DRAFTED}",
            id="too-late",
        ),
        pytest.param(
            taken(replace(FACTS, budget_left_usd=Decimal("0.006")), draft=UNSURE),
            "with $0.004 more budget left, c/small would have answered",
            id="too-poor",
        ),
        pytest.param(
            taken(replace(FACTS, budget_left_usd=None), draft=UNSURE),
            "with a budget left of at least $0.01, c/small would have answered",
            id="no-budget-at-all",
        ),
        pytest.param(
            taken(replace(FACTS, prompt_tokens=9120, policy=PolicyChoice.LOCAL_ONLY)),
            "without local-only, c/small would have answered",
            id="local-only",
        ),
        pytest.param(taken(NEEDY), "had it not needed tools, it would have been answered locally", id="needs"),
        pytest.param(
            taken(draft=replace(SURE, flaw="no JSON")),
            "had no verifier found a fault, it would have been answered locally",
            id="flaw",
        ),
        pytest.param(
            taken(limits=replace(SET, kind=TaskKind.NUMBER), draft=replace(SURE, finish_reason=FinishReason.LENGTH)),
            "had the draft come to its own end, it would have been answered locally",
            id="cut-off",
        ),
        pytest.param(
            taken(limits=replace(SET, promise=replace(PROMISE, threshold=math.inf))),
            f"without a promise for this kind of task, {DRAFTED}",
            id="hopeless",
        ),
        pytest.param(
            taken(
                replace(
                    FACTS, is_local_ready=False, clouds=(replace(CLOUD, is_healthy=False, resting="c failed lately"),)
                )
            ),
            "with the local model ready, it would have been answered locally",
            id="not-ready",
        ),
        pytest.param(
            taken(
                replace(
                    FACTS, is_local_ready=False, clouds=(replace(CLOUD, is_healthy=False, resting="c failed lately"),)
                )
            ),
            "with c/small not resting, c/small would have answered",
            id="resting",
        ),
    ],
)
def test_what_would_have_changed_it(then, expected):
    """The line is among the five nearest."""
    assert expected in [said(change) for change in counterfactuals(then)[:5]]


def test_the_nearest_comes_first():
    """A little more confidence is nearer than a longer prompt, and what refuses the request comes last."""
    told = counterfactuals(taken(draft=Draft(logprobs=(-0.5, -1.0))))

    assert {"draft.confidence", "limits.min_confidence"} == {change.fact for change in told[:2]}
    assert Place(Where.LOCAL) == place_of(replay(taken(draft=Draft(logprobs=(-0.5, -1.0)))))
    refused = [change.place.where is Where.NOBODY for change in told]
    assert sorted(refused) == refused


def test_a_limit_that_had_changed_is_not_changed_twice():
    """Of a promise that was taken back before the review, only the route's is a fact that may be changed."""
    early = review(UNSURE, replace(SET, min_confidence=0.05))
    then = taken_by(FACTS, SET, early)

    assert Place(Where.LOCAL) == place_of(replay(then)) == place_with(then, "limits.min_confidence", 1.0)


def test_a_cloud_whose_times_are_known_is_asked_about_too():
    """Every limit of the answer is tried, down to none, and a whole answer in the cloud is predicted for each."""
    known = replace(CLOUD, latency=CloudLatency(ttft=constant(0.5), token=constant(0.01), calls=9))

    told = counterfactuals(taken(replace(FACTS, clouds=(known,))))

    assert "signals.prompt_tokens" in {change.fact for change in told}


@settings(max_examples=25, deadline=None)
@given(SIGNALS, LIMITS, st.none() | drafts())
def test_each_change_that_is_told_changes_it(signals, limits, draft):
    """Whatever was decided: with the one fact changed as told, the request goes where it is told to go, not here."""
    then = taken(signals, limits, draft)
    here = place_of(replay(then))

    for change in counterfactuals(then):
        assert here != change.place == place_with(then, change.fact, change.needed)
        named = [name for name in (change.cloud, change.place.cloud) if name is not None]
        assert said(change).isprintable() or not all(name.isprintable() for name in named)
