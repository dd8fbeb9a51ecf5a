"""Two runs of the bench agree within what they state: earlier medians are part of a range, and differences are told."""

import msgspec
import pytest

from hybrid.devices.bench import beside_earlier, to_profile
from hybrid.devices.history import KEPT_RUNS, PastRun, furthest, past_run, remember, widened
from hybrid.devices.machine import Peak
from hybrid.devices.profile import load_profile, merge, profile_path, save_profile
from tests.devices.reports import MACHINE, SMALL, about, model, report, speed

NAME = "decode of 8 together, 2 threads on cpu"
SLOW = speed(decode={1: 60.0, 8: 110.0})


def agree(one, other):
    """Whether two ranges overlap."""
    return one.low <= other.high and other.low <= one.high


def test_a_run_is_kept_by_what_was_measured():
    """Each figure of a model and of a machine once, with the threads it was measured with."""
    run = past_run(speed(), "then")
    assert ("then", 140.0, 0.8) == (
        run.measured_at,
        run.medians[NAME],
        run.medians["the first token, 2 threads on cpu"],
    )
    figures = 4 + 5 + 1 + 2 * 2
    assert figures == len(run.medians)
    machine = past_run(MACHINE, "then")
    assert 2 * 3 + 4 * 2 == len(machine.medians)
    assert (2.9e10, 5.8e10) == (machine.medians["fp32 sse2, 1 thread"], machine.medians["fp32 sse2, 2 cores"])


def test_ranges_hold_earlier_medians():
    """The median stays this run's; what was measured with other threads, or elsewhere, or in no run, widens nothing."""
    runs = (past_run(SLOW, "then"), PastRun("before", {NAME: 180.0, "nonsense": 1.0}))
    found = widened(speed(), runs)
    assert msgspec.structs.replace(about(140.0), low=110.0, high=180.0, runs=3) == found.decode_tok_s[8]
    assert about(120.0) == found.decode_tok_s[4]
    assert speed(threads=1).decode_tok_s == widened(speed(threads=1), runs).decode_tok_s
    assert speed(device="gpu").decode_tok_s == widened(speed(device="gpu"), runs).decode_tok_s
    faster = (past_run(msgspec.structs.replace(MACHINE, int8=(Peak("avx2", about(1e11), about(5e11)),)), "then"),)
    peak = widened(MACHINE, faster).int8[0].all_cores_ops_s
    assert (4.3e11, 5e11, 2) == (peak.median, peak.high, peak.runs)


def test_what_differs_most_is_named():
    """Only medians outside this run's own samples count, the furthest of all runs."""
    assert furthest(speed(), [past_run(speed(), "then")]) is None
    assert furthest(speed(), ()) is None
    runs = [past_run(SLOW, "then"), past_run(speed(decode={8: 150.0}), "before")]
    assert (NAME, pytest.approx(110 / 140 - 1)) == furthest(speed(), runs)


def test_the_last_runs_are_remembered():
    """In their order, each once, and no more than are useful."""
    runs = [PastRun(str(number), {}) for number in range(KEPT_RUNS + 2)]
    assert tuple(runs[-KEPT_RUNS:]) == remember(runs[:-1], runs[-1:])
    assert tuple(runs[:2]) == remember(runs[:2], runs[1:2])


def test_two_runs_that_differ_agree_within_what_they_state(tmp_path):
    """Kept on disk by the first, read by the second; the report says how they differ, and what its ranges are of."""
    slow_machine = msgspec.structs.replace(MACHINE, fp32=(Peak("sse2", about(2.0e10), about(4.0e10)),))
    first = report(model(SLOW), machine=slow_machine, measured_at="2026-11-25T03:00:00+00:00")
    save_profile(tmp_path, to_profile(first))
    known = load_profile(tmp_path, first.hardware_fingerprint, versions=first.versions)
    alone = report(SMALL)
    second = beside_earlier(alone, known)
    one, other = first.models[0].speed.decode_tok_s[8], second.models[0].speed.decode_tok_s[8]
    assert not agree(one, alone.models[0].speed.decode_tok_s[8])
    assert agree(one, other)
    assert agree(slow_machine.fp32[0].all_cores_ops_s, second.machine.fp32[0].all_cores_ops_s)
    assert (140.0, 2, 1) == (other.median, other.runs, second.models[0].speed.decode_tok_s[4].runs)
    notes = "\n".join(second.notes)
    assert f"small was not the same in an earlier run: {NAME} differed by -21 %" in notes
    assert "this machine was not the same in an earlier run: fp32 sse2, " in notes
    assert "ranges hold this run's samples and the medians of one earlier run" in notes
    kept = merge(known, to_profile(second))
    assert [110.0, 140.0] == [run.medians[NAME] for run in kept.models["fingerprint of small"].runs]
    assert 2 == len(kept.runs)


def test_a_first_run_and_one_of_another_model_say_nothing_of_others():
    """No profile, or none of this file: the report is what was measured."""
    alone = report(SMALL)
    assert alone == beside_earlier(alone, None)
    other = to_profile(report(model(speed("other")), machine=None))
    assert alone == beside_earlier(alone, other)


def test_a_quick_look_is_remembered_though_its_figures_do_not_replace_a_full_run():
    """The profile keeps the full bench's speeds, and the quick one's medians beside them."""
    full = to_profile(report(SMALL, measured_at="2026-11-25T03:00:00+00:00"))
    quick = to_profile(report(model(SLOW), is_quick=True))
    kept = merge(full, quick).models["fingerprint of small"]
    assert (140.0, "bench") == (kept.decode_tok_s[8], kept.source)
    assert [140.0, 110.0] == [run.medians[NAME] for run in kept.runs]


def test_a_median_that_none_can_be_makes_a_profile_unsound(tmp_path):
    """A damaged profile would widen every later range to nonsense."""
    profile = to_profile(report(SMALL))
    save_profile(tmp_path, profile)
    path = profile_path(tmp_path, profile.hardware_fingerprint)
    text = path.read_text()
    assert f'"{NAME}": 140.0' in text
    path.write_text(text.replace(f'"{NAME}": 140.0', f'"{NAME}": 0.0'))
    notes: list[str] = []
    found = load_profile(tmp_path, profile.hardware_fingerprint, versions=profile.versions, on_note=notes.append)
    assert found is None
    assert f"has 0.0 for {NAME}" in notes[0]
