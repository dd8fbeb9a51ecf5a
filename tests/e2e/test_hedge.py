"""Local and cloud at once: one stream for the client, the first acceptable answer, and nothing left of the other."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.store.ledger import Ledger
from hybrid.store.samples import Sample
from tests.e2e.serving import Serving, body, cloud_toml

ONE_SLOT = '[local]\nmodel = ""\nbackend = "fake"\nslots = 1\nspeculation = "off"\n'
"""Without guessed tokens: an endless echo would guess itself right, and be at its limit within seconds."""
HEDGING = "[policy]\nttft_ms = 3000\ntotal_ms = 3000\nhedge = true\nlate_chance = 1.0\n"
"""Never the cloud instead; beside local it is asked about half way to the limit, which leaves a busy machine time."""
SILENT = Answer(fault=Fault.NO_HEADERS)
BUSY = "[slow][endless]"


def _taught(folder: Path) -> None:
    """Leave behind what earlier calls taught: local as quick as predicted, the cloud with up to half of the limit."""

    async def write() -> None:
        ledger = Ledger(folder / "hybrid.sqlite3", clock=lambda: datetime.now(UTC))
        await ledger.start()
        cloud = [Sample("cloud_ttft_s", "big/m", seconds) for seconds in (0.5, 1.0, 1.5)]
        even = [Sample(kind, "fake", 1.0) for kind in ("prefill_error", "ttft_error", "total_error")]
        ledger.append_samples([*cloud, *even, Sample("cloud_token_s", "big/m", 1e-5)] * 100)
        ledger.append_samples([Sample("answer_tokens", "fake", 20.0)] * 100)
        await ledger.aclose()

    asyncio.run(write())


def _stream(server: Serving, text: str, *, headers: str = "", **fields: object) -> socket.socket:
    """Send a chat request over a bare socket, which the test can close at any moment."""
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = socket.create_connection((host, int(port)))
    content = json.dumps(body(text, **{"stream": True, "max_tokens": 2000, **fields})).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        f"connection: close\r\n{headers}content-length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def _read(connection: socket.socket) -> str:
    """Everything the server says, to the end of the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


class Scene:
    """A server whose one slot is taken, and a request that waits for it while the cloud is asked."""

    def __init__(self, server: Serving, cloud: FakeProvider) -> None:
        self.server, self.cloud = server, cloud
        self.blocker: socket.socket | None = None
        self.connection: socket.socket | None = None

    async def begin(self, *, headers: str = "", **fields: object) -> None:
        """Take the slot, send the request, and wait until it waits."""
        await asyncio.to_thread(self.server.ask, "a first one, so that speeds are known")
        self.blocker = _stream(self.server, BUSY)
        # Its first byte is there when it holds the slot: on a busy machine the next request might overtake it before.
        await asyncio.to_thread(self.blocker.recv, 1)
        self.connection = _stream(self.server, "a question that waits", headers=headers, **fields)

    async def free_the_slot(self) -> None:
        """The other client goes, and local can begin."""
        self.blocker.close()

    async def said(self) -> str:
        """The whole answer as it came over the wire."""
        return await asyncio.to_thread(_read, self.connection)

    async def row(self) -> dict:
        """The ledger's row of the request, once it is over."""
        while True:
            rows = json.loads(await asyncio.to_thread(self.server.hybrid, "explain", "last", "--json"))
            if rows["outcome"] != "open":
                return rows

    async def settled(self) -> dict:
        """The report, once nothing is set aside any more."""
        while (report := await asyncio.to_thread(self.server.report))["reserved_usd"]:
            pass
        return report


def play(tmp_path: Path, answer: Answer, act: Callable[[Scene], Awaitable[None]], config: str = HEDGING) -> None:
    """Run a scene with this cloud."""
    _taught(tmp_path)

    async def scenario() -> None:
        async with FakeProvider(answer) as cloud:
            toml = ONE_SLOT + cloud_toml(cloud.base_url) + config
            with Serving(tmp_path, toml) as server:
                scene = Scene(server, cloud)
                try:
                    await act(scene)
                finally:
                    for open_one in filter(None, (scene.blocker, scene.connection)):
                        open_one.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
def test_the_cloud_is_first(tmp_path, is_stream):
    """The client gets one answer, from the cloud, because of latency; local's place in the queue is free again."""

    async def act(scene: Scene) -> None:
        await scene.begin(stream=is_stream)
        said = await scene.said()
        await asyncio.to_thread(scene.server.wait_until, lambda state: (state["running"], state["waiting"]) == (1, 0))
        row, report = await scene.row(), await scene.settled()
        text = await asyncio.to_thread(scene.server.hybrid, "explain", row["id"])
        assert "from the cloud" in said.replace('"}}]}', "")
        assert "x-hybrid-route: cloud" in said
        assert "x-hybrid-reason: latency" in said
        assert "x-hybrid-degraded" not in said
        assert ("cloud", "latency", "ok", 0) == (
            row["hedge"],
            row["reason"],
            row["outcome"],
            row["local_completion_tokens"],
        )
        assert (None, {"cloud": 1}, 0) == (row["double_usd"], report["hedges"], report["double_usd"])
        assert "won by      cloud" in text

    play(tmp_path, Answer(chunks=("from the cloud",)), act)


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
def test_local_is_first(tmp_path, is_stream):
    """Its answer is the client's; the cloud's connection is closed and what it may cost is counted as double spend."""

    async def act(scene: Scene) -> None:
        await scene.begin(stream=is_stream)
        lost = await scene.cloud.request(0)
        await scene.free_the_slot()
        said = await scene.said()
        async with asyncio.timeout(10):
            await lost.gone.wait()
        row, report = await scene.row(), await scene.settled()
        assert "x-hybrid-route: local" in said
        assert "x-hybrid-reason: default" in said
        assert ("local", "ok") == (row["hedge"], row["outcome"])
        # What a provider bills for an answer that was broken off is unknown, so it is all that was set aside.
        assert 0 < row["double_usd"] == row["cost_usd"] == report["double_usd"] == report["spent_usd"]
        assert row["local_completion_tokens"] >= len("a question that waits")

    play(tmp_path, SILENT, act)


def test_the_cloud_fails_while_local_still_runs(tmp_path):
    """The client never hears of it: local goes on, and the call that was refused costs nothing."""

    async def act(scene: Scene) -> None:
        await scene.begin()
        await scene.cloud.request(0)
        await scene.settled()
        await scene.free_the_slot()
        said = await scene.said()
        row = await scene.row()
        assert "x-hybrid-route: local" in said
        assert "x-hybrid-degraded" not in said
        assert (True, "local") == (row["decision"]["hedge"]["has_failed"], row["hedge"])
        assert 0 == row["cost_usd"] == row["double_usd"]

    play(tmp_path, Answer(status=429, error={"error": {"message": "too many"}}), act)


def test_both_fail(tmp_path):
    """The worker dies while it queues, then the cloud's connection: one clear error, and the money is settled."""

    async def act(scene: Scene) -> None:
        await scene.begin()
        await scene.cloud.request(0)
        os.kill(scene.server.worker().pid, signal.SIGKILL)
        await asyncio.to_thread(scene.server.wait_until, lambda state: state["restarts"] == 1)
        await scene.cloud.__aexit__()
        said = await scene.said()
        row, _ = await scene.row(), await scene.settled()
        assert said.startswith("HTTP/1.1 50")
        assert '"src":"cloud"' in said.replace('": "', '":"')
        assert ("failed", "none", None) == (row["outcome"], row["hedge"], row["route"])

    play(tmp_path, SILENT, act)


def test_local_fails_while_the_cloud_is_still_out(tmp_path):
    """The call that is out already becomes the answer; no second one is made."""

    async def act(scene: Scene) -> None:
        await scene.begin()
        await scene.cloud.request(0)
        os.kill(scene.server.worker().pid, signal.SIGKILL)
        said = await scene.said()
        row = await scene.row()
        assert "late but there" in said
        assert 1 == len(scene.cloud.requests)
        assert ("cloud", "ok") == (row["hedge"], row["outcome"])

    play(tmp_path, Answer(chunks=("late but there",), headers_delay_s=1.0), act)


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
def test_the_client_hangs_up_during_the_race(tmp_path, is_stream):
    """Both sides are ended: the place in the queue is free, the cloud's connection closed, its reservation settled."""

    async def act(scene: Scene) -> None:
        await scene.begin(stream=is_stream)
        lost = await scene.cloud.request(0)
        scene.connection.close()
        async with asyncio.timeout(10):
            await lost.gone.wait()
        await asyncio.to_thread(scene.server.wait_until, lambda state: state["waiting"] == 0)
        row, report = await scene.row(), await scene.settled()
        assert ("cancelled", "none", None) == (row["outcome"], row["hedge"], row["double_usd"])
        assert report["spent_usd"] > 0

    play(tmp_path, SILENT, act)


def test_the_deadline_passes_for_both(tmp_path):
    """A 504 at the time the client set, and neither side goes on."""

    async def act(scene: Scene) -> None:
        await scene.begin(headers="x-hybrid-deadline-ms: 3000\r\n")
        lost = await scene.cloud.request(0)
        said = await scene.said()
        async with asyncio.timeout(10):
            await lost.gone.wait()
        await asyncio.to_thread(scene.server.wait_until, lambda state: state["waiting"] == 0)
        row, _ = await scene.row(), await scene.settled()
        assert said.startswith("HTTP/1.1 504")
        assert ("failed", "none") == (row["outcome"], row["hedge"])

    play(tmp_path, SILENT, act)


@pytest.mark.parametrize(
    ("headers", "config"),
    [
        pytest.param("x-hybrid-policy: local-only\r\n", HEDGING, id="local-only"),
        pytest.param("x-hybrid-tag: secret\r\n", f'{HEDGING}private_tags = ["secret"]\n', id="private"),
        pytest.param("x-hybrid-max-cost-usd: 0.000001\r\n", HEDGING, id="no-money"),
        pytest.param("", HEDGING.replace("hedge = true", "hedge = false"), id="not-configured"),
    ],
)
def test_some_requests_are_never_hedged(tmp_path, headers, config):
    """However late local is, no byte of them leaves this machine."""

    async def act(scene: Scene) -> None:
        await scene.begin(headers=headers)
        # Longer than the moment: a second request is answered after it, by the cloud that it names.
        await asyncio.to_thread(scene.server.ask, "x", model="cloud")
        await scene.free_the_slot()
        said = await scene.said()
        row = await scene.row()
        assert "x-hybrid-route: local" in said
        assert (1, None) == (len(scene.cloud.requests), row["hedge"])

    play(tmp_path, Answer(chunks=("cloud",), headers_delay_s=2.0), act, config)
