"""How many steps may follow each other at once, without Python between them? Pure.

Between two steps the worker's Python takes 0.3 to 0.5 ms: 5 % of a step of a small model, nothing of a large one's.
A run is several steps in one native call. It ends early when a token ends its text, or something arrives in the inbox.
"""

from __future__ import annotations

from hybrid.engine.scheduler import Plan, Work

LONGEST_RUN_S = 1 / 24
"""Its tokens reach the reader together: as often as a film changes its picture, and oftener than anybody reads."""
MOST_RUN_STEPS = 16


def run_steps(step: Plan, *, step_s: float | None, quiet_steps: int, available_cells: int) -> int:
    """Say how many steps a plan may be computed for; 1 where each needs a plan of its own.

    Args:
        step_s: what one takes, as far as was measured.
        quiet_steps: for so many nobody looks for drafts.
        available_cells: what all sequences can still get.
    """
    if not step.work or not step_s or not all(can_run(work) for work in step.work):
        return 1
    rest_tokens = min(work.sequence.max_output_tokens - len(work.sequence.output) for work in step.work)
    most = min(MOST_RUN_STEPS, quiet_steps, rest_tokens, available_cells // len(step.work), int(LONGEST_RUN_S / step_s))
    return max(1, most)


def can_run(work: Work) -> bool:
    """Whether the next draws need nothing but their rows: no grammar, no count of what was said, no guess."""
    sequence = work.sequence
    params = sequence.params
    has_penalties = bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)
    # The options' shares are read from the row of the first token.
    reads_row = bool(sequence.options) and not sequence.output
    return work.is_decode and not work.draft and sequence.constraint is None and not has_penalties and not reads_row
