"""How are the servers started that are compared? `hybrid serve` and a peer, on free ports, with the same size."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from scripts._load import Target
from tests.e2e.serving import Serving

START_LIMIT_S = 120.0
END_LIMIT_S = 20.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a scenario needs: sequences together, and the context tokens of each."""

    slots: int
    slot_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestants:
    """What is measured. peer_command: a template, see scripts/bench_engine for what it may hold."""

    model: Path
    threads: int
    peer_command: str | None = None
    peer_url: str | None = None
    environ: Mapping[str, str] | None = None
    """Added to the environment of hybrid, not of the peer."""

    @contextmanager
    def both(self, size: Size) -> Iterator[list[Target]]:
        """Run hybrid, and the peer where one was named, until the end of the block."""
        with ExitStack() as stack:
            targets = [stack.enter_context(self.ours(size))[0]]
            if self.peer_url:
                targets.append(target_of("peer", self.peer_url))
            elif self.peer_command:
                targets.append(stack.enter_context(self.peer(size)))
            yield targets

    @contextmanager
    def ours(self, size: Size, environ: Mapping[str, str] | None = None) -> Iterator[tuple[Target, Serving]]:
        """Run `hybrid serve` in a folder of its own."""
        config = (
            f'[local]\nmodel = "{self.model}"\nslots = {size.slots}\nthreads = {self.threads}\n'
            f"context_tokens = {size.slot_tokens}\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            added = {**(self.environ or {}), **(environ or {})}
            with Serving(Path(folder), config, environ=added, is_forked=False) as server:
                server.wait_until(lambda state: state["state"] == "ready")
                yield target_of("ours", server.url, model="local", pid=server.process.pid), server

    @contextmanager
    def peer(self, size: Size) -> Iterator[Target]:
        """Run the peer from its template; end it by its process id."""
        assert self.peer_command
        port = free_port()
        command = self.peer_command.format(
            model=self.model,
            port=port,
            slots=size.slots,
            slot_tokens=size.slot_tokens,
            context_tokens=size.slots * size.slot_tokens,
            threads=self.threads,
        )
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(shlex.split(command), stdout=log, stderr=log, env=dict(os.environ))
            try:
                _wait_ready(process, port, log)
                yield Target("peer", "127.0.0.1", port, "peer", process.pid)
            finally:
                process.terminate()
                try:
                    process.wait(END_LIMIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def target_of(name: str, url: str, *, model: str = "peer", pid: int | None = None) -> Target:
    """Take a base URL apart, with or without /v1."""
    parsed = httpx2.URL(url)
    return Target(name, parsed.host, parsed.port or 80, model, pid)


def worker_environ(server: Target) -> dict[str, str]:
    """The environment hybrid gave its worker, as the system tells it."""
    for child in psutil.Process(server.pid).children():
        if "hybrid.engine.worker" in child.cmdline():
            return dict(child.environ())
    raise SystemExit("hybrid has no worker process; it may have died")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: object) -> None:
    """Ask /health until it says 200, as llama.cpp's server does once the model is loaded."""
    until_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(POLL_S)
    log.seek(0)  # type: ignore[attr-defined]
    raise SystemExit(f"the peer did not start:\n{log.read()[-2000:]}")  # type: ignore[attr-defined]
