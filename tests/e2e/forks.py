"""How is `hybrid` started hundreds of times without importing it hundreds of times? Forked from a process that has.

Run as a program this is that process. It imports what `hybrid serve` and the commands beside it do, and then waits for
jobs; each is run by a fork of it, as `python -m hybrid ...` or `python FILE ...` would, to the same end: with its own
environment, outputs, exit code and pid. What is started is the real thing, only its imports are already done, which
are half of the time to its first answer.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

PRELOADED = (
    "hybrid.cli.serve",
    "hybrid.cli.report",
    "hybrid.cli.explain",
    "hybrid.cli.keys",
    "hybrid.cli.local_model",
    "hybrid.wiring",
    "hybrid.runtime",
    "hybrid.server.run",
    "hybrid.server.app",
    "aiohttp",
    "pydantic.type_adapter",  # which Typer takes where it is
    "uvicorn.lifespan.on",
    "uvloop",
)
CALIBRATING = ("hybrid.cli.calibrate", "hybrid.cli.evaluate", "hybrid.calibration.training")
"""For those commands a process of its own: what a fork inherits it takes down at its end, and this is most of it."""
SIZE_BYTES = 4
OUTPUTS = 3
"""What a job comes with: its standard output, its standard error, and where its pid and exit code are told."""


class Forked:
    """A process that was started here, with those attributes of `subprocess.Popen` that the tests use."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, cwd: Path | None = None, output: int
    ) -> None:
        """Start a command of this Python: `sys.executable -m MODULE ...` or `sys.executable FILE ...`.

        output: the descriptor of its standard output. Its standard error is a pipe, which is the caller's to close.
        """
        assert command[0] == sys.executable
        job = json.dumps({"command": command[1:], "environ": {**environ}, "folder": str(cwd or Path.cwd())}).encode()
        error, error_end = os.pipe()
        told, told_end = os.pipe()
        try:
            is_calibrating = not {"calibrate", "eval"}.isdisjoint(command)
            _send(_parent(*(CALIBRATING if is_calibrating else ())), job, [output, error_end, told_end])
        finally:
            os.close(error_end)
            os.close(told_end)
        self.stderr: IO[str] = os.fdopen(error)
        self._told = os.fdopen(told)
        self.pid = int(self._told.readline())
        self.returncode: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._await_end, daemon=True).start()

    def _await_end(self) -> None:
        with self._told as told:
            self.returncode = int(told.readline())
        self._ended.set()

    def poll(self) -> int | None:
        """Its exit code, minus a signal's number if that ended it; None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Await its end. Raises: subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[str], environ: Mapping[str, str], *, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; give its code and what it said."""
    with TemporaryFile("w+") as output:
        process = Forked(command, environ, cwd=cwd, output=output.fileno())
        with process.stderr as stream:
            said = stream.read()
        code = process.wait()
        output.seek(0)
        return subprocess.CompletedProcess([*command], code, output.read(), said)


@functools.cache
def _parent(*more: str) -> socket.socket:
    """Start a process that is forked from, once for what it imports; it ends when this one does, and its socket.

    more: modules that it imports beside `PRELOADED`.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        os.set_inheritable(theirs.fileno(), True)
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        command = [sys.executable, __file__, str(theirs.fileno()), *more]
        os.posix_spawn(sys.executable, command, os.environ, file_actions=files)
    return ours


_sending = threading.Lock()


def _send(parent: socket.socket, job: bytes, descriptors: list[int]) -> None:
    with _sending:
        socket.send_fds(parent, [len(job).to_bytes(SIZE_BYTES, "big")], descriptors)
        parent.sendall(job)


# ---- the process that is forked from


def next_job(jobs: socket.socket) -> list[str]:
    """Wait for jobs, and return in a fork for each, which is now as if it had just been started for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the jobs
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody awaits those who await the jobs
    while True:
        size, descriptors, _, _ = socket.recv_fds(jobs, SIZE_BYTES, OUTPUTS, socket.MSG_WAITALL)
        if not size:
            os._exit(0)
        content = b""
        while len(content) < int.from_bytes(size, "big"):
            content += jobs.recv(int.from_bytes(size, "big") - len(content))
        if os.fork() == 0:
            jobs.close()
            return _begin(json.loads(content), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _begin(job: dict[str, object], stdout: int, stderr: int, told: int) -> list[str]:
    """Fork once more, wait for that one's end and tell of it; in it, take on the job's world and return its command."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        os.write(told, b"%d\n" % pid)
        os.close(stdout)
        os.close(stderr)
        _, status = os.waitpid(pid, 0)
        os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, standard in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.close(told)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environ"])
    return job["command"]


def become(command: list[str]) -> None:
    """Run a command line as Python would."""
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    for name in (*PRELOADED, *sys.argv[2:]):
        importlib.import_module(name)
    # A fork's collector leaves alone what is shared: else each would look through all of it, and so copy it.
    gc.collect()
    gc.freeze()
    become(next_job(socket.socket(fileno=int(sys.argv[1]))))
