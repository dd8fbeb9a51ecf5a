"""How fast were some steps, compared with other steps of their kind? Sums a kind of step; pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

KEPT_PACES = 32
"""Paces of the undisturbed past that are remembered, of each kind of step: the last ten seconds or so."""
FAST_QUANTILE = 0.2
"""Of those, the pace that counts as undisturbed: not the fastest of all, which luck makes."""

Kind: TypeAlias = tuple[bool, int]
"""Whether prompts were computed in the step, and how many sequences decoded in it."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Some steps of one kind together. units: prompt tokens where there were any, else steps."""

    steps: int
    units: int
    seconds: float

    def plus(self, other: Sum) -> Sum:
        """Both together."""
        return Sum(self.steps + other.steps, self.units + other.units, self.seconds + other.seconds)


NOTHING = Sum(0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Work:
    """What was computed in some span of time."""

    sums: Mapping[Kind, Sum] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time inside steps."""
        return sum(one.seconds for one in self.sums.values())

    @property
    def steps(self) -> int:
        """How many steps."""
        return sum(one.steps for one in self.sums.values())

    def plus(self, other: Work) -> Work:
        """Both together."""
        kinds = self.sums.keys() | other.sums.keys()
        return Work({kind: self.sums.get(kind, NOTHING).plus(other.sums.get(kind, NOTHING)) for kind in kinds})

    def has(self, *, prefill: bool) -> bool:
        """Say whether there were steps with prompts in them, or steps that only decoded."""
        return any(kind[0] == prefill for kind in self.sums)


NO_WORK = Work()


def work_of(*, step_s: float, prefill_tokens: int, decode_tokens: int) -> Work:
    """One step."""
    return Work({(prefill_tokens > 0, decode_tokens): Sum(1, prefill_tokens or 1, step_s)})


def gain(base: Work, trial: Work) -> float | None:
    """How many times faster `trial` went than `base`, over the kinds of steps that both have; None where none is."""
    at_base_s = at_trial_s = 0.0
    for kind in base.sums.keys() & trial.sums.keys():
        before, now = base.sums[kind], trial.sums[kind]
        at_base_s += before.seconds / before.units * now.units
        at_trial_s += now.seconds
    return at_base_s / at_trial_s if at_trial_s > 0 else None


class Undisturbed:
    """The engine's own reference: the pace of each kind of step while nothing else wanted the machine."""

    def __init__(self) -> None:
        self._paces: dict[Kind, deque[float]] = {}

    def learn(self, work: Work) -> None:
        """Remember how fast this was; nothing disturbed it."""
        for kind, done in work.sums.items():
            self._paces.setdefault(kind, deque(maxlen=KEPT_PACES)).append(done.seconds / done.units)

    def slowdown(self, work: Work) -> float | None:
        """How many times longer this took than it would undisturbed, at least 1; None where no such step was seen."""
        known_s = undisturbed_s = 0.0
        for kind, done in work.sums.items():
            if paces := self._paces.get(kind):
                known_s += done.seconds
                undisturbed_s += sorted(paces)[int(FAST_QUANTILE * len(paces))] * done.units
        return max(1.0, known_s / undisturbed_s) if undisturbed_s > 0 else None
