"""How quickly does a server answer the same small chat over and over? Closed loops on connections that stay open.

The load shares the machine with what it measures, so it is cheap: a prepared request, and a look for the answer's end.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from scripts._measure import quantile

ANSWER_LIMIT_S = 30.0


class LoadError(RuntimeError):
    """A server answered with something that is not the expected answer; the message has its beginning."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the same chat is sent to: a base URL such as http://127.0.0.1:8484/v1, the model, and a key or none."""

    base_url: str
    model: str
    key: str | None = None

    def request(self, *, is_stream: bool) -> bytes:
        """The bytes of one request."""
        url = urlsplit(self.base_url)
        text = "Say hello to the people who wait at the end of this wire, in four words or fewer."
        content = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 16}
        body = json.dumps(content | {"stream": is_stream}).encode()
        lines = [
            f"POST {url.path}/chat/completions HTTP/1.1",
            f"host: {url.netloc}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *([] if self.key is None else [f"authorization: Bearer {self.key}"]),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Client(asyncio.Protocol):
    """One connection in a closed loop: each answer's end sends the next request."""

    def __init__(self, request: bytes, count: int, latencies_s: list[float]) -> None:
        self._request, self._left, self._latencies_s = request, count, latencies_s
        self._buffer = bytearray()
        self._sent_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if _is_whole(self._buffer):
            self._latencies_s.append(time.perf_counter() - self._sent_s)
            if b" 200 " not in self._buffer[:16]:
                self._fail(bytes(self._buffer[:500]).decode("utf-8", "replace"))
                return
            self._buffer.clear()
            self._left -= 1
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._fail(f"the connection was closed: {exc}")

    def _send(self) -> None:
        if self._left:
            self._sent_s = time.perf_counter()
            self._transport.write(self._request)
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(why))
        self._transport.close()


def _is_whole(answer: bytearray) -> bool:
    head, separator, _ = bytes(answer[:4096]).partition(b"\r\n\r\n")
    if not separator:
        return False
    low = head.lower()
    if b"transfer-encoding: chunked" in low:
        return answer.endswith(b"0\r\n\r\n")
    length = low.partition(b"content-length:")[2].partition(b"\r\n")[0]
    return bool(length) and len(answer) - len(head) - 4 >= int(length)


async def run_load(endpoint: Endpoint, *, connections: int, requests: int, is_stream: bool = False) -> dict[str, float]:
    """Send `requests` chats over so many connections, each one after its last was answered.

    Raises: LoadError if one is refused or broken off; TimeoutError if nothing more comes.
    """
    url = urlsplit(endpoint.base_url)
    latencies_s: list[float] = []
    each = max(1, requests // connections)
    loop = asyncio.get_running_loop()
    request = endpoint.request(is_stream=is_stream)
    started_s = time.perf_counter()
    async with asyncio.timeout(ANSWER_LIMIT_S + requests * 0.05):
        clients = [
            await loop.create_connection(lambda: _Client(request, each, latencies_s), url.hostname, url.port)
            for _ in range(connections)
        ]
        await asyncio.gather(*(client.done for _, client in clients))
    elapsed_s = time.perf_counter() - started_s
    return {
        "requests_s": len(latencies_s) / elapsed_s,
        "p50_ms": quantile(latencies_s, 0.5) * 1e3,
        "p99_ms": quantile(latencies_s, 0.99) * 1e3,
        "requests": float(len(latencies_s)),
    }
