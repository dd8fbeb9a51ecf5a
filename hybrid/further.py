"""What do further samples of one prompt say? Drawn beside the draft, from its prefill, to see how far they agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec

from hybrid.calibration.agreement import Kind, agreement
from hybrid.engine.frames import Submit
from hybrid.engine.supervisor import Supervisor
from hybrid.local_request import LocalRequest
from hybrid.policy.model import Agreement
from hybrid.policy.tasks import TaskKind, options_in
from hybrid.types import Event, Finished, FinishReason, TextDelta, TokenSignal

TEMPERATURE, TOP_P = 0.7, 0.95
"""As the calibration draws them; see `calibration.drafts.SAMPLED`."""
SEED_STEP = 1000

KINDS: dict[TaskKind, Kind] = {TaskKind.NUMBER: "number", TaskKind.CHOICE: "choice"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One whole answer: what a client would get of it, and its tokens' signals."""

    events: tuple[Event, ...]
    signals: tuple[TokenSignal, ...]

    @property
    def text(self) -> str:
        """What it says; an answer that a limit cut off has not said what was asked for."""
        last = self.events[-1] if self.events else None
        if isinstance(last, Finished) and last.reason is FinishReason.LENGTH and len(self.signals) > 1:
            return ""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


@dataclass(frozen=True, slots=True)
class Picked:
    """Which of all answers to release, the draft being the first, and how far they agree."""

    place: int
    agreement: Agreement


def pick(draft: Sample, others: Sequence[Sample], kind: TaskKind, question: str) -> Picked:
    """Compare the draft with the samples: the first answer of the largest group is the one to release.

    Source: Wang et al., ICLR 2023, arXiv:2203.11171.
    """
    answers = [draft.text, *(other.text for other in others)]
    found = agreement(answers, KINDS.get(kind, "text"), options_in(question))
    sizes = [found.groups.count(group) for group in found.groups]
    measured = Agreement(found.share, len(answers), is_majority=found.first_agrees)
    return Picked(sizes.index(max(sizes)), measured)


class FurtherSamples:
    """A second generation of the same prompt, running beside the draft. `cancel` frees what it holds."""

    def __init__(self, local: Supervisor, terms: LocalRequest, order: Submit, count: int) -> None:
        self._local = local
        request = replace(terms.request, extra={**terms.request.extra, "n": count})
        self._terms = replace(terms, request=request)
        self._order = msgspec.structs.replace(
            order,
            id=f"{order.id}+",
            choices=count,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            min_p=0.0,
            seed=(order.seed + SEED_STEP) % (1 << 64),
            top_logprobs=None,
        )
        self.tokens = 0
        self._task = asyncio.get_running_loop().create_task(self._draw(), name=f"samples of {order.id}")

    async def result(self) -> list[Sample]:
        """Wait for all of them. Raises: LocalError if the worker cannot, InvalidRequest if it will not."""
        return await asyncio.shield(self._task)

    def cancel(self) -> int:
        """Stop drawing; slots are free at once. Returns: the tokens that were drawn, whether wanted or not."""
        self._task.cancel()
        # What went wrong with samples that nobody waited for is of no interest.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._local.release(self._order.id)
        return self.tokens

    async def _draw(self) -> list[Sample]:
        order = self._order
        with suppress(asyncio.CancelledError):
            await self._terms.prepare(self._local, order.id)
            is_thinking = self._local.is_thinking(order.id)
            listeners = [self._terms.listener(is_thinking=is_thinking) for _ in range(order.choices)]
            events: list[list[Event]] = [[] for _ in listeners]
            signals: list[list[TokenSignal]] = [[] for _ in listeners]
            left = order.choices
            with await self._local.submit(order) as generation:
                while left:
                    item = await generation.next()
                    if not isinstance(item, TextDelta | Finished):
                        continue
                    if isinstance(item, TextDelta):
                        self.tokens += len(item.signals)
                        signals[item.choice] += item.signals
                    # To a client it is the only answer there is.
                    events[item.choice] += [replace(event, choice=0) for event in listeners[item.choice].hear(item)]
                    left -= isinstance(item, Finished)
            return [Sample(tuple(e), tuple(s)) for e, s in zip(events, signals, strict=True)]
        return []
