"""Is a progress bar drawn only where somebody can see it?"""

from __future__ import annotations

import io

import pytest

from hybrid.cli.watching import can_redraw


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """As a terminal does."""
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "expected"),
    [
        pytest.param(Terminal(), {"TERM": "xterm-256color"}, True, id="terminal"),
        pytest.param(Terminal(), {}, True, id="terminal-without-a-name"),
        pytest.param(Terminal(), {"TERM": "dumb"}, False, id="dumb"),
        pytest.param(io.StringIO(), {"TERM": "xterm", "FORCE_COLOR": "1"}, False, id="pipe"),
    ],
)
def test_a_bar_needs_a_terminal_that_redraws(stream, environ, expected):
    """On a pipe and on a dumb terminal progress is told in lines, for a bar would show nothing until the end."""
    assert expected == can_redraw(stream, environ)
