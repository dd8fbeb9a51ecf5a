"""How does a sequence draw its next token? From a row of logits, within its bias, penalties and grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybrid.engine.sequence import Sequence
from hybrid.errors import LocalFailure
from hybrid.native import Sampled, row_statistics, sample_row

if TYPE_CHECKING:
    from hybrid.engine.constraint import Constraint


def prepare_all(constraints: Iterable[Constraint]) -> None:
    """Compute what each constraint allows next."""
    for constraint in constraints:
        constraint.prepare()


def draw_token(sequence: Sequence, row: NDArray[np.float32], *, is_end: Callable[[int], bool]) -> Sampled:
    """Draw a token, and let the sequence's grammar take it.

    Raises: LocalFailure if the row is no distribution (a broken model file, a faulty device), or the grammar
        broke; the sequence cannot go on then.
    """
    constraint = sequence.constraint
    try:
        drawn = _measure_forced(sequence, row) or _draw(sequence, row)
    except ValueError as broken:
        raise LocalFailure(f"the model gave unusable logits: {broken}") from broken
    if constraint is not None:
        constraint.advance(drawn.token, is_end=is_end(drawn.token))
    return drawn


def _measure_forced(sequence: Sequence, row: NDArray[np.float32]) -> Sampled | None:
    """Take the only token there is, without a draw: over 150,000 tokens that is a third of the time."""
    forced = None if sequence.constraint is None or sequence.logprobs is not None else sequence.constraint.forced
    if forced is None:
        return None
    found = row_statistics(row, forced)
    return Sampled(forced, found.logprob, found.entropy, found.margin, ())


def _draw(sequence: Sequence, row: NDArray[np.float32]) -> Sampled:
    params, constraint = sequence.params, sequence.constraint
    sees_output = bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)
    bias_tokens, bias_values = sequence.bias or (None, None)
    return sample_row(
        row,
        params,
        prompt_tokens=sequence.prompt if params.repetition_penalty != 1.0 else None,
        output_tokens=np.asarray(sequence.output, dtype=np.int32) if sees_output else None,
        seed=sequence.seed,
        position=sequence.length,
        allowed=None if constraint is None else constraint.allowed,
        bias_tokens=bias_tokens,
        bias_values=bias_values,
        top_logprobs=0 if sequence.logprobs is None else sequence.logprobs.alternatives,
    )
