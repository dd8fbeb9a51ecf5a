"""What does a block of Python call? Gemma writes `print(default_api.f(a=1))` or `[f(a=1), g()]` between fences."""

from __future__ import annotations

import ast
import json
import warnings

from hybrid.engine.formats.json_call import Calls, JsonCalls, Status, whole_characters

MAX_BLOCK_CHARS = 100_000
_FENCE = "```"
_SPACE = " \t\r\n"


class BlockCalls:
    """Reads a fenced block to its end: JSON calls as they arrive, or Python calls once the block is whole.

    The Python is parsed, never run: only calls of plain names with literal keyword arguments count.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._json: JsonCalls | None = None
        self._text = ""
        self.status = Status.READING

    @property
    def raw(self) -> str:
        """What was read and did not become a call."""
        return self._text if self._json is None else self._text + self._json.raw

    def feed(self, text: str) -> int:
        """Read on; return how many characters were taken."""
        at = 0
        while at < len(text) and self.status is Status.READING:
            if self._json is None:
                at += self._step(text[at])
            elif self._json.status is Status.READING:
                at += self._feed_json(self._json, text[at:])
            else:
                at += self._step_fence(text[at])
        return at

    def _feed_json(self, json_calls: JsonCalls, text: str) -> int:
        taken = json_calls.feed(text)
        if json_calls.status is Status.BROKEN:
            self.status = Status.BROKEN
        elif json_calls.status is Status.DONE:
            self._text = ""
        return taken

    def _step_fence(self, char: str) -> int:
        """Take one character between the calls and the fence's end; a block that goes on some other way ends here."""
        if char == "{":
            self._json, self._text = JsonCalls(self._calls), ""
            return 0
        if char not in _SPACE + ",`":
            self.status = Status.DONE
            return 0
        self._text += char
        if self._text.endswith(_FENCE):
            self.status = Status.DONE
        return 1

    def _step(self, char: str) -> int:
        if char == "{" and self._text.strip(_SPACE) in ("", "["):
            self._json, before, self._text = JsonCalls(self._calls), self._text, ""
            self._json.feed(before)
            return 0
        self._text += char
        if self._text.endswith("\n" + _FENCE) or len(self._text) > MAX_BLOCK_CHARS:
            self._end(self._text.removesuffix(_FENCE))
        return 1

    def _end(self, code: str) -> None:
        found = python_calls(code.strip())
        if not found or not all(self._calls.is_known(name) for name, _ in found):
            self.status = Status.BROKEN
            return
        for name, arguments in found:
            self._calls.begin(name, arguments)
        self.status, self._text = Status.DONE, ""


def python_calls(code: str) -> list[tuple[str, str]]:
    """Give the name and the arguments as JSON of each call in a piece of Python; empty if there is anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\\d" in a model's string is no concern of our log
            body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found: list[tuple[str, str]] = []
    for statement in body:
        if not isinstance(statement, ast.Expr):
            return []
        value = _unwrapped(statement.value)
        for node in value.elts if isinstance(value, ast.List | ast.Tuple) else [value]:
            call = _call(_unwrapped(node))
            if call is None:
                return []
            found.append(call)
    return found


def _unwrapped(node: ast.expr) -> ast.expr:
    """Take `print(...)` off what it prints."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
        return node.args[0] if len(node.args) == 1 and not node.keywords else node
    return node


def _call(node: ast.expr) -> tuple[str, str] | None:
    if not isinstance(node, ast.Call) or node.args:
        return None
    name = node.func.id if isinstance(node.func, ast.Name) else None
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        name = node.func.attr
    if name is None or any(keyword.arg is None for keyword in node.keywords):
        return None
    try:
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
        return name, whole_characters(json.dumps(arguments, ensure_ascii=False, allow_nan=False))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
