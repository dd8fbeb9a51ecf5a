"""What came of a step? What the worker tells the gateway of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from hybrid.engine.sequence import Sequence
from hybrid.errors import LocalFailure
from hybrid.native import Sampled
from hybrid.types import FinishReason, TokenLogprob


class Delta(msgspec.Struct, frozen=True):
    """What one step did to one sequence: maybe text, maybe the signal of a token, maybe its end.

    choice: which of the request's answers it is about. options: as in `types.TokenSignal`.
    """

    id: str
    choice: int = 0
    text: str = ""
    signal: Sampled | None = None
    finish: FinishReason | None = None
    failure: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    stopped_by: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    options: tuple[float, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether the sequence is over with it."""
        return self.finish is not None or self.failure is not None


@dataclass(slots=True)
class StepReport:
    """What one step did: who left the queue, and a delta for each sequence that changed."""

    started: list[str] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)

    def tell_options(self, found: Mapping[tuple[str, int], tuple[float, ...]]) -> None:
        """Add to the deltas of first tokens how likely each option was, by request and choice."""
        for place, delta in enumerate(self.deltas):
            options = found.get((delta.id, delta.choice))
            if options is not None and delta.signal is not None and delta.completion_tokens == 1:
                self.deltas[place] = msgspec.structs.replace(delta, options=options)


def failed(sequence: Sequence, failure: LocalFailure) -> Delta:
    """Say that a sequence is lost, and why."""
    return Delta(sequence.id, sequence.choice, failure=str(failure))
