"""What stands between a client and a fake cloud? `hybrid serve` or LiteLLM's proxy: started, watched, ended."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from scripts._relay_load import Endpoint
from scripts._servers import END_LIMIT_S, POLL_S, free_port
from tests.e2e.serving import Serving

ROOT = Path(__file__).resolve().parent.parent
LITELLM = "litellm[proxy]"
PIP_LIMIT_S = 900.0
LITELLM_START_LIMIT_S = 300.0
"""Its imports alone take half a minute on two busy cores."""
KEY = f"sk-{secrets.token_hex(32)}"
"""What LiteLLM's clients show; it does not start without one."""

HYBRID_TOML = """
[local]
model = ""

[[cloud]]
name = "fake"
base_url = "{url}"
models = ["m"]

[prices."fake/m"]
input_usd_per_mtok = 1
output_usd_per_mtok = 1

[budget]
usd_per_day = 100_000
"""

LITELLM_YAML = """
model_list:
  - model_name: m
    litellm_params:
      model: openai/m
      api_base: {url}
      api_key: sk-any
litellm_settings:
  telemetry: false
"""
LITELLM_ENVIRON = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}
"""Its price table from its own files: it would fetch one at the start."""


@dataclass(frozen=True, slots=True)
class Relay:
    """What is measured: its name in tables, where it listens, and its processes (None: the fake cloud itself)."""

    name: str
    endpoint: Endpoint
    pid: int | None = None

    def processes(self) -> list[psutil.Process]:
        """The process and those it started."""
        if self.pid is None:
            return []
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def rss_mb(self) -> float:
        """Resident memory of all its processes, in MB."""
        return sum(process.memory_info().rss for process in self.processes()) / 1e6

    def cpu_s(self) -> float:
        """Processor time its processes used so far, user and system."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())


@contextmanager
def fake_cloud() -> Iterator[str]:
    """Run the fake cloud in a process of its own; give its base URL."""
    command = [sys.executable, "-m", "scripts._fake_cloud"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            _end(process)


@contextmanager
def hybrid_relay(cloud_url: str) -> Iterator[Relay]:
    """Run `hybrid serve` before the fake cloud, without a local model, its ledger in a folder of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Serving(Path(folder), HYBRID_TOML.format(url=cloud_url), is_forked=False) as server,
    ):
        yield Relay("hybrid", Endpoint(server.url, "cloud"), server.process.pid)


@contextmanager
def litellm_relay(cloud_url: str, program: Path) -> Iterator[Relay]:
    """Run LiteLLM's proxy before the fake cloud: one worker, no database, one key.

    Raises: SystemExit if it does not start, with the end of its log.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        config = Path(folder) / "config.yaml"
        config.write_text(LITELLM_YAML.format(url=cloud_url))
        command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        environ = {**os.environ, **LITELLM_ENVIRON, "LITELLM_MASTER_KEY": KEY}
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environ)
        try:
            _await_200(process, f"http://127.0.0.1:{port}/health/liveliness", log)
            yield Relay("litellm", Endpoint(f"http://127.0.0.1:{port}/v1", "m", KEY), process.pid)
        finally:
            _end(process)


def prepare_litellm(folder: Path) -> tuple[Path, str]:
    """Make the environment that LiteLLM's proxy runs in, if it is not there yet; give its program and its version.

    Raises: SystemExit that says what failed.
    """
    program, python = folder / "bin" / "litellm", folder / "bin" / "python"
    if not program.exists():
        _run([sys.executable, "-m", "venv", str(folder)], "cannot make an environment for LiteLLM")
        _run([str(python), "-m", "pip", "install", "--quiet", LITELLM], f"pip cannot install {LITELLM}")
    shown = "import importlib.metadata as m; print(m.version('litellm'))"
    return program, _run([str(python), "-c", shown], "LiteLLM's environment is broken; delete it").strip()


def _run(command: list[str], problem: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"error: {problem}: not done within {PIP_LIMIT_S:.0f} s") from None
    if done.returncode != 0:
        raise SystemExit(f"error: {problem}; measure without it by --without-litellm. It said:\n{done.stderr[-2000:]}")
    return done.stdout


def _await_200(process: subprocess.Popen[bytes], url: str, log: object) -> None:
    until_s = time.monotonic() + LITELLM_START_LIMIT_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            if httpx2.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(POLL_S)
    log.seek(0)  # type: ignore[attr-defined]
    raise SystemExit(f"error: LiteLLM's proxy did not start:\n{log.read()[-2000:]}")  # type: ignore[attr-defined]


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a process and what it started, each by its own number."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.terminate()
    for child in children:
        try:
            child.terminate()
        except psutil.NoSuchProcess:
            continue
    try:
        process.wait(END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
