"""Where is the call in this JSON? One object or list of `{"name": ..., "arguments": {...}}`, read as it arrives."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from hybrid.types import ToolCallDelta

NAME_KEYS = frozenset({"name"})
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
OTHER_KEYS = frozenset({"type", "id"})
"""Keys that some models write beside the two that matter; anything else is not a call."""
_SPACE = " \t\r\n"
_OPENS, _CLOSES = "{[", "}]"


class Status(Enum):
    """How far a reader is."""

    READING = auto()
    DONE = auto()
    BROKEN = auto()
    """What was read is no call; `raw` is to be shown as text."""


class Calls(Protocol):
    """What a reader tells of the calls it finds."""

    def begin(self, name: str, arguments: str) -> None:
        """A call of `name` begins, with so much of its arguments' text."""

    def add(self, arguments: str) -> None:
        """More argument text of the call begun last."""

    def is_known(self, name: str) -> bool:
        """Say whether a call of this name is to be believed."""

    def deny(self) -> None:
        """Something has the shape of a call, and a name that nobody knows."""


class CallLog:
    """Collects what readers find as events. Only the names in `known` count as calls."""

    def __init__(self, known: frozenset[str], new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._known = known
        self.count = self.denied = 0
        self._events: list[ToolCallDelta] = []

    def begin(self, name: str, arguments: str) -> None:
        """Start the next index, with its id and name."""
        self._events.append(ToolCallDelta(self.count, self._new_id(), name, arguments))
        self.count += 1

    def add(self, arguments: str) -> None:
        """Continue the call begun last."""
        if arguments:
            self._events.append(ToolCallDelta(self.count - 1, arguments=arguments))

    def is_known(self, name: str) -> bool:
        """Say whether `name` is one of those that count."""
        return name in self._known

    def deny(self) -> None:
        """Count what looks like a call and is none."""
        self.denied += 1

    def take(self) -> list[ToolCallDelta]:
        """Give the events since the last time."""
        events, self._events = self._events, []
        return events


class JsonValue:
    """Finds the end of one JSON value. It counts brackets and strings; whether the inside is right others judge."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = False
        self._is_escaped = False
        self._is_scalar = False
        self.is_done = False

    def takes(self, char: str) -> bool:
        """Say whether the next character belongs to the value. A number ends only at what follows it."""
        if self._is_string:
            self._step_string(char)
        elif self._is_scalar:
            self.is_done = char in ",:" or char in _SPACE or char in _CLOSES
            return not self.is_done
        elif char == '"':
            self._is_string = True
        elif char in _OPENS:
            self._depth += 1
        elif char in _CLOSES:
            self._depth -= 1
            self.is_done = self._depth <= 0
        elif self._depth == 0:
            self._is_scalar = True
        return True

    def _step_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_string = False
            self.is_done = self._depth == 0


class JsonCall:
    """Reads one call as a JSON object whose keys may come in any order.

    The call is told as soon as its name is known and its arguments begin, then the arguments' text as it arrives,
    untouched. `raw` is all that was read, for showing it as text if it turns out to be no call; once a call
    was told it stays told, `raw` is empty, and further keys are passed over.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._expects = "{"
        self._key: str | None = None
        self._value: JsonValue | None = None
        self._text: list[str] = []
        self._name: str | None = None
        self._arguments: list[str] | None = None
        self._told_chars: int | None = None
        self._is_stranger = False
        self._seen: set[str] = set()
        self.raw = ""
        self.status = Status.READING

    @property
    def _is_call(self) -> bool:
        return self._name is not None and self._arguments is not None

    def feed(self, text: str) -> int:
        """Read on; return how many characters were taken. Fewer than given once it is done or broken."""
        taken = len(text)
        for at, char in enumerate(text):
            is_taken = self._step(char)
            if is_taken:
                self.raw += char
            if not is_taken or self.status is not Status.READING:
                taken = at + is_taken
                break
        self._tell()
        return taken

    def _step(self, char: str) -> bool:
        """Take one character; False leaves it to whoever comes next."""
        if self._value is not None:
            return self._step_value(char)
        if char in _SPACE:
            return True
        match self._expects, char:
            case "{", "{":
                self._expects = "first key"
            case (("first key" | "key"), '"'):
                self._begin_value(char, key=None)
            case ":", ":":
                self._expects = "value"
            case "value", _ if char not in ",:}]":
                self._begin_value(char, key=self._key)
            case ",", ",":
                self._expects = "key"
            case (("first key" | ","), "}"):
                return self._finish()
            case _:
                return self._break()
        return True

    def _begin_value(self, char: str, *, key: str | None) -> None:
        """Read a value, or a key where `key` is None."""
        self._key, self._value, self._text = key, JsonValue(), [char]
        self._value.takes(char)
        if key in ARGUMENT_KEYS and char in _OPENS:
            self._arguments = self._text

    def _step_value(self, char: str) -> bool:
        assert self._value is not None
        is_taken = self._value.takes(char)
        if is_taken:
            self._text.append(char)
        if not self._value.is_done:
            return True
        self._value = None
        is_sound = self._end_key() if self._key is None else self._end_value(self._key)
        if not is_sound:
            return self._break()
        return is_taken or self._step(char)

    def _end_key(self) -> bool:
        key = _string("".join(self._text))
        is_repeated = key in self._seen or (key in ARGUMENT_KEYS and bool(self._seen & ARGUMENT_KEYS))
        is_expected = key in NAME_KEYS | ARGUMENT_KEYS | OTHER_KEYS and not is_repeated
        self._expects, self._key = ":", key if key is not None and is_expected else ""
        self._seen.add(self._key)
        return (is_expected or self._is_call) and not self._is_denied()

    def _is_denied(self) -> bool:
        """With a name and arguments it has the shape of a call; before that, `name` may be that of a person."""
        is_denied = self._is_stranger and bool(self._seen & ARGUMENT_KEYS)
        if is_denied:
            self._calls.deny()
        return is_denied

    def _end_value(self, key: str) -> bool:
        text, self._expects = "".join(self._text), ","
        if key in NAME_KEYS:
            name = _string(text)
            if name is None:
                return False
            if not self._calls.is_known(name):
                self._is_stranger = True
                return not self._is_denied()
            self._name = name
        if key in ARGUMENT_KEYS and self._arguments is None:
            # Some models write the arguments as a string that holds JSON, as the API does.
            inner = "" if text == "null" else _string(text)
            self._arguments = [text if inner is None else inner if inner.strip() else "{}"]
        return True

    def _tell(self) -> None:
        if self._name is None or self._arguments is None:
            return
        told = self._told_chars or 0
        text = "".join(self._arguments[told:])
        if self._told_chars is None:
            self._calls.begin(self._name, text)
        else:
            self._calls.add(text)
        self._told_chars, self.raw = len(self._arguments), ""

    def _finish(self) -> bool:
        if self._name is None:
            return self._break()
        if self._arguments is None:
            self._arguments = ["{}"]
        self.status = Status.DONE
        return True

    def _break(self) -> bool:
        self.status = Status.BROKEN
        return False


class JsonCalls:
    """Reads one call, or a list of calls in brackets."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._call: JsonCall | None = None
        self._is_list = False
        self._expects = "first"
        self._raw = ""
        self.status = Status.READING

    @property
    def raw(self) -> str:
        """What was read and did not become a call."""
        return self._raw + (self._call.raw if self._call is not None else "")

    def feed(self, text: str) -> int:
        """Read on; return how many characters were taken."""
        at = 0
        while at < len(text) and self.status is Status.READING:
            at += self._feed_call(text[at:]) if self._call is not None else self._step(text[at])
        return at

    def _feed_call(self, text: str) -> int:
        assert self._call is not None
        taken = self._call.feed(text)
        if self._call.status is Status.BROKEN:
            self.status = Status.BROKEN
        elif self._call.status is Status.DONE:
            self._call, self._raw, self._expects = None, "", ","
            self.status = Status.READING if self._is_list else Status.DONE
        return taken

    def _step(self, char: str) -> int:
        if char == "{" and self._expects in ("first", "call"):
            self._call = JsonCall(self._calls)
            return 0
        if char == "[" and self._expects == "first":
            self._is_list, self._expects = True, "call"
        elif char == "," and self._expects == ",":
            self._expects = "call"
        elif char == "]" and self._expects == ",":
            self.status = Status.DONE
        elif char not in _SPACE:
            self.status = Status.BROKEN
            return 0
        self._raw += char
        return 1


def _string(text: str) -> str | None:
    """Decode a JSON string; None if it is not one."""
    if not text.startswith('"'):
        return None
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return None
    return whole_characters(value) if isinstance(value, str) else None


def whole_characters(text: str) -> str:
    """Join surrogates that are a pair, and replace those that stand alone: no client could be sent them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
