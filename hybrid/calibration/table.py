"""Which answers were right, local's and the cloud's, and what did each local draft tell? One row a question."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from hybrid.calibration.agreement import Kind, agreement, normalised, places_said
from hybrid.calibration.answers import choice
from hybrid.calibration.datasets import LETTERS, Question
from hybrid.calibration.drafts import Answer, DraftFile, key_of
from hybrid.calibration.examples import Opinion, verify
from hybrid.calibration.recipes import Recipe, said_of
from hybrid.calibration.scorers import score_choice, score_number, score_python
from hybrid.errors import DatasetError
from hybrid.policy.features import option_shares
from hybrid.policy.model import Agreement, Draft
from hybrid.policy.promise import draft_features
from hybrid.policy.votes import agreement_of, count
from hybrid.types import FinishReason

LEAST_SHARE = 1e-9
"""Of an option that was never said: its logarithm must be a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question, its local answer and what is known of it.

    draft: of the answer that would be released. answer: it as it was kept. is_right: local; None without a label.
    cloud_right: None where no cloud is compared with. opinion: of a verifier that needs no label, where there is one.
    cloud_text: what the cloud said, where that was kept.
    """

    question: Question
    answer: Answer
    draft: Draft
    is_right: bool
    cloud_right: bool | None = None
    cloud_text: str | None = None
    opinion: Opinion | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that could be marked, and how many could not: refused by the model, or without a label."""

    rows: tuple[Row, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def local_right(self) -> NDArray[np.bool_]:
        """Shape (n,)."""
        return np.array([row.is_right for row in self.rows], dtype=np.bool_)

    def texts(self, recipe: Recipe) -> list[str]:
        """Each row's question as it was asked."""
        return [said_of(row.question, recipe) for row in self.rows]

    @property
    def cloud_right(self) -> NDArray[np.bool_] | None:
        """Shape (n,); None where a row has none."""
        marks = [row.cloud_right for row in self.rows]
        return None if not marks or any(mark is None for mark in marks) else np.array(marks, dtype=np.bool_)

    def option_prior(self) -> tuple[float, ...]:
        """Mean log-share of each option over the rows; empty unless all offer as many."""
        sizes = {len(row.draft.options) for row in self.rows}
        if len(sizes) != 1 or 0 in sizes:
            return ()
        shares = np.log([[max(share, LEAST_SHARE) for share in option_shares(row.draft.options)] for row in self.rows])
        return tuple(float(mean) for mean in shares.mean(axis=0))

    def features(self, option_prior: Sequence[float] = ()) -> list[dict[str, float]]:
        """The features of each row's draft."""
        return [draft_features(row.draft, option_prior) for row in self.rows]


def tabulate(
    questions: Sequence[Question],
    file: DraftFile,
    *,
    samples: int = 1,
    votes: DraftFile | None = None,
    cloud: str | None = None,
    verifies: bool = False,
    on_row: Callable[[], None] = lambda: None,
) -> Table:
    """Mark the kept answers.

    With several samples the answer that counts is the first one of the largest group that agrees: what would be
    released; votes for reasons stand beside the letter, which stays. Without a gold answer the recorded cloud's is the
    label, and the cloud is right by definition. A question that stands there again under another id has the very same
    answer, and counts once: bounds take rows for independent.

    Args:
        votes: where the answers after the first are kept, if they were asked in other words, for their reasons.
        cloud: a recorded model. verifies: run examples from a program's docstring on it, as a server could.
    Raises: DatasetError if a question has no record of the cloud, or nothing could be marked.
    """
    rows: list[Row] = []
    skipped: dict[str, int] = {}
    seen: set[str] = set()
    for question in questions:
        made: Row | str = "that stand there already, under another id"
        if (key := key_of(question)) not in seen:
            kept = _kept(key, file, votes, samples)
            made = _row(question, kept, cloud, is_voted=votes is not None, verifies=verifies)
        seen.add(key)
        if isinstance(made, Row):
            rows.append(made)
        else:
            skipped[made] = skipped.get(made, 0) + 1
        on_row()
    if not rows:
        reasons = ", ".join(f"{count} {why}" for why, count in skipped.items()) or "there are none"
        raise DatasetError(f"no question could be marked: {reasons}")
    return Table(tuple(rows), skipped)


def _kept(key: str, file: DraftFile, votes: DraftFile | None, samples: int) -> list[Answer | None]:
    """The answers to a question, as far as they were given."""
    return [file.get(key), *((votes or file).get(key, number) for number in range(1, samples))]


def _row(
    question: Question, answers: Sequence[Answer | None], cloud: str | None, *, is_voted: bool, verifies: bool
) -> Row | str:
    greedy = answers[0]
    if greedy is None or any(answer is None for answer in answers if greedy.problem is None):
        return "not answered yet"
    if any(answer is not None and answer.has_failed for answer in answers):
        return "that the model broke at twice"
    if greedy.problem is not None:
        return "refused by the model"
    if not greedy.logprobs:
        return "answered by nothing"
    there = [answer for answer in answers if answer is not None]
    answer, draft = voted(question, there) if is_voted else chosen(question, there)
    cloud_right, cloud_text = _cloud(question, cloud)
    if cloud is not None and cloud_right is None and cloud_text is None:
        return "that the cloud gave no whole answer to"
    is_right = is_good(question, answer.text) if has_gold(question) else _is_same(question, answer.text, cloud_text)
    if is_right is None:
        return "without a label"
    return Row(
        question=question,
        answer=answer,
        draft=draft,
        is_right=is_right,
        cloud_right=cloud_right if has_gold(question) or cloud is None else True,
        cloud_text=cloud_text,
        opinion=_opinion(question, answer) if verifies else None,
    )


def taught(
    questions: Sequence[Question], table: Table, recipe: Recipe, cloud: str | None
) -> tuple[list[str], NDArray[np.bool_]]:
    """What is known of a recorded cloud beside a table's rows: questions as they would be asked, and its marks."""
    seen = {key_of(row.question) for row in table.rows}
    found: dict[str, tuple[str, bool]] = {}
    for question in questions:
        recorded = None if cloud is None else question.recorded.get(cloud)
        is_like = question.scorer == table.rows[0].question.scorer
        if recorded is not None and recorded.correct is not None and is_like and (key := key_of(question)) not in seen:
            found[key] = said_of(question, recipe), recorded.correct
    return [text for text, _ in found.values()], np.array([mark for _, mark in found.values()], dtype=np.bool_)


def has_gold(question: Question) -> bool:
    """Whether the question carries its own label."""
    return question.answer is not None or question.scorer == "python"


def chosen(question: Question, answers: Sequence[Answer]) -> tuple[Answer, Draft]:
    """Pick the answer to release of several samples, and describe how far they agree."""
    if len(answers) == 1:
        return answers[0], answers[0].draft()
    found = agreement([said(answer) for answer in answers], agreement_kind(question), question.choices)
    picked = answers[found.groups.index(found.groups[_largest(found.groups)])]
    measured = Agreement(found.share, len(answers), is_majority=found.first_agrees)
    draft = picked.draft()
    return picked, Draft(
        logprobs=draft.logprobs,
        entropies=draft.entropies,
        margins=draft.margins,
        finish_reason=draft.finish_reason,
        options=answers[0].options,
        agreement=measured,
    )


def voted(question: Question, answers: Sequence[Answer]) -> tuple[Answer, Draft]:
    """Give the letter that was said at once, and beside it the votes of those that came to one by reasons."""
    first, *others = answers
    draft, options = first.draft(), question.choices
    (letter,) = places_said([first.text], options)
    if not others or not first.options or letter is None:
        return first, draft
    ballot = count(len(options), places_said([said(other) for other in others], options), letter)
    total_s = max(answer.total_s for answer in answers)
    agreement = agreement_of(ballot, len(answers))
    return msgspec.structs.replace(first, total_s=total_s), replace(draft, agreement=agreement, ballot=ballot)


def said(answer: Answer) -> str:
    """What an answer says; one that a limit cut off has not said what was asked for."""
    return "" if answer.finish is FinishReason.LENGTH and len(answer.logprobs) > 1 else answer.text


def agreement_kind(question: Question) -> Kind:
    """How answers to a question are compared."""
    return question.scorer if question.scorer in ("choice", "number") else "text"


def _largest(groups: Sequence[int]) -> int:
    sizes = [groups.count(group) for group in groups]
    return sizes.index(max(sizes))


def is_good(question: Question, text: str) -> bool | None:
    """Mark an answer against the question's label; None where it has none."""
    if question.scorer == "python":
        assert question.tests is not None
        assert question.entry_point is not None
        return score_python(text, question.question, question.tests, question.entry_point).is_correct
    if question.answer is None:
        return None
    if question.scorer == "choice":
        return score_choice(text, question.answer, question.choices).is_correct
    if question.scorer == "number":
        return score_number(text, question.answer).is_correct
    return normalised(text) == normalised(question.answer)


def _cloud(question: Question, cloud: str | None) -> tuple[bool | None, str | None]:
    """What a recorded cloud did: whether it was right, and its text; for a choice one that fits the mark."""
    if cloud is None:
        return None, None
    recorded = question.recorded.get(cloud)
    if recorded is None:
        known = ", ".join(question.recorded) or "none"
        raise DatasetError(f"question {question.id} has no record of {cloud!r}; it has: {known}")
    text, is_right = recorded.text, recorded.correct
    if is_right is None and text is not None:
        is_right = is_good(question, text)
    if text is None and question.scorer == "choice" and question.answer is not None and is_right is not None:
        text = question.answer if is_right else _other_letter(question)
    return is_right, text


def _other_letter(question: Question) -> str:
    """A wrong letter, always the same for a question."""
    others = [letter for letter in LETTERS[: len(question.choices)] if letter != question.answer]
    return random.Random(question.id).choice(others)  # noqa: S311 - a stand-in, no secret


def _is_same(question: Question, text: str, cloud_text: str | None) -> bool | None:
    """Whether local says what the cloud says, for questions without a label."""
    if cloud_text is None:
        return None
    kind = agreement_kind(question)
    if kind == "choice":
        letter = choice(text, question.choices)
        return letter is not None and letter == choice(cloud_text, question.choices)
    return agreement([text, cloud_text], "number" if kind == "number" else "text").share > 0.5


def _opinion(question: Question, answer: Answer) -> Opinion | None:
    if question.scorer != "python" or question.entry_point is None:
        return None
    return verify(answer.text, question.question, question.entry_point).opinion
