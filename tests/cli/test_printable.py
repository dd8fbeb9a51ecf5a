"""What of a foreign text reaches a terminal? Nothing that could move its cursor or name its window."""

import logging

import pytest

from hybrid.cli.printable import printable, without_controls
from hybrid.cli.serve import LogLines

ASTRONAUT = "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("two\nlines\tand a tab", "two\nlines\tand a tab", id="line-ends-and-tabs"),
        pytest.param("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J", id="escapes"),
        pytest.param("right\rwrong", "right\\rwrong", id="back-to-the-beginning"),
        pytest.param("\x9b31m", "\\x9b31m", id="of-eight-bits"),
        pytest.param(
            "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}", "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}", id="emoji"
        ),
    ],
)
def test_control_codes_of_an_answer_are_written_out(text, shown):
    """What is text stays as it is."""
    assert shown == without_controls(text)


def test_a_name_keeps_its_printable_characters_alone():
    """A line end in a tag could pretend to be another line."""
    assert "tag\\nspent $0" == printable("tag\nspent $0")


def test_a_log_line_holds_no_control_codes():
    """What a record or a model's file says of itself reaches the log of `hybrid serve` written out."""
    line = logging.LogRecord("hybrid", logging.WARNING, "", 0, "of %s", ("\x1b[31mred",), None)
    assert "WARNING of \\x1b[31mred" == LogLines("%(levelname)s %(message)s").format(line)
