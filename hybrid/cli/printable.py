"""What of the texts that clients sent us may reach a terminal? Their printable characters, never a control code."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with each control character written out (`\\x1b`), so that a tag cannot move the cursor or lie."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
