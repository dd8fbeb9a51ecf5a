"""Which slot does a sequence get, and which step may be ended for its sake?"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hybrid.backends.base import BackendOptions, BatchEntry, Interrupted
from hybrid.backends.fake import FakeBackend
from hybrid.engine.engine import Engine
from tests.engine.asking import ask, engine_of, finish, sequence_of


def test_without_a_common_pool_sequences_run_side_by_side():
    """A pass over the weights computes neighbouring slots only: who comes gets the slot beside, and nothing is lost."""
    engine = engine_of(slots=4, has_one_pool=False)
    for name in ("one", "two", "three", "four"):
        ask(engine, name, f"{name} is what this conversation of many words is about")
        finish(engine)
    again = ask(engine, "again", "three is what this conversation of many words is about, still")
    engine.step()
    for name in ("five", "six"):
        ask(engine, name, f"{name} is another matter")
        engine.step()

    slots = sorted(sequence.slot for sequence in engine.running)
    assert list(range(slots[0], slots[0] + 3)) == slots
    assert again.cached_tokens > 40
    finish(engine)
    newest = sequence_of("four again", "four is what this conversation of many words is about, still")
    assert engine.cache.look_up(newest.prompt, "").length > 40  # the longest unused went, not the one in the way


def test_without_a_common_pool_a_gap_is_filled_before_the_ends_grow():
    """Of three neighbours the middle one leaves: the next sequence takes its slot, though others were never used."""
    engine = engine_of(slots=6, has_one_pool=False)
    for name in ("one", "two", "three"):
        ask(engine, name, f"{name} [endless]", isolation=name)
        engine.step()
    slots = {sequence.id: sequence.slot for sequence in engine.running}
    engine.cancel("two")
    ask(engine, "four", "four", isolation="four")
    engine.step()

    assert slots["two"] == next(sequence.slot for sequence in engine.running if sequence.id == "four")


class Interruptible(FakeBackend):
    """Ends the step that is told to end, before it begins."""

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self.facts = replace(self.facts, can_interrupt=True)
        self.on_decode: list[str] = []
        self.engine: Engine | None = None
        self._is_told = False

    def interrupt(self) -> None:
        self._is_told = True

    def decode(self, entries: list[BatchEntry]) -> NDArray[np.float32]:
        if self.on_decode:
            self.engine.interrupt(self.on_decode.pop(0))
        is_told, self._is_told = self._is_told, False
        if is_told:
            raise Interrupted
        return super().decode(entries)


@pytest.mark.parametrize(
    ("others", "interrupted", "steps"),
    [
        pytest.param((), "first", 0, id="its-own-prompt"),
        pytest.param((), "somebody", 1, id="another-request"),
        pytest.param(("second",), "first", 1, id="others-compute-too"),
    ],
)
def test_only_a_request_s_own_prompt_is_interrupted(others, interrupted, steps):
    """A step ends early where it computes nothing but the cancelled prompt; what ended early is done again."""
    backend = Interruptible(BackendOptions(model_path=Path("unused"), context_tokens=4096, slots=4))
    engine = backend.engine = Engine(backend, clock=itertools.count(step=0.01).__next__)
    for name in ("first", *others):
        ask(engine, name, name, isolation=name)  # or the second waits for the beginning of all prompts
    backend.on_decode = [interrupted]
    first_text = "".join(delta.text for delta in engine.step().deltas if delta.id == "first")

    assert steps == sum(1 for sequence in engine.running if sequence.computed and sequence.id == "first")
    answers = {name: text for name, (text, *_) in finish(engine).items()}
    assert "first" == first_text + answers.pop("first")
    assert all(name == text for name, text in answers.items())
