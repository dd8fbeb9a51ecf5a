"""How many steps may follow each other at once, without Python between them? Pure.

Between two steps the worker's Python takes 0.3 to 2 ms while nothing computes: 2 to 5 % of a step of a small model,
nothing of a large one's. A run is several steps in one native call; what they draw is settled while the next ones are
computed. It ends early when a token ends its text, or something arrives in the inbox.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.engine.scheduler import Plan, Work

LONGEST_BUNDLE_S = 1 / 24
"""Tokens reach the reader together: as often as a film changes its picture, and oftener than anybody reads."""
MOST_RUN_STEPS = 32


@dataclass(frozen=True, slots=True)
class RunLength:
    """steps: how many follow each other at most. bundle: how many of them are heard of together."""

    steps: int
    bundle: int = 1


ONE_STEP = RunLength(1)


def run_length(
    step: Plan, *, step_s: float | None, quiet_steps: int, available_cells: int, has_others: bool = False
) -> RunLength:
    """Say for how many steps a plan may be computed; one where each needs a plan of its own.

    Args:
        step_s: what one takes, as far as was measured.
        quiet_steps: for so many nobody looks for drafts.
        available_cells: what all sequences can still get.
        has_others: somebody runs who is not in the step, and has the next turn: one bundle is all.
    """
    if not step.work or not step_s or not all(can_run(work) for work in step.work):
        return ONE_STEP
    bundle = max(1, int(LONGEST_BUNDLE_S / step_s))
    rest_tokens = min(work.sequence.max_output_tokens - len(work.sequence.output) for work in step.work)
    most = min(MOST_RUN_STEPS, quiet_steps, rest_tokens, available_cells // len(step.work))
    return RunLength(max(1, min(most, bundle) if has_others else most), bundle)


def can_run(work: Work) -> bool:
    """Whether the next draws need nothing but their rows: no grammar, no count of what was said, no guess."""
    sequence = work.sequence
    params = sequence.params
    has_penalties = bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)
    # The options' shares are read from the row of the first token.
    reads_row = bool(sequence.options) and not sequence.output
    return work.is_decode and not work.draft and sequence.constraint is None and not has_penalties and not reads_row
