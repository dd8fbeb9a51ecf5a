"""Is the divergence of two distributions what the definition says, and does its interval hold the truth?"""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.errors import LocalFailure
from hybrid.tuning.divergence import log_softmax, row_divergences, summarise


def rows(seed: int, scale: float = 3.0) -> np.ndarray:
    """Logits of 40 tokens over a vocabulary of 500."""
    return (scale * np.random.default_rng(seed).standard_normal((40, 500))).astype(np.float32)


def test_by_hand():
    """KL((1/2, 1/2) || (1/4, 3/4)) is ln 2 / 2 + ln(2/3) / 2."""
    nats, agrees = row_divergences(
        np.log(np.array([[0.5, 0.5]], dtype=np.float32)), np.log(np.array([[0.25, 0.75]], dtype=np.float32))
    )
    assert pytest.approx(0.5 * np.log(2.0) + 0.5 * np.log(2.0 / 3.0), abs=1e-7) == nats[0]
    assert [False] == list(agrees)


def test_nothing_diverges_from_itself():
    """Zero, exactly; also when all logits are shifted, which changes no probability (but rounds float32)."""
    same, agrees = row_divergences(rows(1), rows(1))
    assert 0.0 == same.max()
    assert agrees.all()
    shifted, _ = row_divergences(rows(1), rows(1) + np.float32(50))
    assert shifted.max() < 1e-9


def test_it_grows_with_the_distance():
    """More noise on the logits, more nats; never negative."""
    reference = rows(1)
    means = [row_divergences(reference, reference + noise * rows(2))[0].mean() for noise in (0.01, 0.03, 0.1)]
    assert sorted(means) == means
    assert means[0] > 0


def test_large_logits_do_not_overflow():
    """Softmax is of differences: a logit of 1e4 is no infinity."""
    assert np.isfinite(log_softmax(np.array([[1e4, 0.0, -1e4]], dtype=np.float32))).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_unusable_logits_are_refused(broken):
    """A row that is not finite is a failure of the candidate, and not a number."""
    bad = rows(1)
    bad[3, 5] = broken
    with pytest.raises(LocalFailure, match="not finite"):
        row_divergences(rows(1), bad)


def test_the_summary_tells_mean_tail_and_agreement():
    """Figures over all tokens, the same every time."""
    nats = np.concatenate([np.full(99, 0.01), [1.0]])
    summary = summarise(nats, np.array([True] * 75 + [False] * 25))
    assert (100, 0.75) == (summary.tokens, summary.top1_agreement)
    assert pytest.approx(0.0199) == summary.mean_nats
    assert summary.low_nats <= summary.mean_nats <= summary.high_nats
    assert summary == summarise(nats, np.array([True] * 75 + [False] * 25))


def test_the_interval_holds_the_mean_about_as_often_as_it_says():
    """Of 100 texts whose neighbouring tokens are alike, at least 80 intervals hold the true mean.

    95 are promised for many blocks; the percentile bootstrap over the 40 of a text is known to give a little less.
    """
    draw = np.random.default_rng(7)
    held = 0
    for _ in range(100):
        nats = np.repeat(draw.exponential(0.02, 160), 4)
        summary = summarise(nats, np.ones(640, dtype=bool))
        held += summary.low_nats <= 0.02 <= summary.high_nats
    assert held >= 80


def test_no_tokens_no_summary():
    """Nothing compared is an error, not a zero."""
    with pytest.raises(ValueError, match="no tokens"):
        summarise(np.array([]), np.array([], dtype=bool))
