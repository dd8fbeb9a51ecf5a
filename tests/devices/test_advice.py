"""Does the advice say what the figures mean, and nothing that they do not?"""

from __future__ import annotations

import msgspec
import pytest

from hybrid.devices.advice import advise, longest_prompt
from hybrid.devices.bench import FailedModel, model_profile
from tests.devices.reports import FAST, MACHINE, SMALL, about, model, report, speed


def said(*models, **changes) -> str:
    """The advice as one text."""
    return "\n".join(report(*models, **changes).advice)


def test_a_slow_and_a_fast_model_are_told_apart():
    """This model is too slow for the target; that one fits; use it for long prompts."""
    text = said(SMALL, FAST)
    assert "small is too slow for your ttft_ms of 1.5 s at 4,000-token prompts" in text
    assert "fast fits your ttft_ms of 1.5 s at 4,000-token prompts" in text
    assert "For long prompts use fast instead of small." in text


def test_without_a_fitting_model_the_ways_out_are_named():
    """Another format, a smaller model, a cloud."""
    text = said(SMALL)
    for way in ("`hybrid models tune`", "a smaller model", "a cloud in hybrid.toml"):
        assert way in text


def test_an_unset_target_is_said():
    """1.5 s is then ours, not the user's, and nothing is escalated for it."""
    text = said(SMALL, is_ttft_configured=False)
    assert "a target of 1.5 s" in text
    assert "your ttft_ms" not in text
    assert "policy.ttft_ms is not set" in text


@pytest.mark.parametrize(
    ("ttft_s", "expected"),
    [(0.001, 0), (0.16, 32), (2048 / 190, 2048), (1e9, 8192)],
    ids=["nothing", "shortest", "longest", "all"],
)
def test_the_longest_prompt_within_a_time(ttft_s, expected):
    """The length at which the interpolated time meets the target, up to the context."""
    assert expected == longest_prompt(model_profile(speed(), "now"), ttft_s, 8192)


def test_of_a_model_without_a_prompt_nothing_is_promised():
    """No figure, no verdict."""
    text = said(model(speed(prefill={})))
    assert "small: no prompt was measured" in text
    assert "fits" not in text


def test_fewer_threads_are_advised_where_they_are_faster():
    """The key to set, by its name."""
    assert "set local.threads = 1" in said(model(speed(best_threads=1)))
    assert "local.threads" not in said(SMALL)


@pytest.mark.parametrize(
    ("decode", "expected"),
    [
        ({1: 60.0, 2: 90.0, 4: 120.0, 8: 121.0}, "4 chats together get 2.0 times the tokens of one alone"),
        ({1: 60.0, 2: 61.0}, "no more tokens in all than one alone"),
        ({1: 60.0, 2: 61.0, 4: 120.0, 8: 180.0}, "8 chats together get 3.0 times the tokens of one alone"),
    ],
    ids=["up-to-four", "none", "two-no-gain"],
)
def test_how_many_slots_pay(decode, expected):
    """Up to where a larger number still gave a tenth more, whatever the ones between."""
    assert expected in said(model(speed(decode=decode)))


def test_busy_neighbours_are_told_and_not_taken_for_the_model():
    """With others at work no word on format or threads, only to measure again."""
    text = said(model(speed(others_cores=1.2, best_threads=1)))
    assert "kept up to 1.2 cores busy" in text
    assert "local.threads" not in text
    assert "holds it back" not in text
    assert "cores busy" not in said(SMALL)


def test_a_wide_spread_is_told():
    """Half the distance of the extremes, as a share."""
    wide = msgspec.structs.replace(speed(), prefill_tok_s={128: about(100.0, 0.3)})
    assert "varies by up to ±30 %" in said(model(wide))


def test_a_model_that_failed_is_told():
    """With its reason."""
    assert "x could not be measured: too large" in said(failed=(FailedModel("x", "too large"),))


def test_nothing_measured_is_no_advice():
    """An empty report says nothing."""
    assert () == advise(report(machine=MACHINE))
