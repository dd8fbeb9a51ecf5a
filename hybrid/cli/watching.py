"""Does somebody watch stderr on a terminal where a progress bar can be drawn?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

_CANNOT_REDRAW = ("dumb", "unknown")
"""As rich has it, which draws nothing there until the end: minutes without a word."""


def can_redraw(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a line of the stream can be drawn again and again; otherwise progress is told in lines."""
    return stream.isatty() and environ.get("TERM", "").lower() not in _CANNOT_REDRAW
