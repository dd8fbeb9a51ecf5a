"""Does the sampler draw as often as the probabilities say, and do the extension and its twin draw the same tokens?"""

from __future__ import annotations

import math
import threading
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.native import SampleParams, reference
from tests.native.rows import (
    IMPLEMENTATIONS,
    NEG_INF,
    _native,
    finite_logits,
    mask_of,
    near,
    plain_logprobs,
    row_of,
    rows,
    tokens_of,
)

params_drawn = st.builds(
    SampleParams,
    temperature=st.sampled_from([0.0, 1e-40, 0.1, 0.7, 1.0, 1.3, 50.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 40, 300, 1 << 30]),
    top_p=st.sampled_from([1.0, 1.0, 0.95, 0.5, 0.0, 1 - 1e-9]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 1e-9, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.5, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -1.1]),
    repetition_penalty=st.sampled_from([1.0, 1.1, 0.7]),
)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("params", "keep"),
    [
        pytest.param(SampleParams(), 40, id="plain"),
        pytest.param(SampleParams(temperature=0.6), 40, id="cold"),
        pytest.param(SampleParams(temperature=2.0), 40, id="hot"),
        pytest.param(SampleParams(top_k=5), 5, id="top-k"),
        pytest.param(SampleParams(top_p=0.5), None, id="top-p"),
        pytest.param(SampleParams(min_p=0.2), None, id="min-p"),
        pytest.param(SampleParams(temperature=1.5, top_k=20, top_p=0.8, min_p=0.05), None, id="all"),
    ],
)
def test_tokens_come_as_often_as_their_probability_says(native: ModuleType, params: SampleParams, keep):
    """Over 6,000 positions the counts of 40 tokens fit the filtered softmax by Pearson's chi-square."""
    row = np.random.default_rng(2).normal(0, 1.5, 40).astype(np.float32)
    expected = plain_filtered(row.tolist(), params)
    assert keep is None or keep == sum(share > 0 for share in expected)
    draws = 6_000
    counts = [0] * 40
    for position in range(draws):
        counts[native.sample_row(row, params, seed=77, position=position).token] += 1
    assert all(share > 0 for share, count in zip(expected, counts, strict=True) if count)
    kept = [(count, draws * share) for share, count in zip(expected, counts, strict=True) if share > 0]
    chi_square = sum((count - wanted) ** 2 / wanted for count, wanted in kept)
    freedom = len(kept) - 1
    # Mean plus five standard deviations of a chi-square; the seed is fixed, so this never fails by chance.
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def plain_filtered(row: list[float], params: SampleParams) -> list[float]:
    """The probabilities after temperature, top_k, top_p and min_p, each step written out; no ties expected."""
    shares = [math.exp(lp) for lp in plain_logprobs([x / params.temperature for x in row])]
    order = sorted(range(len(row)), key=lambda token: -shares[token])
    order = order[: params.top_k or len(order)]
    mass = math.fsum(shares[token] for token in order)
    nucleus: list[int] = []
    while math.fsum(shares[token] for token in nucleus) < params.top_p * mass and len(nucleus) < len(order):
        nucleus.append(order[len(nucleus)])
    kept = [token for token in nucleus if shares[token] >= params.min_p * shares[order[0]]]
    mass = math.fsum(shares[token] for token in kept)
    return [shares[token] / mass if token in kept else 0.0 for token in range(len(row))]


class TestTwins:
    """The extension against the twin: the same token bit for bit, statistics within the tolerance."""

    @settings(max_examples=300, deadline=None)
    @given(data=st.data(), row=rows, params=params_drawn, seed=st.integers(0, (1 << 64) - 1))
    def test_small_rows(self, data: st.DataObject, row, params, seed):
        """On rows of any floats, with any edits, both draw the same token or refuse with the same words."""
        ids = st.lists(st.integers(0, len(row) - 1), max_size=6)
        bias = data.draw(st.dictionaries(st.integers(0, len(row) - 1), finite_logits, max_size=4))
        edits = {
            "prompt_tokens": tokens_of(*data.draw(ids)),
            "output_tokens": tokens_of(*data.draw(ids)),
            "bias_tokens": tokens_of(*bias),
            "bias_values": row_of(*bias.values()),
            "allowed": data.draw(st.none() | ids.map(lambda allowed: mask_of(len(row), *allowed))),
        }
        position = data.draw(st.integers(0, (1 << 64) - 1))
        assert_twins(row_of(*row), params, seed=seed, position=position, top_logprobs=5, **edits)

    @settings(max_examples=60, deadline=None)
    @given(
        shape=st.sampled_from([(1_025, 1.0), (5_000, 0.0), (20_000, 0.01), (49_152, 3.0), (151_936, 1.0)]),
        params=params_drawn,
        seed=st.integers(0, (1 << 32) - 1),
        is_rounded=st.booleans(),
        is_masked=st.booleans(),
    )
    def test_vocabularies(self, shape, params, seed, is_rounded, is_masked):
        """On rows of real length, flat, peaked or full of ties, the extension's shortcuts change nothing."""
        n_vocab, spread = shape
        random = np.random.default_rng(seed)
        row = random.normal(0, spread, n_vocab).astype(np.float32)
        row = np.round(row) if is_rounded else row
        output = random.integers(0, n_vocab, 30).astype(np.int32)
        allowed = random.integers(0, 1 << 32, n_vocab // 32 + 1, dtype=np.uint32) if is_masked else None
        assert_twins(row, params, seed=seed, position=seed // 7, output_tokens=output, allowed=allowed, top_logprobs=20)

    @pytest.mark.parametrize("n_vocab", [1_025, 49_152])
    def test_an_edited_row_has_its_own_total(self, n_vocab):
        """With half of the vocabulary masked and the likeliest token banned, all draws without filters agree."""
        random = np.random.default_rng(n_vocab)
        row = random.normal(0, 2, n_vocab).astype(np.float32)
        allowed = random.integers(0, 1 << 32, n_vocab // 32 + 1, dtype=np.uint32)
        ban = {"bias_tokens": tokens_of(int(row.argmax())), "bias_values": row_of(NEG_INF)}
        for position in range(20):
            assert_twins(row, SampleParams(), seed=8, position=position, allowed=allowed, **ban)

    def test_exp32_is_the_same_bits(self):
        """The exponential, on which equal tokens rest, gives the same bits in both."""
        values = np.concatenate([np.linspace(-90, 0, 100_001), [-0.0, -1e-30, -1e38, NEG_INF, math.nan]])
        values = values.astype(np.float32)
        expected = reference.exp32(values)
        assert expected.view(np.uint32).tolist() == _native.exp32(values).view(np.uint32).tolist()

    def test_threads_do_not_meet(self):
        """Without the GIL, four threads over rows of different lengths draw what one thread draws."""
        rows_here = [np.random.default_rng(n).normal(0, 2, 2_000 * n).astype(np.float32) for n in range(1, 5)]
        params = SampleParams(temperature=1.5, top_p=0.97)

        def draw_all(row: np.ndarray) -> list[int]:
            return [_native.sample_row(row, params, seed=1, position=p).token for p in range(200)]

        expected = [draw_all(row) for row in rows_here]
        found: list[list[int]] = [[] for _ in rows_here]
        threads = [
            threading.Thread(target=lambda i=i, row=row: found.__setitem__(i, draw_all(row)))
            for i, row in enumerate(rows_here)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert expected == found


def assert_twins(row: np.ndarray, params: SampleParams, **arguments: object) -> None:
    """Fail unless both implementations draw, or refuse, alike."""
    refusal = refusal_of(reference, row, params, **arguments)
    assert refusal == refusal_of(_native, row, params, **arguments)
    if refusal is not None:
        return
    expected = reference.sample_row(row, params, **arguments)
    found = _native.sample_row(row, params, **arguments)
    assert expected.token == found.token
    assert (near(expected.logprob), near(expected.entropy), near(expected.margin)) == (
        found.logprob,
        found.entropy,
        found.margin,
    )
    assert [(token, near(logprob)) for token, logprob in expected.top] == list(found.top)


def refusal_of(native: ModuleType, row: np.ndarray, params: SampleParams, **arguments: object) -> str | None:
    """Return the words of the ValueError that a call raises, None where it raises none."""
    try:
        native.sample_row(row, params, **arguments)
    except ValueError as exc:
        return str(exc)
    return None
