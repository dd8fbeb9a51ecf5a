"""What did an answer say? A letter, a number or code out of a chat model's text; None where it did not commit.

Pure and of the standard library only, so that one reading serves offline scoring and the agreement of live samples.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from fractions import Fraction

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_DIGITS = 60
"""Longer numbers are noise of a model that repeats itself."""
MAX_CODE_CHARS = 100_000
MAX_TRIMS = 60
"""Lines that are left out at the end of code, one error after the other, before it is given up as none."""

_DECLARED = re.compile(
    r"(?:answer|option|choice)(?:\s+is)?(?:\s*[:=])?\s*(?:option\s+|choice\s+)?[\(\[*\"'`]*([A-Z])(?![A-Za-z0-9])[\)\]*\"'`.:,]*",
    re.IGNORECASE,
)
_MARKED = re.compile(r"(?<![A-Za-z0-9])(?:\(([A-Z])\)|\*\*([A-Z])[.):]?\*\*|\\boxed\{([A-Z])\})")
_LEADING = re.compile(r"\s*[\(\[*\"'`]*([A-Z])(?!\W*\s(?:or|and)\s)(?:[\)\]*\"'`.:,]+|\s*$|\s*\n|\s+[-\u2013\u2014])")
_LONE = re.compile(r"(?<![A-Za-z0-9'\u2019])([A-Z])(?![A-Za-z0-9'\u2019])")

_NUMBER = re.compile(
    r"(?<![\d.,])(?P<sign>[-\u2212\u2013]?)\s?(?P<currency>[$€£¥]?\s?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?P<decimals>\.\d+)?"
    r"(?:(?P<fraction>\s*/\s*\d+)|\s+(?P<mixed>\d+/\d+))?"
)
_FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*([A-Za-z0-9_+-]*)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)[ \t]*$|\Z)", re.M | re.S
)
_CODE_START = re.compile(r"^(?:from\s+\S+\s+import\b|import\s|def\s|async\s+def\s|class\s|@)", re.MULTILINE)


def choice(text: str, options: Sequence[str]) -> str | None:
    """The letter an answer chose; None where it named none, or several without saying which.

    Tried in turn: nothing but a letter, a declaration (`the answer is (B)`, the last one counts), a letter at the very
    beginning (`B. Paris`), a marked one (`(B)`, `**B**`), the text of exactly one option, and a letter that stands
    alone as the only one.

    Args:
        options: the texts of A, B, C and so on; their number limits the letters.
    """
    allowed = LETTERS[: len(options)]
    if (bare := text.strip(" \t\r\n()[]{}*\"'`.:,").upper()) and len(bare) == 1:
        return bare if bare in allowed else None
    declared = [str(found).upper() for found in _DECLARED.findall(text) if found.isupper() or found.upper() != "A"]
    if declared and declared[-1] in allowed:
        return declared[-1]
    leading = _LEADING.match(text)
    if leading and leading.group(1) in allowed:
        return leading.group(1)
    for found in (
        {letter for groups in _MARKED.findall(text) for letter in groups if letter},
        {allowed[at] for at, option in enumerate(options) if _folded(option) and _folded(option) == _folded(text)},
        # "A" and "I" are words.
        {letter for letter in _LONE.findall(text) if letter not in "AI" or text.strip() == letter},
    ):
        letters = {letter for letter in found if letter in allowed}
        if len(letters) == 1:
            return letters.pop()
    return None


def _folded(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def number(text: str) -> Fraction | None:
    """The number an answer ends in: the first after the last `####`, else the last in the text; None without one.

    Thousands separators, currency signs, units, a trailing period, decimals, fractions (`3/4`) and mixed numbers
    (`1 1/2`) are understood; `50%` is 50, as GSM8K has it. Exact, so that 0.5 equals 1/2 and 18 equals 18.00.

    Source: GSM8K's own rule takes what follows `####`, Cobbe et al., arXiv:2110.14168.
    """
    head, marker, tail = text.rpartition("####")
    if marker and (found := next(_numbers(tail), None)) is not None:
        return found
    return _last(head if marker else text)


def _last(text: str) -> Fraction | None:
    found = None
    for found in _numbers(text):  # noqa: B007 - the last one is what is wanted
        pass
    return found


def _numbers(text: str) -> Iterator[Fraction]:
    for found in _NUMBER.finditer(text):
        if len(found.group()) > MAX_DIGITS:
            continue
        value = Fraction((found["whole"].replace(",", "") or "0") + (found["decimals"] or ""))
        value = _with_fraction(value, found["fraction"], found["mixed"])
        yield -value if found["sign"] and _is_negative(text, found) else value


def _with_fraction(value: Fraction, fraction: str | None, mixed: str | None) -> Fraction:
    if fraction is not None and (below := int(fraction.strip(" /\n\t"))):
        return value / below
    if mixed is not None:
        above, below = (int(part) for part in mixed.split("/"))
        return value + Fraction(above, below) if below else value
    return value


def _is_negative(text: str, found: re.Match[str]) -> bool:
    """Whether the dash before a number is its sign: `is -5` is, `10-3`, `10 - 3` and `a - 3` take away."""
    before, after = text[: found.start()], text[found.start() + 1 : found.start() + 2]
    if after.isspace():
        return not before.strip()
    is_attached = bool(before) and (before[-1].isalnum() or before[-1] in ")]%")
    return not is_attached and not before.rstrip()[-1:].isdigit()


def code(answer: str, prompt: str, entry_point: str) -> str | None:
    """A program that defines `entry_point`, from a chat answer or a completion; None where there is none that compiles.

    Fenced blocks go before prose. A whole function gets what stands before its own in the prompt (imports, helpers);
    a body alone is put under the prompt's signature, indented as it must be. Text after the code is cut off.

    Args:
        prompt: the code that was to be completed, ending in a signature and docstring.
    """
    answer = answer[:MAX_CODE_CHARS]
    preamble = _preamble(prompt, entry_point)
    blocks = [
        block for language, block in _FENCE.findall(answer) if language.lower() in ("", "python", "py", "python3")
    ]
    # Several blocks may be parts of one program, or several attempts, of which the first that defines it counts.
    texts = [*[block for block in blocks if _defines(block, entry_point)], "\n".join(blocks)] if blocks else [answer]
    for text in texts:
        read = [_compiling(program, entry_point) for program in _programs(text, prompt, preamble, entry_point)]
        # Of the ways to read it the one that leaves out the least.
        if found := [(lost, at, whole) for at, (whole, lost) in enumerate(read) if whole is not None]:
            return min(found)[2]
    return None


def _programs(text: str, prompt: str, preamble: str, entry_point: str) -> Iterator[str]:
    """Ways to read a text as a program, the likeliest first."""
    if _defines(text, entry_point):
        start = _CODE_START.search(text)
        yield f"{preamble}\n{text[start.start() if start else 0 :]}"
        yield f"{preamble}\n{textwrap.dedent(text)}"
        return
    head = prompt if prompt.endswith("\n") else f"{prompt}\n"
    body = text.strip("\n")
    yield head + body
    # Stripped at its beginning, a body lacks the indentation of its first line only.
    yield f"{head}    {body.lstrip()}"
    yield head + textwrap.indent(textwrap.dedent(body), "    ")


def _compiling(program: str, entry_point: str) -> tuple[str | None, int]:
    """The longest beginning of whole lines that is Python and defines the function; and how many lines that leaves."""
    every = lines = program.splitlines()
    for _ in range(MAX_TRIMS):
        text = "\n".join(lines) + "\n"
        try:
            tree = ast.parse(text)
            wrong_at = _stray_return(tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
            wrong_at = exc.lineno if isinstance(exc, SyntaxError) and exc.lineno else len(lines)
        else:
            if wrong_at is None:
                return text if _has_body(tree, entry_point) else None, len(every) - len(lines)
        # What follows an error cannot mend it.
        lines = lines[: max(0, min(len(lines), wrong_at) - 1)]
        if not lines:
            break
    return None, len(every)


def _stray_return(tree: ast.Module) -> int | None:
    """The line of a `return` outside any function, which parses and does not compile."""
    within = list(tree.body)
    while within:
        node = within.pop(0)
        if isinstance(node, ast.Return):
            return node.lineno
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            within += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return None


def _has_body(tree: ast.Module, entry_point: str) -> bool:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point:
            is_docstring = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
            return len(node.body) > 1 or not is_docstring
    return any(
        isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == entry_point for to in node.targets)
        for node in tree.body
    )


def _defines(text: str, entry_point: str) -> bool:
    return re.search(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\s*\(", text, re.MULTILINE) is not None


def _preamble(prompt: str, entry_point: str) -> str:
    """What the prompt has before the function to write; all of it where it has no such function."""
    found = re.search(rf"^(?:async\s+)?def\s+{re.escape(entry_point)}\s*\(", prompt, re.MULTILINE)
    return prompt[: found.start()] if found else ""
