"""Is every module and function short enough to be read at once? The caps are soft: an exception needs a reason."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES = 400
FUNCTION_LINES = 40
NESTING = 3

EXCEPTIONS: dict[str, str] = {}
"""Module (`hybrid/x.py`) or function (`hybrid/x.py:name`) that may be longer or deeper, and why."""

FOLDERS = ("hybrid", "scripts", "tests")
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)
"""What counts as a level: where the path through the code branches. `with` only says how long something is held."""


def too_long(name: str, source: str) -> Iterator[str]:
    """Name the module and each function in it that is over a cap."""
    lines = len(source.splitlines())
    if lines > MODULE_LINES and name not in EXCEPTIONS:
        yield f"{name} has {lines} lines; the cap is {MODULE_LINES}"
    for node in functions(source):
        if f"{name}:{node.name}" not in EXCEPTIONS:
            length = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
            if length > FUNCTION_LINES:
                yield f"{name}:{node.name} has {length} lines without its docstring; the cap is {FUNCTION_LINES}"
            if (depth := nesting(node.body)) > NESTING:
                yield f"{name}:{node.name} nests {depth} blocks; the cap is {NESTING}"


@functools.cache
def functions(source: str) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, ...]:
    """Give all functions of a source."""
    return tuple(
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's docstring, which is to be as long as it needs."""
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or first.lineno) - first.lineno + 1
    return 0


def nesting(body: list[ast.stmt]) -> int:
    """Count the blocks inside each other; an `elif` is no deeper than its `if`, and a nested function starts anew."""
    deepest = 0
    for statement in body:
        if isinstance(statement, ast.With | ast.AsyncWith):
            deepest = max(deepest, nesting(statement.body))
        if not isinstance(statement, BLOCKS):
            continue
        inner = 1 + max((nesting(part) for part in _inner_bodies(statement)), default=0)
        if isinstance(statement, ast.If) and len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If):
            inner = max(1 + nesting(statement.body), nesting(statement.orelse))
        deepest = max(deepest, inner)
    return deepest


def _inner_bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        yield getattr(statement, field, [])
    for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
        yield part.body


FILES = [path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short_enough(name):
    """No module is over 400 lines, no function over 40 or nested deeper than 3, unless a reason is written down."""
    assert [] == list(too_long(name, (ROOT / name).read_text(encoding="utf-8")))


def test_every_exception_is_for_something():
    """An exception whose file or function is gone is removed."""
    known = {name for path in FILES for name in (path, *_functions(path))}
    assert set() == set(EXCEPTIONS) - known


def _functions(name: str) -> Iterator[str]:
    yield from (f"{name}:{node.name}" for node in functions((ROOT / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param("\n" * 401, "x.py has 401 lines", id="module"),
        pytest.param("def f():\n" + "    a = 1\n" * 40, "x.py:f has 41 lines", id="function"),
        pytest.param(
            "def f():\n for a in b:\n  if a:\n   for a in b:\n    while a:\n     pass",
            "x.py:f nests 4 blocks",
            id="nesting",
        ),
    ],
)
def test_a_planted_excess_is_caught(source, expected):
    """The checker finds a long module, a long function and a deep one."""
    [found] = too_long("x.py", source)
    assert found.startswith(expected)


def test_a_chain_of_elif_is_not_deep():
    """elif reads as one level, however many there are."""
    chain = "def f():\n if a:\n  pass\n" + " elif b:\n  pass\n" * 9
    assert [] == list(too_long("x.py", chain))
