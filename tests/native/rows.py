"""How do these tests write rows, masks and expectations? The formulas here share no code with what they test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st

from hybrid.native import reference

try:
    from hybrid.native import _native
except ImportError:  # test_the_extension_is_built says so
    _native = reference

TOLERANCE = 1e-6
"""Of max(1, |value|). exp32 is within 8.3e-8; a distance to the peak rounded to float32, 4.8e-7 at the 8 to 16 nats
where a tail can still weigh as much as the peak; four float32 additions, 1.8e-7."""

NEG_INF = float("-inf")
IMPLEMENTATIONS = [pytest.param(_native, id="extension"), pytest.param(reference, id="twin")]

finite_logits = st.floats(width=32, allow_nan=False, allow_infinity=False)
usual_logits = st.floats(width=32, min_value=-30, max_value=30)
rows = st.lists(st.one_of(usual_logits, usual_logits, finite_logits, st.just(NEG_INF)), min_size=1, max_size=80).filter(
    lambda row: max(row) > NEG_INF
)


def row_of(*logits: float) -> np.ndarray:
    """Return a float32 row."""
    return np.array(logits, dtype=np.float32)


def tokens_of(*ids: int) -> np.ndarray:
    """Return an int32 row of token ids."""
    return np.array(ids, dtype=np.int32)


def mask_of(n_vocab: int, *ids: int) -> np.ndarray:
    """Return a bitmask that allows `ids`."""
    words = np.zeros((n_vocab + 31) // 32, dtype=np.uint32)
    for token in ids:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


def near(expected: float) -> object:
    """Return what compares equal to `expected` within the twins' tolerance."""
    return pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


def plain_logprobs(row: list[float]) -> list[float]:
    """Log-softmax by its definition in exactly rounded float64 sums; independent of both implementations."""
    peak = max(row)
    log_mass = math.log(math.fsum(math.exp(x - peak) for x in row))
    return [x - peak - log_mass for x in row]


def plain_entropy(logprobs: list[float]) -> float:
    """Shannon entropy in nats by its definition."""
    return -math.fsum(math.exp(lp) * lp for lp in logprobs if lp > NEG_INF)


def plain_margin(logprobs: list[float]) -> float:
    """Probability of the likeliest less that of the second."""
    first, second = sorted((math.exp(lp) for lp in [*logprobs, NEG_INF]), reverse=True)[:2]
    return first - second
