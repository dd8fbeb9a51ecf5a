"""Are a docstring's examples found, only those that are ones, and does running them tell right drafts from wrong?"""

from __future__ import annotations

import subprocess
import sys

import pytest

from hybrid.calibration.examples import Opinion, docstring, examples, verify
from hybrid.calibration.sandbox import Check, SandboxLimits

LIMITS = SandboxLimits(cpu_s=1, wall_s=20.0)


def prompt(doc: str) -> str:
    """A function to write, with this docstring."""
    return f'import math\n\ndef add(a, b=0):\n    """{doc}\n    """\n'


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        pytest.param("\n    >>> add(1, 2)\n    3", [("add(1, 2)", "3")], id="session"),
        pytest.param("\n    >>> add(1,\n    ...     2)\n    3", [("add(1,\n2)", "3")], id="session-over-lines"),
        pytest.param(
            "\n    >>> add(1, 2)\n    3\n    >>> add(2)\n    2", [("add(1, 2)", "3"), ("add(2)", "2")], id="two"
        ),
        pytest.param("\n    >>> add(1, 2)\n    3\n    and so on", [("add(1, 2)", "3")], id="prose-after-result"),
        pytest.param("\n    >>> len([add(1)])\n    1", [("len([add(1)])", "1")], id="call-inside"),
        pytest.param("\n    >>> x = add(1, 2)\n    >>> print(3)\n    3", [], id="statement"),
        pytest.param("\n    >>> add(x)\n    [1, ...]", [], id="no-literal-result"),
        pytest.param("\n    add(1, 2) == 3", [("add(1, 2)", "3")], id="equals"),
        pytest.param("\n    add(1, 2) = 3", [("add(1, 2)", "3")], id="one-equals"),
        pytest.param("\n    add(1, 2) => 3", [("add(1, 2)", "3")], id="arrow"),
        pytest.param("\n    add(1, 2) ==> 3 ", [("add(1, 2)", "3")], id="long-arrow"),
        pytest.param("\n    add(1, 2) ==>3", [("add(1, 2)", "3")], id="arrow-without-space"),
        pytest.param("\n    * add(1, 2) -> 3", [("add(1, 2)", "3")], id="thin-arrow"),
        pytest.param("\n    add(1, 2) \u279e 3", [("add(1, 2)", "3")], id="unicode-arrow"),
        pytest.param("\n    add(1, 2) # => 3", [("add(1, 2)", "3")], id="commented-arrow"),
        pytest.param("\n    add('a', 'b') returns 'ab'", [("add('a', 'b')", "'ab'")], id="returns"),
        pytest.param("\n    add(1, 2) should return 3.", [("add(1, 2)", "3")], id="should-return"),
        pytest.param("\n    assert add(1, 2) == 3", [("add(1, 2)", "3")], id="assert"),
        pytest.param("\n    add([1], [2]) == [1, 2] # joined", [("add([1], [2])", "[1, 2]")], id="comment"),
        pytest.param("\n    add(1, 2) == 3 (the sum)", [("add(1, 2)", "3")], id="remark"),
        pytest.param("\n    add(19, 5) -> 19 + 5 = 24", [("add(19, 5)", "24")], id="worked-out"),
        pytest.param(
            "\n    add([\n      [1],\n    ], [2]) == [[1], 2]", [("add([   [1], ], [2])", "[[1], 2]")], id="lines"
        ),
        pytest.param("\n    add(1) == [1,\n      2]", [("add(1)", "[1,\n  2]")], id="result-over-lines"),
        pytest.param("\n    add(a=1, b=2) == 3", [("add(a=1, b=2)", "3")], id="keywords"),
        pytest.param("\n    add('(', ')') == '()'", [("add('(', ')')", "'()'")], id="brackets-in-strings"),
        pytest.param("\n    add(1) == 2\n    add(1) == 2", [("add(1)", "2")], id="twice-is-once"),
        pytest.param("\n    Input: 3\n    Output: (1, 2)", [("add(3)", "(1, 2)")], id="input"),
        pytest.param(
            "\n    Input: a = [1, 2], b = 3\n    Output: [4]", [("add(a = [1, 2], b = 3)", "[4]")], id="named-input"
        ),
        pytest.param(
            "\n    Input: [4,2]\n    Output: [2, 1]\n    Explanation: x", [("add([4,2])", "[2, 1]")], id="explained"
        ),
        pytest.param("\n    Input: x\n    Output: 3", [], id="input-is-a-name"),
        pytest.param("\n    add(a, b) returns the sum", [], id="prose"),
        pytest.param("\n    add(1, 2)", [], id="no-result"),
        pytest.param("\n    badd(1, 2) == 3", [], id="another-function"),
        pytest.param("\n    x.add(1, 2) == 3", [], id="a-method"),
        pytest.param("\n    add(1, 2) == ''3'", [], id="broken-result"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_examples(doc, expected):
    """What is surely an example is one, in the ways docstrings write them."""
    assert [Check(*one) for one in expected] == examples(prompt(doc), "add")


def test_a_prompt_that_is_no_python_is_read_as_text():
    """Examples in a question in words are found too."""
    assert [Check("add(1, 2)", "3")] == examples("Write add so that\nadd(1, 2) == 3", "add")


def test_only_the_functions_own_docstring_counts():
    """A helper's examples say nothing of the function."""
    source = 'def helper():\n    """add(1) == 2"""\n\ndef add(a):\n    """Adds."""\n'
    assert "Adds." == docstring(source, "add")
    assert [] == examples(source, "add")


def test_examples_are_bounded():
    """A prompt of a thousand examples runs twenty."""
    assert 20 == len(examples(prompt("".join(f"\n    add({at}) == {at}" for at in range(1_000))), "add"))


@pytest.mark.parametrize(
    "doc",
    [
        pytest.param("add([" * 4_000 + ")" * 4_000, id="brackets"),
        pytest.param("add(1) == " + " " * 40_000 + "(", id="spaces"),
        pytest.param("\n    >>> add(1)\n" + "    [" * 10_000, id="open-lists"),
        pytest.param("\n    add(1) == [\n" * 3_000, id="open-lines"),
    ],
)
def test_a_hostile_prompt_takes_no_time(doc):
    """What could be read in a thousand ways is given up soon; the test's own time limit is far above it."""
    assert [] == examples(prompt(doc), "add")


TWO = prompt("\n    >>> add(1, 2)\n    3\n    >>> add(2)\n    2")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param("    return a + b\n", (Opinion.AGREE, 2, 2), id="right"),
        pytest.param(
            "```python\ndef add(a, b=0):\n    return math.floor(a + b)\n```", (Opinion.AGREE, 2, 2), id="fenced"
        ),
        pytest.param("    return a\n", (Opinion.DISAGREE, 2, 1), id="half-right"),
        pytest.param("    raise ValueError('no')\n", (Opinion.DISAGREE, 2, 0), id="raises"),
        pytest.param("    while True: pass\n", (Opinion.DISAGREE, 2, 0), id="endless"),
        pytest.param("    import os; os._exit(0)\n", (Opinion.DISAGREE, 2, 0), id="exits"),
        pytest.param("I am sorry.", (Opinion.DISAGREE, 2, 0), id="no-code"),
        pytest.param("    import numpy\n    return a + b\n", (Opinion.ABSTAIN, 2, 0), id="third-party"),
        pytest.param(
            "import numpy\ndef add(a, b=0):\n    return a + b\n", (Opinion.ABSTAIN, 2, 0), id="third-party-at-top"
        ),
    ],
)
def test_verify(answer, expected):
    """Right drafts agree, wrong and runaway ones do not, and what cannot be told is not."""
    found = verify(answer, TWO, "add", LIMITS, ())
    assert expected == (found.opinion, found.n, found.n_right)
    assert (found.detail == "") == (found.opinion is Opinion.AGREE)


def test_without_examples_there_is_no_opinion():
    """Nothing shown, nothing said; no program is run."""
    assert Opinion.ABSTAIN is verify("    return a", prompt("Adds."), "add", LIMITS).opinion


def test_what_went_wrong_is_told():
    """The first example that fails, with what came instead."""
    assert "add(1, 2) got 1" == verify("    return a\n", TWO, "add", LIMITS, ()).detail


def test_the_verifier_needs_none_of_the_offline_libraries():
    """It may run beside live requests, where scikit-learn, matplotlib and numpy are not loaded."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, hybrid.calibration.examples, hybrid.calibration.agreement, hybrid.policy.calibrated\n"
            "print(sorted({'sklearn', 'scipy', 'matplotlib', 'numpy'} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
    )
    assert ("[]\n", "") == (told.stdout, told.stderr)
