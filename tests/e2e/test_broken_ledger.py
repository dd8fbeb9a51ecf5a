"""With a ledger that cannot be written, is the cloud refused, does local go on, and is the operator told?"""

from __future__ import annotations

import asyncio
import os
import resource
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hybrid.providers.fake import Answer, FakeProvider
from hybrid.store.db import connect_writer
from hybrid.types import Json
from tests.e2e.serving import FAKE_MODEL, Serving, cloud_toml

# Root may write what nobody may, unless it gives that right away before it becomes another program.
OBEYING = (
    sys.executable, "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1);"
    "os.execv(sys.executable, [sys.executable, '-m', 'hybrid', *sys.argv[1:]])",
)  # fmt: skip


@contextmanager
def full_disk(server: Serving) -> Iterator[None]:
    """A disk that takes no byte more from the gateway."""
    gateway = psutil.Process(server.process.pid)
    soft, hard = gateway.rlimit(resource.RLIMIT_FSIZE)
    gateway.rlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        gateway.rlimit(resource.RLIMIT_FSIZE, (soft, hard))


def ledger_state(server: Serving) -> Json:
    """What /readyz says of the ledger."""
    return server.client.get(server.url.replace("/v1", "/readyz")).json()["ledger"]


def refused(server: Serving) -> None:
    """The cloud is refused to those who want nothing else, and a doubted draft stands in for others."""
    pinned = server.ask("x", model="cloud")
    assert (500, "store_error") == (pinned.status_code, pinned.json()["error"]["code"]) or (
        402, "budget_exhausted",
    ) == (pinned.status_code, pinned.json()["error"]["code"])  # fmt: skip
    doubted = server.ask("[doubt] a question")
    assert (200, "local", "budget") == (
        doubted.status_code, doubted.headers["x-hybrid-route"], doubted.headers["x-hybrid-degraded"]
    )  # fmt: skip
    assert 200 == server.ask("a question").status_code


def test_a_disk_that_fills_while_it_runs(tmp_path):
    """While it is full nothing is paid; with room again the cloud is back, and every request is in the ledger."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                first = await asyncio.to_thread(server.ask, "[doubt] a question")
                with full_disk(server):
                    await asyncio.to_thread(refused, server)
                    broken = await asyncio.to_thread(ledger_state, server)
                    paid = len(cloud.requests)
                again = await asyncio.to_thread(server.ask, "[doubt] a question")
                mended = await asyncio.to_thread(ledger_state, server)
                report = await asyncio.to_thread(server.report)
                said = list(server.said)
        assert ("cloud", 1, "cloud") == (first.headers["x-hybrid-route"], paid, again.headers["x-hybrid-route"])
        assert "cannot write" in broken
        assert "ok" == mended
        assert (5, 0) == (report["requests"], report["reserved_usd"])
        assert [line for line in said if "cloud calls are refused until it works again" in line]
        assert [line for line in said if "can be written again" in line]

    asyncio.run(scenario())


def spoil(folder: Path) -> None:
    """A ledger whose pages are noise."""
    path = folder / "hybrid.sqlite3"
    connect_writer(path).close()
    data = bytearray(path.read_bytes())
    data[100:] = b"\xa5" * (len(data) - 100)
    path.write_bytes(data)


def forbid(folder: Path) -> None:
    """A ledger in a folder that may be read and not written."""
    connect_writer(folder / "hybrid.sqlite3").close()
    for file in folder.iterdir():
        file.chmod(stat.S_IRUSR)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        pytest.param(spoil, "the file is damaged", id="corrupt"),
        pytest.param(forbid, "check the permissions", id="read-only"),
        pytest.param(lambda folder: (folder / "hybrid.sqlite3").mkdir(), "a folder is in its place", id="a-folder"),
    ],
)
def test_a_ledger_that_was_broken_before(tmp_path, harm, expected):
    """Started on it, the gateway says what is wrong and what to do, answers locally, and calls no cloud."""
    data = tmp_path / "data"
    data.mkdir()
    harm(data)

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",))) as cloud:
            environ = {"HYBRID_DATA_DIR": str(data), "PATH": os.environ["PATH"]}
            config = FAKE_MODEL + cloud_toml(cloud.base_url)
            with Serving(tmp_path / "config", config, environ=environ, command=OBEYING, is_forked=False) as server:
                await asyncio.to_thread(refused, server)
                state = await asyncio.to_thread(ledger_state, server)
                said = "\n".join(server.said)
        assert expected in said
        assert "answering locally only until it can be written" in said
        assert "ok" != state
        assert [] == cloud.requests

    try:
        asyncio.run(scenario())
    finally:
        data.chmod(stat.S_IRWXU)
