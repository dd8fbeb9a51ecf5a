"""Do the rows of one step come out as each row alone does, on any number of threads? Does a broken one stay alone?"""

from __future__ import annotations

import ctypes
import threading
from types import ModuleType

import numpy as np
import pytest

from hybrid.native import IS_NATIVE, RowDraw, Sampled, SampleParams
from tests.native.rows import IMPLEMENTATIONS, mask_of, near, row_of, tokens_of

WARM = SampleParams(temperature=0.8, top_p=0.95)


def _rows(count: int, n_vocab: int) -> np.ndarray:
    return np.random.default_rng(n_vocab).normal(0, 3, (count, n_vocab)).astype(np.float32)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
class TestSampleRows:
    """One call for all the rows of a step."""

    @pytest.mark.parametrize("threads", [1, 2, 5])
    @pytest.mark.parametrize("n_vocab", [50, 40_000])
    def test_each_row_is_drawn_as_it_is_alone(self, native: ModuleType, n_vocab, threads):
        """Seeds, positions, edits and log-probabilities asked for are each row's own, however many threads share."""
        rows = _rows(7, n_vocab)
        edits = [
            {"params": WARM},
            {"params": SampleParams(temperature=0)},
            {"params": WARM, "top_logprobs": 3},
            {"params": WARM, "allowed": mask_of(n_vocab, 4, 9)},
            {"params": WARM, "bias_tokens": tokens_of(7), "bias_values": row_of(60)},
            {"params": SampleParams(repetition_penalty=1.4), "prompt_tokens": tokens_of(1, 2)},
            {"params": SampleParams(presence_penalty=1.0), "output_tokens": tokens_of(3)},
        ]
        draws = [RowDraw(seed=n, position=n * n, **edit) for n, edit in enumerate(edits)]
        alone = [
            native.sample_row(row, seed=n, position=n * n, **edit)
            for n, (row, edit) in enumerate(zip(rows, edits, strict=True))
        ]
        assert alone == native.sample_rows(rows, draws, threads=threads)

    def test_a_forced_token_is_measured_and_not_drawn(self, native: ModuleType):
        """What a grammar leaves no choice about is taken, with the statistics the model's row gives it."""
        rows = _rows(1, 300)
        [drawn] = native.sample_rows(
            rows, [RowDraw(params=WARM, seed=1, position=2, forced=17, allowed=mask_of(300, 17), top_logprobs=2)]
        )
        measured = native.row_statistics(rows[0], 17)
        likeliest = native.sample_row(rows[0], WARM, seed=0, position=0, top_logprobs=2).top
        assert Sampled(17, near(measured.logprob), near(measured.entropy), near(measured.margin), likeliest) == drawn

    def test_a_broken_row_leaves_the_others_as_they_are(self, native: ModuleType):
        """NaN, a mask of nothing and an id that is none are each a ValueError in the row's place."""
        rows = _rows(5, 100)
        rows[1, 50] = np.nan
        plain = {"params": WARM, "seed": 3}
        draws = [
            RowDraw(position=0, **plain),
            RowDraw(position=1, **plain),
            RowDraw(position=2, allowed=mask_of(100), **plain),
            RowDraw(position=3, forced=100, **plain),
            RowDraw(position=4, **plain),
        ]
        found = native.sample_rows(rows, draws)
        words = ("", "NaN", "no token", "token 100 is not in", "")
        assert native.sample_row(rows[0], WARM, seed=3, position=0) == found[0]
        assert native.sample_row(rows[4], WARM, seed=3, position=4) == found[4]
        for failure, word in zip(found[1:4], words[1:4], strict=True):
            assert isinstance(failure, ValueError)
            assert word in str(failure)

    def test_no_rows_are_no_tokens(self, native: ModuleType):
        """A step that only takes prompts in draws nothing."""
        assert [] == native.sample_rows(np.zeros((0, 100), np.float32), [])

    @pytest.mark.parametrize(
        ("rows", "count", "error"),
        [
            pytest.param(np.zeros((2, 9), np.float32), 1, ValueError, id="too-few-draws"),
            pytest.param(np.zeros((2, 9)), 2, TypeError, id="float64"),
            pytest.param(np.zeros(9, np.float32), 1, TypeError, id="one-dimensional"),
            pytest.param(np.zeros((2, 18), np.float32)[:, ::2], 2, TypeError, id="strided"),
        ],
    )
    def test_arguments_of_another_shape_are_refused(self, native: ModuleType, rows, count, error):
        """Whatever the rows hold: another type is not converted, and each row needs its draw."""
        draws = [RowDraw(params=WARM, seed=0, position=0)] * count
        with pytest.raises(error):
            native.sample_rows(rows, draws)

    def test_callers_from_several_threads_do_not_mix(self, native: ModuleType):
        """Two threads that sample at once each get the draws of their own rows."""
        rows = [_rows(4, 40_000 + n) for n in range(2)]
        draws = [RowDraw(params=WARM, seed=5, position=n) for n in range(4)]
        alone = [native.sample_rows(of_one, draws) for of_one in rows]
        together: list[list[object]] = [[], []]

        def run(number: int) -> None:
            together[number] += [native.sample_rows(rows[number], draws, threads=3) for _ in range(5)]

        workers = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [[alone[0]] * 5, [alone[1]] * 5] == together


Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
Parallel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


@pytest.mark.skipif(not IS_NATIVE, reason="threads are shared in the extension alone")
@pytest.mark.parametrize("team", [1, 2, 5])
def test_another_programs_threads_may_draw(team):
    """Each of a team is sent through the same work, as GNU OpenMP does it; however many come, each row is drawn once.

    They are asked for only where rows and threads are several.
    """
    from hybrid.native import _native

    asked: list[int] = []

    def parallel(work: int, data: int, threads: int, _flags: int) -> None:
        asked.append(threads)
        members = [threading.Thread(target=Work(work), args=(data,)) for _ in range(team)]
        for member in members:
            member.start()
        for member in members:
            member.join()

    rows = _rows(7, 40_000)
    draws = [RowDraw(seed=n, position=n, params=WARM) for n in range(7)]
    expected = [_native.sample_row(row, WARM, seed=n, position=n) for n, row in enumerate(rows)]
    function = Parallel(parallel)
    _native.share_with(ctypes.cast(function, ctypes.c_void_p).value or 0)
    try:
        assert expected == _native.sample_rows(rows, draws, threads=3)
        assert expected == _native.sample_rows(rows, draws, threads=1)
        assert expected[:1] == _native.sample_rows(rows[:1], draws[:1], threads=3)
    finally:
        _native.share_with(0)
    assert [3] == asked
