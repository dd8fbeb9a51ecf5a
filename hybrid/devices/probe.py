"""How do we ask a tool or a driver that may be missing, slow or hanging? With a limit, and an outcome that is kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec

from hybrid.devices.host import Probe

TOOL_LIMIT_S = 4.0
"""Longest wait for one tool: nvidia-smi wakes a sleeping driver in up to 2 s where no persistence daemon runs."""
REAP_LIMIT_S = 0.2
"""A process that hangs in a driver cannot be killed; after this long it is left to itself."""
MAX_FILE_BYTES = 4 << 20
MAX_REASON_CHARACTERS = 200
MAX_DIGITS = 18


class Absent(Exception):
    """There is nothing to ask: the tool, the file or the library is not on this machine."""


class Failed(Exception):
    """It is there and gave no answer; the message says why."""


Asked: TypeAlias = tuple[Any, str]
"""What a probe found, and a few words on it."""


def run_tool(command: Sequence[str], *, limit_s: float = TOOL_LIMIT_S) -> str:
    """Give what a tool prints. Its messages are asked for in English.

    Raises: Absent if it is not installed, Failed if it does not end in time or ends with an error.
    """
    if shutil.which(command[0]) is None:
        raise Absent(f"{command[0]} is not installed")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as exc:
        raise Failed(f"{command[0]} cannot be started: {exc.strerror}") from exc
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _abandon(process)
        raise Failed(f"{Path(command[0]).name} gave no answer in {limit_s:g} s; its driver may hang") from None
    if process.returncode != 0:
        said = " ".join((err or out).decode("utf-8", "replace").split())
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit {process.returncode}"
        raise Failed(f"{Path(command[0]).name} ended with {how}: {said[:MAX_REASON_CHARACTERS] or 'no message'}")
    return out.decode("utf-8", "replace")


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """Kill it with its children; one that waits inside a driver stays behind, and must not take us with it."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(REAP_LIMIT_S)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


Kind = TypeVar("Kind")


def read_json(text: str, kind: type[Kind], who: str) -> Kind:
    """Read what a tool printed as JSON of a kind.

    Raises: Failed, naming the tool, if it is none, or another.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise Failed(f"{who} printed no JSON that can be read: {exc}") from exc


def read_count(value: object) -> int | None:
    """Read a whole number of bytes or of their like; None for what is none, or more than any machine has."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS:
        return int(value)
    return None


def words_of(value: object) -> str | None:
    """Give what a tool names something by; None where it tells nothing, or no text."""
    return value if isinstance(value, str) and value else None


def read_text(path: Path) -> str | None:
    """Give a small system file's text without its last line's end; None where it is missing or may not be read."""
    try:
        with path.open("rb") as file:
            # Texts of a device tree, such as a board's name, end as C's strings do.
            return file.read(MAX_FILE_BYTES).decode("utf-8", "replace").strip("\0").strip()
    except OSError:
        return None


def ask_all(
    questions: Mapping[str, Callable[[], Asked]], *, limit_s: float
) -> tuple[dict[str, Any], tuple[Probe, ...]]:
    """Ask all at once, each in a thread of its own, and wait `limit_s` for the whole.

    Returns: what each found, by name, and how each ended, in the order of the questions.
    """
    answers = {name: _Answer(name, ask) for name, ask in questions.items()}
    # The monotonic clock: a wall clock that is set meanwhile changes no limit.
    until_s = time.monotonic() + limit_s
    for answer in answers.values():
        answer.thread.start()
    for answer in answers.values():
        answer.thread.join(max(0.0, until_s - time.monotonic()))
    # Each is looked at once: a thread that ends just now must not be late in one list and in time in the other.
    results = {name: answer.result for name, answer in answers.items()}
    found = {name: result[0] for name, result in results.items() if result is not None and result[1].outcome == "found"}
    late = [Probe(name, "failed", f"no answer in {limit_s:g} s", limit_s * 1e3) for name in results]
    probes = tuple(late[i] if result is None else result[1] for i, result in enumerate(results.values()))
    return found, probes


class _Answer:
    """One question in one thread; a thread that never comes back is a daemon and does not keep the process alive."""

    def __init__(self, name: str, ask: Callable[[], Asked]) -> None:
        self._name, self._ask = name, ask
        self.result: tuple[Any, Probe] | None = None
        self.thread = threading.Thread(target=self._run, name=f"probe-{name}", daemon=True)

    def _run(self) -> None:
        started_s = time.monotonic()
        value: Any = None
        try:
            value, detail = self._ask()
            outcome = "found"
        except Absent as nothing:
            outcome, detail = "absent", str(nothing)
        except Failed as failed:
            outcome, detail = "failed", str(failed)
        except Exception as unexpected:  # noqa: BLE001 - a thread boundary: a new driver's odd answer must not end us
            outcome, detail = "failed", f"its answer cannot be read ({type(unexpected).__name__}: {unexpected})"
        took_ms = (time.monotonic() - started_s) * 1e3
        self.result = value, Probe(self._name, outcome, detail, round(took_ms, 1))  # type: ignore[arg-type]
