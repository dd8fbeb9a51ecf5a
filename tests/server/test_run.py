"""Does the server start on the address it is given, say so when it cannot, and drain when it is told to stop?"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.errors import CommandError
from hybrid.server.app import make_app
from hybrid.server.gateway import ServerOptions
from hybrid.server.protocol import ConnectionLimits
from hybrid.server.run import bind, run_loop, serve
from hybrid.types import TextDelta

from .scripted import FINISHED, HEAD, TAIL, ScriptedGateway, chat, error_of, http, send_raw, status_of


def test_port_zero_tells_the_real_port():
    """Asked for any port, the server says which one it took."""

    async def main() -> bytes:
        ready: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        app = make_app(ScriptedGateway(), ServerOptions())
        serving = asyncio.ensure_future(
            serve(app, host="localhost", port=0, on_ready=lambda host, port: ready.set_result((host, port)))
        )
        host, port = await ready
        assert (host, port > 0) == ("localhost", True)
        answer = await send_raw(port, http("GET", "/healthz"))
        serving.cancel()
        await asyncio.wait((serving,))
        return answer

    assert status_of(asyncio.run(main())) == 200


def test_a_port_in_use():
    """A taken port is a command error that names it and the way out, before anything was started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CommandError, match=f"port {port} is taken.*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        pytest.param("127.0.0.1", 70_000, "is not a port", id="port-too-large"),
        pytest.param("127.0.0.1", -1, "is not a port", id="port-negative"),
        pytest.param("192.0.2.1", 0, "--host", id="not-ours"),
        pytest.param("no-such-name.invalid", 0, "--host", id="no-such-name"),
    ],
)
def test_an_address_that_cannot_be_bound(host: str, port: int, message: str):
    """Any other address we cannot listen on says what to change."""
    with pytest.raises(CommandError, match=message):
        bind(host, port)


def run_and_stop(
    gateway: ScriptedGateway, limits: ConnectionLimits, request: bytes, release: asyncio.Event | None
) -> bytes:
    """Serve on uvloop, send a request, and SIGTERM ourselves once it runs; then let it finish, or not."""

    async def main() -> bytes:
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        app = make_app(gateway, ServerOptions())
        serving = asyncio.ensure_future(
            serve(app, host="127.0.0.1", port=0, on_ready=lambda _, port: ready.set_result(port), limits=limits)
        )
        sending = asyncio.ensure_future(send_raw(await ready, request))
        await gateway.started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        if release is not None:
            release.set()
        await serving
        assert gateway.closed.is_set(), "the server stopped before the request's clean-up had"
        return await sending

    return run_loop(main())


def test_sigterm_drains():
    """A running stream is finished before the server stops; the process goes on to close what is behind it."""
    gate = asyncio.Event()
    gateway = ScriptedGateway(HEAD, TextDelta("Hel"), gate, TextDelta("lo"), FINISHED, TAIL)
    response = run_and_stop(gateway, ConnectionLimits(), chat(stream=True), gate)
    assert b"data: [DONE]\n\n" in response


def test_a_stream_that_does_not_end_in_time():
    """When the time to drain is over, a stream gets an error event, not a cut."""
    gateway = ScriptedGateway(HEAD, TextDelta("Hel"), asyncio.Event())
    response = run_and_stop(gateway, ConnectionLimits(drain_s=0), chat(stream=True), None)
    assert b'"code":"shutting_down"' in response
    assert b"[DONE]" not in response


def test_an_answer_that_does_not_come_in_time():
    """When the time to drain is over, a request without an answer gets a 503 that says to try again."""
    response = run_and_stop(ScriptedGateway(asyncio.Event()), ConnectionLimits(drain_s=0), chat(), None)
    assert (503, "shutting_down") == (status_of(response), error_of(response)["code"])


def test_what_the_server_imports():
    """The server stays small: no HTTP client, no pydantic, no engine comes in with it."""
    code = "import sys, hybrid.server.app, hybrid.server.run; print(*sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    heavy = {"httpx", "httpx2", "aiohttp", "pydantic", "llama_cpp", "numpy", "rich", "typer", "openai"}
    assert not heavy & set(done.stdout.split())
