"""What has the local model said so far? The text, calls, signals and faults of each answer to one request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from hybrid.engine.checker import Checker
from hybrid.engine.formats.listen import Listener
from hybrid.further import Picked
from hybrid.labelling import Said
from hybrid.local_request import LocalRequest
from hybrid.policy.model import Agreement, Ballot, Draft, Limits, Review
from hybrid.policy.review import look_at, review
from hybrid.types import Event, Finished, FinishReason, TextDelta, TokenSignal, Usage


class HoldExpired(Exception):
    """The first token is due: judge what is there."""


@dataclass(slots=True)
class DraftLog:
    """The signals of one answer as they arrive.

    flaw: what a verifier found wrong with it. unfit: such a flaw that nobody may get it for an answer.
    """

    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    options: tuple[float, ...] = ()
    agreement: Agreement | None = None
    ballot: Ballot | None = None
    flaw: str | None = None
    unfit: str | None = None

    def add(self, signals: tuple[TokenSignal, ...]) -> None:
        """Append the signals of some tokens."""
        for signal in signals:
            self.logprobs.append(signal.logprob)
            self.entropies.append(signal.entropy)
            self.margins.append(signal.margin)
            self.options = self.options or signal.options

    def draft(self, finish_reason: FinishReason | None) -> Draft:
        """Freeze what is there for `review`."""
        return Draft(
            logprobs=tuple(self.logprobs),
            entropies=tuple(self.entropies),
            margins=tuple(self.margins),
            finish_reason=finish_reason,
            flaw=self.flaw,
            options=self.options,
            agreement=self.agreement,
            ballot=self.ballot,
        )


@dataclass(slots=True)
class _Answer:
    """One of the answers. seen_tokens: how long it was when it was last looked at."""

    listener: Listener
    seen_tokens: int = 0
    log: DraftLog = field(default_factory=DraftLog)
    text: list[str] = field(default_factory=list)
    end: Finished | None = None

    def hear(self, item: TextDelta | Finished) -> list[Event]:
        if isinstance(item, TextDelta):
            self.log.add(item.signals)
        heard = self.listener.hear(item)
        self.text += [event.text for event in heard if isinstance(event, TextDelta)]
        if item.choice:
            heard = [replace(event, choice=item.choice) for event in heard]
        last = heard[-1] if heard else None
        self.end = last if isinstance(last, Finished) else None
        return heard


class LocalAnswers:
    """The answers to one request, from the worker's tokens to what a client gets and a review judges.

    Args:
        asked: the request in the model's terms. is_thinking: whether the prompt has opened the model's thinking.
    """

    def __init__(self, asked: LocalRequest, checker: Checker, *, is_thinking: bool) -> None:
        self._asked = asked
        self._checker = checker
        self._answers = [_Answer(asked.listener(is_thinking=is_thinking)) for _ in range(asked.choices)]

    def hear(self, item: TextDelta | Finished) -> list[Event]:
        """Take what the worker tells next; give the events that are certain now, which may be none."""
        return self._answers[item.choice].hear(item)

    async def check(self, choice: int) -> str | None:
        """Look for faults in an answer that just ended; give the one for which nobody may get it, if there is one.

        Raises: LocalFailure if it could not be found out.
        """
        answer = self._answers[choice]
        answer.log.unfit = await self._fault_of_answer(answer)
        answer.log.flaw = answer.log.unfit or answer.listener.flaw or await self._fault_of_calls(answer)
        return answer.log.unfit

    @property
    def tokens(self) -> int:
        """Tokens of all answers so far."""
        return sum(len(answer.log.logprobs) for answer in self._answers)

    def are_held(self, hold_tokens: int) -> bool:
        """Whether each answer has so many tokens, or is over."""
        return all(answer.end is not None or len(answer.log.logprobs) >= hold_tokens for answer in self._answers)

    @property
    def unfit(self) -> str | None:
        """Why nobody may get one of the answers; None if all may be had."""
        return next((answer.log.unfit for answer in self._answers if answer.log.unfit is not None), None)

    def verdict(self, limits: Limits) -> Review:
        """Judge them: of several answers the worst, for the client gets them all."""
        verdicts = [
            review(answer.log.draft(answer.end.reason if answer.end else None), limits) for answer in self._answers
        ]
        return min(verdicts, key=lambda verdict: (verdict.is_accepted, verdict.confidence or 0.0))

    @property
    def signals(self) -> tuple[TokenSignal, ...]:
        """Those of the first answer's tokens."""
        log = self._answers[0].log
        first = iter((log.options,))
        return tuple(
            TokenSignal(*numbers, next(first, ()))
            for numbers in zip(log.logprobs, log.entropies, log.margins, strict=True)
        )

    def compared(self, picked: Picked, held: Sequence[Event]) -> Sequence[Event]:
        """Take down how far other answers agree with the only one; give the events of what is to be released."""
        answer, instead = self._answers[0], picked.instead
        answer.log.agreement, answer.log.ballot = picked.agreement, picked.ballot
        if instead is None:
            return held
        options, answer.log = answer.log.options, DraftLog(agreement=picked.agreement)
        answer.log.add(instead.signals)
        answer.log.options = options
        answer.text = [instead.text]
        end = instead.events[-1]
        assert isinstance(end, Finished)
        answer.end = end
        return instead.events

    def hopeless(self, limits: Limits) -> Review | None:
        """Say whether one of the growing answers will not be accepted, as far as its calibrated looks can tell."""
        if limits.promise is None or not limits.promise.looks:
            return None
        for answer in self._answers:
            seen_tokens, answer.seen_tokens = answer.seen_tokens, len(answer.log.logprobs)
            verdict = look_at(answer.log.draft(None), limits, seen_tokens=seen_tokens)
            if verdict is not None:
                return verdict
        return None

    @property
    def draft(self) -> Draft | None:
        """The one answer, if it is all there."""
        whole = self.whole
        return None if whole is None else whole[0]

    @property
    def whole(self) -> tuple[Draft, Said] | None:
        """The one answer, as a draft and as what it says; None where there are several, or it has no end or token."""
        answer = self._answers[0]
        if len(self._answers) > 1 or answer.end is None or not answer.log.logprobs:
            return None
        is_cut = answer.end.reason is FinishReason.LENGTH
        return answer.log.draft(answer.end.reason), Said("".join(answer.text), answer.listener.calls, is_cut)

    @property
    def usage(self) -> Usage | None:
        """What all of them used: the prompt once. None until all have ended."""
        used = [answer.end.usage for answer in self._answers if answer.end is not None and answer.end.usage is not None]
        if len(used) < len(self._answers):
            return None
        return Usage(
            prompt_tokens=used[0].prompt_tokens,
            completion_tokens=sum(usage.completion_tokens for usage in used),
            # One of them computed the prompt, and the others found it in the cache: that is no saving of the client's.
            cached_tokens=min(usage.cached_tokens for usage in used),
            reasoning_tokens=sum(usage.reasoning_tokens for usage in used),
        )

    async def _fault_of_calls(self, answer: _Answer) -> str | None:
        calls = answer.listener.calls
        return await self._asked.fault_of_calls(self._checker, calls) if calls else None

    async def _fault_of_answer(self, answer: _Answer) -> str | None:
        """See whether a whole answer is what the client asked for; one that was cut, by a limit or the client, is not.

        It was made under the format's grammar, so this finds mistakes of ours, and nobody gets them for an answer.
        """
        wanted = self._asked.answer_format
        assert answer.end is not None
        if wanted is None or answer.end.reason is not FinishReason.STOP or answer.end.stopped_by is not None:
            return None
        fault = await self._checker.fault_of("".join(answer.text), wanted.grammar)
        return None if fault is None else f"the answer is not what {wanted.param} asks for: {fault}"


def count_ends(events: Iterable[Event]) -> int:
    """Count the answers that end among these events."""
    return sum(1 for event in events if isinstance(event, Finished))
