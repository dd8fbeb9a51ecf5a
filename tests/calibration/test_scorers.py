"""Is an answer marked right exactly where it is?"""

from __future__ import annotations

import pytest

from hybrid.calibration.sandbox import SandboxLimits
from hybrid.calibration.scorers import Score, score_choice, score_number, score_python
from hybrid.errors import CommandError

LIMITS = SandboxLimits(cpu_s=1, wall_s=20.0)
OPTIONS = ["London", "Paris", "Rome", "Berlin"]
PROMPT = 'def double(x):\n    """Double it."""\n'
TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", Score(True, "B")),
        ("The answer is C.", Score(False, "C")),
        ("Hm.", Score(False, None, "no option was chosen")),
    ],
)
def test_choice(answer, expected):
    """The letter that was chosen, against the gold one; none is wrong."""
    assert expected == score_choice(answer, "B", OPTIONS)


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("#### 18", "18", Score(True, "18")),
        ("It is $18.00.", "18", Score(True, "18")),
        ("1,800", "1800", Score(True, "1800")),
        ("one half, 1/2", "0.5", Score(True, "1/2")),
        ("17", "18", Score(False, "17")),
        ("no", "18", Score(False, None, "no number")),
    ],
)
def test_number(answer, gold, expected):
    """Equal numbers are right however they are written."""
    assert expected == score_number(answer, gold)


def test_a_gold_answer_without_a_number_is_the_datasets_fault():
    """It is told, and not counted as a wrong answer."""
    with pytest.raises(CommandError, match="gold answer 'many' holds no number"):
        score_number("18", "many")


@pytest.mark.parametrize(
    ("answer", "is_correct", "detail"),
    [
        pytest.param("    return 2 * x", True, "", id="right"),
        pytest.param("    return 3 * x", False, "AssertionError", id="wrong"),
        pytest.param("    return y", False, "NameError", id="raises"),
        pytest.param("    import os; os._exit(0)", False, "exit code 0", id="exits"),
        pytest.param("    while True: pass", False, "SIGKILL", id="endless"),
        pytest.param("def double(x):\n    return 2 * x\n\nraise SystemExit", False, "SystemExit", id="leaves"),
        pytest.param("Sorry.", False, "no program", id="prose"),
        pytest.param(
            "def check(c):\n    pass\n\ndef double(x):\n    return 0\n", False, "AssertionError", id="own-check"
        ),
    ],
)
def test_python(answer, is_correct, detail):
    """Right if all tests pass in the sandbox, and the reason if not."""
    found = score_python(answer, PROMPT, TESTS, "double", LIMITS, ())
    assert is_correct == found.is_correct
    assert detail in found.detail


def test_tests_that_only_assert_are_run_as_they_are():
    """Without `check` the assertions themselves are the test."""
    assert score_python("    return 2 * x", PROMPT, "assert double(2) == 4", "double", LIMITS, ()).is_correct
    assert not score_python("    return x", PROMPT, "assert double(2) == 4", "double", LIMITS, ()).is_correct
