"""What becomes of the tokens of a run of steps, while its next ones are computed already?"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

from hybrid.backends.base import Backend
from hybrid.engine.drawn import take
from hybrid.engine.kv_cache import KvCache
from hybrid.engine.report import StepReport
from hybrid.engine.scheduler import Work
from hybrid.engine.sequence import Sequence
from hybrid.native import Sampled


class Observe(Protocol):
    """Who learns how long steps took; says whether the run may go on."""

    def __call__(self, now_s: float, *, step_s: float, steps: int, drawn: float) -> bool:
        """`steps` steps ended at `now_s`; each gave `drawn` tokens on average."""


@dataclass(slots=True)
class Ahead:
    """One run, as it is heard of bundle by bundle, in another thread than the one that computes.

    Until the run is over that thread has the sequences and what is counted of them to itself; the cells themselves,
    and who runs, are left as they are. Who ended meanwhile leaves when the run is over.

    report: what was not emitted yet. emit: sends a report that is not the last; None keeps all in one.
    heard_s: when the run began, or was heard of last. ended: who is over, and at which step of the run.
    """

    works: Seq[Work]
    report: StepReport
    cache: KvCache
    backend: Backend
    clock: Callable[[], float]
    emit: Callable[[StepReport], None] | None
    observe: Observe
    heard_s: float
    steps: int = 0
    ended: list[tuple[Sequence, int]] = field(default_factory=list)

    def hear(self, steps: Seq[Seq[Sampled | ValueError]], *, is_last: bool) -> bool:
        """Keep what some steps drew, and tell it; say whether the run may go on."""
        if not steps:
            return False
        over = {id(sequence) for sequence, _ in self.ended}
        drawn = 0
        for place, work in enumerate(self.works):
            if id(work.sequence) not in over:
                drawn += self._settle(work.sequence, [rows[place] for rows in steps])
        self.steps += len(steps)
        now_s = self.clock()
        step_s, self.heard_s = (now_s - self.heard_s) / len(steps), now_s
        may_go_on = self.observe(now_s, step_s=step_s, steps=len(steps), drawn=drawn / len(steps))
        if self.emit is not None and not is_last:
            self.emit(self.report)
            self.report = StepReport()
        return may_go_on and not self.ended

    def _settle(self, sequence: Sequence, found: Seq[Sampled | ValueError]) -> int:
        """Keep one sequence's tokens up to its end; give how many."""
        assert sequence.slot is not None
        for number, sampled in enumerate(found, start=1):
            self.cache.extend(sequence.slot, sequence.tokens_at(sequence.computed, 1))
            sequence.computed += 1
            delta = take(sequence, sampled, self.backend, self.clock)
            self.report.deltas.append(delta)
            if delta.is_last:
                self.ended.append((sequence, self.steps + number))
                return number
        sequence.follow_repeats()  # nobody waits for it here
        return len(found)
