"""What becomes of `hybrid models pull` when its question is not answered, at a real terminal?"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

END_OF_INPUT = b"\x04"


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        pytest.param(END_OF_INPUT, 130, "interrupted: nothing was pulled", id="left"),
        pytest.param(b"n\n", 2, "nothing was pulled; hybrid models recommend", id="no"),
    ],
)
def test_nothing_is_pulled_unless_somebody_agrees(typed: bytes, code: int, said: str):
    """Who leaves the question has interrupted the command, as with Ctrl-C anywhere else."""
    ours, theirs = os.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard, os.fdopen(theirs, "rb", buffering=0) as terminal:
        keyboard.write(typed)
        command = [sys.executable, "-m", "hybrid", "models", "pull"]
        ended = subprocess.run(command, stdin=terminal, capture_output=True, text=True, check=False, timeout=100)
    assert ended.returncode == code
    assert said in ended.stderr
