"""A decision that was written down is made again to the last bit, and what cannot be is said."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.plain import to_json, to_plain
from hybrid.policy.calibrated import Isotonic, LinearModel, Platt
from hybrid.policy.features import OPTION_FEATURES, PRIOR_FEATURES, SAMPLE_FEATURES, TOKEN_FEATURES
from hybrid.policy.model import Agreement, CloudOption, Draft, Limits, Signals, without_promise
from hybrid.policy.promise import Look, Origin, Promise
from hybrid.policy.replay import replay, weighed
from hybrid.policy.review import look_at, review
from hybrid.policy.route import route
from hybrid.policy.tasks import TaskKind
from hybrid.record import FORMAT, NotReplayable, read_inputs, write_inputs, write_outcome
from hybrid.types import Capability, FinishReason
from tests.taken import LIMITS, SIGNALS, drafts

MOST_BYTES = 8192
NAMES = (*TOKEN_FEATURES, *OPTION_FEATURES, *PRIOR_FEATURES, *SAMPLE_FEATURES)
LOGPROBS = tuple(-1 / (3 + place) for place in range(2000))
DRAFT = Draft(
    logprobs=LOGPROBS,
    entropies=tuple(1 / (7 + place) for place in range(2000)),
    margins=tuple(1 / (1 + place) for place in range(2000)),
    finish_reason=FinishReason.STOP,
    options=(-0.1, -3.3, -4.7, -5.9),
    agreement=Agreement(0.6, 5, is_majority=True),
)
KNOTS = Isotonic(tuple(place / 7 for place in range(300)), tuple(place / 307 for place in range(300)))
MODEL = LinearModel(
    features=NAMES,
    means=tuple(-1 / (place + 3) for place in range(len(NAMES))),
    scales=tuple(1 / (place + 7) for place in range(len(NAMES))),
    coefficients=tuple(1 / (place + 11) for place in range(len(NAMES))),
    intercept=1 / 3,
    calibration=KNOTS,
)
PROMISE = Promise(
    task="mmlu",
    kind=TaskKind.CHOICE,
    local=MODEL,
    cloud=replace(MODEL, calibration=Platt(1 / 3, 1 / 7)),
    ranks_by_gain=True,
    option_prior=(-1 / 3, -1 / 7, -1 / 9, -1 / 11),
    threshold=1 / 30,
    max_regret=0.05,
    delta=0.1,
    local_share=1 / 3,
    bound=1 / 21,
    base_rate=1 / 3,
    looks=(Look(tokens=16, threshold=0.0, model=MODEL), Look(tokens=64, threshold=0.999, model=MODEL)),
    origin=Origin(
        model="qwen", fingerprint="f" * 64, template_fingerprint="e" * 64, dataset="mmlu-dev", dataset_digest="d" * 64,
        recipe_digest="c" * 64, made_at="2026-11-25T08:00:00+00:00", schema=1, feature_version=1, program="0.1.0",
    ),
)  # fmt: skip
CLOUDS = tuple(
    CloudOption(
        provider="a-cloud",
        model=f"a-model-with-a-name-{place}",
        missing=frozenset({"tools", "images"}),
        reserve_usd=Decimal("0.0123456789"),
    )
    for place in range(3)
)
SIGNALS_ONE = Signals(
    prompt_tokens=1234, needs=frozenset({Capability.TOOLS}), clouds=CLOUDS, budget_left_usd=Decimal("0.987654321"),
    prefill_tok_s=1 / 3, decode_tok_s=1 / 7, queue_wait_s=1 / 9,
)  # fmt: skip


def written(signals, limits, reviewed=None):
    """A row as the ledger keeps it, read again from its text."""
    body = write_inputs(signals, limits, reviewed) | write_outcome(route(signals, limits), reviewed)
    text = to_json(body)
    return msgspec.json.decode(text), text


def bare(verdict):
    """A verdict without what it was made from."""
    return None if verdict is None else replace(verdict, basis=None)


@settings(max_examples=150, deadline=None)
@given(SIGNALS, LIMITS, st.none() | drafts(), st.booleans())
def test_what_was_written_is_decided_again(signals, limits, draft, is_early):
    """Record, JSON, replay: the same decision and the same verdict, whatever went in."""
    at_review = without_promise(limits, "it was judged before its end") if is_early else limits
    verdict = None if draft is None else weighed(review(draft, at_review), route(signals, limits), signals)
    row, _ = written(signals, limits, verdict)
    made = replay(read_inputs(row).taken)

    again = write_outcome(made.decision, made.review)

    assert {name: row[name] for name in again} == msgspec.json.decode(to_json(again))
    assert to_plain(route(signals, limits)) == to_plain(made.decision)
    assert to_plain(verdict and replace(verdict, basis=None)) == to_plain(
        made.review and replace(made.review, basis=None)
    )


@settings(max_examples=100, deadline=None)
@given(SIGNALS, LIMITS, drafts())
def test_a_draft_that_was_given_up_is_given_up_again(signals, limits, draft):
    """The one look that gave it up is kept, and makes the same verdict."""
    verdict = look_at(draft, limits)
    row, _ = written(signals, limits, verdict)

    made = replay(read_inputs(row).taken)

    assert verdict == made.review


@pytest.mark.parametrize(
    "verdict",
    [
        pytest.param(review(DRAFT, Limits(promise=PROMISE)), id="whole"),
        pytest.param(look_at(DRAFT, Limits(promise=PROMISE)), id="given-up"),
    ],
)
def test_a_row_stays_small(verdict):
    """However long the draft and however large the calibration, a row is below 8 KB and is decided again."""
    row, text = written(SIGNALS_ONE, Limits(promise=PROMISE), verdict)

    assert MOST_BYTES > len(text)
    assert verdict == replay(read_inputs(row).taken).review


def test_the_calibration_is_named():
    """The row says which artefact the promise was of."""
    row, _ = written(SIGNALS_ONE, Limits(promise=PROMISE))

    origin = row["limits"]["promise"]["origin"]
    assert ("qwen", "f" * 64, 1) == (origin["model"], origin["fingerprint"], origin["schema"])


def test_an_unkept_promise_is_written():
    """A threshold that nothing reaches is no JSON number, and comes back all the same."""
    limits = Limits(promise=replace(PROMISE, threshold=math.inf))
    row, _ = written(SIGNALS_ONE, limits)

    assert "inf" == row["limits"]["promise"]["threshold"]
    assert math.inf == read_inputs(row).taken.limits.promise.threshold


def test_limits_that_changed_before_the_review():
    """What was promised to the route and taken back before the review is told apart."""
    limits = Limits(promise=PROMISE)
    verdict = review(DRAFT, without_promise(limits, "it was judged early"))
    verdict = weighed(verdict, route(SIGNALS_ONE, limits), SIGNALS_ONE)
    row, _ = written(SIGNALS_ONE, limits, verdict)

    assert {"promise": None, "no_promise": "it was judged early"} == row["reviewed"]["limits"]
    assert verdict == replay(read_inputs(row).taken).review


def test_what_a_newer_field_defaults_to_is_taken():
    """A row that was written before a fact existed is read with the fact's default."""
    row, _ = written(SIGNALS_ONE, Limits())
    del row["facts"]["deadline_s"]

    assert SIGNALS_ONE == read_inputs(row).taken.signals


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"format": None}, "a version that did not keep the limits", id="older"),
        pytest.param({"format": FORMAT + 1}, f"in format {FORMAT + 1} by", id="newer"),
        pytest.param({"facts": {}}, "nothing was decided", id="undecided"),
        pytest.param({"facts": {"colour": 1}}, "has 'colour', which this version does not know", id="unknown-fact"),
        pytest.param({"facts": {"prompt_tokens": "many"}}, 'Signals.prompt_tokens is "many", not int', id="wrong-type"),
        pytest.param({"limits": 5}, "Limits is 5, not a Limits", id="no-object"),
        pytest.param({"reviewed": {}}, "does not fit", id="half"),
        pytest.param({"reviewed": 3}, "does not fit", id="no-review"),
    ],
)
def test_what_cannot_be_replayed_says_why(change, expected):
    """A row of another version, or a broken one, is never replayed by guessing."""
    row, _ = written(SIGNALS_ONE, Limits())

    with pytest.raises(NotReplayable, match=expected):
        read_inputs({**row, **change})


@settings(max_examples=100, deadline=None)
@given(SIGNALS, LIMITS, st.floats(width=64), st.integers(-(2**63), 2**64 - 1), st.text())
def test_json_holds_what_plain_values_would(signals, limits, number, whole, text):
    """Written in one pass, by whatever way it is found that no float in it is infinite or none."""
    value = {"facts": signals, "limits": limits, "more": [{"at_s": number}, whole, text, (text, number)]}
    assert to_plain(value) == msgspec.json.decode(to_json(value))


@pytest.mark.parametrize(("number", "word"), [(math.inf, "inf"), (-math.inf, "-inf"), (math.nan, "nan")])
def test_what_is_not_finite_is_a_word_in_json(number, word):
    """In JSON there is no such number, and null would be another value."""
    assert [1.5, {"deep": [word]}] == msgspec.json.decode(to_json([1.5, {"deep": (number,)}]))
