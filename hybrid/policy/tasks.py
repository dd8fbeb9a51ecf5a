"""What kind of question is a request? Read from its text and its wishes: each kind has signs of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
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
_OPTION_MARKS = tuple(f"A{mark}" for mark in ".):")
_CODE_WORDS = ("def ", "class ", "import ", "#include", "fn ", "func ", "function ")
_WRITE_WORDS = ("write", "implement", "complete", "fix", "refactor", "finish")
_CODE_NOUNS = ("function", "method", "class", "program", "script", "code")
_HOW_MANY_WORDS = ("how ", "what ", "calculate", "compute")
"""What a text must have for the pattern to be found in it. Looking for such words is a hundred times as quick, and a
long prompt without them took milliseconds."""
_ALSO_ASCII = "\u0130\u0131\u017f\u212a"
"""Letters that a pattern which ignores case takes for an i, an s or a k, and `str.lower` does not."""


def options_in(question: str) -> tuple[str, ...]:
    """Find the letters of the options a question ends with: A, B, ... each at the start of a line, in order.

    Returns: two to ten letters, or none where the text offers no such options.
    """
    if not _has(question, _OPTION_MARKS):
        return ()
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
    lower = asked.lower()
    if (_has(asked, _CODE_WORDS) and _CODE.search(asked)) or _asks_for_code(asked, lower):
        return TaskKind.CODE
    # None of these words has a letter of `_ALSO_ASCII`.
    is_how_many = _has(lower, _HOW_MANY_WORDS) and _HOW_MANY.search(asked) is not None
    return TaskKind.NUMBER if is_how_many and any(char.isdigit() for char in asked) else TaskKind.TEXT


def _asks_for_code(asked: str, lower: str) -> bool:
    may_ask = (_has(lower, _WRITE_WORDS) and _has(lower, _CODE_NOUNS)) or _has(asked, _ALSO_ASCII)
    return may_ask and _WRITE_CODE.search(asked) is not None


def _has(text: str, words: Iterable[str]) -> bool:
    """Whether any of the words is in the text, as part of another one too."""
    return any(map(text.__contains__, words))
