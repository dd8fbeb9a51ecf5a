"""Which questions does a dataset file hold? One JSON object a line, each checked; what is wrong is told by its line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Literal, TypeAlias

import msgspec

from hybrid.errors import DatasetError

Scorer: TypeAlias = Literal["choice", "number", "python", "text"]

LETTERS = "ABCDEFGHIJ"
MOST_LINE_BYTES = 4 << 20
MOST_PROBLEMS_TOLD = 5


class Recorded(msgspec.Struct, frozen=True):
    """What a cloud model did with a question. text: its answer, where that was kept. Neither: it gave none to mark."""

    correct: bool | None = None
    text: str | None = None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One labelled question.

    answer: a letter, a number as text, a reference solution, or the wanted text; None where only a cloud's answer is
    known. tests, entry_point: of a program. recorded: what cloud models did, by model.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    question: Annotated[str, msgspec.Meta(min_length=1)]
    scorer: Scorer
    task: str = ""
    subject: str | None = None
    choices: tuple[str, ...] = ()
    answer: str | None = None
    tests: str | None = None
    entry_point: str | None = None
    recorded: Mapping[str, Recorded] = {}


@dataclass(frozen=True, slots=True)
class Dataset:
    """The questions of a file in their order. digest: SHA-256 of the file's bytes."""

    path: Path
    digest: str
    questions: tuple[Question, ...]

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """The kinds of questions in it, the most frequent first."""
        counts: dict[Scorer, int] = {}
        for question in self.questions:
            counts[question.scorer] = counts.get(question.scorer, 0) + 1
        return tuple(sorted(counts, key=lambda scorer: -counts[scorer]))

    def recorded_models(self) -> tuple[str, ...]:
        """The cloud models that every question has a record of."""
        names = [set(question.recorded) for question in self.questions]
        return tuple(sorted(set.intersection(*names))) if names else ()

    def sample(self, limit: int | None, seed: int = 0) -> Dataset:
        """Draw `limit` questions by the seed, kept in the file's order; all of them without a limit."""
        if limit is None or limit >= len(self.questions):
            return self
        places = sorted(Random(seed).sample(range(len(self.questions)), limit))  # noqa: S311 - a sample, no secret
        return Dataset(self.path, self.digest, tuple(self.questions[place] for place in places))


def load(path: Path) -> Dataset:
    """Read and check a dataset.

    Raises: DatasetError that names the first lines that are wrong, or says that the file cannot be read or is empty.
    """
    try:
        body = path.read_bytes()
    except OSError as unreadable:
        raise DatasetError(f"{path}: {unreadable.strerror or unreadable}") from unreadable
    questions: list[Question] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            question = _question(line)
        except ValueError as wrong:
            problems.append(f"line {number}: {wrong}")
            continue
        if question.id in seen:
            problems.append(f"line {number}: id {question.id!r} is line {seen[question.id]}'s already")
        seen.setdefault(question.id, number)
        questions.append(question)
    if problems:
        more = len(problems) - MOST_PROBLEMS_TOLD
        told = "; ".join(problems[:MOST_PROBLEMS_TOLD]) + (f"; and {more} more" if more > 0 else "")
        raise DatasetError(f"{path}: {told}")
    if not questions:
        raise DatasetError(f"{path} holds no question; it wants one JSON object a line")
    return Dataset(path, hashlib.sha256(body).hexdigest(), tuple(questions))


_decoder = msgspec.json.Decoder(Question)


def _question(line: bytes) -> Question:
    """Read one line. Raises: ValueError that says what is wrong with it."""
    if len(line) > MOST_LINE_BYTES:
        raise ValueError(f"{len(line)} bytes, the most is {MOST_LINE_BYTES}")
    try:
        question = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as wrong:
        raise ValueError(str(wrong)) from wrong
    for problem in _problems(question):
        raise ValueError(problem)
    return question


def _problems(question: Question) -> Iterator[str]:
    if question.scorer == "choice":
        if not 2 <= len(question.choices) <= len(LETTERS):
            yield f"a choice wants 2 to {len(LETTERS)} choices, here are {len(question.choices)}"
        elif question.answer is not None and question.answer not in tuple(LETTERS[: len(question.choices)]):
            yield f"answer {question.answer!r} is none of {', '.join(LETTERS[: len(question.choices)])}"
    if question.scorer == "python" and not (question.tests and question.entry_point):
        yield "a python question wants tests and entry_point"
    if question.answer is None and not question.recorded and question.scorer != "python":
        yield "there is neither an answer nor a recorded cloud to compare with"
