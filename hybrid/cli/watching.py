"""Does somebody watch stderr on a terminal where a progress bar can be drawn, and how wide may its parts be?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column

_CANNOT_REDRAW = ("dumb", "unknown")
"""As rich has it, which draws nothing there until the end: minutes without a word."""
NARROW_CELLS = 80
"""On a terminal with fewer there is no room for a bar beside what it stands for."""


def can_redraw(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a line of the stream can be drawn again and again; otherwise progress is told in lines."""
    return stream.isatty() and environ.get("TERM", "").lower() not in _CANNOT_REDRAW


def words(template: str, ratio: int = 1) -> TextColumn:
    """Give a column of words that gets its share of what the others leave, and is cut off beyond that.

    A name in it may hold brackets, which are no markup.
    """
    return TextColumn(template, markup=False, table_column=Column(ratio=ratio, no_wrap=True, overflow="ellipsis"))


def progress_lines(
    wide: tuple[ProgressColumn, ...],
    narrow: tuple[ProgressColumn, ...],
    console: Console | None = None,
    *,
    is_transient: bool = False,
) -> Progress:
    """Give lines of progress that stay one line each at any width: numbers keep theirs, words and bars take the rest.

    wide, narrow: the columns with room for a bar, and without. console: stderr where it is None.
    """
    console = console or Console(stderr=True)
    columns = narrow if console.width < NARROW_CELLS else wide
    return Progress(*columns, console=console, expand=True, transient=is_transient)


def bar() -> BarColumn:
    """Give a bar that takes a share of the width, as words do."""
    return BarColumn(bar_width=None, table_column=Column(ratio=1))
