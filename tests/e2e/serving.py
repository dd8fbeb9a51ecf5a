"""How do the end-to-end tests run the real thing? `hybrid serve` as a process, asked over HTTP and by its CLI."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx2
import psutil

from hybrid.types import Json
from tests.e2e.forks import Forked, run

START_LIMIT_S = 60.0
END_LIMIT_S = 30.0
LOOK_S = 0.01
"""Between two looks at a state that is waited for: without it the looks themselves would take a core."""
STDOUT = 1
HYBRID = (sys.executable, "-m", "hybrid")
FAKE_MODEL = '[local]\nmodel = ""\nbackend = "fake"\nslots = 2\n'
"""A scripted echo in place of a model; see `hybrid.backends.fake` for the words that steer it."""


NO_MODEL = '[local]\nmodel = ""\n'
"""For what is asked of clouds alone: there is no worker to wait for."""


def cloud_toml(base_url: str, *, usd_per_day: str = "1", name: str = "big") -> str:
    """Give the configuration of one priced cloud with a budget."""
    return (
        f'[[cloud]]\nname = "{name}"\nbase_url = "{base_url}"\nmodels = ["m"]\nconnect_timeout_s = 2\n'
        f'[prices."{name}/m"]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n'
        f"[budget]\nusd_per_day = {usd_per_day}\n"
    )


class Serving:
    """One `hybrid serve` on a free port. Use as a context manager; leaving it ends the process as Ctrl-C would."""

    def __init__(
        self,
        folder: Path,
        config: str = FAKE_MODEL,
        *arguments: str,
        environ: dict[str, str] | None = None,
        command: tuple[str, ...] = HYBRID,
        is_forked: bool = True,
    ):
        """is_forked: the process gets its imports done, see `tests.e2e.forks`. Where it is measured, False."""
        self._is_forked = is_forked
        self._command = command
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "hybrid.toml"
        self._config.write_text(config)
        self._arguments = arguments
        self._environ = {**os.environ, "HYBRID_DATA_DIR": str(folder), **(environ or {})}
        self._ready = threading.Event()
        self.said: list[str] = []
        self.url = ""

    def __enter__(self) -> Self:
        command = [*self._command, "serve", "--port", "0", "--config", str(self._config), *self._arguments]
        if self._is_forked:
            self.process: Forked | subprocess.Popen[str] = Forked(command, self._environ, output=STDOUT)
        else:
            self.process = subprocess.Popen(command, env=self._environ, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_LIMIT_S) or not self.url:
            self.process.kill()
            raise AssertionError("hybrid serve did not start:\n" + "\n".join(self.said))
        self.client = httpx2.Client(base_url=self.url, timeout=END_LIMIT_S)
        return self

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.said.append(line.rstrip())
                if "ready in" in line:
                    self.url = line.split()[4]
                    self._ready.set()
        self._ready.set()

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(END_LIMIT_S)
        finally:
            self.process.kill()
            self.process.wait()
        self._reader.join(END_LIMIT_S)

    def ask(self, text: str, *, headers: dict[str, str] | None = None, **fields: Json) -> httpx2.Response:
        """Post one chat request."""
        return self.client.post("/chat/completions", json=body(text, **fields), headers=headers)

    def hybrid(self, *arguments: str) -> str:
        """Run a `hybrid` command against this server's data."""
        done = run([*HYBRID, *arguments], self._environ)
        done.check_returncode()
        return done.stdout

    def report(self) -> dict[str, Json]:
        """Give `hybrid report --json`."""
        report: dict[str, Json] = json.loads(self.hybrid("report", "--json"))
        return report

    def explain(self, request_id: str) -> dict[str, Json]:
        """Give `hybrid explain ID --json`."""
        explained: dict[str, Json] = json.loads(self.hybrid("explain", request_id, "--json"))
        return explained

    def local_state(self) -> dict[str, Json]:
        """Give what /readyz says of the local model."""
        state: dict[str, Json] = self.client.get(self.url.replace("/v1", "/readyz")).json()["local"]
        return state

    def wait_until(self, is_so: Callable[[dict[str, Json]], bool]) -> dict[str, Json]:
        """Ask /readyz again and again until `is_so` of the local state; the test's own time limit bounds it."""
        while not is_so(state := self.local_state()):
            time.sleep(LOOK_S)
        return state

    def worker(self) -> psutil.Process:
        """Find the worker process."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "hybrid.engine.worker" in " ".join(child.cmdline()))


def body(text: str, **fields: Json) -> dict[str, Json]:
    """Give a chat request of one user message."""
    return {"model": "hybrid", "messages": [{"role": "user", "content": text}], **fields}
