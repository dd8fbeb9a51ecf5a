"""What stands in for the trials of a tuning? Scripted outcomes, files of a few bytes, and an end at any step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hybrid.catalog.tuned import Tuning
from hybrid.tuning.jobs import Job, Measure, Outcome, Quantise, Reference
from hybrid.tuning.tune import Room, TuneOptions, tune
from tests.tuning.candidates import divergence, speed

PLENTY = Room(disk_free_bytes=lambda _: 1 << 50, memory_free_bytes=lambda: 1 << 50)
OPTIONS = TuneOptions(formats=("Q8_0", "Q5_1"), axes=(), runs=1, max_kl_nats=0.02)
CHATS_S: Mapping[str, float] = {"Q8_0": 4.0, "Q5_1": 2.0}
NATS: Mapping[str, float] = {"Q8_0": 0.005, "Q5_1": 0.2}
SOURCE_S = 10.0


def ignore(_done: int, _total: int, _words: str) -> None:
    """Show nothing."""


@dataclass(slots=True)
class Trials:
    """Does jobs: Q8_0 is fast and near, Q5_1 faster and too far. `problems` fails jobs of a format.

    made: the content of each file it makes; None: a few bytes that name the format.
    """

    problems: dict[str, str] = field(default_factory=dict)
    chats_s: Mapping[str, float] = field(default_factory=lambda: CHATS_S)
    seen: list[Job] = field(default_factory=list)
    made: bytes | None = None
    before: Callable[[int], None] = lambda _: None

    def __call__(self, job: Job) -> Outcome:
        """Do one."""
        self.before(len(self.seen))
        self.seen.append(job)
        if isinstance(job, Reference):
            Path(job.target).write_bytes(b"rows")
            return Outcome(problem=self.problems.get("reference"))
        if isinstance(job, Quantise):
            Path(job.target).write_bytes(self.made or f"a model as {job.format}".encode())
            return Outcome(problem=self.problems.get(job.format))
        return self._measure(job)

    def _measure(self, job: Measure) -> Outcome:
        name = Path(job.model).stem
        if f"measure {name}" in self.problems:
            return Outcome(problem=self.problems[f"measure {name}"])
        nats = NATS.get(name, 0.001)
        return Outcome(
            speed=speed(self.chats_s.get(name, SOURCE_S)),
            divergence=None if job.reference is None else divergence(nats),
        )


def tune_with(
    source: Path, trials: Trials | None = None, options: TuneOptions = OPTIONS, room: Room = PLENTY
) -> Tuning:
    """Tune with scripted trials."""
    return tune(source, options, run=trials or Trials(), room=room, on_step=ignore)


def main(source: str, death: str) -> None:
    """Tune, and be killed at the moment before job or step number `death`, counted together."""
    moments = 0

    def pass_moment(*_: object) -> None:
        nonlocal moments
        if moments == int(death):
            os.kill(os.getpid(), signal.SIGKILL)
        moments += 1

    trials = Trials(before=pass_moment)
    tune(Path(source), OPTIONS, run=trials, room=PLENTY, on_step=pass_moment)
    print(moments)


if __name__ == "__main__":
    main(*sys.argv[1:])
