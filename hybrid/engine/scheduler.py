"""What goes into the next step? Pure planning over sequences, slots and KV cells; no tensors, no clock."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from hybrid.backends.base import BatchEntry
from hybrid.engine.sequence import Sequence

HEADROOM_CELLS = 32
"""Cells left free when a sequence is admitted, so that it is not preempted by its neighbours' next tokens."""


@dataclass(slots=True)
class Plan:
    """One step: who enters, who must give way first, and what each sequence computes."""

    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    work: list[tuple[Sequence, int]] = field(default_factory=list)
    """Each running sequence of this step and how many of its pending tokens it computes."""

    @property
    def prefill_tokens(self) -> int:
        """Tokens of this step that belong to prompts."""
        return sum(count for sequence, count in self.work if sequence.pending > 1)

    @property
    def decode_tokens(self) -> int:
        """Sequences of this step that draw their next token from one computed token."""
        return sum(1 for sequence, _ in self.work if sequence.pending == 1)

    def entries(self) -> list[BatchEntry]:
        """The step as the backend takes it."""
        entries = []
        for sequence, count in self.work:
            assert sequence.slot is not None
            entries.append(
                BatchEntry(
                    sequence.slot,
                    sequence.tokens_at(sequence.computed, count),
                    sequence.computed,
                    wants_logits=count == sequence.pending,
                )
            )
        return entries


def plan(
    running: Seq[Sequence],
    waiting: Seq[Sequence],
    *,
    free_slots: int,
    free_cells: int,
    prefill_budget_tokens: int,
    batch_tokens: int,
) -> Plan:
    """Plan one step.

    Every decoding sequence gets its one token first, so a long prompt never stalls a short stream; prompts
    share what `prefill_budget_tokens` leaves, oldest first. When the cells do not suffice for the decoding
    ones, the youngest running sequence gives all of its cells back and starts over later from its tokens.
    """
    step = Plan()
    keep = sorted(running, key=lambda sequence: sequence.order)
    while len(keep) > 1 and _is_stuck(keep, free_cells):
        victim = keep.pop()
        step.preempted.append(victim)
        free_cells += victim.computed
    step.work = [(sequence, 1) for sequence in keep if sequence.pending == 1]
    free_cells -= len(step.work)
    budget = min(prefill_budget_tokens, batch_tokens - len(step.work), free_cells)
    for sequence in keep:
        if sequence.pending == 1:
            continue
        # Cells for the whole rest are set aside even if this step computes a part of it.
        free_cells -= sequence.pending
        count = min(sequence.pending, budget)
        if count > 0:
            step.work.append((sequence, count))
            budget -= count
    if step.preempted:
        return step
    for sequence in sorted(waiting, key=lambda sequence: sequence.order):
        # Strictly in order: letting a short prompt pass a long one would starve the long one under load.
        if not free_slots or budget <= 0 or sequence.length + min(HEADROOM_CELLS, free_cells // 8) > free_cells:
            break
        count = min(sequence.pending, budget)
        step.admitted.append(sequence)
        step.work.append((sequence, count))
        budget -= count
        free_cells -= sequence.length
        free_slots -= 1
    return step


def _is_stuck(running: Seq[Sequence], free_cells: int) -> bool:
    """Say whether the cells left do not let every decoding sequence, or else any prompt, go on."""
    decoding = sum(1 for sequence in running if sequence.pending == 1)
    return decoding > free_cells or free_cells == 0
