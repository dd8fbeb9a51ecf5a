"""Do several answers to one question say the same? The share that agrees, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from hybrid.calibration.answers import LETTERS, choice, number

Kind: TypeAlias = Literal["number", "choice", "text"]

SAME_TEXT = 0.8
"""Texts are one answer where at most a fifth of the longer one must be changed to get the other."""
LETTER_BY_LETTER = 300
"""Longer texts are compared word by word, which takes a thirtieth of the time."""
COMPARED_WORDS = 500


@dataclass(frozen=True, slots=True)
class Agreement:
    """How K answers to one question fall together.

    share: of the answers that are in the largest group, in (0, 1]; one that says nothing agrees with none.
    first_agrees: whether the first answer, the one that would be given, is in it.
    majority: the first answer of that group; of groups of one size, the earliest. groups: index of each answer's group.
    """

    share: float
    first_agrees: bool
    majority: str
    groups: tuple[int, ...]


def agreement(answers: Sequence[str], kind: Kind, options: Sequence[str] = ()) -> Agreement:
    """Group answers that say the same: equal numbers, equal letters, or texts near to each other.

    A number or choice that cannot be read off an answer stands alone: silence is no agreement.

    Args:
        options: texts of the options, for `choice`.
    Raises: ValueError without answers.
    Source: Wang et al., Self-Consistency, arXiv:2203.11171; as a confidence, e.g. Xiong et al., arXiv:2306.13063.
    """
    if not answers:
        raise ValueError("agreement needs an answer")
    groups = _text_groups(answers) if kind == "text" else _value_groups(answers, kind, options)
    sizes = [groups.count(group) for group in groups]
    at = sizes.index(max(sizes))
    return Agreement(sizes[at] / len(answers), groups[0] == groups[at], answers[at], tuple(groups))


def places_said(answers: Sequence[str], options: Sequence[str]) -> list[int | None]:
    """Which option each answer names, by its place; None where it names none, or several without saying which.

    Args:
        options: their texts.
    """
    letters = (choice(answer, options) for answer in answers)
    return [None if letter is None else LETTERS.index(letter) for letter in letters]


def _value_groups(answers: Sequence[str], kind: Kind, options: Sequence[str]) -> list[int]:
    groups: list[int] = []
    known: dict[Fraction | str, int] = {}
    for at, answer in enumerate(answers):
        value = number(answer) if kind == "number" else choice(answer, options)
        groups.append(at if value is None else known.setdefault(value, at))
    return groups


def _text_groups(answers: Sequence[str]) -> list[int]:
    """Join each text to the first earlier one that it is near to; what is empty stands alone."""
    texts = [normalised(answer) for answer in answers]
    groups: list[int] = []
    for at, text in enumerate(texts):
        near = (groups[other] for other in range(at) if text and _is_near(text, texts[other]))
        groups.append(next(near, at))
    return groups


def _is_near(one: str, other: str) -> bool:
    if max(len(one), len(other)) <= LETTER_BY_LETTER:
        return similarity(one, other) >= SAME_TEXT
    return similarity(one.split(" "), other.split(" ")) >= SAME_TEXT


def normalised(text: str) -> str:
    """A text without case, extra space and punctuation at its ends; its first words only, if it is long."""
    return " ".join(text.casefold().split()[:COMPARED_WORDS]).strip(" .,:;!?\"'`*")


def similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """1 less the share of the longer one's letters (or words) that must be inserted, deleted or replaced.

    Source: Levenshtein 1966; by rows, leaving out what cannot come below a fifth of the length.
    """
    if len(one) < len(other):
        one, other = other, one
    if not one:
        return 1.0
    most = int((1 - SAME_TEXT) * len(one)) + 1
    if len(one) - len(other) > most:
        return 1 - (len(one) - len(other)) / len(one)
    distance = _banded_distance(one, other, most)
    return 1 - distance / len(one)


def _banded_distance(one: Sequence[str], other: Sequence[str], most: int) -> int:
    """The edit distance if it is at most `most`, else some number above it."""
    beyond = most + 1
    row = [at if at <= most else beyond for at in range(len(other) + 1)]
    for above, letter in enumerate(one, start=1):
        low, high = max(1, above - most), min(len(other), above + most)
        before, row = row, [beyond] * (len(other) + 1)
        row[0] = min(above, beyond)
        for at in range(low, high + 1):
            change = before[at - 1] + (letter != other[at - 1])
            row[at] = min(change, before[at] + 1, row[at - 1] + 1, beyond)
        if min(row[max(0, low - 1) : high + 1]) >= beyond:
            return beyond
    return row[len(other)]
