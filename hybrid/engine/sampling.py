"""How does a sequence draw its next tokens? From rows of logits, within its bias, penalties and grammar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from hybrid.engine.scheduler import Work
from hybrid.native import RowDraw

if TYPE_CHECKING:
    from hybrid.engine.constraint import Constraint


def prepare_all(constraints: Iterable[Constraint]) -> None:
    """Compute what each constraint allows next."""
    for constraint in constraints:
        constraint.prepare()


def row_draws(work: Work) -> list[RowDraw]:
    """Say how each row of a step's work is drawn from: the next token, and those behind its draft's tokens.

    Raises: LocalFailure if the sequence's grammar broke, or leaves nothing to say.
    """
    sequence = work.sequence
    params, constraint = sequence.params, sequence.constraint
    run = () if constraint is None else constraint.forced_run
    sees_output = bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)
    bias_tokens, bias_values = sequence.bias or (None, None)
    return [
        RowDraw(
            params=params,
            seed=sequence.seed,
            position=sequence.length + place,
            prompt_tokens=sequence.prompt if params.repetition_penalty != 1.0 else None,
            output_tokens=np.asarray(sequence.output + work.draft[:place], dtype=np.int32) if sees_output else None,
            allowed=None if constraint is None or place < len(run) else constraint.allowed,
            bias_tokens=bias_tokens,
            bias_values=bias_values,
            top_logprobs=0 if sequence.logprobs is None else sequence.logprobs.alternatives,
            forced=run[place] if place < len(run) else None,
        )
        for place in range(work.rows)
    ]
