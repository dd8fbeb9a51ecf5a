"""How do the tests stand in for the runtime? A gateway that plays a script, and a real server on loopback before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import msgspec

from hybrid.errors import HybridError, Unauthorized
from hybrid.server.app import make_app
from hybrid.server.gateway import ServerOptions
from hybrid.server.protocol import ConnectionLimits
from hybrid.server.run import serve
from hybrid.types import (
    ChatRequest,
    EmbeddingRequest,
    Embeddings,
    Event,
    Finished,
    FinishReason,
    Head,
    Json,
    Route,
    ServedModel,
    Tail,
    TextDelta,
    Usage,
)

HEAD = Head(
    request_id="r-1",
    route=Route.LOCAL,
    model="local/smollm2",
    reason="default",
    confidence=0.73219,
    overhead_s=0.0012,
)
USAGE = Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=3)
FINISHED = Finished(FinishReason.STOP, USAGE)
TAIL = Tail(
    head=Head(
        request_id="r-1",
        route=Route.LOCAL,
        model="local/smollm2",
        reason="default",
        confidence=0.73219,
        cost_usd=Decimal(0),
        saved_usd=Decimal("0.000120"),
        overhead_s=0.0012,
    ),
    usage=USAGE,
)
HELLO = (HEAD, TextDelta("Hel"), TextDelta("lo"), FINISHED, TAIL)
BODY: dict[str, Json] = {"model": "hybrid", "messages": [{"role": "user", "content": "Hi"}]}


class ScriptedGateway:
    """Plays `script` for every request: items are yielded, errors raised, and an `asyncio.Event` is waited for.

    started: set when a request got as far as an event it waits for. closed: set when an answer's generator ended.
    """

    def __init__(self, *script: object, key: str | None = None, is_ready: bool = True) -> None:
        self.script = script or HELLO
        self.key = key
        self.is_ready = is_ready
        self.requests: list[ChatRequest] = []
        self.embedding_requests: list[EmbeddingRequest] = []
        self.refused: list[tuple[HybridError, str | None]] = []
        self.started = asyncio.Event()
        self.closed = asyncio.Event()

    async def stream(
        self, request: ChatRequest, *, dialect: str, arrived_s: float
    ) -> AsyncGenerator[Head | Event | Tail, None]:
        """Play the script."""
        self.requests.append(request)
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    self.started.set()
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step  # type: ignore[misc]
        finally:
            self.closed.set()

    async def embed(self, request: EmbeddingRequest, *, dialect: str, arrived_s: float) -> Embeddings:
        """Play the script up to its embeddings."""
        self.embedding_requests.append(request)
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    self.started.set()
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                elif isinstance(step, Embeddings):
                    return step
            raise AssertionError("the script has no embeddings")
        finally:
            self.closed.set()

    def refuse(self, error: HybridError, *, dialect: str, model: str | None, arrived_s: float) -> str:
        """Remember it."""
        self.refused.append((error, model))
        return f"refused-{len(self.refused)}"

    def models(self, client_key: str | None = None) -> tuple[ServedModel, ...]:
        """Two names, one with a slash."""
        return (
            ServedModel("hybrid", "hybrid", 1_700_000_000),
            ServedModel("local/smollm2", "local", 1_700_000_000, 2048),
        )

    def readiness(self) -> tuple[bool, dict[str, Json]]:
        """As the test wants it."""
        return self.is_ready, {"local": "ready" if self.is_ready else "loading"}

    def authenticate(self, presented: str | None) -> str | None:
        """One key, or none needed."""
        if self.key is None:
            return None
        if presented != self.key:
            raise Unauthorized("send a valid key as Authorization: Bearer KEY")
        return "alice"


@asynccontextmanager
async def served(
    gateway: ScriptedGateway, options: ServerOptions | None = None, limits: ConnectionLimits | None = None
) -> AsyncIterator[int]:
    """Serve the gateway on a free port of loopback while the block runs; gives the port."""
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    app = make_app(gateway, options or ServerOptions())
    serving = asyncio.ensure_future(
        serve(app, host="127.0.0.1", port=0, on_ready=lambda _host, port: ready.set_result(port), limits=limits)
    )
    try:
        yield await ready
    finally:
        serving.cancel()
        await asyncio.wait((serving,))


async def send_raw(port: int, data: bytes) -> bytes:
    """Send bytes as they are and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


def http(method: str, path: str, *headers: str, body: bytes = b"", host: str = "127.0.0.1") -> bytes:
    """One request as bytes, with `connection: close`."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close", *headers]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chat(*headers: str, host: str = "127.0.0.1", **fields: Json) -> bytes:
    """A chat completion request as bytes."""
    body = msgspec.json.encode({**BODY, **fields})
    return http("POST", "/v1/chat/completions", "content-type: application/json", *headers, body=body, host=host)


def status_of(response: bytes) -> int:
    """The status of a raw response."""
    return int(response.split(b" ", 2)[1])


def error_of(response: bytes) -> dict[str, Json]:
    """The error in a raw response's envelope."""
    body: dict[str, Json] = msgspec.json.decode(response.partition(b"\r\n\r\n")[2])
    error: dict[str, Json] = body["error"]
    assert {"message", "type", "code", "param", "src"} == set(error)
    return error
