"""Who guesses the next tokens? The text so far, or a small model beside the large one; the engine judges."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np

from hybrid.backends.base import Backend, BatchEntry
from hybrid.engine.kv_cache import common_length
from hybrid.engine.scheduler import Plan, Work
from hybrid.engine.sequence import Sequence
from hybrid.engine.speculation import (
    LONG_PRIOR_ACCEPTANCE,
    MAX_DRAFT_TOKENS,
    Glances,
    Worth,
    draft_lengths,
    forgotten,
    learned,
)
from hybrid.errors import LocalFailure, ModelFileError

SMOOTHING = 0.2
MOST_QUIET_STEPS = 1_000
SAMPLED_TOKENS = 997
"""How many tokens of two vocabularies are compared, spread over all."""


class Drafter:
    """Puts drafts into a step that only decodes. Belongs to the thread that owns the model.

    model: a small model that drafts where the text does not repeat; None: only the text is looked up.
    is_on: False drafts only what a grammar forces.
    """

    def __init__(self, model: ModelDrafts | None = None, *, is_on: bool = True) -> None:
        self._model = model
        self.is_on = is_on
        self._worth: defaultdict[int, Worth] = defaultdict(Worth)
        self._glances = Glances()
        self._declined: Sequence | None = None  # the one of the last look for which no draft was worth it

    def draft(self, step: Plan, step_s: Callable[[int, int], float | None], *, most_tokens: int) -> None:
        """Add drafts to `step` where they promise more tokens a second.

        Args:
            step_s: seconds of a step of so many sequences and drafted tokens; None while no step was measured, and
                nothing is drafted.
            most_tokens: how many the batch and the cache have room for.
        """
        self._declined = None
        for work in step.decoding:
            if work.sequence.constraint is not None:
                # What a grammar forces is no guess, and needs no judge: its tokens are computed at once.
                work.draft = list(work.sequence.constraint.forced_run[:-1][: min(_room(work), most_tokens)])
                most_tokens -= len(work.draft)
        free = [work for work in step.decoding if work.sequence.can_draft]
        if not self.is_on or not free or most_tokens < 1 or step_s(1, 0) is None:
            return
        if not self._worth[_about(len(step.decoding))].may_draft() or not self._glances.is_due():
            return
        found = {id(work): work.sequence.repeat(_room(work)) for work in free}
        repeating, is_catching_up = [work for work in free if found[id(work)]], False
        if repeating:
            available = [len(found[id(work)]) for work in repeating]
            for work, length in zip(
                repeating, self._lengths(step, repeating, available, step_s, most_tokens), strict=True
            ):
                work.draft = found[id(work)][:length]
                if not length:
                    self._decline(step, work)
        elif self._model is not None:
            rounds = [min(_room(work), self._model.room(work.sequence)) for work in free]
            lengths = self._lengths(step, free, rounds, step_s, most_tokens, round_s=self._model.round_s)
            wanted = [(work, length) for work, length in zip(free, lengths, strict=True) if length]
            is_catching_up = self._model.fill(wanted)
            for work, length in zip(free, lengths, strict=True):
                if not length:
                    self._decline(step, work)
        # A look that brought the small model nearer was not in vain.
        has_found = is_catching_up or any(work.draft for work in free)
        self._glances.saw(has_found=has_found, beside_others=len(step.decoding) > 1)

    def quiet_steps(self, step: Plan) -> int:
        """Say for how many steps, this one among them, nobody looks for drafts or would have a use for any."""
        if not self.is_on or not any(work.sequence.can_draft for work in step.decoding):
            return MOST_QUIET_STEPS
        return self._worth[_about(len(step.decoding))].rest_steps or self._glances.quiet_steps

    def skip(self, step: Plan, steps: int) -> None:
        """Count steps that passed without `draft`, after one that had it."""
        self._worth[_about(len(step.decoding))].skip(steps)
        self._glances.skip(steps)
        if self._declined is not None:
            self._declined.acceptance = forgotten(self._declined.acceptance, looks=steps)

    def judged(self, work: Work, accepted: int) -> None:
        """Learn how many of a draft's tokens its sequence drew itself."""
        if work.draft and work.sequence.can_draft:
            _note(work.sequence, drafted=len(work.draft), accepted=accepted)

    def measured(self, sequences: int, *, gain: float) -> None:
        """Learn what a step with drafts gave: its tokens a second against those of a step without."""
        self._worth[_about(sequences)].learn(gain)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has left."""
        if self._model is not None:
            self._model.forget(sequence)

    def _decline(self, step: Plan, work: Work) -> None:
        _note(work.sequence, drafted=0, accepted=0)
        # Alone it would have been looked at in each step of a run, and judged as now; beside others it waits anyway.
        self._declined = work.sequence if len(step.decoding) == 1 else None

    @staticmethod
    def _lengths(
        step: Plan,
        works: Seq[Work],
        available: Seq[int],
        step_s: Callable[[int, int], float | None],
        most_tokens: int,
        *,
        round_s: float = 0.0,
    ) -> list[int]:
        sequences = len(step.work)

        def known_s(tokens: int) -> float:
            seconds = step_s(sequences, tokens - sequences)
            assert seconds is not None
            return seconds

        acceptances = [
            max(work.sequence.acceptance, LONG_PRIOR_ACCEPTANCE * work.sequence.repeats.is_long) for work in works
        ]
        others = sequences - len(works)
        return draft_lengths(acceptances, available, known_s, most_tokens=most_tokens, others=others, round_s=round_s)


def _about(sequences: int) -> int:
    """Batches of about one size are judged together: 1, 2, 3 to 4, 5 to 8, ..."""
    return (sequences - 1).bit_length()


def _room(work: Work) -> int:
    """How many drafted tokens could be of use: the last token of an answer is drawn, not computed."""
    sequence = work.sequence
    return max(0, min(MAX_DRAFT_TOKENS, sequence.max_output_tokens - len(sequence.output) - 1))


def _note(sequence: Sequence, *, drafted: int, accepted: int) -> None:
    sequence.acceptance = learned(sequence.acceptance, drafted=drafted, accepted=accepted)


@dataclass(slots=True)
class _Draft:
    """What the small model holds of one sequence."""

    slot: int
    tokens: list[int] = field(default_factory=list)


class ModelDrafts:
    """Greedy continuations by a small model with the same vocabulary, for several sequences at once.

    It computes each sequence's tokens in a cache of its own, in chunks of one step, and drafts once it has caught up.
    """

    def __init__(self, backend: Backend, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._backend = backend
        self._clock = clock
        self._held: dict[tuple[str, int], _Draft] = {}
        self._free_slots = list(range(backend.facts.sequence_ids))[::-1]
        self.round_s = 0.0
        """Seconds of one more drafted token for each sequence; 0 until one was made."""

    def room(self, sequence: Sequence) -> int:
        """How far the small model may go beyond the sequence's tokens."""
        return max(0, min(MAX_DRAFT_TOKENS, self._backend.facts.context_tokens - sequence.length - 1))

    def fill(self, wanted: Seq[tuple[Work, int]]) -> bool:
        """Give each work a draft of the length that is wanted, or none while its tokens are not computed here yet.

        Returns: whether there are such, and the next steps come nearer to them.
        """
        ahead = sum(work.sequence.length + length for work, length in wanted)
        if ahead > self._backend.facts.kv_cells:
            return False  # its cache does not hold them all, and what does not fit fails
        drafts = [self._hold(work.sequence) for work, _ in wanted]
        try:
            likeliest = self._catch_up(
                [(work.sequence, draft) for (work, _), draft in zip(wanted, drafts, strict=True)]
            )
            active = [
                (work, length, draft)
                for (work, length), draft in zip(wanted, drafts, strict=True)
                if draft.slot in likeliest
            ]
            is_catching_up = len(active) < len(wanted)
            for work, _, draft in active:
                work.draft.append(likeliest[draft.slot])
            while active := [(work, length, draft) for work, length, draft in active if len(work.draft) < length]:
                started_s = self._clock()
                rows = self._backend.decode(
                    [BatchEntry(draft.slot, work.draft[-1:], len(draft.tokens), logits=1) for work, _, draft in active]
                )
                for (work, _, draft), row in zip(active, rows, strict=True):
                    draft.tokens.append(work.draft[-1])
                    work.draft.append(int(row.argmax()))
                self._observe(self._clock() - started_s)
        except LocalFailure:
            # Its cache is full or it broke: the large model goes on alone.
            self._drop_all()
            for work, _ in wanted:
                work.draft = []
            return False
        return is_catching_up

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over, or starts anew."""
        draft = self._held.pop((sequence.id, sequence.choice), None)
        if draft is not None:
            self._backend.forget(draft.slot)
            self._free_slots.append(draft.slot)

    def _hold(self, sequence: Sequence) -> _Draft:
        key = (sequence.id, sequence.choice)
        draft = self._held.get(key)
        if draft is None:
            draft = self._held[key] = _Draft(self._free_slots.pop())
        return draft

    def _catch_up(self, pairs: Seq[tuple[Sequence, _Draft]]) -> dict[int, int]:
        """Compute what is missing, as much as one step takes; give the likeliest next token of those that are done."""
        entries, caught_up = [], []
        left = self._backend.facts.batch_tokens
        for sequence, draft in pairs:
            tokens = sequence.all_tokens()
            shared = min(common_length(np.asarray(draft.tokens, dtype=np.int32), tokens), len(tokens) - 1)
            if shared < len(draft.tokens):
                self._backend.truncate(draft.slot, shared)
                del draft.tokens[shared:]
            missing = tokens[shared : shared + left].tolist()
            if not missing:
                continue
            left -= len(missing)
            is_done = shared + len(missing) == len(tokens)
            entries.append(BatchEntry(draft.slot, missing, shared, logits=int(is_done)))
            draft.tokens += missing
            if is_done:
                caught_up.append(draft.slot)
        rows = self._backend.decode(entries) if entries else ()
        return {slot: int(row.argmax()) for slot, row in zip(caught_up, rows, strict=True)}

    def _observe(self, seconds: float) -> None:
        self.round_s = seconds if not self.round_s else self.round_s + SMOOTHING * (seconds - self.round_s)

    def _drop_all(self) -> None:
        for draft in self._held.values():
            self._backend.forget(draft.slot)
            self._free_slots.append(draft.slot)
        self._held.clear()


def check_vocabulary(draft: Backend, target: Backend) -> None:
    """See that a draft model's tokens mean the same as the large model's.

    Raises: ModelFileError naming the first token that differs.
    """
    ours, theirs = draft.facts, target.facts
    if ours.vocab_tokens != theirs.vocab_tokens:
        raise ModelFileError(
            f"{ours.name} cannot draft for {theirs.name}: it has {ours.vocab_tokens} tokens, not {theirs.vocab_tokens}"
        )
    step = max(1, theirs.vocab_tokens // SAMPLED_TOKENS)
    for token in range(0, theirs.vocab_tokens, step):
        if draft.piece(token) != target.piece(token) or draft.is_end(token) != target.is_end(token):
            raise ModelFileError(f"{ours.name} cannot draft for {theirs.name}: token {token} is another in each")
