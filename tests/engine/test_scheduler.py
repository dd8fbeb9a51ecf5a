"""Whose prompt is computed next, where several are in line."""

import itertools
from dataclasses import replace

import pytest

from hybrid.engine.engine import Engine
from hybrid.engine.scheduler import passed_below, plan, prefill_turn
from hybrid.engine.sequence import Sequence
from tests.engine.asking import engine_of, sequence_of

TOKEN_S, STEP_S = 0.004, 0.01
LONG = "x" * 2900


def due(name: str, text: str, due_s: float) -> Sequence:
    return replace(sequence_of(name, text), due_s=due_s)


@pytest.mark.parametrize(
    ("later_s", "token_s", "expected"),
    [
        (2.0, TOKEN_S, ["short", "long"]),
        (15.0, TOKEN_S, ["long", "short"]),
        (2.0, 0.0, ["long", "short"]),
    ],
    ids=["while the long one takes longer", "after longer than it takes", "before any speed is known"],
)
def test_a_short_prompt_passes_a_long_one_for_as_long_as_that_takes_itself(later_s, token_s, expected):
    prompts = [due("long", LONG, 60.0), due("short", "hello", 60.0 + later_s)]
    assert expected == [s.id for s in sorted(prompts, key=lambda s: prefill_turn(s, token_s))]


def test_what_the_short_one_leaves_of_a_step_is_the_long_ones():
    running = [due("long", LONG, 60.0), due("short", "hello", 62.0)]
    for slot, sequence in enumerate(running):
        sequence.slot = slot
    step = plan(running, available_cells=4096, prefill_budget_tokens=256, batch_tokens=512, prefill_token_s=TOKEN_S)
    short = running[1].pending
    assert [("short", short), ("long", 256 - short)] == [(work.sequence.id, work.count) for work in step.work]


def first_tokens(engine: Engine, arrivals: dict[int, list[Sequence]], steps: int) -> list[str]:
    """Submit each at its step; name them in the order of their first tokens."""
    names: list[str] = []
    for step in range(steps):
        for sequence in arrivals.get(step, []):
            engine.submit(sequence)
        names += [d.id for d in engine.step().deltas if d.id not in names]
    return names


def test_who_comes_while_a_long_prompt_is_computed_does_not_wait_for_it():
    engine = engine_of(has_drafts=False)
    long, short = due("long", LONG, 60.0), due("short", "hello", 60.1)
    assert ["short", "long"] == first_tokens(engine, {0: [long], 2: [short]}, 200)


def test_a_long_prompt_has_its_turn_however_many_short_ones_come():
    """Two come with each step, and one of them fills it: without a bound they would take every step for ever."""
    engine = engine_of(has_drafts=False, slots=16, context_tokens=16384, step_s=STEP_S)
    arrivals = {n: [due(f"{n}{ab}", f"{n}{ab} " * 90, 60.0 + n * STEP_S) for ab in "ab"] for n in range(1, 200)}
    for sequence in itertools.chain(*arrivals.values()):
        sequence.max_output_tokens = 1
    names = first_tokens(engine, {0: [due("long", LONG, 60.0)], **arrivals}, 200)
    assert "long" in names


@pytest.mark.parametrize("age_s", [0.0, 2.0, 30.0])
@pytest.mark.parametrize("tokens", [30, 2000, 2900])
def test_who_would_pass_is_told_beforehand(age_s, tokens):
    """To predict a request's wait, before there is a sequence of it to be sorted."""
    there = replace(due("long", LONG, 60.0), submitted_s=0.0)
    newcomer = due("new", "x" * tokens, 60.0 + age_s)
    passes = prefill_turn(newcomer, TOKEN_S) < prefill_turn(there, TOKEN_S)
    assert passes == (newcomer.pending < passed_below(there, age_s, TOKEN_S))


def test_nobody_is_said_to_pass_while_no_speed_is_known():
    assert 0 == passed_below(replace(due("long", LONG, 60.0), submitted_s=0.0), 0.0, None)
