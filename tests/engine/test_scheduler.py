"""Whose prompt is computed next, where several are in line."""

from dataclasses import replace

import pytest

from hybrid.engine.scheduler import plan, prefill_turn
from hybrid.engine.sequence import Sequence
from tests.engine.asking import engine_of, sequence_of

TOKEN_S = 0.004
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


def first_tokens(engine, arrivals: dict[int, Sequence], steps: int) -> list[str]:
    """Submit each at its step; name them in the order of their first tokens."""
    names: list[str] = []
    for step in range(steps):
        if step in arrivals:
            engine.submit(arrivals[step])
        names += [d.id for d in engine.step().deltas if d.id not in names]
    return names


def test_who_comes_while_a_long_prompt_is_computed_does_not_wait_for_it():
    engine = engine_of(has_drafts=False)
    long, short = due("long", LONG, 60.0), due("short", "hello", 60.1)
    assert ["short", "long"] == first_tokens(engine, {0: long, 2: short}, 200)


def test_a_long_prompt_has_its_turn_however_many_short_ones_come():
    """Each takes a whole step's prompt tokens, and the next one is there before it is done."""
    engine = engine_of(has_drafts=False, slots=16, context_tokens=8192)
    step_s = 0.01
    arrivals = {n: due(f"s{n}", "y" * 40, 60.0 + n * step_s) for n in range(1, 600)}
    for sequence in arrivals.values():
        sequence.max_output_tokens = 1
    names = first_tokens(engine, {0: due("long", LONG, 60.0), **arrivals}, 600)
    assert "long" in names
    assert names.index("long") < len(names) - 1
