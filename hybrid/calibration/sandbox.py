"""How is a program run that nobody has read? In a process that can reach nothing, with limits, and killed at the end.

What is confined, on Linux: no file can be written and only the standard library read (Landlock); no process, thread,
socket or signal to another (seccomp, and a network namespace of its own where the system allows one); processor time,
memory and output are limited; it is a session of its own, killed with all that is in it. What could not be had is
named, and where something was demanded that could not be had, nothing is run.

It is a fence around the mistakes and mischief of a model's draft. The verdict comes from the process the program runs
in: one written to search that process for the way to forge it could. What it cannot do is reach out.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from hybrid.calibration.sandbox_child import SECRET_BYTES

Barrier: TypeAlias = Literal["network", "files", "processes"]
ALL_BARRIERS: frozenset[Barrier] = frozenset({"network", "files", "processes"})

MAX_VERDICT_BYTES = 1 << 20
READ_BYTES = 1 << 16
CHILD = Path(__file__).with_name("sandbox_child.py")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to try after the program ran.

    source: statements, or an expression where `expected` is given. expected: the value's literal; None: any end without
    an exception will do.
    """

    source: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether a check passed, and if not, what happened instead."""

    is_passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """Processor seconds, seconds by the clock, bytes of address space, and bytes of output before it is killed."""

    cpu_s: int = 4
    wall_s: float = 10.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 64 << 10


DEFAULT_LIMITS = SandboxLimits()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended.

    status: `done` (there are verdicts), `timeout` (by the clock), `output` (wrote too much), `died` (ended without
    verdicts: exit code or signal in `detail`), `refused` (a demanded barrier is missing; nothing was run).
    code_error: what the program itself raised before any check.
    missing: barriers that are not in force on this system.
    """

    status: Literal["done", "timeout", "output", "died", "refused"]
    checks: tuple[Checked, ...] = ()
    code_error: str | None = None
    detail: str = ""
    output: str = ""
    missing: frozenset[str] = frozenset()

    @property
    def is_passed(self) -> bool:
        """Whether the program ran and every check passed, of which there was at least one."""
        is_whole = self.status == "done" and self.code_error is None
        return is_whole and bool(self.checks) and all(check.is_passed for check in self.checks)


def run(
    code: str,
    checks: Sequence[Check],
    limits: SandboxLimits = DEFAULT_LIMITS,
    required: Iterable[Barrier] = ALL_BARRIERS,
) -> Ran:
    """Run a program and then each check, in one fresh process. Blocks for at most `limits.wall_s` and a little.

    Args:
        required: barriers without which nothing is run.
    """
    job = {
        "code": code,
        "checks": [{"source": check.source, "expected": check.expected} for check in checks],
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "required": sorted(required),
    }
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hybrid-sandbox-", ignore_cleanup_errors=True))
        stdin = stack.enter_context(tempfile.TemporaryFile())
        # Surrogates may come out of a model's tokens; JSON escapes them.
        stdin.write(json.dumps(job).encode())
        stdin.seek(0)
        verdict_in, verdict_out = stack.enter_context(_pipe())
        secret_in, secret_out = stack.enter_context(_pipe())
        secret = secrets.token_bytes(SECRET_BYTES)
        secret_out.write(secret)
        child = _start(folder, stdin, (verdict_out.fileno(), secret_in.fileno()))
        verdict_out.close()
        try:
            ended, output, verdict = _collect(child, verdict_in, limits)
        finally:
            _kill(child)
    return _ran(ended, child.returncode, output, verdict, secret)


def _start(folder: str, stdin: IO[bytes], fds: tuple[int, int]) -> subprocess.Popen[bytes]:
    # What -I does, but that it would ignore the hash seed too: equal runs are to end alike. The environment is ours.
    isolated = ["-s", "-P", "-S", "-B", "-u"]
    return subprocess.Popen(
        [sys.executable, *isolated, str(CHILD), *map(str, fds)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={"PATH": "", "HOME": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        pass_fds=fds,
        start_new_session=True,
    )


def _collect(
    child: subprocess.Popen[bytes], verdict_in: IO[bytes], limits: SandboxLimits
) -> tuple[Literal["ended", "timeout", "output"], bytes, bytes]:
    """Read until both pipes end, the verdict is whole, or a limit is passed."""
    assert child.stdout is not None
    deadline, got = time.monotonic() + limits.wall_s, {"output": b"", "verdict": b""}
    most = {"output": limits.output_bytes, "verdict": MAX_VERDICT_BYTES}
    with selectors.DefaultSelector() as pipes:
        pipes.register(child.stdout, selectors.EVENT_READ, "output")
        pipes.register(verdict_in, selectors.EVENT_READ, "verdict")
        while pipes.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return "timeout", got["output"], got["verdict"]
            for key, _ in pipes.select(left_s):
                piece = os.read(key.fd, READ_BYTES)
                got[key.data] += piece
                if len(got[key.data]) > most[key.data]:
                    return "output", got["output"][: limits.output_bytes], b""
                if not piece:
                    pipes.unregister(key.fileobj)
    return "ended", got["output"], got["verdict"]


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the session's processes and reap the child; its group is still its own, since it was not reaped before."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _ran(ended: Literal["ended", "timeout", "output"], code: int, output: bytes, verdict: bytes, secret: bytes) -> Ran:
    text = output.decode("utf-8", "replace")
    told = _told(verdict, secret)
    if told is None:
        if ended != "ended":
            return Ran(ended, output=text, detail={"timeout": "too slow", "output": "wrote too much"}[ended])
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Ran("died", output=text, detail=f"ended without a verdict: {cause}")
    missing = frozenset(told["missing"])
    if told["is_refused"]:
        return Ran(
            "refused", detail=f"nothing here keeps a program from: {', '.join(sorted(missing))}", missing=missing
        )
    checks = tuple(Checked(bool(check["is_passed"]), str(check["detail"])) for check in told["checks"])
    return Ran("done", checks, told["code_error"], output=text, missing=missing)


def _told(verdict: bytes, secret: bytes) -> dict[str, Any] | None:
    """What the child told, if it is whole and begins with the secret."""
    if not secrets.compare_digest(verdict[:SECRET_BYTES], secret):
        return None
    try:
        told = json.loads(verdict[SECRET_BYTES:])
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Both ends of a pipe, unbuffered, closed at the end."""
    read_fd, write_fd = os.pipe()
    with os.fdopen(read_fd, "rb", buffering=0) as reading, os.fdopen(write_fd, "wb", buffering=0) as writing:
        yield reading, writing
