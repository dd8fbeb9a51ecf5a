"""Is a progress bar drawn only where somebody can see it, and does it keep to its line?"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hybrid.cli.bench import stage_lines
from hybrid.cli.calibration import question_lines
from hybrid.cli.models import byte_lines
from hybrid.cli.models_tune import step_lines
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


def drawn(make, cells: int, name: str, **fields: str) -> list[str]:
    """The lines that one step of 4 of 15 gives on a terminal of so many cells."""
    screen = io.StringIO()
    lines = make(Console(file=screen, width=cells, force_terminal=True, color_system=None, legacy_windows=False))
    lines.add_task(name, total=15, completed=4, **fields)
    lines.refresh()
    lines.console.print(lines.get_renderable())
    return screen.getvalue().splitlines()


LONG = "Q5_K_M, flash attention off, batch 512, 2 threads: eight chats"


@pytest.mark.parametrize(
    ("make", "fields", "expected"),
    [
        pytest.param(step_lines, {}, [" 4/15", "0:00:00", "Q5_K_M, flash"], id="tune"),
        pytest.param(
            stage_lines, {"stage": "qwen2.5-coder-0.5b-instruct"}, ["qwen2.5-c", " 27%", "Q5_K_M"], id="bench"
        ),
        pytest.param(byte_lines, {}, ["Q5_K_M, flash", " 27%", "-:--:--"], id="pull"),
        pytest.param(question_lines, {}, ["Q5_K_M, flash", " 4/15", "-:--:--"], id="calibrate"),
    ],
)
def test_progress_is_one_whole_line_on_a_narrow_terminal(make, fields, expected):
    """On 40 columns every number is still there in full, and only the words are cut."""
    (line,) = drawn(make, 40, LONG, **fields)
    assert (expected, True) == ([part for part in expected if part in line], len(line) <= 40)


@pytest.mark.parametrize("make", [step_lines, stage_lines, byte_lines, question_lines])
def test_a_wide_terminal_has_a_bar_too(make):
    """From 80 columns on there is room for a bar, and it is one line still."""
    (line,) = drawn(make, 80, LONG, stage="qwen2.5-coder-0.5b-instruct")
    assert "\u2501\u2501" in line


@pytest.mark.parametrize("make", [step_lines, stage_lines, byte_lines])
def test_brackets_in_a_name_are_no_markup(make):
    """A model's file may be called [b]x[/i].gguf, which ended the command with rich's complaint."""
    (line,) = drawn(make, 80, "[b]x[/i]", stage="[b]x[/i]")
    assert "[b]x[/i]" in line
