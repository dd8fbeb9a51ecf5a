"""What goes into the next step? Pure planning over running sequences and KV cells; no tensors, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from hybrid.backends.base import BatchEntry
from hybrid.engine.sequence import Sequence


@dataclass(slots=True)
class Work:
    """What one sequence computes in a step: `count` of its pending tokens, then `draft`, guesses of what follows.

    A draft is judged by the rows of the same step: what the sequence draws itself is kept, the rest is computed again.
    is_decode: whether it draws its next token from one computed token.
    """

    sequence: Sequence
    count: int
    is_decode: bool
    draft: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """The cells it takes."""
        return self.count + len(self.draft)

    @property
    def rows(self) -> int:
        """Rows of logits it needs: one a token it may draw."""
        return 1 + len(self.draft) if self.count == self.sequence.pending else 0

    def entry(self) -> BatchEntry:
        """It as the backend takes it."""
        sequence = self.sequence
        assert sequence.slot is not None
        tokens = sequence.tokens_at(sequence.computed, self.count) + self.draft
        return BatchEntry(sequence.slot, tokens, sequence.computed, logits=self.rows)


@dataclass(slots=True)
class Plan:
    """One step: what each sequence computes, or else who must give way before anyone can go on."""

    preempted: Sequence | None = None
    work: list[Work] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """All tokens of the step: the cells it takes."""
        return sum(work.tokens for work in self.work)

    @property
    def prefill_tokens(self) -> int:
        """Tokens of this step that belong to prompts."""
        return sum(work.count for work in self.work if not work.is_decode)

    @property
    def decoding(self) -> list[Work]:
        """The part of it that draws from one computed token."""
        return [work for work in self.work if work.is_decode]


def next_adapter(running: Seq[Sequence], turns: Mapping[int | None, int]) -> int | None:
    """Choose whose step is next: llama.cpp applies an adapter to a whole batch, so one step is for one of them.

    The adapter that had its last turn the longest ago, so that among k of them each gets every k-th step; of those
    that had none yet, the one of the most urgent sequence. Running without an adapter counts as one.

    Args:
        turns: the number of the last step of each adapter.
    """
    chosen = min(running, key=lambda sequence: (turns.get(sequence.adapter, -1), sequence.urgency), default=None)
    return None if chosen is None else chosen.adapter


def plan(
    running: Seq[Sequence],
    *,
    available_cells: int,
    prefill_budget_tokens: int,
    batch_tokens: int,
    adapter: int | None = None,
) -> Plan:
    """Plan one step.

    Every decoding sequence gets its one token first, so a long prompt never stalls a short stream; prompts
    share what `prefill_budget_tokens` leaves, the earliest due first. When the cells do not suffice for the decoding
    ones, the last due running sequence gives all of its cells back and starts over later from its tokens.

    Args:
        available_cells: what running sequences can still get, cells of idle ones included.
        adapter: only sequences of this one compute in the step.
    """
    keep = sorted(running, key=lambda sequence: sequence.urgency)
    if len(keep) > 1 and _is_stuck(keep, available_cells):
        # One at a time: how many cells that frees depends on who else shares them, so the caller plans anew.
        return Plan(preempted=keep[-1])
    keep = [sequence for sequence in keep if sequence.adapter == adapter]
    step = Plan()
    step.work = [Work(sequence, 1, is_decode=True) for sequence in keep if sequence.pending == 1]
    budget = min(prefill_budget_tokens, batch_tokens - len(step.work), available_cells - len(step.work))
    for sequence in keep:
        count = min(sequence.pending, budget)
        if sequence.pending > 1 and count > 0:
            step.work.append(Work(sequence, count, is_decode=False))
            budget -= count
    return step


def _is_stuck(running: Seq[Sequence], available_cells: int) -> bool:
    """Say whether the cells left do not let every decoding sequence, or else any prompt, go on."""
    decoding = sum(1 for sequence in running if sequence.pending == 1)
    return decoding > available_cells or available_cells == 0


def fits(running: Seq[Sequence], new_cells: int, *, available_cells: int, headroom_cells: int) -> bool:
    """Say whether a waiting prompt may enter: its cells, beside those that running prompts still have to fill."""
    promised = sum(sequence.pending for sequence in running if sequence.pending > 1)
    headroom = min(headroom_cells, available_cells // 8)
    return new_cells + promised + (headroom if running else 0) <= available_cells
