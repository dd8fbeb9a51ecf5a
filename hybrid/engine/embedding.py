"""Which texts become vectors in the next step? Inputs of all requests in turn, in steps as short as a stream's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import Backend, BatchEntry, Embedder
from hybrid.engine.frames import Embedded, Frame, Refused, Vector
from hybrid.engine.pace import Pace
from hybrid.errors import CallerError, HybridError, LocalError, LocalFailure

Tokens = NDArray[np.int32]


@dataclass(slots=True, eq=False)
class EmbeddingJob:
    """One request: the tokens of each input, and the next one to begin."""

    id: str
    inputs: Sequence[Tokens]
    next_index: int = 0


@dataclass(slots=True, eq=False)
class Unfinished:
    """An input in progress: where it is, and how many of its tokens are computed."""

    job: EmbeddingJob
    index: int
    slot: int
    computed: int = 0

    @property
    def tokens(self) -> Tokens:
        """All of its tokens."""
        return self.job.inputs[self.index]

    @property
    def pending(self) -> int:
        """Tokens not computed yet."""
        return len(self.tokens) - self.computed


def plan(unfinished: Sequence[Unfinished], *, budget_tokens: int, is_whole: bool) -> list[tuple[Unfinished, int]]:
    """Choose what the next step computes, the oldest input first: each with how many of its tokens.

    Args:
        budget_tokens: the most tokens of the step; an input that must be computed whole may be longer when it is first.
    """
    work: list[tuple[Unfinished, int]] = []
    for one in unfinished:
        count = one.pending if is_whole else min(one.pending, budget_tokens)
        if count == 0 or (work and count > budget_tokens):
            break
        work.append((one, count))
        budget_tokens -= count
    return work


@dataclass(slots=True)
class Embedding:
    """The embedding requests of a worker. Every method belongs to the one thread that owns the model.

    The embedder and its memory come with the first request.
    """

    backend: Backend
    send: Callable[[Frame], None]
    clock: Callable[[], float] = time.perf_counter
    pace: Pace = field(default_factory=Pace)
    _jobs: deque[EmbeddingJob] = field(default_factory=deque, init=False)
    _unfinished: list[Unfinished] = field(default_factory=list, init=False)
    _embedder: Embedder | None = field(default=None, init=False)

    @property
    def has_work(self) -> bool:
        """Say whether a step would do anything."""
        return bool(self._jobs or self._unfinished)

    def submit(self, job: EmbeddingJob) -> None:
        """Queue a request. Each of its inputs fits the context: whoever calls has checked that."""
        self._jobs.append(job)

    def cancel(self, job_id: str) -> None:
        """Take a request out, wherever it is. Unknown ids are over already."""
        self._drop({job_id})

    def step(self, *, decoding: int, decode_step_s: float | None) -> None:
        """Run one step and send what it gave: no longer than about a step of the streams that run beside it.

        Args:
            decoding: sequences that wait for their next token meanwhile; decode_step_s: how long one takes them.
        """
        try:
            embedder = self._embedder = self._embedder or self.backend.embedder()
            self._begin(embedder)
        except HybridError as failed:
            self._fail(self._ids(), failed)
            return
        self.pace.decode_step_s = decode_step_s
        facts = embedder.facts
        budget = self.pace.prefill_budget_tokens(decoding=decoding, batch_tokens=facts.batch_tokens)
        work = plan(self._unfinished, budget_tokens=budget, is_whole=facts.is_whole)
        try:
            if work:
                self.send(Embedded(self._compute(embedder, work)))
        except LocalError as failed:
            self._fail({one.job.id for one, _ in work}, failed)
        if not self.has_work:
            self._rest(embedder)

    def _begin(self, embedder: Embedder) -> None:
        """Let inputs in while slots and cells last, of each request one in turn: a large one delays no other."""
        free = set(range(embedder.facts.sequences)) - {one.slot for one in self._unfinished}
        while free and self._jobs:
            job = self._jobs[0]
            held = sum(len(one.tokens) for one in self._unfinished)
            needed = len(job.inputs[job.next_index])
            if held + needed > embedder.cells:
                if self._unfinished:
                    return
                try:
                    embedder.resize(needed)
                except LocalError as failed:
                    self._fail({job.id}, failed)  # shorter inputs of others may well fit
                    continue
            self._unfinished.append(Unfinished(job, job.next_index, free.pop()))
            job.next_index += 1
            self._jobs.popleft()
            if job.next_index < len(job.inputs):
                self._jobs.append(job)

    def _compute(self, embedder: Embedder, work: Sequence[tuple[Unfinished, int]]) -> list[Vector]:
        pieces = [
            BatchEntry(
                one.slot,
                one.tokens[one.computed : one.computed + count].tolist(),
                one.computed,
                logits=int(count == one.pending),
            )
            for one, count in work
        ]
        started_s = self.clock()
        rows = embedder.compute(pieces)
        tokens = sum(count for _, count in work)
        self.pace.observe(step_s=self.clock() - started_s, prefill_tokens=tokens, sequences=0)
        vectors = []
        for (one, count), row in zip(work, rows, strict=True):
            one.computed += count
            if row is None or one not in self._unfinished:
                continue
            self._unfinished.remove(one)
            try:
                vectors.append(Vector(one.job.id, one.index, unit(row).astype("<f4").tobytes()))
            except LocalFailure as unusable:
                self._fail({one.job.id}, unusable)
        return vectors

    def _rest(self, embedder: Embedder) -> None:
        """Give back what a long input needed."""
        try:
            embedder.resize(1)
        except LocalError:
            self._embedder = None  # the next request tries again, and is told

    def _ids(self) -> set[str]:
        return {job.id for job in self._jobs} | {one.job.id for one in self._unfinished}

    def _fail(self, lost: Set[str], why: HybridError) -> None:
        self._drop(lost)
        for job_id in lost:
            self.send(Refused(job_id, str(why), is_caller=isinstance(why, CallerError), param="model", code=why.code))

    def _drop(self, lost: Set[str]) -> None:
        self._jobs = deque(job for job in self._jobs if job.id not in lost)
        for one in [one for one in self._unfinished if one.job.id in lost]:
            self._unfinished.remove(one)
            if self._embedder is not None:
                self._embedder.forget(one.slot)


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a vector to length 1, as OpenAI's are.

    Raises: LocalFailure for one without a direction.
    """
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < length < float("inf"):
        raise LocalFailure("the model gave no usable vector: its length is zero or not a number")
    return (vector / length).astype(np.float32)
