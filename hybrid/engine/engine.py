"""What happens in one step? Plan, decode, sample, emit: the loop's body, owned by one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import Backend, Interrupted
from hybrid.engine.ahead import Ahead
from hybrid.engine.drafting import Drafter
from hybrid.engine.drawn import take
from hybrid.engine.kv_cache import MIN_SHARED_TOKENS, KvCache, common_length
from hybrid.engine.neighbours import Neighbours, no_reading
from hybrid.engine.options import first_options
from hybrid.engine.pace import Pace
from hybrid.engine.pressure import Reading
from hybrid.engine.report import Delta, StepReport, failed
from hybrid.engine.runs import ONE_STEP, RunLength, run_length
from hybrid.engine.sampling import prepare_all, row_draws
from hybrid.engine.scheduler import (
    Plan,
    Work,
    fits,
    next_adapter,
    passed_below,
    plan,
    waits_for_others,
)
from hybrid.engine.sequence import Sequence
from hybrid.errors import LocalFailure
from hybrid.native import RowDraw, Sampled, SampleParams, sample_rows

HEADROOM_CELLS = 32
"""Cells left free when a sequence is admitted, so that it is not preempted by its neighbours' next tokens."""
WORTH_WAITING_TOKENS = MIN_SHARED_TOKENS
"""A prompt waits for a running one to compute a common beginning that is this much longer than what is there: it
computes nothing in the meantime that the other one would not have to share the machine with."""


UNUSED_DRAW = RowDraw(params=SampleParams(temperature=0.0), seed=0, position=0)
"""For the rows of a sequence that is broken already: each row needs a draw."""


class Engine:
    """Continuous batching over one backend. Every method belongs to the one thread that owns the model.

    drafter: who guesses tokens ahead; None takes the text itself for a guide.
    read_pressure: gives the kernel's counters, see `pressure.py`. is_adaptive: whether it may change the threads.
    emit: is given what a run of steps did so far, from another thread, while it goes on; `step` returns the rest. None:
    `step` returns all of it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        drafter: Drafter | None = None,
        clock: Callable[[], float] = time.perf_counter,
        read_pressure: Callable[[], Reading] = no_reading,
        is_adaptive: bool = True,
        emit: Callable[[StepReport], None] | None = None,
    ) -> None:
        self._backend = backend
        self._emit = emit
        self._drafter = drafter or Drafter()
        self._clock = clock
        facts = backend.facts
        self.cache = KvCache(
            backend,
            cells=facts.kv_cells,
            sequence_ids=facts.sequence_ids,
            has_one_pool=facts.has_one_pool,
            can_share=facts.can_share_cells,
        )
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.pace = Pace()
        self.neighbours = Neighbours(backend, self.pace, read=read_pressure, is_adaptive=is_adaptive)
        self._computing: str | None = None  # the only request of the step that is computed now, of its prompt
        self._turns: dict[int | None, int] = {}  # the step each adapter had last
        self._mask_thread = ThreadPoolExecutor(1, "masks")  # starts with its first mask

    @property
    def has_work(self) -> bool:
        """Say whether a step would do anything."""
        return bool(self.running or self.waiting)

    def prompts(self) -> list[tuple[int, int]]:
        """Those not yet computed, running or waiting: as `frames.Load` has them."""
        now_s, token_s = self._clock(), self.pace.prefill_token_s
        left = [*self.waiting, *(sequence for sequence in self.running if sequence.pending > 1)]
        return [(sequence.pending, passed_below(sequence, now_s, token_s)) for sequence in left]

    @property
    def free_cells(self) -> int:
        """KV cells that running sequences can still get: free ones, and those of finished sequences."""
        return self.cache.available_cells

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence. Its prompt and answer fit the context: whoever calls has checked that."""
        sequence.submitted_s = self._clock()
        self.waiting.append(sequence)

    def cancel(self, sequence_id: str) -> None:
        """Take all answers to a request out; slots and cells are free at once. Unknown ids are over already."""
        self.waiting = [sequence for sequence in self.waiting if sequence.id != sequence_id]
        for sequence in [sequence for sequence in self.running if sequence.id == sequence_id]:
            self._leave(sequence)

    def interrupt(self, request_id: str) -> None:
        """End the step that runs now if it computes nothing but this request's prompt. Any thread may call this.

        What the step would have given is lost, so whoever calls cancels the request as well.
        """
        if self._computing == request_id:
            self._backend.interrupt()

    def step(self) -> StepReport:
        """Run one step. A step that fails ends the sequences in it, never the loop."""
        report = StepReport()
        self._admit(report)
        if self.waiting and not self.running:
            # With nobody running everything is there to be had: what does not enter now never will.
            lost = self.waiting.pop(0)
            report.deltas.append(Delta(lost.id, lost.choice, failure="it does not fit the cache even when it is alone"))
        step = self._plan()
        while step.preempted is not None:
            self._preempt(step.preempted)
            step = self._plan()
        if not step.work:
            return report
        if step.prefill_tokens == 0:
            room = min(self._backend.facts.batch_tokens, self.cache.available_cells) - step.tokens
            self._drafter.draft(step, self.pace.drafting_s, most_tokens=room if self._can_judge else 0)
        return self._run(step, report)

    @property
    def _can_judge(self) -> bool:
        """Whether drafted tokens that were wrong can be taken out of the cache again."""
        return self._backend.facts.can_truncate

    def _run(self, step: Plan, report: StepReport) -> StepReport:
        """Compute a step, or a run of them, draw from the rows; give what came of it and was not emitted."""
        # Where each slot has a cache of its own, llama.cpp computes neighbouring ones together.
        step.work.sort(key=lambda work: work.sequence.slot or 0)
        adapter = step.work[0].sequence.adapter
        self._turns[adapter] = max(self._turns.values(), default=0) + 1
        try:
            self._backend.use_adapter(adapter)
            length = self._run_length(step)
            if length.steps > 1:
                return self._run_ahead(step, length, report)
            self._run_once(step, report)
        except Interrupted:
            pass
        except LocalFailure as failure:
            for work in step.work:
                self._leave(work.sequence, is_kept=False)
                report.deltas.append(failed(work.sequence, failure))
        return report

    def _run_once(self, step: Plan, report: StepReport) -> None:
        """Compute one step and settle what its rows give.

        Raises: as the backend's `decode`.
        """
        sequences, drafted = len(step.decoding), step.tokens - step.prefill_tokens - len(step.decoding)
        prefill_tokens = step.prefill_tokens
        started_s = self._clock()
        rows = self._compute(step)
        ended_s = self._clock()
        step_s = ended_s - started_s
        plain_s = self.pace.decode_s(sequences)
        options = first_options(step.work, rows)
        drawn = sum(self._settle(work, found, report) for work, found in self._draw(step, rows))
        if options:
            report.tell_options(options)
        if drafted and plain_s and step_s > 0:
            self._drafter.measured(sequences, gain=drawn / step_s * plain_s / sequences)
        self.pace.observe(
            step_s=step_s, prefill_tokens=prefill_tokens, sequences=sequences, drafted=drafted, drawn=drawn
        )
        self.neighbours.observe(
            ended_s, step_s=step_s, prefill_tokens=prefill_tokens, decode_tokens=sequences + drafted
        )

    def _run_ahead(self, step: Plan, length: RunLength, report: StepReport) -> StepReport:
        """Compute a run of steps; what they draw is settled and emitted while the next ones are computed.

        Raises: as the backend's `run`.
        """
        sequences, threads = len(step.work), self.neighbours.threads

        def observe(now_s: float, *, step_s: float, steps: int, drawn: float) -> bool:
            self.pace.observe(step_s=step_s, prefill_tokens=0, sequences=sequences, drawn=drawn)
            # Other threads compute from the run's end on: what it computed before that is no work of theirs.
            if threads == self.neighbours.threads:
                self.neighbours.observe(now_s, step_s=step_s, prefill_tokens=0, decode_tokens=sequences, steps=steps)
            return threads == self.neighbours.threads

        draws = [draw for work in step.work for draw in row_draws(work)]
        self.cache.reserve(sequences * length.steps)
        ahead = Ahead(
            step.work, report, self.cache, self._backend, self._clock, self._emit, observe, heard_s=self._clock()
        )
        entries = [work.entry() for work in step.work]
        done = self._backend.run(entries, draws, steps=length.steps, bundle=length.bundle, hear=ahead.hear)
        self._drafter.skip(step, done - 1)
        for sequence, ended_at in ahead.ended:
            if ended_at < done:  # what was computed before its end was known
                assert sequence.slot is not None
                self._backend.truncate(sequence.slot, sequence.computed)
            self._leave(sequence)
        return ahead.report

    def _compute(self, step: Plan) -> NDArray[np.float32]:
        """Compute a step, its masks meanwhile; give its rows.

        Raises: as the backend's `decode`.
        """
        masks = self._begin_masks(step)
        self.cache.reserve(step.tokens)
        try:
            self._computing = step.lone_prompt
            return self._backend.decode([work.entry() for work in step.work])
        finally:
            self._computing = None
            if masks is not None:
                masks.result()

    def _run_length(self, step: Plan) -> RunLength:
        """How many steps may follow each other at once."""
        if not self._backend.facts.can_run or not self._can_judge:
            return ONE_STEP
        return run_length(
            step,
            step_s=self.pace.decode_s(len(step.work)),
            quiet_steps=self._drafter.quiet_steps(step),
            available_cells=self.cache.available_cells,
            has_others=len(step.work) < len(self.running),
        )

    def hasten(self) -> None:
        """Something has arrived: let a run of steps end after the one it is in. Any thread may call this."""
        self._backend.hasten()

    def attend(self) -> None:
        """What has arrived is looked at now; what comes from here on may end a run again."""
        self._backend.hasten(is_wanted=False)

    def _admit(self, report: StepReport) -> None:
        """Let waiting sequences in, the earliest due first, while slots and cells last.

        Strictly in order: letting a short prompt pass a long one would starve the long one under load. Only one
        that is better off waiting for its neighbour's prefill lets others pass.
        """
        for sequence in sorted(self.waiting, key=lambda sequence: sequence.urgency):
            if len(self.running) >= self._backend.facts.slots:
                return
            tokens = sequence.all_tokens()
            match = self.cache.look_up(tokens, sequence.isolation)
            if self._is_computed_soon(sequence, tokens, match.length):
                continue
            available = self.cache.available_cells
            if not fits(self.running, match.new_cells, available_cells=available, headroom_cells=HEADROOM_CELLS):
                return
            self.waiting.remove(sequence)
            sequence.slot = self.cache.open(match, sequence.isolation)
            sequence.computed = match.length
            if not sequence.output:
                sequence.cached_tokens = match.length
            self.running.append(sequence)
            report.started.append(sequence.id)

    def _is_computed_soon(self, sequence: Sequence, tokens: NDArray[np.int32], shared: int) -> bool:
        """Say whether a running prompt is about to compute much more of the same beginning."""
        if not self._backend.facts.can_share_cells:
            return False
        for other in self.running:
            if other.pending > 1 and other.id == sequence.id:
                return True  # another answer to the same request: its whole prompt
            if other.pending > 1 and other.isolation == sequence.isolation:
                planned = common_length(other.all_tokens(), tokens[:-1])
                if planned > other.computed and planned - shared >= WORTH_WAITING_TOKENS:
                    return True
        return False

    def _plan(self) -> Plan:
        now_s = self._clock()
        prompts = [sequence for sequence in self.running if sequence.pending > 1]
        waiting = sum(1 for sequence in self.running if waits_for_others(sequence, prompts, now_s)) if prompts else 0
        prefilling, decoding = len(prompts), len(self.running) - len(prompts) - waiting
        batch_tokens = self._backend.facts.batch_tokens
        return plan(
            self.running,
            available_cells=self.cache.available_cells,
            prefill_budget_tokens=self.pace.prefill_budget_tokens(
                decoding=decoding, prefilling=prefilling, batch_tokens=batch_tokens
            ),
            batch_tokens=batch_tokens,
            adapter=next_adapter(self.running, self._turns),
            now_s=now_s,
            prefill_token_s=self.pace.prefill_token_s,
        )

    def _preempt(self, sequence: Sequence) -> None:
        """Take all cells of a sequence; it keeps its tokens and its place in the queue, and is computed again."""
        self._leave(sequence, is_kept=False)
        sequence.computed = 0
        self.waiting.append(sequence)

    def _leave(self, sequence: Sequence, *, is_kept: bool = True) -> None:
        self.running.remove(sequence)
        assert sequence.slot is not None
        self.cache.close(sequence.slot, is_kept=is_kept)
        self._drafter.forget(sequence)
        sequence.slot = None

    def _begin_masks(self, step: Plan) -> Future[None] | None:
        """Let the masks of the sequences that draw in this step be computed while the model runs.

        A usual mask takes some 0.05 ms and could as well be computed before, a mean grammar's takes 10 ms.
        """
        constraints = [
            work.sequence.constraint for work in step.work if work.sequence.constraint is not None and work.rows
        ]
        return self._mask_thread.submit(prepare_all, constraints) if constraints else None

    def _draw(self, step: Plan, rows: NDArray[np.float32]) -> Iterator[tuple[Work, list[Sampled | Exception]]]:
        """Draw from all rows at once; give each work what its rows gave: tokens, or why there are none."""
        draws: list[RowDraw] = []
        broken: dict[int, LocalFailure] = {}
        for work in step.work:
            try:
                draws += row_draws(work)
            except LocalFailure as failure:
                broken[id(work)] = failure
                draws += [UNUSED_DRAW] * work.rows
        found = iter(sample_rows(rows, draws, threads=self.neighbours.threads))
        for work in step.work:
            of_work: list[Sampled | Exception] = [next(found) for _ in range(work.rows)]
            yield work, [broken[id(work)]] if id(work) in broken else of_work

    def _settle(self, work: Work, found: list[Sampled | Exception], report: StepReport) -> int:
        """Keep what was computed rightly, and tell the tokens that were drawn; gives how many those are."""
        sequence, draft = work.sequence, work.draft
        accepted = 0
        if draft:
            drawn = [sampled.token for sampled in found if isinstance(sampled, Sampled)]
            accepted = next((n for n, token in enumerate(draft) if drawn[n : n + 1] != [token]), len(draft))
        kept = sequence.tokens_at(sequence.computed, work.count) + draft[:accepted]
        assert sequence.slot is not None
        self.cache.extend(sequence.slot, kept)
        sequence.computed += len(kept)
        if accepted < len(draft):
            self._backend.truncate(sequence.slot, sequence.computed)
        self._drafter.judged(work, accepted)
        for number, sampled in enumerate(found[: accepted + 1], start=1):
            delta = take(sequence, sampled, self._backend, self._clock)
            report.deltas.append(delta)
            if delta.is_last:
                self._leave(sequence)
                return number
        return len(found[: accepted + 1])
