"""What do further answers to one prompt say? Drawn beside the draft, to see how far they agree and what they elect."""

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
from hybrid.policy.model import Agreement, Ballot, Limits
from hybrid.policy.tasks import TaskKind, options_in
from hybrid.policy.votes import agreement_of, count
from hybrid.reasoned import is_letter, reasoned
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


def elect(draft: Sample, votes: Sequence[Sample], question: str, *, is_fixed: bool) -> Picked | None:
    """Elect the letter to release, by the draft's own likelihoods and by what reasons came to.

    Args:
        is_fixed: the draft cannot be replaced by another letter: it is judged by what speaks for its own.
    Returns: None where there is nothing to elect: no votes, no likelihoods of options, or a draft that names none.
    """
    letters = options_in(question)
    options = next((signal.options for signal in draft.signals if signal.options), ())
    (said,) = places_said([draft.text], letters)
    is_fixed = is_fixed or not is_letter(draft.text)
    if not votes or len(options) != len(letters) or (is_fixed and said is None):
        return None
    ballot = count(options, places_said([vote.text for vote in votes], letters), said if is_fixed else None)
    letter, for_it = LETTERS[ballot.said], f"{ballot.votes[ballot.said]:.0%} of {len(votes)} votes"
    kept = Picked(
        agreement=agreement_of(ballot, len(votes) + 1, was_said=ballot.said == said),
        ballot=ballot,
        note=f"{letter} is elected with {for_it}" if not is_fixed else f"the answer stays {letter}, with {for_it}",
    )
    if ballot.said == said:
        return kept
    instead = Sample((TextDelta(letter, draft.signals), draft.events[-1]), draft.signals)
    return replace(kept, instead=instead, note=f"{kept.note}: the draft is replaced")


class FurtherSamples:
    """A second generation beside the draft. `cancel` frees what it holds.

    Args:
        terms, order: the draft's. count: answers to draw. kind: of the task.
        is_voting: the question is asked for reasons, not the same prompt again.
    """

    def __init__(
        self, local: Supervisor, terms: LocalRequest, order: Submit, count: int, kind: TaskKind, *, is_voting: bool
    ) -> None:
        self._local, self._kind, self._is_voting = local, kind, is_voting
        self._question = next((one.text for one in reversed(terms.request.messages) if one.role == "user"), "")
        self._is_fixed = terms.top_logprobs is not None
        asked = reasoned(terms.request) if is_voting else terms.request
        order = msgspec.structs.replace(
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
        self._task: asyncio.Task[list[Sample]] | None = None
        if asked is not None:
            terms = replace(terms, request=replace(asked, extra={**asked.extra, "n": count}))
            drawn = self._draw(terms, _in_words_of(terms, order) if self._is_voting else order)
            self._task = asyncio.get_running_loop().create_task(drawn, name=f"samples of {order.id}")
        self._order_id = order.id

    @classmethod
    def beside(cls, local: Supervisor, terms: LocalRequest, order: Submit, limits: Limits) -> FurtherSamples | None:
        """Begin where the calibration compares answers, and one is wanted."""
        promise = limits.promise
        if promise is None or promise.samples < 2 or terms.choices > 1:
            return None
        return cls(local, terms, order, promise.samples - 1, limits.kind, is_voting=bool(promise.votes))

    async def result(self) -> list[Sample]:
        """Wait for all of them. Raises: LocalError if the worker cannot."""
        return [] if self._task is None else await asyncio.shield(self._task)

    def compare(self, draft: Sample, others: Sequence[Sample]) -> Picked | None:
        """Say what is to be released; None where nothing can be compared."""
        if not others:
            return None
        if self._is_voting:
            return elect(draft, others, self._question, is_fixed=self._is_fixed)
        return pick(draft, others, self._kind, self._question)

    def cancel(self) -> int:
        """Stop drawing; slots are free at once. Returns: the tokens that were drawn, whether wanted or not."""
        if self._task is not None:
            self._task.cancel()
            # What went wrong with samples that nobody waited for is of no interest.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._local.release(self._order_id)
        return self.tokens

    async def _draw(self, terms: LocalRequest, order: Submit) -> list[Sample]:
        with suppress(asyncio.CancelledError, InvalidRequest):
            prompt_tokens = await terms.prepare(self._local, order.id)
            is_thinking = self._local.is_thinking(order.id)
            if self._is_voting and (is_thinking or not _fits(terms, prompt_tokens, order)):
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


def _in_words_of(terms: LocalRequest, order: Submit) -> Submit:
    """The order of votes: nothing that the client wants of its letter is wanted of the reasons for it."""
    limit = terms.request.max_output_tokens
    assert limit is not None
    return msgspec.structs.replace(
        order, max_output_tokens=limit, stop=[], shown=terms.shown, logit_bias={}, grammar=None, options=[]
    )


def _fits(terms: LocalRequest, prompt_tokens: int, order: Submit) -> bool:
    return terms.facts is not None and prompt_tokens + order.max_output_tokens <= terms.facts.context_tokens
