"""A prediction carries what was seen of its errors, and a limit is judged by the chance to miss it."""

from dataclasses import replace

import pytest

from hybrid.policy.latency import (
    answer_tokens,
    cloud_total,
    forecast,
    is_queued,
    lateness,
    predict,
    tighter_s,
    voting_s,
)
from hybrid.policy.model import CloudLatency, CloudOption, Limits, LocalErrors, Signals
from hybrid.policy.spread import constant, lognormal
from tests.policy.test_counterfactual import PROMISE

SIGNALS = Signals(prompt_tokens=400, max_output_tokens=100, prefill_tok_s=400.0, decode_tok_s=20.0, queue_wait_s=0.0)
LIMITS = Limits(ttft_s=1.5, total_s=10.0)
CLOUD = CloudLatency(lognormal(0.5, 0.4), lognormal(0.01, 0.3), 40)


@pytest.mark.parametrize(
    ("changes", "ttft_s", "total_s"),
    [
        pytest.param({}, 1.0, 6.0, id="prefill-and-decode"),
        pytest.param({"queue_wait_s": 2.0}, 3.0, 8.0, id="queue"),
        pytest.param({"cached_tokens": 300}, 0.25, 5.25, id="cached-prefix"),
        pytest.param({"cached_tokens": 400}, 0.0025, 5.0025, id="all-but-the-last-token"),
        pytest.param({"max_output_tokens": None}, 1.0, None, id="no-limit-and-no-answer-seen"),
        pytest.param({"prefill_tok_s": None}, None, None, id="unmeasured"),
        pytest.param({"decode_tok_s": None}, 1.0, None, id="half-measured"),
        pytest.param({"prompt_tokens": None}, None, None, id="uncounted"),
    ],
)
def test_the_middle_of_a_forecast_is_the_point(changes, ttft_s, total_s):
    """Until errors were seen, the first guess of them is right in the median."""
    signals = replace(SIGNALS, **changes)
    point, spread = predict(signals), forecast(signals)

    assert point.ttft_s == pytest.approx(ttft_s)
    assert point.total_s == pytest.approx(total_s)
    assert (ttft_s is None, total_s is None) == (spread.ttft is None, spread.total is None)
    if spread.ttft is not None:
        assert spread.ttft.at(0.5) == pytest.approx(ttft_s)
    if spread.total is not None:
        assert spread.total.at(0.5) == pytest.approx(total_s)


def test_errors_that_were_seen_move_the_forecast():
    """A model that took twice as long as predicted will again."""
    signals = replace(SIGNALS, errors=LocalErrors(prefill=lognormal(2.0, 0.1), total=lognormal(1.5, 0.1)))

    assert forecast(signals).ttft.at(0.5) == pytest.approx(2.0 * 1.05 - 0.05)
    assert forecast(signals).total.at(0.5) == pytest.approx(1.5 * 6.05 - 0.05)


def test_a_wait_has_an_error_of_its_own():
    """It is used where waiting is the larger part of what was predicted."""
    errors = LocalErrors(prefill=lognormal(1.0, 0.1), ttft=lognormal(3.0, 0.1))
    waiting = replace(SIGNALS, queue_wait_s=1.0, errors=errors)
    short = replace(SIGNALS, queue_wait_s=0.9, errors=errors)

    assert (True, False) == (is_queued(waiting), is_queued(short))
    assert forecast(waiting).ttft.at(0.5) == pytest.approx(3.0 * 2.05 - 0.05)
    assert forecast(short).ttft.at(0.5) == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("limit", "seen", "expected"),
    [
        pytest.param(100, None, 100.0, id="limit-alone-is-used-up"),
        pytest.param(None, None, None, id="nothing-known"),
        pytest.param(None, lognormal(50.0, 1e-9), 50.0, id="as-seen"),
        pytest.param(30, lognormal(50.0, 1e-9), 30.0, id="the-limit-cuts"),
        pytest.param(4000, lognormal(50.0, 1e-9), 50.0, id="a-limit-is-seldom-reached"),
        pytest.param(0, None, 1.0, id="an-answer-has-a-token"),
        pytest.param(0, lognormal(50.0, 1e-9), 1.0, id="whatever-the-limit"),
    ],
)
def test_lengths(limit, seen, expected):
    """As answers were, but for the limit; before any was seen the limit is all that is known."""
    signals = replace(SIGNALS, max_output_tokens=limit, errors=LocalErrors(answer_tokens=seen))

    lengths = answer_tokens(signals)
    assert expected == (None if lengths is None else pytest.approx(lengths.at(0.5)))


@pytest.mark.parametrize(
    ("changes", "limits", "what"),
    [
        pytest.param({}, LIMITS, "first token", id="the-likelier-missed-one"),
        pytest.param({"decode_tok_s": 11.0}, LIMITS, "completion", id="the-end"),
        pytest.param({}, Limits(), None, id="no-limit"),
        pytest.param({"prefill_tok_s": None}, LIMITS, None, id="no-prediction"),
        pytest.param({"deadline_s": 4.0}, Limits(), "completion", id="a-deadline-alone"),
    ],
)
def test_the_limit_that_is_judged_is_the_one_likelier_missed(changes, limits, what):
    """Of first token and end; nothing where there is no limit or no prediction."""
    signals = replace(SIGNALS, **changes)
    late = lateness(signals, limits, forecast(signals), None)

    assert what == (None if late is None else late.what)


def test_the_time_that_is_gone_counts_against_limits_and_not_against_deadlines():
    """A limit is from arrival; a deadline comes as what is left of it."""
    signals = replace(SIGNALS, elapsed_s=1.0, deadline_s=8.0, decode_tok_s=11.0, queue_wait_s=0.0)
    late = lateness(signals, replace(LIMITS, ttft_s=None, total_s=30.0), forecast(signals), None)
    own = lateness(replace(signals, deadline_s=None), LIMITS, forecast(signals), None)

    assert 8.0 == late.limit_s
    assert {0.5, 9.0} >= {own.limit_s}


def test_a_cloud_is_judged_by_what_was_seen_of_it_and_not_before():
    """Its chance is of the same limit; an unknown cloud has none, and a slow tail shows."""
    signals = replace(SIGNALS, queue_wait_s=2.0)
    expected = forecast(signals)
    known = lateness(signals, LIMITS, expected, CloudOption(provider="c", model="m", latency=CLOUD))
    unknown = lateness(signals, LIMITS, expected, CloudOption(provider="c", model="m"))

    assert known.cloud == pytest.approx(CLOUD.ttft.chance_above(1.5))
    assert unknown.cloud is None


def test_a_whole_answer_of_a_cloud_takes_its_first_token_and_all_others():
    """The median of 100 tokens at 10 ms is a second later; of an unknown length it is the beginning that counts."""
    whole = cloud_total(CLOUD, constant(100.0))

    assert whole.at(0.5) == pytest.approx(1.5)
    assert cloud_total(CLOUD, None) == CLOUD.ttft


@pytest.mark.parametrize(
    ("one_s", "other_s", "expected"),
    [(1.0, 2.0, 1.0), (2.0, 1.0, 1.0), (None, 1.0, 1.0), (1.0, None, 1.0), (None, None, None)],
)
def test_the_tighter_of_two_deadlines(one_s, other_s, expected):
    """A client's own and its key's: the nearer one holds, wherever it is from."""
    assert expected == tighter_s(one_s, other_s)


def test_votes_take_their_time():
    """The question once more, then forty tokens of each vote beside the others, 0.4 of a step more for each."""
    signals = replace(SIGNALS, max_output_tokens=1)
    voted = replace(LIMITS, promise=replace(PROMISE, samples=6, votes="words"))
    plain = replace(LIMITS, promise=replace(PROMISE, samples=6))
    after_s = 400 / 400.0 + 40 * (1 + 0.4 * 4) / 20.0

    assert voting_s(signals, voted) == pytest.approx(after_s)
    assert (
        0.0
        == voting_s(signals, plain)
        == voting_s(signals, None)
        == voting_s(replace(signals, decode_tok_s=None), voted)
    )
    assert forecast(signals, voted).total.at(0.5) == pytest.approx(forecast(signals, plain).total.at(0.5) + after_s)
    assert forecast(signals, voted).ttft == forecast(signals, plain).ttft
