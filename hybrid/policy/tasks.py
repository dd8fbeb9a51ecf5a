"""What kind of question is a request? Read from its text and its wishes: each kind has signs of its own."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum

from hybrid.types import Capability


class TaskKind(StrEnum):
    """How an answer is judged, which decides what its draft tells about it.

    CHOICE: one of a few lettered options. NUMBER: a number at the end of a worked answer. CODE: a program.
    STRUCTURED: a document of a given form. CALL: calls of tools. TEXT: anything else.
    """

    CHOICE = "choice"
    NUMBER = "number"
    CODE = "code"
    STRUCTURED = "structured"
    CALL = "call"
    TEXT = "text"


ENDS_WITH_ITS_ANSWER = frozenset({TaskKind.NUMBER, TaskKind.CODE, TaskKind.STRUCTURED, TaskKind.CALL})
"""Kinds whose answer is of no use when a limit cuts it off: what was asked for stands at its end, or is all of it."""

MOST_OPTIONS = 10
LONGEST_QUESTION_CHARS = 40_000
_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]+\S", re.MULTILINE)
_HOW_MANY = re.compile(
    r"\b(how (many|much|far|long|old|tall|fast|often)|what (is|was|are|will be) the (total|sum|difference|average|"
    r"number|amount|price|cost|percent\w*|probability|area|volume|value)|calculate|compute|what percent\w*)\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"^[ \t]*(def |class |from \w[\w.]* import |import \w|#include|fn |func |function )", re.MULTILINE)
_WRITE_CODE = re.compile(
    r"\b(write|implement|complete|fix|refactor|finish)\b[^.?!\n]{0,60}\b(function|method|class|program|script|code)\b",
    re.IGNORECASE,
)


def options_in(question: str) -> tuple[str, ...]:
    """Find the letters of the options a question ends with: A, B, ... each at the start of a line, in order.

    Returns: two to ten letters, or none where the text offers no such options.
    """
    letters = [match.group(1) for match in _OPTION.finditer(question[-LONGEST_QUESTION_CHARS:])]
    # Of several questions in one text only the last is asked; the others are examples.
    start = max((place for place, letter in enumerate(letters) if letter == "A"), default=None)
    if start is None:
        return ()
    found = letters[start:]
    wanted = [chr(ord("A") + place) for place in range(len(found))]
    return tuple(found) if found == wanted and 2 <= len(found) <= MOST_OPTIONS else ()


def kind_of(question: str, needs: Collection[Capability] = ()) -> TaskKind:
    """Tell what is asked for.

    Args:
        question: the text of the last turn of the user's.
        needs: what the request needs of whoever answers it.
    """
    if Capability.TOOLS in needs:
        return TaskKind.CALL
    if Capability.STRUCTURED_OUTPUT in needs:
        return TaskKind.STRUCTURED
    if options_in(question):
        return TaskKind.CHOICE
    asked = question[-LONGEST_QUESTION_CHARS:]
    if _CODE.search(asked) or _WRITE_CODE.search(asked):
        return TaskKind.CODE
    if _HOW_MANY.search(asked) and any(char.isdigit() for char in asked):
        return TaskKind.NUMBER
    return TaskKind.TEXT
