"""What goes into the next step? Pure planning over running sequences and KV cells; no tensors, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from hybrid.backends.base import BatchEntry
from hybrid.engine.sequence import Sequence

LONGEST_JOINT_START_S = 8.0
"""How long the first of several requests that came together wait at most for the last one's prompt."""
JOINT_START_SLACK_TOKENS = 128
LAST_STRETCH = 1.5


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
    def lone_prompt(self) -> str | None:
        """The request whose prompt is all that is computed; None where others, or answers, are."""
        requests = {work.sequence.id for work in self.work}
        return requests.pop() if len(requests) == 1 and not self.decoding else None

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


def waits_for_others(sequence: Sequence, running: Seq[Sequence], now_s: float) -> bool:
    """Say whether a sequence that has drawn its first token waits with the second for prompts that came with its own.

    Requests that arrive together start together: decoding the first of them alone, between the others' prompts, costs
    all of them time, for a full batch decodes at half the price of a small one. Only prompts that were there before
    its first token count, and only those of about its own size: a long one must not hold up a short one. Whoever has
    begun to decode never waits again.
    """
    first_s = sequence.first_token_s
    if first_s is None or len(sequence.output) != 1 or now_s - first_s >= LONGEST_JOINT_START_S:
        return False
    longest = 2 * len(sequence.prompt) + JOINT_START_SLACK_TOKENS
    return any(
        other.pending > 1
        and len(other.prompt) <= longest
        and other.submitted_s is not None
        and other.submitted_s <= first_s
        and other.adapter == sequence.adapter
        for other in running
    )


def prefill_turn(sequence: Sequence, token_s: float) -> tuple[float, int]:
    """What orders the prompts in a step, the smallest first: when one is due, and what is left of it.

    A short one that comes while a long one is computed has its first token a moment later, and not after it. The long
    one is passed by none that came later than it still takes itself, so that it has its turn under any load.

    Args:
        token_s: how long a token of a prompt takes.
    """
    due_s, order = sequence.urgency
    return due_s + sequence.pending * token_s, order


def passed_below(sequence: Sequence, now_s: float, token_s: float | None) -> int:
    """Give the tokens below which a prompt of the same priority that comes now passes this one, by `prefill_turn`."""
    if not token_s or sequence.submitted_s is None:
        return 0
    return max(0, math.floor(sequence.pending - (now_s - sequence.submitted_s) / token_s))


def plan(
    running: Seq[Sequence],
    *,
    available_cells: int,
    prefill_budget_tokens: int,
    batch_tokens: int,
    adapter: int | None = None,
    now_s: float = 0.0,
    prefill_token_s: float | None = None,
) -> Plan:
    """Plan one step.

    Every decoding sequence gets its one token first, so a long prompt never stalls a short stream; prompts
    share what `prefill_budget_tokens` leaves, in the order of `prefill_turn`. When the cells do not suffice for the
    decoding ones, the last due running sequence gives all of its cells back and starts over later from its tokens.

    Args:
        available_cells: what running sequences can still get, cells of idle ones included.
        adapter: only sequences of this one compute in the step.
        now_s: the engine's clock, for those that wait to start together.
        prefill_token_s: how long a token of a prompt takes; None while unknown.
    """
    keep = sorted(running, key=lambda sequence: sequence.urgency)
    if len(keep) > 1 and _is_stuck(keep, available_cells):
        # One at a time: how many cells that frees depends on who else shares them, so the caller plans anew.
        return Plan(preempted=keep[-1])
    keep = [sequence for sequence in keep if sequence.adapter == adapter]
    step = Plan()
    prompts = sorted(
        (sequence for sequence in keep if sequence.pending > 1),
        key=lambda sequence: prefill_turn(sequence, prefill_token_s or 0.0),
    )
    step.work = [
        Work(sequence, 1, is_decode=True)
        for sequence in keep
        if sequence.pending == 1 and not (prompts and waits_for_others(sequence, prompts, now_s))
    ]
    room = min(batch_tokens, available_cells) - len(step.work)
    budget = min(prefill_budget_tokens, room)
    for sequence in prompts:
        count = min(sequence.pending, budget)
        if not step.work and sequence.pending <= min(budget * LAST_STRETCH, room):
            count = sequence.pending  # a short rest is not worth a step of its own
        if count > 0:
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
