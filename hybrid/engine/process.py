"""What is a worker process to its supervisor? Started, attached to, listened to, ended, and described when it died."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from hybrid.backends.matmul import Matmul

log = logging.getLogger(__name__)

STDERR_LINES = 40
STDERR_LINE_BYTES = 1 << 16
KILL_AFTER_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """How to start a worker. gpu_layers: as in `BackendOptions`.

    drafts: whether tokens may be guessed ahead. draft_model_path: a small model that guesses too; "" is none.
    nice: of the worker, 0 to 19. is_adaptive: whether it may use fewer threads while others use the machine.
    is_embedder: the model only embeds. adapters: paths of LoRA files and their strengths.
    max_queue: bounds the requests that wait for a slot. prompt_folder, prompt_bytes: where beginnings of prompts are
    saved, and how much; 0 saves none. environment: the worker's environment; None inherits ours.
    flash_attention, kv_type, batch_tokens: as in `BackendOptions`, one format for keys and values.
    source_path: the file that was asked for, where `model_path` was tuned from it. tuned: what tuning chose, in words.
    untuned: why what tuning chose is not used, in words; "" where it is, or nothing was tuned.
    has_one_pool, matmul: as in `backends.base.BackendOptions`.
    """

    backend: str
    model_path: str
    context_tokens: int
    slots: int
    threads: int
    drafts: bool = True
    draft_model_path: str = ""
    gpu_layers: int | None = None
    max_queue: int = 64
    prompt_folder: str = ""
    prompt_bytes: int = 0
    is_embedder: bool = False
    adapters: tuple[tuple[str, float], ...] = ()
    environment: Mapping[str, str] | None = None
    nice: int = 0
    is_adaptive: bool = True
    flash_attention: bool | None = None
    kv_type: str = "f16"
    batch_tokens: int = 512
    has_one_pool: bool = True
    matmul: Matmul = "auto"
    source_path: str = ""
    tuned: str = ""
    untuned: str = ""


FallBack: TypeAlias = Callable[[str], SupervisorOptions]
"""Takes why a worker could not be used, and gives how to start another in its place. Raises: HybridError."""


class WorkerProcess:
    """One `python -m hybrid.engine.worker`, from its start to its end. It ends by itself when its socket is closed.

    Raises: OSError if it cannot be started.
    """

    def __init__(self, options: SupervisorOptions) -> None:
        ours, theirs = socket.socketpair()
        worker_options = {
            "backend": options.backend,
            "model_path": options.model_path,
            "context_tokens": options.context_tokens,
            "slots": options.slots,
            "threads": options.threads,
            "drafts": options.drafts,
            "draft_model_path": options.draft_model_path,
            "nice": options.nice,
            "is_adaptive": options.is_adaptive,
            "prompt_folder": options.prompt_folder,
            "prompt_bytes": options.prompt_bytes,
            "is_embedder": options.is_embedder,
            "adapters": options.adapters,
            "gpu_layers": options.gpu_layers,
            "flash_attention": options.flash_attention,
            "kv_type": options.kv_type,
            "batch_tokens": options.batch_tokens,
            "has_one_pool": options.has_one_pool,
            "matmul": options.matmul,
        }
        command = [sys.executable, "-m", "hybrid.engine.worker", str(theirs.fileno())]
        command.append(msgspec.json.encode(worker_options).decode())
        self._socket: socket.socket | None = ours
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=options.environment,
                )
        except OSError:
            ours.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def attach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give the streams of its socket, which the running loop owns from now on."""
        ours, self._socket = self._socket, None
        assert ours is not None
        return await asyncio.open_connection(sock=ours)

    async def listen(self) -> None:
        """Keep its last lines until it closes stderr: when native code aborts, they are all it leaves behind."""
        assert self._process.stderr is not None
        reader = asyncio.StreamReader(limit=STDERR_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stderr
        )
        try:
            while line := await reader.readline():
                text = line.decode("utf-8", "replace").rstrip()
                self._last_words.append(text)
                log.info("worker: %s", text)
        except ValueError:
            log.warning("worker wrote a line of more than %d bytes; its further output is dropped", STDERR_LINE_BYTES)
        finally:
            transport.close()

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """Close our end of its socket, if nobody attached to it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def end(self) -> int:
        """Wait for its end, its socket being closed; kill it if it does not obey. Blocks; give the exit status."""
        try:
            return self._process.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def describe_end(self, code: int) -> str:
        """Say how it ended, with the last error it wrote."""
        cause = f"it exited with status {code}"
        if code < 0:
            cause = f"it was ended by {_signal_name(-code)}"
            if code == -signal.SIGKILL:
                cause += " (by hand, or by the kernel for lack of memory)"
        errors = [line for line in self._last_words if "ERROR" in line or "abort" in line.lower()]
        return f"{cause}; last error: {errors[-1]}" if errors else cause


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
