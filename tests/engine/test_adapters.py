"""Adapters in the step loop: a step runs with one, each gets its turn, and no cell goes from one to another."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.drafting import Drafter
from hybrid.engine.engine import Engine
from hybrid.engine.scheduler import next_adapter, plan
from hybrid.engine.sequence import Sequence
from hybrid.native import SampleParams


def _sequence(name: str, adapter: int | None, text: str = "hello", *, due_s: float = 0.0) -> Sequence:
    prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n".encode()
    return Sequence(
        id=name,
        prompt=np.frombuffer(prompt, dtype=np.uint8).astype(np.int32),
        params=SampleParams(temperature=0.0),
        seed=1,
        max_output_tokens=1000,
        detokenizer=Detokenizer(),
        isolation=str(adapter),
        adapter=adapter,
        due_s=due_s,
    )


def _engine(*, context_tokens: int = 4096, slots: int = 4) -> Engine:
    backend = FakeBackend(BackendOptions(model_path=Path("unused"), context_tokens=context_tokens, slots=slots))
    return Engine(backend, drafter=Drafter(is_on=False))  # how far drafts reach depends on the clock


def _texts(engine: Engine, max_steps: int = 20_000) -> dict[str, str]:
    texts: dict[str, str] = {}
    for _ in range(max_steps):
        if not engine.has_work:
            return texts
        for delta in engine.step().deltas:
            assert delta.failure is None
            texts[delta.id] = texts.get(delta.id, "") + delta.text
    raise AssertionError("it never ends")


def test_requests_of_different_adapters_at_once_each_get_their_own():
    """With an adapter the fake shouts, without one it does not; its own checks would fail a mixed step or cell."""
    engine = _engine()
    for n in range(6):
        engine.submit(_sequence(f"s{n}", None if n % 3 == 0 else n % 3))

    assert {f"s{n}": "hello" if n % 3 == 0 else "HELLO" for n in range(6)} == _texts(engine)


def test_adapters_take_turns():
    """Many streams without an adapter do not starve the one that has one: it draws in every second step."""
    engine = _engine(slots=8)
    for n in range(7):
        engine.submit(_sequence(f"plain{n}", None, "x" * 60))
    engine.submit(_sequence("adapted", 0, "y" * 40))
    while any(s.pending > 1 for s in [*engine.running, *engine.waiting]):
        engine.step()
    drew = [any(delta.id == "adapted" for delta in engine.step().deltas) for _ in range(20)]

    assert [n % 2 == drew.index(True) % 2 for n in range(20)] == drew


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        pytest.param({}, 1, id="at-first-the-most-urgent"),
        pytest.param({1: 5}, None, id="one-that-had-no-turn-before-one-that-had"),
        pytest.param({None: 7, 0: 6, 1: 8}, 0, id="the-longest-ago"),
        pytest.param({None: 1, 0: 2, 1: 3, 2: 0}, None, id="only-those-that-run"),
    ],
)
def test_next_adapter(turns, expected):
    """The adapter whose turn is the longest ago is next, and urgency decides among those that had none."""
    running = [_sequence("a", None, due_s=2.0), _sequence("b", 0, due_s=3.0), _sequence("c", 1, due_s=1.0)]
    assert expected == next_adapter(running, turns)


def test_a_step_computes_one_adapter_and_the_cells_of_all_count():
    """Only sequences of the chosen adapter get work; when the cells do not suffice the last due of all gives way."""
    running = [_sequence(name, adapter) for name, adapter in (("a", None), ("b", 0), ("c", 0))]
    for sequence in running:
        sequence.slot, sequence.computed = 0, sequence.length - 1
    step = plan(running, available_cells=9, prefill_budget_tokens=64, batch_tokens=64, adapter=0)
    stuck = plan(running, available_cells=2, prefill_budget_tokens=64, batch_tokens=64, adapter=None)

    assert ["b", "c"] == [work.sequence.id for work in step.work]
    assert running[2] is stuck.preempted


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([None, 0, 1, 2]), st.integers(1, 45)), min_size=1, max_size=12))
def test_every_mix_is_answered(requests):
    """Random adapters and lengths over few cells, so some give way: each is answered with its own text."""
    engine = _engine(context_tokens=256, slots=5)
    for n, (adapter, length) in enumerate(requests):
        engine.submit(_sequence(f"s{n}", adapter, "ab" * length))

    expected = {f"s{n}": ("ab" if adapter is None else "AB") * length for n, (adapter, length) in enumerate(requests)}
    assert expected == _texts(engine)
