"""What is tried, and which of it is kept? Tables of candidates and the choice that is right."""

from __future__ import annotations

import msgspec
import pytest

from hybrid.catalog.tuned import Settings
from hybrid.tuning.choose import (
    AXES,
    FORMATS,
    MOST_F16_BYTES,
    QUICK_FORMATS,
    choose,
    describe,
    formats_to_try,
    settings_to_try,
)
from tests.tuning.candidates import candidate, speed

SOURCE = candidate("Q4_1", 10.0)
Q8 = candidate("Q8_0", 5.0, 0.005)
Q6 = candidate("Q6_K", 5.1, 0.015)
Q4 = candidate("Q4_0", 4.0, 0.3)
BOUND = 0.02


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        pytest.param([], SOURCE, id="nothing-tried"),
        pytest.param([Q8], Q8, id="faster-and-near"),
        pytest.param([Q4], SOURCE, id="faster-and-too-far"),
        pytest.param([Q4, Q8], Q8, id="the-fastest-is-too-far"),
        pytest.param([candidate("Q8_0", 12.0, 0.005)], SOURCE, id="slower"),
        pytest.param([candidate("Q8_0", 9.8, 0.005)], SOURCE, id="faster-by-less-than-noise"),
        pytest.param([candidate("Q6_K", 4.95, 0.015), Q8], Q8, id="equally-fast-the-nearer"),
        pytest.param([Q6, candidate("Q5_K_M", 4.0, 0.017)], candidate("Q5_K_M", 4.0, 0.017), id="the-faster-of-near"),
        pytest.param([candidate("Q6_K", 5.0, 0.0185)], SOURCE, id="mean-under-but-interval-over-the-bound"),
        pytest.param([candidate("Q6_K", 5.0, 0.018)], candidate("Q6_K", 5.0, 0.018), id="interval-under-the-bound"),
        pytest.param([candidate("Q8_0", None, problem="crashed")], SOURCE, id="crashed"),
        pytest.param([candidate("Q8_0", 1.0, 0.001, problem="crashed later")], SOURCE, id="crashed-with-numbers"),
        pytest.param([candidate("Q4_1", 5.0, threads=1)], candidate("Q4_1", 5.0, threads=1), id="only-settings"),
        pytest.param(
            [candidate("Q8_0", 4.9, 0.005, batch_tokens=256), Q8], Q8, id="usual-settings-where-alike"
        ),
        pytest.param(
            [Q8, candidate("Q8_0", 4.5, 0.005, kv_type="q8_0")],
            candidate("Q8_0", 4.5, 0.005, kv_type="q8_0"),
            id="unusual-settings-where-faster",
        ),
    ],
)  # fmt: skip
def test_the_fastest_that_is_near_enough_is_kept(tried, expected):
    """Bound before speed, the interval and not the mean under the bound, and no change for less than noise."""
    assert expected == choose([SOURCE, *tried], max_kl_nats=BOUND).candidate


def lonely(chats_s: float, decode_1_tok_s: float):
    """F16, with so many tokens a second for a chat alone; the source has 40."""
    return msgspec.structs.replace(candidate("F16", chats_s, 0.001), speed=speed(chats_s, decode_1_tok_s))


def test_what_is_fast_for_eight_and_slow_for_one_is_not_kept():
    """A chat alone may take 1.15 times as long, and no longer; the reason has both times."""
    slow = lonely(3.0, 30.0)
    assert Q8 == choose([SOURCE, Q8, slow], max_kl_nats=BOUND).candidate
    why = choose([SOURCE, Q8, slow], max_kl_nats=BOUND).why
    assert "F16 would take 3 s, but a chat alone 2.57 s, where the source takes 2.04 s" in why
    assert "over the bound" not in why
    enough = lonely(3.0, 36.0)
    assert enough == choose([SOURCE, Q8, enough], max_kl_nats=BOUND).candidate


def test_a_bound_of_zero_keeps_what_computes_the_same():
    """Where nothing may diverge, threads and batches may still be chosen."""
    threads = candidate("Q4_1", 8.0, threads=2)
    assert threads == choose([SOURCE, Q8, threads], max_kl_nats=0.0).candidate


def test_the_reason_has_the_numbers():
    """It says how fast, how far, and what was faster and why it was not taken."""
    why = choose([SOURCE, Q8, Q4], max_kl_nats=BOUND).why
    assert "Q8_0 does eight chats in 5 s, 2.00 times as fast as the source, and diverges by 0.0050 nats" in why
    assert "Q4_0 would take 4 s, but its 0.3000 nats (up to 0.3300) are over the bound of 0.02" in why


def test_the_reason_for_the_source():
    """It says that nothing near enough is faster."""
    assert "nothing within 0.02 nats" in choose([SOURCE], max_kl_nats=BOUND).why


@pytest.mark.parametrize(
    "first", [candidate("Q4_1", None, problem="crashed"), Q8], ids=["the-source-was-not-timed", "no-source"]
)
def test_without_a_baseline_nothing_is_chosen(first):
    """Faster than what? The first candidate must be the source, with its time."""
    with pytest.raises(ValueError, match="source"):
        choose([first], max_kl_nats=BOUND)


def test_the_formats_leave_out_the_sources_own():
    """What the file is already is the baseline."""
    few = 10**9
    assert tuple(name for name in FORMATS if name != "Q4_K_M") == formats_to_try(
        "Q4_K_M", is_quick=False, f16_bytes=few
    )
    assert QUICK_FORMATS == formats_to_try("Q4_1", is_quick=True, f16_bytes=few)
    assert FORMATS == formats_to_try(None, is_quick=False, f16_bytes=MOST_F16_BYTES)


@pytest.mark.parametrize("is_quick", [False, True])
def test_a_large_model_is_not_made_larger(is_quick):
    """F16 is left out beyond a size; the others stay."""
    usual = QUICK_FORMATS if is_quick else FORMATS
    expected = tuple(name for name in usual if name != "F16")
    assert expected == formats_to_try(None, is_quick=is_quick, f16_bytes=MOST_F16_BYTES + 1)


@pytest.mark.parametrize(
    ("axis", "best", "cores", "expected"),
    [
        ("flash attention", Settings(), 2, [Settings(flash_attention=False)]),
        ("KV cache", Settings(), 2, [Settings(kv_type="q8_0")]),
        ("KV cache", Settings(flash_attention=False), 2, []),
        ("batch", Settings(threads=1), 2, [Settings(batch_tokens=n, threads=1) for n in (256, 1024, 2048)]),
        ("threads", Settings(), 1, []),
        ("threads", Settings(), 2, [Settings(threads=1)]),
        ("threads", Settings(), 16, [Settings(threads=12), Settings(threads=8)]),
    ],
)
def test_settings_are_varied_one_at_a_time(axis, best, cores, expected):
    """Each axis changes one setting of the best so far, and nothing that llama.cpp would refuse is tried."""
    assert expected == list(settings_to_try(axis, best, cores=cores))


def test_an_unknown_axis_names_the_known():
    """A mistake in the caller is told."""
    with pytest.raises(ValueError, match=AXES[0]):
        settings_to_try("colour", Settings(), cores=2)


def test_a_candidate_is_described_by_what_is_unusual():
    """The format alone where the settings are the usual ones."""
    assert "Q8_0" == describe(Q8)
    unusual = candidate("Q8_0", 1.0, flash_attention=False, kv_type="q8_0", batch_tokens=256, threads=1)
    assert "Q8_0, flash attention off, q8_0 cache, batches of 256, 1 thread" == describe(unusual)
