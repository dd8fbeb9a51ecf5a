"""What kind of question a request is, and which options it offers."""

import re
import sys

import pytest

from hybrid.policy import tasks
from hybrid.policy.tasks import TaskKind, kind_of, options_in
from hybrid.types import Capability

CAPITAL = "What is the capital of France?\nA. Rome\nB. Paris\nC. Bonn\nD. Oslo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(CAPITAL, "ABCD", id="four"),
        pytest.param(CAPITAL + "\nAnswer with the letter only.", "ABCD", id="an-instruction-follows"),
        pytest.param("Which?\n(A) one\n(B) two", "AB", id="in-brackets"),
        pytest.param("Which?\n  a) one\n  b) two", "", id="small-letters-are-lists"),
        pytest.param("A. one\nB. two\n\nAnd now:\nA. three\nB. four\nC. five", "ABC", id="the-last-question-counts"),
        pytest.param("A. only one", "", id="one-is-no-choice"),
        pytest.param("A. one\nC. three", "", id="a-gap"),
        pytest.param("B. one\nC. two", "", id="no-beginning"),
        pytest.param("Plan A. We go\nhome", "", id="inside-a-sentence"),
        pytest.param("\n".join(f"{chr(65 + n)}. x" for n in range(11)), "", id="an-outline"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_options_in(text, expected):
    """Options are the letters from A on, each at the start of a line and none left out."""
    assert tuple(expected) == options_in(text)


@pytest.mark.parametrize(
    ("text", "needs", "expected"),
    [
        pytest.param(CAPITAL, (), TaskKind.CHOICE, id="choice"),
        pytest.param("Tom has 3 apples and buys 4. How many has he now?", (), TaskKind.NUMBER, id="number"),
        pytest.param("How many people live there?", (), TaskKind.TEXT, id="a-fact-is-no-sum"),
        pytest.param("def add(a, b):\n    ...", (), TaskKind.CODE, id="code"),
        pytest.param("Please write me a small Python function.", (), TaskKind.CODE, id="asked-for-code"),
        pytest.param("Tell me a story.", (), TaskKind.TEXT, id="text"),
        pytest.param(CAPITAL, (Capability.STRUCTURED_OUTPUT,), TaskKind.STRUCTURED, id="a-form-outranks-its-text"),
        pytest.param(CAPITAL, (Capability.TOOLS, Capability.STRUCTURED_OUTPUT), TaskKind.CALL, id="tools"),
    ],
)
def test_kind_of(text, needs, expected):
    """What the request needs decides first, then what its text looks like."""
    assert expected is kind_of(text, needs)


def test_a_huge_prompt_is_read_at_its_end():
    """A question at the end of a long document is found, and a hostile one takes no long time."""
    assert tuple("ABCD") == options_in("x " * 1_000_000 + "\n" + CAPITAL)
    assert () == options_in("A" * 1_000_000 + "\nA. " * 5)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("WRITE A FUNCTION", id="large"),
        pytest.param("wr\u0130te a funct\u0131on", id="other-letters-that-are-an-i"),
        pytest.param("write a \u017fcript", id="a-long-s"),
        pytest.param("x = 1\n  import numpy", id="a-line-of-it"),
    ],
)
def test_code_is_seen_however_it_is_written(text):
    """The words that a pattern is only tried for are those that it would find."""
    assert kind_of(text) is TaskKind.CODE


def test_the_letters_that_are_no_ascii_and_match_it_are_known():
    """A pattern that ignores case takes four other letters for ASCII ones, and lower-case text has them still."""
    others = "".join(map(chr, range(128, sys.maxunicode + 1)))
    assert set(tasks._ALSO_ASCII) == set(re.findall("[a-z]", others, re.IGNORECASE))
    assert not set("skiSKI") & set("".join(tasks._HOW_MANY_WORDS))
