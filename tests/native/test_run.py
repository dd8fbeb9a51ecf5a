"""Steps in one native call, against a llama.cpp made of Python functions: what is called, and when does it end?"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hybrid.native import IS_NATIVE, RowDraw, Sampled, SampleParams

if TYPE_CHECKING:
    from hybrid.native._native import StepRun

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="runs exist in the extension alone")

VOCAB, END = 16, 15
GREEDY = SampleParams(temperature=0.0)


class Batch(ctypes.Structure):
    """Layout: `struct llama_batch` in llama.cpp's include/llama.h."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


class Counting:
    """A model that says the token after the one it was given; notes every batch it computes."""

    def __init__(
        self,
        tokens: list[int],
        *,
        fails_at: int | None = None,
        broken_at: int | None = None,
        missing_at: int | None = None,
    ) -> None:
        self.seen: list[tuple[list[int], list[int]]] = []
        self.flag = ctypes.c_bool(False)
        self.raise_at: int | None = None
        self.stop_at: int | None = None
        self.stop: Callable[[], None] = lambda: None
        self.wait_at: int | None = None
        self.go_on = threading.Event()
        self._fails_at, self._broken_at, self._missing_at = fails_at, broken_at, missing_at
        self._count = len(tokens)
        self._tokens = (ctypes.c_int32 * self._count)(*tokens)
        self._positions = (ctypes.c_int32 * self._count)(*range(10, 10 + self._count))
        self._batch = Batch(self._count, self._tokens, None, self._positions, None, None, None)
        self._rows = np.zeros((self._count, VOCAB), dtype=np.float32)
        self._decode = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, Batch)(self._compute)
        self._logits_at = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
            lambda _, row: None if len(self.seen) - 1 == self._missing_at else self._rows[row].ctypes.data
        )
        self._is_end = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int32)(lambda _, token: token == END)

    def _compute(self, _context: object, batch: Batch) -> int:
        if len(self.seen) == self._fails_at:
            return 1
        tokens, positions = batch.token[: self._count], batch.pos[: self._count]
        self.seen.append((tokens, positions))
        self._rows[:] = 0.0
        for row, token in zip(self._rows, tokens, strict=True):
            row[(token + 1) % VOCAB] = 5.0
        if len(self.seen) - 1 == self._broken_at:
            self._rows[0] = np.nan
        if len(self.seen) - 1 == self.raise_at:
            self.flag.value = True
        if len(self.seen) - 1 == self.stop_at:
            self.stop()
        if len(self.seen) - 1 == self.wait_at:
            assert self.go_on.wait(10)
        return 0

    def run(self, steps: int, *, draws: list[RowDraw] | None = None) -> tuple[int, list[list[Sampled | ValueError]]]:
        """Compute a run and take it as a whole: llama.cpp's status, and what each step drew."""
        run = self.started(steps, draws=draws)
        status = run.compute()
        taken, is_last = run.take(1)
        assert is_last
        assert run.done == len(taken)
        return status, taken

    def started(self, steps: int, *, draws: list[RowDraw] | None = None) -> StepRun:
        from hybrid.native._native import StepRun

        def address(function: object) -> int:
            return ctypes.cast(function, ctypes.c_void_p).value or 0

        return StepRun(
            decode=address(self._decode),
            logits_at=address(self._logits_at),
            is_end=address(self._is_end),
            context=1,
            vocabulary=1,
            batch=ctypes.addressof(self._batch),
            flag=ctypes.addressof(self.flag),
            draws=draws or [RowDraw(params=GREEDY, seed=1, position=0)] * self._count,
            n_vocab=VOCAB,
            steps=steps,
        )


def tokens_of(done: list[list[Sampled | ValueError]]) -> list[list[int]]:
    return [[sampled.token for sampled in step] for step in done]


def test_what_is_drawn_is_computed_next():
    """Each step takes the last one's tokens, a position further."""
    model = Counting([3, 7])
    status, done = model.run(3)
    assert (0, [[4, 8], [5, 9], [6, 10]]) == (status, tokens_of(done))
    assert [([3, 7], [10, 11]), ([4, 8], [11, 12]), ([5, 9], [12, 13])] == model.seen


@pytest.mark.parametrize(
    ("model", "status", "steps"),
    [
        pytest.param(Counting([3, 12]), 0, 3, id="a-token-ends-its-text"),
        pytest.param(Counting([3, 7], fails_at=2), 1, 2, id="llama-fails"),
        pytest.param(Counting([3, 7], fails_at=0), 1, 0, id="llama-fails-at-once"),
        pytest.param(Counting([3, 7], broken_at=1), 0, 2, id="a-row-is-broken"),
        pytest.param(Counting([3, 7], missing_at=2), -100, 2, id="there-is-no-row"),
        pytest.param(Counting([3, 7], missing_at=0), -100, 0, id="there-is-no-row-at-once"),
    ],
)
def test_a_run_ends_early(model, status, steps):
    """And tells what was computed until then."""
    found, done = model.run(8)
    assert (status, steps) == (found, len(done))


def test_a_broken_row_is_told_beside_the_sound_one():
    """A ValueError in its place, and the neighbour's token."""
    _, done = Counting([3, 7], broken_at=1).run(8)
    broken, sound = done[-1]
    assert isinstance(broken, ValueError)
    assert 9 == sound.token


def test_a_raised_flag_ends_it_after_the_step():
    """Raised during the second step, that one still counts; raised before, there is one."""
    model = Counting([3])
    model.raise_at = 1
    assert [[4], [5]] == tokens_of(model.run(8)[1])
    assert 1 == len(model.run(8)[1])


def test_draws_follow_seed_and_position():
    """The n-th step draws what a single draw at that position draws from the same row."""
    from hybrid.native import sample_row

    params = SampleParams(temperature=3.0)
    model = Counting([3])
    _, done = model.run(6, draws=[RowDraw(params=params, seed=99, position=40)])
    for place, (step, (tokens, _)) in enumerate(zip(done, model.seen, strict=True)):
        row = np.zeros(VOCAB, dtype=np.float32)
        row[(tokens[0] + 1) % VOCAB] = 5.0
        assert sample_row(row, params, seed=99, position=40 + place) == step[0]


def test_draws_must_fit_the_batch():
    """One draw a token; nothing native is called else."""
    model = Counting([3, 7])
    with pytest.raises(ValueError, match="one draw a token"):
        model.run(2, draws=[RowDraw(params=GREEDY, seed=1, position=0)])
    assert not model.seen


def _taken_beside(model: Counting, steps: int, *, at_least: int) -> list[list[int]]:
    """What each `take` of another thread gave."""
    run = model.started(steps)
    takes: list[list[int]] = []

    def take() -> None:
        is_last = False
        while not is_last:
            taken, is_last = run.take(at_least)
            takes.append([step[0].token for step in taken])

    taker = threading.Thread(target=take)
    taker.start()
    assert 0 == run.compute()
    taker.join(10)
    assert not taker.is_alive()
    return takes


def test_steps_are_taken_while_the_next_are_computed():
    """Another thread has the first ones before the last is computed; none is lost, none comes twice."""
    model = Counting([0])
    model.wait_at, model.go_on = 4, threading.Event()
    run = model.started(6)
    computing = threading.Thread(target=run.compute)
    computing.start()
    taken, is_last = run.take(4)
    assert ([[1], [2], [3], [4]], False) == (tokens_of(taken), is_last)
    model.go_on.set()
    taken, is_last = run.take(4)
    computing.join(10)
    assert ([[5], [6]], True) == (tokens_of(taken), is_last)


@pytest.mark.parametrize("at_least", [1, 2, 5, 100])
def test_every_step_is_taken_once(at_least):
    """However many are waited for; the last take may have fewer."""
    takes = _taken_beside(Counting([0]), 7, at_least=at_least)
    assert [1, 2, 3, 4, 5, 6, 7] == [token for take in takes for token in take]
    assert all(len(take) >= at_least for take in takes[:-1])


def test_a_taker_may_end_the_run():
    """The step it is in then still counts, and no further one is computed."""
    model = Counting([0])
    run = model.started(12)
    model.stop_at, model.stop = 2, run.stop
    run.compute()
    assert 3 == run.done
    taken, is_last = run.take(1)
    assert ([[1], [2], [3]], True) == (tokens_of(taken), is_last)


def test_a_run_that_fails_leaves_nobody_waiting():
    """Who waits for steps that never come hears that they are over."""
    model = Counting([3], fails_at=1)
    run = model.started(8)
    takes = []
    taker = threading.Thread(target=lambda: takes.append(run.take(5)))
    taker.start()
    assert 1 == run.compute()
    taker.join(10)
    assert [(1, True)] == [(len(steps), is_last) for steps, is_last in takes]
