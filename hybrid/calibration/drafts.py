"""What does the local model answer to a dataset? Drafted once, with every signal, and kept for the next run."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import msgspec

from hybrid.calibration.datasets import Question
from hybrid.calibration.recipes import Asked, Recipe, ask
from hybrid.engine.supervisor import Supervisor, WorkerState
from hybrid.errors import DatasetError, InvalidRequest, LocalError, LocalFailure
from hybrid.local_request import GREEDY, LocalRequest
from hybrid.policy.features import features
from hybrid.policy.model import Draft
from hybrid.types import Finished, FinishReason, TextDelta

SAMPLED = replace(GREEDY, temperature=0.7, top_p=0.95, seed=1000)
"""How further samples of a prompt are drawn. Source of the temperature: Wang et al., ICLR 2023, arXiv:2203.11171."""
LARGEST = 1e6
"""Of a draft's features, which are logarithms, shares and counts of tokens: what is beyond was broken on its way."""
LEAST_LOGPROB = -1e4
"""Of an option that cannot be said, instead of minus infinity, which JSON has no number for."""
MOST_BROKEN = 4
"""Questions that may fail alone, one after the other, before the whole run is given up; before that, of each place."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as it was given. The lists hold a number a token, as in `types.TokenSignal`.

    number: 0 is the greedy draft, from 1 on the samples. total_s: from leaving the queue to the end, beside others.
    problem: why there is none. has_failed: the model did not refuse the question, but broke at it twice.
    """

    key: str
    number: int = 0
    text: str = ""
    finish: FinishReason | None = None
    prompt_tokens: int = 0
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    options: tuple[float, ...] = ()
    total_s: float = 0.0
    problem: str | None = None
    has_failed: bool = False

    @property
    def is_sound(self) -> bool:
        """Whether its numbers are some that a model can have said; one without any tokens has nothing to doubt."""
        if not self.logprobs:
            return True
        try:
            found = features(self.draft())
        except (ValueError, OverflowError):
            return False
        return all(abs(value) <= LARGEST for value in found.values())

    def draft(self) -> Draft:
        """It as the policy sees it."""
        return Draft(
            logprobs=self.logprobs,
            entropies=self.entropies,
            margins=self.margins,
            finish_reason=self.finish,
            options=self.options,
        )


def key_of(question: Question) -> str:
    """Name what a model sees of a question, so that the same one in another file is not asked again."""
    seen = msgspec.json.encode([question.scorer, question.question, question.choices])
    return hashlib.sha256(seen).hexdigest()[:32]


class DraftFile:
    """Answers of one model to one recipe, a line each, appended as they come; a torn last line is dropped.

    Floats are rounded to what a 32-bit one holds, which is what the model computes in.
    """

    def __init__(self, folder: Path, fingerprint: str, recipe: Recipe) -> None:
        self.path = folder / f"{fingerprint[:16]}-{recipe.digest[:12]}.jsonl"
        self._answers: dict[tuple[str, int], Answer] = {}
        self._decoder = msgspec.json.Decoder(Answer)
        self._has_whole_end = True
        for line in self._lines():
            try:
                answer = self._decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue  # cut off by a death or a full disk; that question is asked again
            if answer.is_sound:
                self._answers[answer.key, answer.number] = answer

    def _lines(self) -> Iterator[bytes]:
        try:
            body = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as unreadable:
            raise DatasetError(f"{self.path}: {unreadable.strerror or unreadable}") from unreadable
        self._has_whole_end = not body or body.endswith(b"\n")
        yield from body.splitlines()

    def get(self, key: str, number: int = 0) -> Answer | None:
        """Give an answer that was kept."""
        return self._answers.get((key, number))

    def can_go_on(self, question: Question) -> bool:
        """Whether further answers make sense: the first was given, or nobody knows better yet."""
        first = self.get(key_of(question))
        return first is None or first.problem is None

    @contextmanager
    def appending(self) -> Iterator[Callable[[Answer], None]]:
        """Open it to append. Raises: DatasetError if that cannot be done, here or at an answer."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if not self._has_whole_end:
                    file.write(b"\n")

                def append(answer: Answer) -> None:
                    self._answers[answer.key, answer.number] = answer
                    file.write(msgspec.json.encode(answer) + b"\n")
                    file.flush()

                yield append
        except OSError as failed:
            raise DatasetError(f"{self.path}: {failed.strerror or failed}") from failed


Append: TypeAlias = Callable[[Answer], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One answer that is wanted and not there yet."""

    question: Question
    key: str
    numbers: tuple[int, ...]


def missing(questions: Sequence[Question], file: DraftFile, samples: int) -> list[Wish]:
    """List what is still to be asked for the greedy draft and `samples` - 1 further answers of each question."""
    wishes = []
    for question in questions:
        key = key_of(question)
        greedy = file.get(key)
        if greedy is None:
            wishes.append(Wish(question=question, key=key, numbers=(0,)))
        if file.can_go_on(question):
            wishes += missing_votes([question], file, samples)
    return wishes


def missing_votes(questions: Sequence[Question], file: DraftFile, samples: int) -> list[Wish]:
    """List what is still to be asked for the `samples` - 1 answers after the first alone."""
    wishes = []
    for question in questions:
        key = key_of(question)
        numbers = tuple(number for number in range(1, samples) if file.get(key, number) is None)
        if numbers:
            wishes.append(Wish(question=question, key=key, numbers=numbers))
    return wishes


async def draft_all(
    local: Supervisor,
    wishes: Sequence[Wish],
    recipe: Recipe,
    file: DraftFile,
    *,
    concurrency: int,
    on_done: Callable[[int], None] = lambda _count: None,
) -> None:
    """Ask what is missing, a few at a time, and keep each answer as soon as it is whole.

    A worker that dies takes all with it that it held. They are asked once more at the end, each alone, so that it is
    known which question ends it: that one is kept as failed, and the others go on.

    Raises: LocalError if the model died for good or breaks at one question after the other; what came is kept.
    """
    left, lost, in_row = iter(wishes), list[Wish](), 0
    with file.appending() as append:

        async def work() -> None:
            nonlocal in_row
            for wish in left:
                failed = await _ask(local, wish, recipe, append, on_done)
                in_row = 0 if failed is None else in_row + 1
                if failed is not None:
                    lost.append(wish)
                if failed is not None and in_row >= MOST_BROKEN * concurrency:
                    raise failed

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except ExceptionGroup as broken:
            raise broken.exceptions[0] from None
        await _ask_again(local, lost, recipe, append, on_done)


async def _ask_again(
    local: Supervisor, lost: Sequence[Wish], recipe: Recipe, append: Append, on_done: Callable[[int], None]
) -> None:
    """Ask each alone; what fails again is kept as failed, unless nothing else succeeds any more."""
    failing: list[tuple[Wish, LocalError]] = []

    def keep_failed() -> None:
        for wish, why in failing:
            for number in wish.numbers:
                append(Answer(key=wish.key, number=number, problem=f"failed twice: {why}", has_failed=True))
            on_done(len(wish.numbers))
        failing.clear()

    for wish in lost:
        failed = await _ask(local, wish, recipe, append, on_done)
        if failed is None:
            keep_failed()
            continue
        failing.append((wish, failed))
        if len(failing) >= MOST_BROKEN:
            raise failed
    keep_failed()


async def _ask(
    local: Supervisor, wish: Wish, recipe: Recipe, append: Append, on_done: Callable[[int], None]
) -> LocalError | None:
    """Ask one and keep what came; give why nothing did. Raises: LocalError if the model is gone for good."""
    try:
        await local.wait_settled()  # it may have died and come again
        answers = await _answer(local, wish, recipe)
    except LocalError as failed:
        if local.state is WorkerState.FAILED:
            raise
        return failed
    for answer in answers:
        append(answer)
    on_done(len(answers))
    return None


async def _answer(local: Supervisor, wish: Wish, recipe: Recipe) -> list[Answer]:
    asked = ask(wish.question, recipe)
    number = wish.numbers[0]
    if number > 0:
        sampling = replace(SAMPLED, seed=(SAMPLED.seed or 0) + number)
        extra = {"n": len(wish.numbers)}
        asked = replace(asked, request=replace(asked.request, sampling=sampling, extra=extra))
    request_id = f"{wish.key}.{number}"
    terms = LocalRequest(request=asked.request, facts=local.facts)
    try:
        prompt_tokens = await terms.prepare(local, request_id)
        context_tokens = local.facts.context_tokens if local.facts is not None else 0
        if prompt_tokens + recipe.max_output_tokens > context_tokens:
            what = f"{prompt_tokens} + {recipe.max_output_tokens} tokens, the context holds {context_tokens}"
            raise InvalidRequest(what, param="messages")
        return await _listen(local, request_id, terms, asked, wish, prompt_tokens)
    except InvalidRequest as refused:
        return [Answer(key=wish.key, number=number, problem=str(refused)) for number in wish.numbers]
    finally:
        local.release(request_id)


async def _listen(
    local: Supervisor, request_id: str, terms: LocalRequest, asked: Asked, wish: Wish, prompt_tokens: int
) -> list[Answer]:
    is_thinking = local.is_thinking(request_id)
    assert asked.request.max_output_tokens is not None
    order = terms.submit(
        request_id,
        defaults=GREEDY,
        max_output_tokens=asked.request.max_output_tokens,
        is_thinking=is_thinking,
    )
    order = msgspec.structs.replace(order, options=[] if is_thinking else list(asked.options))
    growing = [_Growing(terms, is_thinking=is_thinking) for _ in wish.numbers]
    started_s = time.monotonic()
    with await local.submit(order) as generation:
        left = len(growing)
        while left:
            item = await generation.next()
            if isinstance(item, TextDelta | Finished):
                growing[item.choice].hear(item)
                left -= isinstance(item, Finished)
            else:
                started_s = time.monotonic()
    total_s = round(time.monotonic() - started_s, 3)
    return [
        one.answer(wish.key, number, prompt_tokens, total_s) for one, number in zip(growing, wish.numbers, strict=True)
    ]


class _Growing:
    """One answer while it grows."""

    def __init__(self, terms: LocalRequest, *, is_thinking: bool) -> None:
        self._listener = terms.listener(is_thinking=is_thinking)
        self._text: list[str] = []
        self._signals: list[tuple[float, float, float]] = []
        self._options: tuple[float, ...] = ()
        self._finish: FinishReason | None = None

    def hear(self, item: TextDelta | Finished) -> None:
        if isinstance(item, TextDelta):
            for signal in item.signals:
                self._signals.append((signal.logprob, signal.entropy, signal.margin))
                self._options = self._options or signal.options
        else:
            self._finish = item.reason
        self._text += [event.text for event in self._listener.hear(item) if isinstance(event, TextDelta)]

    def answer(self, key: str, number: int, prompt_tokens: int, total_s: float) -> Answer:
        if self._finish is None:
            raise LocalFailure("an answer has no end")
        logprobs, entropies, margins = zip(*self._signals, strict=True) if self._signals else ((), (), ())
        answer = Answer(
            key=key,
            number=number,
            text="".join(self._text),
            finish=self._finish,
            prompt_tokens=prompt_tokens,
            logprobs=_short(logprobs),
            entropies=_short(entropies),
            margins=_short(margins),
            options=_short([LEAST_LOGPROB if one < LEAST_LOGPROB else one for one in self._options]),
            total_s=total_s,
        )
        if not answer.is_sound:
            raise LocalFailure("the numbers of an answer are none that a model can give")
        return answer


def _short(values: Sequence[float]) -> tuple[float, ...]:
    """Round to the seven digits that a 32-bit float has, which keeps files small."""
    return tuple(float(f"{value:.7g}") for value in values)
