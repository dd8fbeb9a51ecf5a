"""What runs beside a server under test? Busy competitors that count their loops, a bare loop, and who asks /readyz."""

from __future__ import annotations

import asyncio
import json
import mmap
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx2

from scripts._load import Target
from scripts._measure import Sample, quantile

LIFE_LIMIT_S = 600
"""A competitor ends by itself after this, whatever became of the bench."""
COUNTER_BYTES = 8
_LOOP = """
import mmap, sys, time
at, until_s, n = int(sys.argv[2]), time.monotonic() + float(sys.argv[3]), 0
with open(sys.argv[1], "r+b") as file:
    shared = mmap.mmap(file.fileno(), 0)
while time.monotonic() < until_s:
    for _ in range(10000):
        pass
    n += 1
    shared[at:at + 8] = n.to_bytes(8, "little")
"""


class Competitors:
    """Processes that use all of a core each and count their loops in shared memory. A context manager."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> Self:
        self._file = tempfile.NamedTemporaryFile()
        self._file.truncate(max(1, self._count) * COUNTER_BYTES)
        self._shared = mmap.mmap(self._file.fileno(), 0)
        self._processes = [
            subprocess.Popen([sys.executable, "-c", _LOOP, self._file.name, str(n * COUNTER_BYTES), str(LIFE_LIMIT_S)])
            for n in range(self._count)
        ]
        until_s = time.monotonic() + LIFE_LIMIT_S
        while time.monotonic() < until_s and not all(self._counts()):
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._shared.close()
        self._file.close()

    def loops(self) -> int:
        """Loops all have done so far."""
        return sum(self._counts())

    async def loops_per_s(self, seconds: float) -> float:
        """Count for a while with nothing else going on; 0 where there are none, at once."""
        if not self._count:
            return 0.0
        before, started_s = self.loops(), time.perf_counter()
        await asyncio.sleep(seconds)
        return (self.loops() - before) / (time.perf_counter() - started_s)

    def _counts(self) -> list[int]:
        starts = range(0, self._count * COUNTER_BYTES, COUNTER_BYTES)
        return [int.from_bytes(self._shared[at : at + COUNTER_BYTES], "little") for at in starts]


TELL_EVERY_S = 0.5


class TellTale:
    """Asks hybrid's /readyz now and then what it says of its threads and the machine. An async context manager.

    A server that has no such page, as the peer, is not asked.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._seen: dict[str, list[float]] = {"threads": [], "slowdown": [], "others_cores": []}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._ask()) if self._target.name == "ours" else None
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def sample(self) -> Sample:
        """The mean of each figure; NaN where it was unknown all along, nothing for a server that was not asked."""
        if self._task is None:
            return {}
        return {f"told_{name}": statistics.mean(seen) if seen else float("nan") for name, seen in self._seen.items()}

    async def _ask(self) -> None:
        async with httpx2.AsyncClient() as client:
            while True:
                await asyncio.sleep(TELL_EVERY_S)
                local = (await client.get(f"http://{self._target.host}:{self._target.port}/readyz")).json()["local"]
                for name, seen in self._seen.items():
                    if local[name] is not None:
                        seen.append(local[name])


class BareLoop:
    """A child that does nothing but decode, one token after the other. A context manager.

    script: with `llama_decode` alone, or `_engine_decode`: with the engine and all signals.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        threads: int,
        environ: Mapping[str, str] | None = None,
        script: str = "_bare_decode",
    ) -> None:
        self.name, self._environ = name, environ
        # As a module, so that it finds its neighbours; the folder is the project's root.
        self._command = [sys.executable, "-m", f"scripts.{script}", str(model), str(threads)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=Path(__file__).resolve().parent.parent,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.run([1, 2, 3], 4)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, prompt: list[int], tokens: int) -> Sample:
        """Decode greedily after a prompt; time is that inside `llama_decode` alone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        steps_s: list[float] = json.loads(self._process.stdout.readline())["steps_s"]
        return {
            "decode_tok_s": len(steps_s) / sum(steps_s),
            "between_tokens_p50_ms": quantile(steps_s, 0.5) * 1e3,
            "generated_tokens": len(steps_s) + 1,
        }
