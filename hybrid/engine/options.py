"""How likely was each option of a question? Read from the row of logits that the answer's first token is drawn from."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import Backend
from hybrid.engine.scheduler import Work


def option_tokens(backend: Backend, options: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Give for each option the single tokens an answer that chooses it may begin with: as it is, or after a space.

    An option that is no single token either way has none, and is never likely.
    """
    return tuple(_single_tokens(backend, option) for option in options)


def _single_tokens(backend: Backend, option: str) -> tuple[int, ...]:
    ways = (backend.tokenize(option), backend.tokenize(f" {option}"))
    return tuple(dict.fromkeys(tokens[0] for tokens in ways if len(tokens) == 1))


def first_options(work: Seq[Work], rows: NDArray[np.float32]) -> dict[tuple[str, int], tuple[float, ...]]:
    """Read the options' log-probabilities where a sequence that has some draws its first token.

    Args:
        work: of one step, in the order of its rows. rows: its logits, shape (n_rows, vocab_tokens).
    Returns: by request and choice, natural log-probabilities in the options' order.
    """
    found: dict[tuple[str, int], tuple[float, ...]] = {}
    place = 0
    for one in work:
        sequence = one.sequence
        if one.rows and sequence.options and not sequence.output:
            found[sequence.id, sequence.choice] = logprobs_of(rows[place], sequence.options)
        place += one.rows
    return found


def logprobs_of(row: NDArray[np.float32], options: Seq[Seq[int]]) -> tuple[float, ...]:
    """Sum the probabilities of each option's tokens under a whole row of logits; -inf where it has none."""
    peak = float(row.max())
    whole = float(np.log(np.exp(row.astype(np.float64) - peak).sum()))
    return tuple(
        float(np.logaddexp.reduce([float(row[token]) - peak for token in tokens])) - whole if tokens else -np.inf
        for tokens in options
    )
