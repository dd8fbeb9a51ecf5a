"""How does a stranger's text stay text? What reads like a control token in a message is never tokenized as one.

A chat template writes turns with control tokens such as `<|im_end|>`, and what it makes is tokenized with these
recognised. A message that holds the same characters would end its own turn and go on as system or assistant. So before
a template sees the messages, a mark goes behind the first character of each such place, and the rendered text is
tokenized in pieces between the marks: no piece holds a control token that the template did not write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

MARK = "\udfff\udfff"
"""Second halves of surrogate pairs without their first ones: in no text, and nothing that a template looks for."""
_Trie: TypeAlias = "dict[str, _Trie]"
_END = ""


class Shield:
    """Knows how the control tokens of one vocabulary are written."""

    def __init__(self, controls: Iterable[str]) -> None:
        """A control token of one character cannot be told from text, and is left alone."""
        trie: _Trie = {}
        for text in controls:
            node = trie
            for character in text if len(text) > 1 else "":
                node = node.setdefault(character, {})
            if node is not trie:
                node[_END] = {}
        # Looked for at every place, within others as well, by a pattern that reads no character twice: a list of
        # thousands of names would be tried one by one at each `<` of a hostile text.
        self._places = re.compile(f"(?=({_pattern(trie)})).", re.DOTALL) if trie else None

    def guard(self, value: Any) -> Any:
        """Mark the control tokens in every text of a JSON value, names of members included."""
        if self._places is None:
            return value
        return _in_every_text(value, self._mark)

    def _mark(self, text: str) -> str:
        assert self._places is not None
        return self._places.sub(lambda place: place[0] + MARK, text)


def pieces(rendered: str) -> list[str]:
    """Split a rendered text at the marks; its characters are the pieces' in their order."""
    return rendered.split(MARK)


def _in_every_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_in_every_text(one, change) for one in value]
    if isinstance(value, dict):
        return {change(name): _in_every_text(one, change) for name, one in value.items()}
    return value


def _pattern(trie: _Trie) -> str:
    """Write a prefix tree as a regular expression; stretches without a fork stay one literal."""
    literal = ""
    while len(trie) == 1 and _END not in trie:
        ((character, trie),) = trie.items()
        literal += re.escape(character)
    branches = [re.escape(character) + _pattern(rest) for character, rest in trie.items() if character != _END]
    if not branches:
        return literal
    return f"{literal}(?:{'|'.join(branches)}){'?' * (_END in trie)}"
