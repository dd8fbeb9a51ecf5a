"""What do further answers to one prompt say? Drawn beside the draft, to see how far they agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec

from hybrid.calibration.agreement import Kind, agreement, places_said
from hybrid.calibration.datasets import LETTERS
from hybrid.engine.frames import Submit
from hybrid.engine.supervisor import Supervisor
from hybrid.errors import InvalidRequest
from hybrid.local_request import LocalRequest
from hybrid.policy.model import Agreement, Ballot, Draft, Limits
from hybrid.policy.promise import Promise, is_worth_votes
from hybrid.policy.tasks import TaskKind, options_in
from hybrid.policy.votes import agreement_of, count
from hybrid.reasoned import reasoned
from hybrid.types import ChatRequest, Event, Finished, FinishReason, TextDelta, TokenSignal

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """What is to be released of all answers, and how far they agree.

    instead: it, where it is not the draft. ballot: where the others are votes. note: all that in words.
    """

    agreement: Agreement
    ballot: Ballot | None = None
    instead: Sample | None = None
    note: str


def pick(draft: Sample, others: Sequence[Sample], kind: TaskKind, question: str) -> Picked:
    """Compare the draft with the samples: the first answer of the largest group is the one to release.

    Source: Wang et al., ICLR 2023, arXiv:2203.11171.
    """
    answers = [draft.text, *(other.text for other in others)]
    found = agreement(answers, KINDS.get(kind, "text"), options_in(question))
    sizes = [found.groups.count(group) for group in found.groups]
    place = sizes.index(max(sizes))
    share = f"{found.share:.0%} of {len(answers)} samples agree"
    return Picked(
        agreement=Agreement(found.share, len(answers), is_majority=found.first_agrees),
        instead=others[place - 1] if place else None,
        note=share if place == 0 else f"{share}, and the draft is not among them: replaced",
    )


def vote(draft: Sample, votes: Sequence[Sample], question: str) -> Picked | None:
    """Count the votes of reasoned answers for the letter that a draft names; the letter stays.

    Returns: None where there is nothing to count: no votes, no likelihoods of options, or a draft that names none.
    """
    letters = options_in(question)
    options = next((signal.options for signal in draft.signals if signal.options), ())
    (said,) = places_said([draft.text], letters)
    if not votes or len(options) != len(letters) or said is None:
        return None
    ballot = count(len(letters), places_said([vote.text for vote in votes], letters), said)
    return Picked(
        agreement=agreement_of(ballot, len(votes) + 1),
        ballot=ballot,
        note=f"{ballot.votes[said]:.0%} of {len(votes)} votes are for {LETTERS[said]}",
    )


class FurtherSamples:
    """A second generation beside the draft. `cancel` frees what it holds.

    Args:
        terms, order: the draft's. kind: of the task.
        promise: says what is compared: answers to the same prompt, drawn at once, or votes for reasons, drawn when the
            letter is known and they may decide.
    """

    def __init__(self, local: Supervisor, terms: LocalRequest, order: Submit, promise: Promise, kind: TaskKind) -> None:
        self._local, self._promise, self._kind = local, promise, kind
        self._question = next((one.text for one in reversed(terms.request.messages) if one.role == "user"), "")
        self._why_none = "nothing to compare it with"
        self._order = msgspec.structs.replace(
            order,
            id=f"{order.id}+",
            choices=promise.samples - 1,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            min_p=0.0,
            seed=(order.seed + SEED_STEP) % (1 << 64),
            top_logprobs=None,
        )
        self._terms = terms
        self.tokens = 0
        self._task: asyncio.Task[list[Sample]] | None = None
        if not promise.votes:
            self._begin(terms.request, self._order)

    @classmethod
    def beside(cls, local: Supervisor, terms: LocalRequest, order: Submit, limits: Limits) -> FurtherSamples | None:
        """Make one where the calibration compares answers, and one is wanted."""
        promise = limits.promise
        if promise is None or promise.samples < 2 or terms.choices > 1:
            return None
        return cls(local, terms, order, promise, limits.kind)

    async def result(self, draft: Draft | None) -> list[Sample]:
        """Wait for all of them; votes are asked for now. Raises: LocalError if the worker cannot.

        Args:
            draft: as far as it is known; None: it is no single whole answer.
        """
        if self._promise.votes and self._task is None:
            asked = reasoned(self._terms.request)
            if asked is None or draft is None or len(draft.options) < 2:
                return []
            if not is_worth_votes(self._promise, draft):
                self._why_none = "all votes would not lift it over the threshold, so none are asked for"
                return []
            self._begin(asked, _in_words_of(asked, self._order))
        return [] if self._task is None else await asyncio.shield(self._task)

    def _begin(self, request: ChatRequest, order: Submit) -> None:
        terms = replace(self._terms, request=replace(request, extra={**request.extra, "n": order.choices}))
        draws = self._draw(terms, order)
        self._task = asyncio.get_running_loop().create_task(draws, name=f"samples of {order.id}")

    def compare(self, draft: Sample, others: Sequence[Sample]) -> Picked | str:
        """Say what is to be released, or why nothing can be compared."""
        if not others:
            return self._why_none
        if self._promise.votes:
            return vote(draft, others, self._question) or self._why_none
        return pick(draft, others, self._kind, self._question)

    def cancel(self) -> int:
        """Stop drawing; slots are free at once. Returns: the tokens that were drawn, whether wanted or not."""
        if self._task is not None:
            self._task.cancel()
            # What went wrong with samples that nobody waited for is of no interest.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._local.release(self._order.id)
        return self.tokens

    async def _draw(self, terms: LocalRequest, order: Submit) -> list[Sample]:
        with suppress(asyncio.CancelledError, InvalidRequest):
            prompt_tokens = await terms.prepare(self._local, order.id)
            is_thinking = self._local.is_thinking(order.id)
            if self._promise.votes and (is_thinking or not _fits(terms, prompt_tokens, order)):
                return []
            listeners = [terms.listener(is_thinking=is_thinking) for _ in range(order.choices)]
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


def _in_words_of(asked: ChatRequest, order: Submit) -> Submit:
    """The order of votes: nothing that the client wants of its letter is wanted of the reasons for it."""
    assert asked.max_output_tokens is not None
    return msgspec.structs.replace(
        order, max_output_tokens=asked.max_output_tokens, stop=[], logit_bias={}, grammar=None, options=[]
    )


def _fits(terms: LocalRequest, prompt_tokens: int, order: Submit) -> bool:
    return terms.facts is not None and prompt_tokens + order.max_output_tokens <= terms.facts.context_tokens
