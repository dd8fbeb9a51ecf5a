"""Do the extension and its twin measure and sample a row as a plain formula says, and as each other?"""

from __future__ import annotations

import math
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hybrid.native
from hybrid.native import SampleParams, reference
from tests.native.rows import (
    IMPLEMENTATIONS,
    NEG_INF,
    mask_of,
    near,
    plain_entropy,
    plain_logprobs,
    plain_margin,
    row_of,
    rows,
    tokens_of,
)


def test_the_extension_is_built():
    """An installed or in-place built hybrid uses the extension; without it every token would cost milliseconds."""
    assert hybrid.native.IS_NATIVE, "hybrid.native._native is not built: pip install -e . builds it"
    assert hybrid.native.sample_row.__module__ == "hybrid.native._native"


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
class TestRowStatistics:
    """Log-probability, entropy and margin of one row."""

    @given(row=rows, choice=st.integers(min_value=0))
    def test_it_agrees_with_the_definition(self, native: ModuleType, row, choice):
        """On any row the statistics are those of log-softmax, entropy and margin written out."""
        token = choice % len(row)
        found = native.row_statistics(row_of(*row), token)
        logprobs = plain_logprobs(row)
        assert found.logprob == near(logprobs[token])
        assert found.entropy == near(plain_entropy(logprobs))
        assert found.margin == near(plain_margin(logprobs))
        assert found.logprob <= 0
        assert found.entropy >= 0

    @pytest.mark.parametrize("n_vocab", [1, 2, 63, 64, 65, 1024, 1025, 49_152, 151_936])
    def test_a_flat_row_knows_nothing(self, native: ModuleType, n_vocab):
        """Equal logits give log(n) nats, no margin, and the same log-probability everywhere, at every row length."""
        found = native.row_statistics(np.full(n_vocab, 7.5, dtype=np.float32), n_vocab - 1)
        assert near(-math.log(n_vocab)) == found.logprob
        assert near(math.log(n_vocab)) == found.entropy
        assert near(1.0 if n_vocab == 1 else 0.0) == found.margin

    def test_a_certain_row_is_certain(self, native: ModuleType):
        """One finite logit among -inf is certainty: 0 nats, margin 1, and -inf for any other token."""
        row = np.full(1000, NEG_INF, dtype=np.float32)
        row[700] = -3.0
        assert native.row_statistics(row, 700) == reference.RowStatistics(0.0, 0.0, 1.0)
        assert NEG_INF == native.row_statistics(row, 3).logprob

    def test_a_peak_over_a_heavy_tail_keeps_its_precision(self, native: ModuleType):
        """A tail of 27,000 equal logits that weighs as much as the peak is where rounding errors all point one way."""
        row = np.full(27_000, 0.1, dtype=np.float32)
        row[0] = 10.3
        logprobs = plain_logprobs(row.tolist())
        found = native.row_statistics(row, 5)
        assert near(logprobs[5]) == found.logprob
        assert near(plain_entropy(logprobs)) == found.entropy

    @pytest.mark.parametrize(
        ("row", "token", "message"),
        [
            pytest.param(row_of(0, float("nan"), 1), 0, "NaN", id="nan"),
            pytest.param(row_of(float("nan")), 0, "NaN", id="only-nan"),
            pytest.param(np.append(np.zeros(5000, np.float32), row_of(float("nan"))), 0, "NaN", id="nan-at-the-end"),
            pytest.param(row_of(0, math.inf, 1), 0, "inf", id="plus-inf"),
            pytest.param(row_of(NEG_INF, NEG_INF), 0, "no logit is finite", id="all-minus-inf"),
            pytest.param(row_of(NEG_INF, float("nan")), 0, "NaN", id="nan-and-minus-inf"),
            pytest.param(row_of(), 0, "must have 1 to", id="empty"),
            pytest.param(np.zeros((1 << 20) + 1, dtype=np.float32), 0, "must have 1 to", id="too-long"),
            pytest.param(row_of(0, 1), 2, "token 2 is not in", id="token-too-large"),
            pytest.param(row_of(0, 1), -1, "token", id="token-negative"),
            pytest.param(row_of(0, 1), 1 << 70, "token", id="token-huge"),
        ],
    )
    def test_a_row_that_is_no_distribution_is_refused(self, native: ModuleType, row, token, message):
        """NaN, +inf, nothing finite, a bad length or token id is a ValueError that says which."""
        with pytest.raises(ValueError, match=message):
            native.row_statistics(row, token)

    @pytest.mark.parametrize(
        "row",
        [
            pytest.param(np.zeros(3), id="float64"),
            pytest.param(np.zeros((1, 3), dtype=np.float32), id="two-dimensional"),
            pytest.param(np.zeros(6, dtype=np.float32)[::2], id="strided"),
        ],
    )
    def test_another_type_is_not_converted(self, native: ModuleType, row):
        """A row that is not contiguous float32 is a TypeError: a silent copy of 600 kB a token would go unseen."""
        with pytest.raises(TypeError):
            native.row_statistics(row, 0)


@pytest.mark.parametrize("native", IMPLEMENTATIONS)
class TestSampleRow:
    """What is drawn, and what is reported beside it."""

    @given(row=rows, seed=st.integers(0, (1 << 64) - 1))
    def test_greedy_takes_the_lowest_of_the_likeliest(self, native: ModuleType, row, seed):
        """Temperature 0, top_k 1 and top_p 0 take the largest logit, the lowest id among equals, whatever the seed."""
        expected = row.index(max(row))
        for params in (SampleParams(temperature=0), SampleParams(top_k=1), SampleParams(top_p=0)):
            assert expected == native.sample_row(row_of(*row), params, seed=seed, position=3).token

    def test_statistics_are_those_of_the_raw_row(self, native: ModuleType):
        """Bias, penalties, mask and temperature change what is drawn, not what the model is said to have thought."""
        row = row_of(5, 4, 3, 2)
        sampled = native.sample_row(
            row,
            SampleParams(temperature=0.3, presence_penalty=1, repetition_penalty=2),
            prompt_tokens=tokens_of(0),
            output_tokens=tokens_of(1),
            seed=1,
            position=0,
            allowed=mask_of(4, 2),
            bias_tokens=tokens_of(3),
            bias_values=row_of(50),
            top_logprobs=2,
        )
        logprobs = plain_logprobs(row.tolist())
        assert 2 == sampled.token
        assert near(logprobs[2]) == sampled.logprob
        assert near(plain_entropy(logprobs)) == sampled.entropy
        assert near(plain_margin(logprobs)) == sampled.margin
        assert ((0, near(logprobs[0])), (1, near(logprobs[1]))) == sampled.top
        assert [5, 4, 3, 2] == row.tolist()

    @pytest.mark.parametrize("count", [0, 1, 5, 20, 1024])
    def test_the_top_is_in_order(self, native: ModuleType, count):
        """The likeliest tokens come in descending order, equals by id, no more than the row has."""
        row = np.round(np.random.default_rng(4).normal(0, 2, 900)).astype(np.float32)
        row[10:20] = NEG_INF
        expected = sorted((token for token in range(900) if row[token] > NEG_INF), key=lambda t: (-row[t], t))[:count]
        top = native.sample_row(row, SampleParams(), seed=0, position=0, top_logprobs=count).top
        assert expected == [token for token, _ in top]
        assert all(above >= below for (_, above), (_, below) in pairwise(top))

    @pytest.mark.parametrize(
        ("edits", "expected"),
        [
            pytest.param({}, 0, id="nothing"),
            pytest.param({"bias_tokens": tokens_of(3), "bias_values": row_of(2.5)}, 3, id="bias-adds"),
            pytest.param(
                {"bias_tokens": tokens_of(3, 3), "bias_values": row_of(1.5, 1)}, 3, id="bias-twice-adds-twice"
            ),
            pytest.param({"bias_tokens": tokens_of(0), "bias_values": row_of(NEG_INF)}, 1, id="bias-bans"),
            pytest.param({"allowed": mask_of(4, 2, 3)}, 2, id="mask"),
            pytest.param({"presence_penalty": 1.5, "output_tokens": tokens_of(0, 0)}, 1, id="presence-once"),
            pytest.param({"presence_penalty": 0.6, "output_tokens": tokens_of(0, 0)}, 0, id="presence-not-twice"),
            pytest.param({"frequency_penalty": 0.6, "output_tokens": tokens_of(0, 0)}, 1, id="frequency-each-time"),
            pytest.param({"presence_penalty": 2, "prompt_tokens": tokens_of(0)}, 0, id="presence-spares-the-prompt"),
            pytest.param({"frequency_penalty": 2, "prompt_tokens": tokens_of(0)}, 0, id="frequency-spares-the-prompt"),
            pytest.param({"repetition_penalty": 3, "prompt_tokens": tokens_of(0)}, 1, id="repetition-sees-the-prompt"),
            pytest.param({"repetition_penalty": 3, "output_tokens": tokens_of(0)}, 1, id="repetition-sees-the-output"),
            pytest.param(
                {"repetition_penalty": 1.5, "prompt_tokens": tokens_of(0, 0), "output_tokens": tokens_of(0)},
                0,
                id="once",
            ),
            pytest.param({"presence_penalty": -2, "output_tokens": tokens_of(2)}, 2, id="negative-favours"),
        ],
    )
    def test_edits_move_the_likeliest(self, native: ModuleType, edits, expected):
        """On logits 2, 1, 0.5, -0.4 each edit makes greedy take the token that its formula says."""
        names = ("presence_penalty", "frequency_penalty", "repetition_penalty")
        params = SampleParams(temperature=0, **{name: edits[name] for name in names if name in edits})
        given_edits = {name: value for name, value in edits.items() if name not in names}
        sampled = native.sample_row(row_of(2, 1, 0.5, -0.4), params, seed=0, position=0, **given_edits)
        assert expected == sampled.token

    def test_repetition_multiplies_what_is_negative(self, native: ModuleType):
        """A repeated token below 0 becomes less likely too: -1 times 3 falls under -2."""
        params = SampleParams(temperature=0, repetition_penalty=3)
        sampled = native.sample_row(row_of(-1, -2), params, seed=0, position=0, output_tokens=tokens_of(0))
        assert 1 == sampled.token

    @pytest.mark.parametrize(
        ("edits", "message"),
        [
            pytest.param({"allowed": mask_of(40)}, "no token", id="mask-of-nothing"),
            pytest.param({"allowed": mask_of(32, 1)}, "do not cover", id="mask-too-short"),
            pytest.param({"output_tokens": tokens_of(40)}, "token 40 is not in", id="output-out-of-range"),
            pytest.param({"prompt_tokens": tokens_of(-1)}, "token -1 is not in", id="prompt-negative"),
            pytest.param({"bias_tokens": tokens_of(41), "bias_values": row_of(1)}, "token 41", id="bias-out-of-range"),
            pytest.param({"bias_tokens": tokens_of(4)}, "bias", id="bias-without-value"),
            pytest.param({"bias_tokens": tokens_of(4), "bias_values": row_of(math.inf)}, "inf", id="bias-inf"),
            pytest.param({"bias_tokens": tokens_of(4), "bias_values": row_of(math.nan)}, "NaN", id="bias-nan"),
            pytest.param({"bias_tokens": tokens_of(4, 4), "bias_values": row_of(3e38, 3e38)}, "edit", id="overflow"),
            pytest.param({"top_logprobs": 1025}, "top_logprobs", id="top-too-many"),
            pytest.param({"top_logprobs": -1}, "top_logprobs", id="top-negative"),
            pytest.param({"seed": -1}, "seed", id="seed-negative"),
            pytest.param({"seed": 1 << 64}, "seed", id="seed-too-large"),
            pytest.param({"position": -1}, "position", id="position-negative"),
        ],
    )
    def test_edits_that_make_no_sense_are_refused(self, native: ModuleType, edits, message):
        """A mask of nothing, ids out of range and broken numbers are ValueErrors that say which."""
        with pytest.raises(ValueError, match=message):
            native.sample_row(np.zeros(40, np.float32), SampleParams(), **{"seed": 0, "position": 0, **edits})

    @pytest.mark.parametrize(
        "edits",
        [
            pytest.param({"output_tokens": np.zeros(1, np.int64)}, id="tokens-int64"),
            pytest.param({"allowed": np.zeros(2, np.int32)}, id="mask-int32"),
            pytest.param({"bias_tokens": tokens_of(1), "bias_values": np.zeros(1)}, id="bias-float64"),
        ],
    )
    def test_edits_of_another_type_are_not_converted(self, native: ModuleType, edits):
        """Arrays of another type than stated are TypeErrors in both."""
        with pytest.raises(TypeError):
            native.sample_row(np.zeros(40, np.float32), SampleParams(), seed=0, position=0, **edits)

    def test_numpy_integers_are_integers(self, native: ModuleType):
        """Seed, position and token may come from numpy."""
        row = row_of(1, 2, 3)
        plain = native.sample_row(row, SampleParams(), seed=9, position=1)
        assert plain == native.sample_row(row, SampleParams(), seed=np.uint64(9), position=np.int32(1))
        assert plain.logprob == native.row_statistics(row, np.int32(plain.token)).logprob

    def test_temperature_comes_before_top_p(self, native: ModuleType):
        """Cold logits 2, 1, 0 hold 0.88 in one token, so top_p 0.85 keeps one; warm ones would keep two."""
        row = row_of(2, 1, 0)
        cold = SampleParams(temperature=0.5, top_p=0.85)
        assert {0} == {native.sample_row(row, cold, seed=5, position=p).token for p in range(300)}
        warm = SampleParams(temperature=1.0, top_p=0.85)
        assert {0, 1} == {native.sample_row(row, warm, seed=5, position=p).token for p in range(300)}

    def test_top_p_counts_what_top_k_left(self, native: ModuleType):
        """Of probabilities 0.4, 0.3, 0.3 top_k 2 leaves 0.57 and 0.43, so top_p 0.5 keeps one token."""
        row = np.log(row_of(0.4, 0.3, 0.3))
        params = SampleParams(top_k=2, top_p=0.5)
        assert {0} == {native.sample_row(row, params, seed=5, position=p).token for p in range(300)}

    @pytest.mark.parametrize("n_vocab", [4, 5_000])
    @pytest.mark.parametrize(
        ("params", "share"),
        [
            pytest.param(SampleParams(top_p=0.5), 0.5, id="top-p"),
            pytest.param(SampleParams(min_p=1), 1.0, id="min-p"),
            pytest.param(SampleParams(top_p=0.5, min_p=1), 0.5, id="both"),
        ],
    )
    def test_a_limit_that_is_met_exactly_is_kept(self, native: ModuleType, n_vocab, params, share):
        """On equal logits top_p 0.5 keeps exactly the first half and min_p 1 keeps all, in short rows and long ones."""
        row = np.zeros(n_vocab, dtype=np.float32)
        points = [reference.uniform(6, position) for position in range(60)]
        expected = [int(point * share * n_vocab) for point in points]
        found = [native.sample_row(row, params, seed=6, position=position).token for position in range(60)]
        assert expected == found
