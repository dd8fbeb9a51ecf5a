"""How does Mistral's newer format name its calls? `[TOOL_CALLS]name[ARGS]{...}`, or a list as in the older one."""

from __future__ import annotations

from hybrid.engine.formats.json_call import Calls, JsonCalls, JsonValue, Status

ARGS = "[ARGS]"
CALL_ID = "[CALL_ID]"
MAX_NAME_CHARS = 128
"""A name that long is no name; what was read so far is text."""
_SPACE = " \t\r\n"


class MistralCalls:
    """Reads what follows `[TOOL_CALLS]`: a JSON list of calls, or one call as name, marker and arguments.

    The id some versions write between name and arguments is passed over: calls get ids of ours in every format.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._list: JsonCalls | None = None
        self._value: JsonValue | None = None
        self._head = ""
        self.status = Status.READING

    @property
    def raw(self) -> str:
        """What was read and did not become a call."""
        return self._head if self._list is None else self._head + self._list.raw

    def feed(self, text: str) -> int:
        """Read on; return how many characters were taken."""
        at = 0
        while at < len(text) and self.status is Status.READING:
            if self._list is not None:
                at += self._list.feed(text[at:])
                self.status = self._list.status
            elif self._value is not None:
                at += self._feed_value(self._value, text[at:])
            else:
                at += self._step(text[at])
        return at

    def _step(self, char: str) -> int:
        """Take one character before the arguments; 0 leaves it to whoever comes next."""
        if not self._head.strip(_SPACE) and char in "[{":
            self._list = JsonCalls(self._calls)
            return 0
        if char == "{":
            return self._begin()
        if len(self._head) >= MAX_NAME_CHARS + len(CALL_ID):
            self.status = Status.BROKEN
            return 0
        self._head += char
        return 1

    def _begin(self) -> int:
        name = self._head.partition(ARGS)[0].partition(CALL_ID)[0].strip(_SPACE)
        is_name = name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        if not is_name or not self._calls.is_known(name):
            self.status = Status.BROKEN
            return 0
        self._head, self._value = "", JsonValue()
        self._calls.begin(name, "")
        return 0

    def _feed_value(self, value: JsonValue, text: str) -> int:
        taken = 0
        while taken < len(text) and not value.is_done:
            taken += value.takes(text[taken])
        self._calls.add(text[:taken])
        if value.is_done:
            self.status = Status.DONE
        return taken
