"""How far is one next-token distribution from another, over all tokens? KL in nats a token, and its doubt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybrid.catalog.tuned import Divergence
from hybrid.errors import LocalFailure

Rows = NDArray[np.float32]
Nats = NDArray[np.float64]

BLOCK_TOKENS = 16
"""Neighbouring tokens are drawn together: what makes one of them hard makes the next one hard too."""
RESAMPLES = 2_000
SEED = 20_261_125


def row_divergences(reference: Rows, candidate: Rows) -> tuple[Nats, NDArray[np.bool_]]:
    """Compare rows of raw logits, both of shape (tokens, vocab_tokens).

    Computed in float64: the difference of two nearly equal log-probabilities is what is summed.

    Returns: KL(reference || candidate) of each row, >= 0, and whether both find the same token likeliest.
    Raises: LocalFailure if a row is not finite, which no distance can be told of.
    """
    expected, got = log_softmax(reference), log_softmax(candidate)
    divergences = (np.exp(expected) * (expected - got)).sum(axis=1)
    return np.maximum(divergences, 0.0), reference.argmax(axis=1) == candidate.argmax(axis=1)


def log_softmax(logits: Rows) -> Nats:
    """Natural log-probabilities of each row. Raises: LocalFailure if a logit is not finite."""
    if not np.isfinite(logits).all():
        raise LocalFailure("its logits are not finite")
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    return exact


def summarise(nats: Nats, agrees: NDArray[np.bool_]) -> Divergence:
    """Give mean, 95 % interval and tail of the divergences of consecutive tokens, shape (tokens,).

    The interval is a percentile bootstrap over blocks of `BLOCK_TOKENS`, always of the same draws.

    Source: Künsch 1989, Annals of Statistics 17(3) (resampling blocks where neighbours depend on each other).
    """
    if not len(nats):
        raise ValueError("no tokens were compared")
    starts = np.arange(0, len(nats), BLOCK_TOKENS)
    sums = np.add.reduceat(nats, starts)
    sizes = np.diff(np.append(starts, len(nats)))
    draws = np.random.default_rng(SEED).integers(len(starts), size=(RESAMPLES, len(starts)))
    low, high = np.quantile(sums[draws].sum(axis=1) / sizes[draws].sum(axis=1), (0.025, 0.975))
    return Divergence(
        tokens=len(nats),
        mean_nats=float(nats.mean()),
        low_nats=float(low),
        high_nats=float(high),
        p99_nats=float(np.quantile(nats, 0.99)),
        top1_agreement=float(agrees.mean()),
    )
