"""Several steps in one native call: when are they, and does anything come out that would not have without?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybrid.engine.engine import Engine
from hybrid.engine.report import StepReport
from hybrid.engine.runs import LONGEST_BUNDLE_S, MOST_RUN_STEPS, RunLength, can_run, run_length
from hybrid.engine.scheduler import Plan, Work
from hybrid.native import SampleParams
from hybrid.types import FinishReason
from tests.engine.asking import ask, engine_of, finish, sequence_of

PLENTY = 100_000
FAST_S = 0.002
"""A step so fast that a run may have as many as there may be."""


def step_of(*limits: int) -> Plan:
    return Plan(work=[Work(sequence_of(str(limit), "hello", limit=limit), 1, is_decode=True) for limit in limits])


@pytest.mark.parametrize(
    ("limits", "step_s", "quiet_steps", "cells", "steps"),
    [
        pytest.param((1000,), 0.0001, PLENTY, PLENTY, MOST_RUN_STEPS, id="no-longer-than-the-most"),
        pytest.param((1000,), 0.3, PLENTY, PLENTY, MOST_RUN_STEPS, id="slow-steps-too"),
        pytest.param((1000,), None, PLENTY, PLENTY, 1, id="nothing-measured"),
        pytest.param((1000, 3), FAST_S, PLENTY, PLENTY, 3, id="to-the-end-of-the-shortest"),
        pytest.param((1000,), FAST_S, 2, PLENTY, 2, id="until-somebody-looks-for-drafts"),
        pytest.param((1000, 1000), FAST_S, PLENTY, 9, 4, id="within-the-cells"),
        pytest.param((1000, 1000), FAST_S, PLENTY, 1, 1, id="one-step-is-planned-already"),
        pytest.param((), FAST_S, PLENTY, PLENTY, 1, id="nobody"),
    ],
)
def test_length_of_a_run(limits, step_s, quiet_steps, cells, steps):
    """The smallest of what time, text, cells and drafts allow."""
    step = step_of(*limits)
    assert steps == run_length(step, step_s=step_s, quiet_steps=quiet_steps, available_cells=cells).steps


@pytest.mark.parametrize(
    ("step_s", "bundle"),
    [
        pytest.param(0.005, int(LONGEST_BUNDLE_S / 0.005), id="as-long-as-a-screen-needs"),
        pytest.param(0.03, 1, id="each-slow-step-alone"),
        pytest.param(0.3, 1, id="each-very-slow-step-alone"),
    ],
)
def test_what_is_heard_of_together(step_s, bundle):
    """Fast steps reach the reader together; where somebody else's turn is next they are also all there are."""
    step = step_of(1000)
    length = run_length(step, step_s=step_s, quiet_steps=PLENTY, available_cells=PLENTY)
    assert RunLength(MOST_RUN_STEPS, bundle) == length
    others = run_length(step, step_s=step_s, quiet_steps=PLENTY, available_cells=PLENTY, has_others=True)
    assert RunLength(bundle, bundle) == others


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda work: setattr(work, "draft", [1]), id="a-guess-is-judged"),
        pytest.param(lambda work: setattr(work, "is_decode", False), id="a-prompt"),
        pytest.param(lambda work: setattr(work.sequence, "constraint", object()), id="a-grammar"),
        pytest.param(lambda work: setattr(work.sequence, "options", ((1,),)), id="options-are-read-at-the-first"),
        *[
            pytest.param(lambda work, n=name: setattr(work.sequence, "params", SampleParams(**{n: 1.2})), id=name)
            for name in ("presence_penalty", "frequency_penalty", "repetition_penalty")
        ],
    ],
)
def test_who_needs_python_after_each_step_has_it(change):
    """One such sequence in the batch, and nobody runs ahead."""
    step = step_of(100, 100)
    assert all(can_run(work) for work in step.work)
    change(step.work[1])
    assert not can_run(step.work[1])
    assert 1 == run_length(step, step_s=FAST_S, quiet_steps=PLENTY, available_cells=PLENTY).steps


def _answers(*, can_run: bool, has_one_pool: bool) -> tuple[dict, int]:
    engine = engine_of(can_run=can_run, has_one_pool=has_one_pool, step_s=FAST_S, has_drafts=False)
    ask(engine, "first", "a text of some length that ends by itself")
    ask(engine, "second", "another, quite another")
    limited = sequence_of("limited", "this one is cut off by its limit", limit=9)
    stopped = sequence_of("stopped", "what comes after STOP is never seen", stop=("STOP",))
    engine.submit(limited)
    engine.submit(stopped)
    drawn: list[int] = []
    found = finish(engine, drawn)
    assert engine.free_cells == (4096 if has_one_pool else 4 * 4096)
    assert engine.cache.pool.total - engine.cache.pool.free == engine._backend.cells_held()
    return found, len(drawn)


@pytest.mark.parametrize("has_one_pool", [True, False])
def test_texts_are_those_of_single_steps(has_one_pool):
    """Ends by token, by limit and by the client's own string come where they came, in fewer calls."""
    single, single_calls = _answers(can_run=False, has_one_pool=has_one_pool)
    together, calls = _answers(can_run=True, has_one_pool=has_one_pool)
    assert single == together
    assert ("this one ", FinishReason.LENGTH, None) == together["limited"]
    assert ("what comes after ", FinishReason.STOP, None) == together["stopped"]
    assert calls < single_calls / 2


def test_who_arrives_ends_a_run():
    """While the flag is up each call is one step; once the inbox was looked at they run again."""
    engine = engine_of(can_run=True, step_s=FAST_S, has_drafts=False)
    ask(engine, "long", "[endless] and on it goes")
    for _ in range(8):
        engine.step()
    assert len(engine.step().deltas) > 4
    engine.hasten()
    assert [1, 1] == [len(engine.step().deltas) for _ in range(2)]
    engine.attend()
    assert len(engine.step().deltas) > 4


def test_unusable_logits_in_a_run_fail_their_sequence_only():
    """A row of NaN ends the run; the neighbour's text is whole and every cell comes back."""
    engine = engine_of(can_run=True, step_s=FAST_S, has_drafts=False)
    ask(engine, "sound", "a sound text that goes on for a while")
    real = engine._backend.decode
    calls = iter(range(1000))

    def broken_later(entries):
        rows = real(entries)
        if next(calls) >= 12 and len(entries) > 1:
            rows[1] = float("nan")
        return rows

    ask(engine, "broken", "another text of which no end is ever seen")
    engine._backend.decode = broken_later
    found = finish(engine)
    assert ("a sound text that goes on for a while", FinishReason.STOP, None) == found["sound"]
    assert found["broken"][1] is None
    assert "unusable logits" in found["broken"][2]
    assert 4096 == engine.free_cells


def test_repeats_are_looked_for_again_after_a_run():
    """A text that repeats itself is drafted as it would be without runs."""
    engine = engine_of(can_run=True, step_s=FAST_S)
    text = "the same words come again, " * 6
    ask(engine, "repeating", text)
    sizes = []
    while engine.has_work:
        sizes.append(len(engine.step().deltas))
    assert len(text) + 1 == sum(sizes)
    assert max(sizes) >= 8
    assert len(sizes) < len(text) / 4


def test_a_model_that_cannot_forget_single_cells_takes_single_steps():
    """Recurrent state keeps no past: what a stopped text ran too far could not be taken back."""
    engine = engine_of(can_run=True, step_s=FAST_S, has_drafts=False)
    engine._backend.facts = replace(engine._backend.facts, can_truncate=False)
    ask(engine, "only", "one by one it is written")
    finish(engine, drawn := [])
    assert len(drawn) > len("one by one it is written")


def _told(engine: Engine) -> list[tuple[str, FinishReason | None, str | None]]:
    """Run to the end; each delta that came, whether from within a run or from its end."""
    told: list[tuple[str, FinishReason | None, str | None]] = []

    def note(report: StepReport) -> None:
        told.extend((delta.text, delta.finish, delta.failure) for delta in report.deltas)

    engine._emit = note
    while engine.has_work:
        note(engine.step())
    return told


def test_what_a_run_draws_is_told_while_it_goes_on():
    """Slow steps are told one by one, fast ones in bundles; none is lost or told twice."""
    text = "a text that is told as it is written"
    for step_s in (0.03, FAST_S):
        engine = engine_of(can_run=True, step_s=step_s, has_drafts=False)
        ask(engine, "told", text)
        told = _told(engine)
        assert text == "".join(shown for shown, _, _ in told)
        assert [FinishReason.STOP] == [finish for _, finish, _ in told if finish]


def test_one_who_ends_in_a_run_is_told_at_once_and_leaves_at_its_end():
    """Its end does not wait for the step that was begun before it was known; then its slot and later cells are free."""
    engine = engine_of(can_run=True, step_s=0.03, has_drafts=False)
    engine.submit(sequence_of("stopped", "it goes on until HALT and then no further", stop=("HALT",)))
    ask(engine, "other", "[endless] and on it goes")
    seen: list[tuple[str, int]] = []
    engine._emit = lambda report: seen.extend(
        (delta.id, len(engine.running)) for delta in report.deltas if delta.finish
    )
    while len(engine.running) != 1 or engine.waiting:
        engine.step()
    assert [("stopped", 2)] == seen
    assert engine.cache.pool.total - engine.cache.pool.free == engine._backend.cells_held()


class Changing:
    """Neighbours that ask for one thread when they were told of so many steps of two."""

    def __init__(self, after_steps: int) -> None:
        self.threads = 2
        self.told: list[int] = []
        self._after_steps = after_steps

    def observe(self, now_s: float, *, steps: int = 1, **_: object) -> None:
        """Note which threads these steps are taken for."""
        self.told += [self.threads] * steps
        if len(self.told) >= self._after_steps:
            self.threads = 1


def test_other_threads_compute_from_the_end_of_a_run_on():
    """A run ends where the machine asks for another number of threads, which none is changed under."""
    engine = engine_of(can_run=True, step_s=0.03, has_drafts=False)
    ask(engine, "long", "[endless] and on it goes")
    while not engine.running or engine.running[0].pending > 1:
        engine.step()
    engine.step()
    whole = len(engine.step().deltas)
    engine.neighbours = Changing(after_steps=3)
    assert len(engine.step().deltas) < whole == MOST_RUN_STEPS


def test_a_step_of_the_threads_of_before_is_no_work_of_the_new_ones():
    """When others are asked for, the run's next step is computed already: no trial is judged by it, the pace is."""
    engine = engine_of(can_run=True, step_s=0.03, has_drafts=False)
    ask(engine, "long", "[endless] and on it goes")
    while not engine.running or engine.running[0].pending > 1:
        engine.step()
    engine.step()
    engine.neighbours = Changing(after_steps=3)
    assert len(engine.step().deltas) > 3
    assert [2] * 3 == engine.neighbours.told
    engine.step()
    assert {1} == set(engine.neighbours.told[3:])


def test_what_fails_while_a_run_is_told_reaches_whoever_computes():
    """Nothing is swallowed: the model's thread ends with it."""
    engine = engine_of(can_run=True, step_s=0.03, has_drafts=False)
    ask(engine, "long", "[endless] and on it goes")

    def fail(_: StepReport) -> None:
        raise OSError("nobody listens")

    engine._emit = fail
    with pytest.raises(OSError, match="nobody listens"):
        finish(engine)
