"""Does a draft do what its docstring shows? The examples in a prompt, run on the draft in the sandbox."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from hybrid.calibration.answers import code
from hybrid.calibration.sandbox import ALL_BARRIERS, DEFAULT_LIMITS, Barrier, Check, SandboxLimits, run

MAX_EXAMPLES = 20
MAX_EXAMPLE_CHARS = 2_000
MAX_PROMPT_CHARS = 50_000
MAX_CALLS, MAX_ENDS = 100, 40
"""Places in a docstring that are looked at, and brackets in each that might close the call."""
MAX_LINES = 12
"""Of one example: brackets that stay open longer are prose."""

_ARROW = re.compile(
    r"\s*(?:#\s*)?(?:==?=?>|-+>|\u279e|\u2192|==?|(?:should\s+|must\s+|will\s+)?(?:returns?|be|equals?|gives?|yields?)\b"
    r"|evaluates\s+to|is|outputs?:?)\s*",
    re.IGNORECASE,
)
_INPUT = re.compile(r"^[ \t]*Inputs?[ \t]*:[ \t]*(.+)\n+[ \t]*Outputs?[ \t]*:[ \t]*(.+)$", re.MULTILINE | re.IGNORECASE)
_REMARK = re.compile(r"\s+(?:#|\(|//|--).*$")


class Opinion(StrEnum):
    """What examples say of a draft."""

    AGREE = "agree"
    DISAGREE = "disagree"
    ABSTAIN = "abstain"


@dataclass(frozen=True, slots=True)
class Verified:
    """The opinion, from how many examples, how many of them the draft gets right, and what went wrong first."""

    opinion: Opinion
    n: int
    n_right: int
    detail: str


def verify(
    answer: str,
    prompt: str,
    entry_point: str,
    limits: SandboxLimits = DEFAULT_LIMITS,
    required: Iterable[Barrier] = ALL_BARRIERS,
) -> Verified:
    """Run the prompt's examples on an answer.

    AGREE if all hold, DISAGREE if one does not or there is no program in the answer, ABSTAIN where nothing can be
    said: the prompt shows no example, the program needs a module that is not the standard library's, or this system
    cannot confine it. Passing a few examples is strong evidence and no proof; failing one is nearly a proof.
    """
    found = examples(prompt, entry_point)
    if not found:
        return Verified(Opinion.ABSTAIN, 0, 0, "the prompt shows no example that can be run")
    program = code(answer, prompt, entry_point)
    if program is None:
        return Verified(Opinion.DISAGREE, len(found), 0, f"the answer holds no program that defines {entry_point}")
    ran = run(program, found, limits, required)
    if ran.status == "refused":
        return Verified(Opinion.ABSTAIN, len(found), 0, ran.detail)
    details = [ran.code_error or "", *(check.detail for check in ran.checks)]
    if any(detail.startswith("ModuleNotFoundError") for detail in details):
        return Verified(Opinion.ABSTAIN, len(found), 0, next(filter(None, details)))
    n_right = sum(check.is_passed for check in ran.checks)
    if ran.is_passed:
        return Verified(Opinion.AGREE, len(found), n_right, "")
    wrong = (f"{tried.source} {check.detail}" for tried, check in zip(found, ran.checks, strict=False) if check.detail)
    return Verified(Opinion.DISAGREE, len(found), n_right, ran.detail or ran.code_error or next(wrong, "wrong"))


def examples(prompt: str, entry_point: str) -> list[Check]:
    """The examples of a prompt's docstring: `>>>` with its result, `f(x) == y` with any arrow, `Input:` and `Output:`.

    Only what is sure to be one: a call of the function with literal arguments, and a literal result. Each once.
    """
    text = docstring(prompt[:MAX_PROMPT_CHARS], entry_point)
    found = dict.fromkeys(itertools.chain(_sessions(text, entry_point), _inline(text, entry_point)))
    if not found:
        found = dict.fromkeys(_inputs(text, entry_point))
    return list(itertools.islice(found, MAX_EXAMPLES))


def docstring(prompt: str, entry_point: str) -> str:
    """The docstring of the function; the whole prompt where it is not Python."""
    try:
        tree = ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return prompt
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point:
            return ast.get_docstring(node) or ""
    return ""


def _sessions(text: str, entry_point: str) -> Iterator[Check]:
    """Examples as in an interactive session."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if not line.lstrip().startswith(">>>"):
            continue
        source = line.lstrip()[3:].strip()
        rest = lines[at + 1 :]
        more = list(itertools.takewhile(lambda other: other.lstrip().startswith("..."), rest))
        source = "\n".join([source, *(other.lstrip()[3:].strip() for other in more)])
        shown = itertools.takewhile(lambda other: other.strip() and ">>>" not in other, rest[len(more) :])
        # A result may be followed by prose without an empty line between.
        result = next(_literals(list(shown)), None)
        if result is not None and _is_about(source, entry_point):
            yield Check(source, result)


def _is_about(source: str, entry_point: str) -> bool:
    """Whether a source is one expression that calls the function."""
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Name) and node.id == entry_point for node in ast.walk(tree))


def _inline(text: str, entry_point: str) -> Iterator[Check]:
    """Examples as a call, something like an arrow, and a result."""
    calls = re.finditer(rf"(?<![\w.]){re.escape(entry_point)}\s?\(", text)
    for found in itertools.islice(calls, MAX_CALLS):
        source = _call_at(text[found.start() : found.start() + MAX_EXAMPLE_CHARS])
        if source is None:
            continue
        rest = text[found.start() + len(source) :]
        arrow = _ARROW.match(rest)
        if arrow is None:
            continue
        result = next(_literals(rest[arrow.end() :].splitlines()), None)
        if result is not None:
            yield Check(" ".join(source.split("\n")), result)


def _call_at(text: str) -> str | None:
    """The call that a text begins with, if its arguments are literals; it may go over lines."""
    for end in itertools.islice((found.end() for found in re.finditer(r"\)", text)), MAX_ENDS):
        try:
            tree = ast.parse(text[:end], mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        is_literal = isinstance(tree, ast.Call) and all(
            _is_literal(part) for part in (*tree.args, *(keyword.value for keyword in tree.keywords))
        )
        return text[:end] if is_literal else None
    return None


def _inputs(text: str, entry_point: str) -> Iterator[Check]:
    """Examples as a line of input, named or not, and a line of output."""
    for given, shown in _INPUT.findall(text):
        for arguments in (given.strip(), _REMARK.sub("", given).strip()):
            source = _call_at(f"{entry_point}({arguments})")
            result = next(_literals([shown]), None)
            if source == f"{entry_point}({arguments})" and result is not None:
                yield Check(source, result)
                break


def _literals(lines: list[str]) -> Iterator[str]:
    """The literals that the first line, or the first few where brackets stay open, may be meant as, likeliest first."""
    for many in range(1, min(len(lines), MAX_LINES) + 1):
        text = "\n".join(lines[:many]).strip()
        if len(text) > MAX_EXAMPLE_CHARS:
            return
        for candidate in (_REMARK.sub("", text).rstrip(".,;: "), text.rstrip(".,;: "), text.rpartition(" = ")[2]):
            if candidate and _reads_as_literal(candidate):
                yield candidate


def _reads_as_literal(text: str) -> bool:
    try:
        return _is_literal(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_literal(node: ast.AST) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    # "..." is a literal of Python's, and stands for what was left out here.
    return not any(isinstance(part, ast.Constant) and part.value is ... for part in ast.walk(node))
