"""The second call starts when it is worth its price: not while local will likely come, not when nobody can make it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.hedge import Progress, chance_late, start_at
from hybrid.policy.model import CloudOption, Forecast, HedgePlan
from hybrid.policy.spread import LEVELS, Spread, lognormal

OPTION = CloudOption(provider="c", model="m")
LOCAL = Forecast(
    ttft=lognormal(0.6, 0.5), prefill=lognormal(0.4, 0.2), total=lognormal(4.0, 0.5), decode=lognormal(3.4, 0.4)
)
STREAM = HedgePlan(option=OPTION, limit_s=1.5, is_whole=False, least_gain=0.1, local=LOCAL, cloud=lognormal(0.3, 0.3))
WHOLE = replace(STREAM, is_whole=True, limit_s=8.0, cloud=lognormal(2.0, 0.3))
LATE = replace(STREAM, local=replace(LOCAL, ttft=lognormal(4.0, 0.3)))


def test_an_answer_that_will_likely_come_is_given_time():
    """The call waits until the cloud just makes it, and is not made at all if local comes before."""
    at_s = start_at(STREAM, Progress(0.0))

    assert at_s is not None
    # What is left then is enough for nine of ten answers of that cloud.
    assert STREAM.limit_s - at_s == pytest.approx(STREAM.cloud.at(0.9), rel=0.3)


def test_an_answer_that_will_likely_be_late_starts_it_at_once_or_while_the_cloud_still_makes_it():
    """Nothing is gained by waiting for it, and the moment leaves the cloud its time."""
    at_s = start_at(LATE, Progress(0.0))

    assert at_s is not None
    assert LATE.cloud.chance_above(LATE.limit_s - at_s) < 0.1


@pytest.mark.parametrize(
    ("plan", "progress"),
    [
        pytest.param(STREAM, Progress(0.7, started_s=0.3, first_token_s=0.65), id="first-token-is-there"),
        pytest.param(STREAM, Progress(1.5), id="the-limit-has-passed"),
        pytest.param(replace(STREAM, cloud=lognormal(9.0, 0.2)), Progress(0.0), id="the-cloud-is-slower"),
        pytest.param(replace(LATE, least_gain=1.0), Progress(0.0), id="too-dear"),
        pytest.param(replace(WHOLE, local=replace(LOCAL, decode=None)), Progress(1, 0, 1), id="unknown-rest"),
    ],
)
def test_no_call_is_made_that_changes_nothing(plan, progress):
    """Local is there, or will be, or the cloud would not be on time either, or costs more than being late."""
    assert start_at(plan, progress) is None


def test_leaving_the_queue_late_starts_it_and_early_calls_it_off():
    """Once the prompt is computed, what is left is known much better than when it was queued."""
    early = start_at(STREAM, Progress(0.2, started_s=0.2))
    slow = replace(STREAM, local=replace(LOCAL, prefill=lognormal(1.2, 0.2)))
    late = start_at(slow, Progress(0.9, started_s=0.9))

    assert early is None or early > 0.9
    assert 0.9 == late


def test_a_whole_answer_is_hedged_for_its_end():
    """It is judged again at its first token: how long the rest takes is known then."""
    queued = start_at(WHOLE, Progress(0.0))
    begun_late = start_at(WHOLE, Progress(5.5, started_s=4.8, first_token_s=5.5))
    begun_early = start_at(replace(WHOLE, limit_s=20.0), Progress(0.5, started_s=0.1, first_token_s=0.5))

    assert queued is not None
    assert 5.5 == begun_late
    assert begun_early is None or begun_early > 10.0


@given(
    st.floats(0.05, 5.0),
    st.floats(0.05, 1.5),
    st.floats(0.05, 5.0),
    st.floats(0.05, 1.0),
    st.floats(0.1, 4.0),
    st.floats(0.0, 1.0),
    st.floats(0.01, 1.0),
)
def test_the_moment_is_now_or_later_and_before_the_limit(
    local_s, local_sigma, cloud_s, cloud_sigma, limit_s, share, price
):
    """Whatever the two sides look like; chosen again when it has come it stays, so that waiting does not put it off."""
    plan = HedgePlan(
        option=OPTION,
        limit_s=limit_s,
        is_whole=False,
        least_gain=price,
        local=Forecast(ttft=lognormal(local_s, local_sigma), prefill=lognormal(local_s, local_sigma)),
        cloud=lognormal(cloud_s, cloud_sigma),
    )
    now_s = share * limit_s
    at_s = start_at(plan, Progress(now_s))

    if at_s is not None:
        assert now_s <= at_s < limit_s
        assert at_s == pytest.approx(start_at(plan, Progress(at_s)), rel=1e-9)


def test_the_chance_to_be_late_grows_while_nothing_comes():
    """An answer with a long tail that is not there yet is likely one of the slow ones."""
    tail = Spread(tuple(0.5 * 1.6**index for index in range(len(LEVELS))))
    plan = replace(STREAM, limit_s=6.0, local=Forecast(ttft=tail, prefill=tail))

    chances = [chance_late(plan, Progress(now_s)) for now_s in (0.0, 1.0, 3.0, 5.0)]
    assert chances == sorted(chances)
    assert 0.0 == chance_late(plan, Progress(1.0, first_token_s=0.9))


def test_an_answer_that_was_never_late_and_now_stays_away_is_not_expected_any_moment():
    """What was never seen can happen: long after the slowest of all answers the cloud is asked."""
    even = replace(LOCAL, ttft=Spread((0.1,) * len(LEVELS)))
    plan = replace(STREAM, local=even)
    at_s = start_at(plan, Progress(0.0))

    assert chance_late(plan, Progress(0.0)) < 0.01
    assert at_s is not None
    assert chance_late(plan, Progress(at_s)) > 0.5
