"""What is done in a process of its own, and how is it told? A crash in native code ends a trial and not the tuning."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from hybrid.catalog.tuned import Divergence, Settings, Speed

PROMPT_TOKENS, ANSWER_TOKENS = 175, 64
"""A short question under a short system prompt, and a short answer: the chats that figures are compared by."""
_LAST_WORDS_CHARACTERS = 300


class Quantise(msgspec.Struct, frozen=True, kw_only=True, tag="quantise"):
    """Write `source` in another format as `target`."""

    source: str
    target: str
    format: str


class Reference(msgspec.Struct, frozen=True, kw_only=True, tag="reference"):
    """Run the source over `chunks` of the text, and keep its rows of logits as float32 in `target`."""

    model: str
    target: str
    chunks: int


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Load a candidate, run it over the same text, compare, and time its chats.

    reference: what `Reference` has kept; None compares nothing. runs: how often.
    prompt_tokens, answer_tokens: of each chat; 0 times none.
    """

    model: str
    settings: Settings
    reference: str | None
    chunks: int
    prompt_tokens: int
    answer_tokens: int
    runs: int


Job: TypeAlias = Quantise | Reference | Measure


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job, where it was asked for. problem: why it failed."""

    speed: Speed | None = None
    divergence: Divergence | None = None
    problem: str | None = None


def run_job(job: Job, environment: Mapping[str, str]) -> Outcome:
    """Do a job in a process of its own, and wait for it. It ends when we do, however we end."""
    command = [sys.executable, "-m", "hybrid.tuning.trial"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=dict(environment)
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            # Its stdin stays open: the trial ends when it closes, which it does even if we are killed.
            process.stdin.write(msgspec.json.encode(job) + b"\n")
            process.stdin.flush()
            told = process.stdout.read()
            status = process.wait()
        except BrokenPipeError:
            told, status = b"", process.wait()
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stdin):
                if pipe is not None:
                    _close(pipe)
        try:
            return msgspec.json.decode(told, type=Outcome)
        except msgspec.DecodeError:
            errors.seek(0)
            return Outcome(problem=_describe(status, errors.read().decode("utf-8", "replace")))


def _close(pipe: object) -> None:
    try:
        pipe.close()  # type: ignore[attr-defined]
    except OSError:
        return


def _describe(status: int, said: str) -> str:
    how = f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
    if status == -9:
        how += " (by hand, or by the kernel for lack of memory)"
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
    return f"its process {how}" + (f"; it last said: {last[-_LAST_WORDS_CHARACTERS:]}" if last else "")
