"""What of the texts that clients sent us or models wrote may reach a terminal? Never a control code."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """The text with each control character written out (`\\x1b`), so that a tag cannot move the cursor or lie."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def without_controls(text: str) -> str:
    """A longer text with its control codes but line ends and tabs written out, for a model can be made to write any.

    Other characters stay that `printable` writes out: joined emoji and scripts from right to left need them.
    """
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) != "Cc" else char.encode("unicode_escape").decode()
        for char in text
    )
