"""Is what an answer says read as a person would read it, and is silence read as silence?"""

from __future__ import annotations

import ast
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.calibration.answers import choice, code, number

CITIES = ["London", "Paris", "Rome", "Berlin"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("b", "B"),
        ("  B.\n", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("A", "A"),
        ("B) Paris", "B"),
        ("B. Paris\nbecause A is wrong", "B"),
        ("The answer is B.", "B"),
        ("The answer is (B) Paris", "B"),
        ("the answer is c", "C"),
        ("Answer: **B**", "B"),
        ("The correct answer is:\n\nB. Paris", "B"),
        ("the correct option is C", "C"),
        ("Option D", "D"),
        ("\\boxed{C}", "C"),
        ("A. London is wrong. The answer is D", "D"),
        ("The answer is B. No, wait, the answer is C.", "C"),
        ("Looking at it, (B) Paris", "B"),
        ("I'd go with C", "C"),
        ("Paris", "B"),
        ("paris.", "B"),
        ("A man walked", None),
        ("The answer is a mystery", None),
        ("B or C", None),
        ("(B) or (C)", None),
        ("E", None),
        ("", None),
        ("I do not know", None),
        ("London and Paris", None),
    ],
)
def test_choice(text, expected):
    """A letter that was committed to, in any of the usual ways, and None else."""
    assert expected == choice(text, CITIES)


def test_options_limit_the_letters():
    """With ten options J may be meant, with four it may not."""
    assert "J" == choice("Answer: J", ["x"] * 10)
    assert choice("Answer: J", CITIES) is None


def test_options_of_the_same_text_are_not_told_apart():
    """The text of two options names neither."""
    assert choice("Paris", ["Paris", "paris", "Rome"]) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 18", 18),
        ("5 + 3 = 8\n#### 9 eggs of 20", 9),
        ("#### $1,234.50", Fraction(2469, 2)),
        ("#### -7", -7),
        ("first #### 1 then #### 2", 2),
        ("she has 8 ####", 8),
        ("so 18.", 18),
        ("It costs $18.00 per day", 18),
        ("**70,000**", 70_000),
        ("\\boxed{42}", 42),
        ("1,000,000", 1_000_000),
        ("1, 2, 3", 3),
        ("3/4 of it", Fraction(3, 4)),
        ("1 1/2 cups", Fraction(3, 2)),
        ("2/0", 2),
        ("50%", 50),
        (".5", Fraction(1, 2)),
        ("$.50", Fraction(1, 2)),
        ("3.5.", Fraction(7, 2)),
        ("-5", -5),
        ("it is -5", -5),
        ("\u22125", -5),
        ("-$5", -5),
        ("10-3", 3),
        ("10 - 3", 3),
        ("12 - 4 = 8", 8),
        ("= $ 12", 12),
        ("€ 12", 12),
        ("<<48/2=24>>24", 24),
        ("no number", None),
        ("", None),
        ("####", None),
        ("9" * 100, None),
    ],
)
def test_number(text, expected):
    """The number an answer ends in, whatever is around it; exact; None without one."""
    assert expected == number(text)


@given(
    st.decimals(min_value=0, max_value=10**9, places=2), st.sampled_from(["#### {}", "so ${}.", "**{}** eggs", "= {}"])
)
def test_a_number_written_any_way_is_read_back(value, shape):
    """With and without thousands separators."""
    assert Fraction(value) == number(shape.format(value)) == number(shape.format(f"{value:,}"))


@given(st.text(max_size=200))
def test_no_text_breaks_the_readers(text):
    """Whatever a model says, reading it ends without an exception."""
    found = choice(text, CITIES)
    assert found is None or found in "ABCD"
    assert number(text) is None or isinstance(number(text), Fraction)
    program = code(text, PROMPT, "double")
    assert program is None or ast.parse(program)


PROMPT = '''from typing import List

FACTOR = 2

def helper(x):
    return FACTOR * x

def double(xs: List[int]) -> List[int]:
    """Double each.
    >>> double([1])
    [2]
    """
'''
WHOLE = "def double(xs: List[int]) -> List[int]:\n    return [helper(x) for x in xs]\n"


def runs(program: str | None) -> object:
    """What the program gives for [1, 2]."""
    assert program is not None
    space: dict[str, object] = {}
    exec(compile(program, "<answer>", "exec"), space)  # noqa: S102 - the tests' own programs
    return space["double"]([1, 2])


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("    return [helper(x) for x in xs]\n", id="body"),
        pytest.param("return [helper(x) for x in xs]", id="body-stripped"),
        pytest.param(
            "ys = []\n    for x in xs:\n        ys.append(helper(x))\n    return ys", id="first-line-stripped"
        ),
        pytest.param("ys = []\nfor x in xs:\n    ys.append(helper(x))\nreturn ys", id="body-dedented"),
        pytest.param("    return [helper(x) for x in xs]\n\nThis doubles each element.", id="body-and-prose"),
        pytest.param("    return [helper(x) for x in xs]\n\nprint(double([3]))\nassert (", id="body-and-broken-rest"),
        pytest.param(WHOLE, id="whole"),
        pytest.param(f"Here you are:\n\n```python\n{WHOLE}```\nIt doubles.", id="fenced"),
        pytest.param(f"```\n{WHOLE}```", id="fenced-without-language"),
        pytest.param(f"```python\n{WHOLE}", id="cut-off-fence"),
        pytest.param(f"~~~python\n{WHOLE}~~~", id="tildes"),
        pytest.param(f"Here you are:\n{WHOLE}\nIt doubles each one.", id="prose-around"),
        pytest.param("```python\n    return [helper(x) for x in xs]\n```", id="fenced-body"),
        pytest.param(f"```python\nfrom typing import List\nimport math\n\n{WHOLE}```", id="with-imports"),
        pytest.param(f"```bash\npip install x\n```\n```python\n{WHOLE}```", id="another-language-first"),
        pytest.param(f"```python\nprint(1)\n```\nthen\n```python\n{WHOLE}```", id="second-block-defines"),
        pytest.param(
            f"```python\n{WHOLE}```\n```python\ndef double(xs):\n    return None\n```", id="first-attempt-counts"
        ),
        pytest.param(f"1. First\n   ```python\n{WHOLE}   ```", id="fence-in-a-list"),
    ],
)
def test_code_is_found(answer):
    """Whole or body, fenced or not, with imports and helpers of the prompt, without the prose."""
    assert [2, 4] == runs(code(answer, PROMPT, "double"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("", id="nothing"),
        pytest.param("I cannot do that.", id="prose"),
        pytest.param("?", id="punctuation"),
        pytest.param("def double(xs):\n    return [helper(x for x in", id="cut-off"),
        pytest.param('def double(xs):\n    """Double."""\n', id="docstring-only"),
        pytest.param("# nothing to do", id="comment-only"),
        pytest.param("(" * 5_000, id="brackets"),
        pytest.param("def double(xs):\n" + "@a\n" * 30_000, id="each-line-a-new-error"),
    ],
)
def test_no_code_is_none(answer):
    """What holds no function with a body is no program."""
    assert code(answer, PROMPT, "double") is None


def test_a_whole_function_keeps_its_own_helpers():
    """What the answer defines before and after its function goes along."""
    answer = "def half(x):\n    return helper(x)\n\ndef double(xs):\n    return [half(x) for x in xs]\n\nZ = 3\n"
    program = code(answer, PROMPT, "double")
    assert [2, 4] == runs(program)
    assert "Z = 3" in program


def test_a_prompt_that_is_prose_is_not_put_before_the_code():
    """A question in words gives no preamble."""
    assert [2, 4] == runs(
        code("def double(xs):\n    return [2 * x for x in xs]", "Write a function double(xs).", "double")
    )
