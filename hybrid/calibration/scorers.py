"""Is an answer right? By the scorer that a dataset's row names, against its gold answer or its tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hybrid.calibration.answers import choice, code, number
from hybrid.calibration.sandbox import ALL_BARRIERS, DEFAULT_LIMITS, Barrier, Check, SandboxLimits, run
from hybrid.errors import CommandError

Scorer: TypeAlias = Literal["choice", "number", "python"]


@dataclass(frozen=True, slots=True)
class Score:
    """Whether an answer is right, what was read off it (None: nothing could be), and why it is wrong."""

    is_correct: bool
    read: str | None
    detail: str = ""


def score_choice(answer: str, gold: str, options: Sequence[str]) -> Score:
    """Right if the letter that was chosen is the gold one."""
    letter = choice(answer, options)
    return Score(letter == gold.strip().upper(), letter, "" if letter else "no option was chosen")


def score_number(answer: str, gold: str) -> Score:
    """Right if the last number equals the gold one exactly: 18, 18.00 and $18 are one number.

    Raises: CommandError if the gold answer is no number.
    """
    wanted = number(gold)
    if wanted is None:
        raise CommandError(f"the gold answer {gold[:80]!r} holds no number")
    found = number(answer)
    return Score(found == wanted, None if found is None else str(found), "" if found is not None else "no number")


def score_python(
    answer: str,
    prompt: str,
    tests: str,
    entry_point: str,
    limits: SandboxLimits = DEFAULT_LIMITS,
    required: Iterable[Barrier] = ALL_BARRIERS,
) -> Score:
    """Right if the program in the answer passes the row's tests in the sandbox.

    `tests` define `check(candidate)`, as HumanEval's do; what only asserts is run as it is.

    Raises: CommandError where this system cannot confine a program, rather than to count it as wrong.
    """
    program = code(answer, prompt, entry_point)
    if program is None:
        return Score(False, None, f"no program that defines {entry_point}")
    call = f"\ncheck({entry_point})\n" if "def check(" in tests else "\n"
    ran = run(program, [Check(tests + call)], limits, required)
    if ran.status == "refused":
        raise CommandError(f"answers in Python cannot be tested safely here: {ran.detail}")
    failed = next((check.detail for check in ran.checks if not check.is_passed), "")
    return Score(ran.is_passed, program, ran.code_error or ran.detail or failed)
