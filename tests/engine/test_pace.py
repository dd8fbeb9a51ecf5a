"""Do the speeds that requests are routed by follow what the machine gives, soon and in both directions?"""

import pytest

from hybrid.engine.pace import IDLE_STEP_S, Pace


def _pace_after(*steps_s: float) -> Pace:
    pace = Pace()
    for step_s in steps_s:
        pace.observe(step_s=step_s, prefill_tokens=0, sequences=1, drawn=1)
    return pace


@pytest.mark.parametrize(
    ("before_s", "after_s"),
    [
        pytest.param(0.03, 0.09, id="worse"),
        pytest.param(0.09, 0.03, id="better"),
        pytest.param(0.03, 1.0, id="much-worse"),
        pytest.param(1.0, 0.03, id="much-better"),
    ],
)
def test_decode_speed_follows_within_about_a_second(before_s, after_s):
    """Whatever the steps' length, after a second of new ones the old speed is out of the average, but for a fifth."""
    steps = max(1, round(1.0 / after_s))
    pace = _pace_after(*[before_s] * 50, *[after_s] * steps)
    assert pace.decode_tok_s == pytest.approx(1 / after_s, rel=0.2)


def test_one_long_step_is_soon_forgotten():
    """A single slow step does not hold prompts back for long: half a second later the usual speed is told again."""
    pace = _pace_after(*[0.03] * 50, 1.0, *[0.03] * 17)
    assert pace.decode_tok_s == pytest.approx(1 / 0.03, rel=0.5)


def test_prefill_speed_follows_long_chunks():
    """About a second of longer chunks is enough to know that prompts are slow now."""
    pace = Pace()
    for step_s in [0.05] * 20 + [0.2] * 6:
        pace.observe(step_s=step_s, prefill_tokens=100, sequences=0)
    assert pace.prefill_tok_s == pytest.approx(500, rel=0.25)
    assert pace.prefill_budget_tokens(decoding=0, batch_tokens=512) == pytest.approx(IDLE_STEP_S * 500, rel=0.35)


def test_a_slow_model_is_not_made_slower_by_small_steps():
    """However long its steps take: with nobody decoding they stay as large as its kernels need, beside a stream not."""
    pace = Pace()
    for _ in range(20):
        pace.observe(step_s=2.0, prefill_tokens=64, sequences=0)

    assert 64 == pace.prefill_budget_tokens(decoding=0, batch_tokens=512)
    assert 32 == pace.prefill_budget_tokens(decoding=0, batch_tokens=32)
    pace.observe(step_s=0.5, prefill_tokens=0, sequences=1, drawn=1)
    assert 16 == pace.prefill_budget_tokens(decoding=1, batch_tokens=512)


def _beside_streams(pace: Pace, token_s: float, steps: int) -> list[int]:
    """Take prompt chunks as planned, at so many seconds a token, beside four streams of 30 ms a step."""
    chunks = []
    for _ in range(steps):
        chunks.append(pace.prefill_budget_tokens(decoding=4, batch_tokens=512))
        pace.observe(step_s=0.03 + chunks[-1] * token_s, prefill_tokens=chunks[-1], sequences=4)
    return chunks


def test_deep_in_a_long_prompt_streams_wait_no_longer():
    """Where attention makes each token dear a chunk may be of four; at the next prompt's beginning it grows again."""
    pace = Pace()
    for _ in range(20):
        pace.observe(step_s=0.03, prefill_tokens=0, sequences=4, drawn=4)
        pace.observe(step_s=0.25, prefill_tokens=64, sequences=0)
    assert 16 == _beside_streams(pace, 0.004, 5)[-1]
    deep = _beside_streams(pace, 0.018, 30)
    assert 4 == deep[-1]
    assert 0.03 + deep[-1] * 0.018 < 4 * 0.03
    assert 16 == _beside_streams(pace, 0.004, 10)[-1]


def test_a_short_rest_of_a_prompt_tells_nothing_of_prompts():
    """A few tokens computed alone cost what a step costs; only where chunks are small on purpose do they count."""
    pace = Pace()
    for _ in range(20):
        pace.observe(step_s=0.25, prefill_tokens=64, sequences=0)
    before = pace.prefill_tok_s
    pace.prefill_budget_tokens(decoding=0, batch_tokens=512)
    for _ in range(20):
        pace.observe(step_s=0.02, prefill_tokens=5, sequences=0)
    assert before == pace.prefill_tok_s


def _both_kinds() -> Pace:
    pace = Pace()
    pace.observe(step_s=0.1, prefill_tokens=50, sequences=0)
    pace.observe(step_s=0.02, prefill_tokens=0, sequences=1, drawn=1)
    pace.follow(1.0, prefill=True, decode=True)
    return pace


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param({"prefill": False, "decode": True}, (125.0, 50.0), id="prompts-not-seen"),
        pytest.param({"prefill": True, "decode": False}, (500.0, 12.5), id="decoding-not-seen"),
        pytest.param({"prefill": False, "decode": False}, (125.0, 12.5), id="nothing-ran"),
        pytest.param({"prefill": True, "decode": True}, (500.0, 50.0), id="both-measured"),
    ],
)
def test_speeds_of_what_was_not_seen_change_alike(seen, expected):
    """Steps of one kind that became four times slower say the same of the other kind, and of both while nothing ran."""
    pace = _both_kinds()
    pace.follow(4.0, **seen)
    assert expected == (pytest.approx(pace.prefill_tok_s), pytest.approx(pace.decode_tok_s))


def test_speeds_come_back():
    """When the machine is quiet again, speeds are what they were, however often that happens."""
    pace = _both_kinds()
    for slowdown in (3.0, 1.5, 4.0, 1.0):
        pace.follow(slowdown, prefill=False, decode=False)
    assert (500.0, 50.0) == (pytest.approx(pace.prefill_tok_s), pytest.approx(pace.decode_tok_s))


def test_nothing_measured_stays_unknown():
    """A slowdown alone makes no speed."""
    pace = Pace()
    pace.follow(1.0, prefill=False, decode=False)
    pace.follow(3.0, prefill=False, decode=False)
    assert (None, None) == (pace.prefill_tok_s, pace.decode_tok_s)


def _batch_of_four(*, draft_step_s: float) -> Pace:
    pace = Pace()
    pace.observe(step_s=0.1, prefill_tokens=50, sequences=0)
    for _ in range(5):
        pace.observe(step_s=0.03, prefill_tokens=0, sequences=4, drawn=4)
    for _ in range(20):
        pace.observe(step_s=draft_step_s, prefill_tokens=0, sequences=4, drafted=10, drawn=9)
    return pace


def test_drafts_beside_others_cost_what_they_cost():
    """Ten drafted tokens among four sequences took 0.09 s, not the 0.05 s of ten sequences more."""
    pace = _batch_of_four(draft_step_s=0.09)
    assert 0.09 == pytest.approx(pace.drafting_s(4, 10), rel=0.05)
    assert 0.03 == pytest.approx(pace.drafting_s(4, 0), rel=0.05)
    assert 0.05 == pytest.approx(pace.decode_s(14), rel=0.05)


def test_a_dear_batch_is_tried_again():
    """What drafts cost beside others is forgotten, for the next batch may be another."""
    pace = _batch_of_four(draft_step_s=0.2)
    dear_s = pace.drafting_s(4, 10)
    for _ in range(3000):
        pace.observe(step_s=0.03, prefill_tokens=0, sequences=4, drawn=4)
    assert pace.drafting_s(4, 10) == pytest.approx(pace.decode_s(14), rel=0.2)
    assert dear_s > 2 * pace.drafting_s(4, 10)
