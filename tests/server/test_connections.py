"""Are connections bounded in time, size and number, whatever a client drips into them?"""

from __future__ import annotations

import asyncio

import pytest

from hybrid.server.protocol import ConnectionLimits

from .scripted import HEAD, ScriptedGateway, chat, error_of, http, send_raw, served, status_of

QUICK = ConnectionLimits(head_s=0.05, linger_s=0.05)
OPEN = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"


def ends(limits: ConnectionLimits, *pieces: bytes) -> bytes:
    """Send pieces one after the other as the server reads them, and wait for it to close."""

    async def main() -> bytes:
        async with served(ScriptedGateway(), limits=limits) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return answer

    return asyncio.run(main())


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((), id="silence"),
        pytest.param((b"GET /heal",), id="half-a-line"),
        pytest.param((OPEN.encode(), b"x-a: 1\r\n"), id="half-a-head"),
        pytest.param((b"\r\n",), id="empty-lines"),
    ],
)
def test_a_head_that_does_not_come(pieces: tuple[bytes, ...]):
    """A request head that is not complete in time costs the client its connection."""
    assert ends(QUICK, *pieces) == b""


def test_a_drip_does_not_reset_the_clock():
    """Sending a byte now and then does not buy more time: the clock runs from the head's first byte."""

    async def main() -> int:
        async with served(ScriptedGateway(), limits=QUICK) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reading = asyncio.ensure_future(reader.read())
            writer.write(OPEN.encode() + b"x: ")
            drips = 0
            while not reading.done() and drips < 1000:
                writer.write(b"y")
                drips += 1
                await asyncio.wait((reading,), timeout=0.01)
            writer.close()
            return drips

    assert asyncio.run(main()) < 100


def test_the_second_request_on_a_connection_is_on_the_clock_too():
    """After an answer, half a head is given no more time than the first was."""
    first = http("GET", "/healthz").replace(b"connection: close\r\n", b"")
    answer = ends(ConnectionLimits(head_s=0.05, keep_alive_s=60), first + b"GET /hea")
    assert answer.count(b"HTTP/1.1 200") == 1


def test_an_idle_connection_is_closed():
    """A keep-alive connection without requests ends after its time."""
    answer = ends(ConnectionLimits(keep_alive_s=0), http("GET", "/healthz").replace(b"connection: close\r\n", b""))
    assert status_of(answer) == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param("x-long: " + "a" * 70_000, id="one-long"),
        pytest.param("\r\n".join(f"x-{i}: {'a' * 90}" for i in range(800)), id="many"),
    ],
)
def test_a_head_that_is_too_large(headers: str):
    """More than 64 KiB of headers get a 431, whether they end or not."""
    whole = http("GET", "/healthz", headers)
    for raw in (whole, whole[:-2]):
        response = ends(ConnectionLimits(), raw)
        assert (431, "head_too_large") == (status_of(response), error_of(response)["code"])


def test_a_path_that_is_too_long():
    """A request line counts as well."""
    assert status_of(ends(ConnectionLimits(), http("GET", "/" + "a" * 70_000))) == 431


def test_a_head_without_end_behind_a_running_answer():
    """A head that is pipelined is no larger than any other, or the memory would be the client's to fill."""

    async def main() -> bool:
        gateway = ScriptedGateway(HEAD, asyncio.Event())
        async with served(gateway, limits=ConnectionLimits(head_bytes=1024)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(chat(stream=True).replace(b"connection: close\r\n", b""))
            await gateway.started.wait()
            await reader.readuntil(b"\r\n\r\n")
            ended = asyncio.ensure_future(reader.read())
            writer.write(b"GET / HTTP/1.1\r\nx: ")
            for _ in range(1000):
                writer.write(b"y" * 100)
                await asyncio.wait((ended,), timeout=0.01)
                if ended.done():
                    break
            was_cut_off = ended.done()
            writer.close()
            await asyncio.gather(ended, return_exceptions=True)  # a reset, or an end
            return was_cut_off

    assert asyncio.run(main())


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"hello\r\n\r\n", id="not-http"),
        pytest.param(b"GET / HTTP/9.9\r\nhost: a\r\n\r\n", id="version"),
        pytest.param(OPEN.encode() + b"content-length: x\r\n\r\n", id="length"),
        pytest.param(OPEN.encode() + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", id="two-lengths"),
        pytest.param(OPEN.encode() + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="smuggle"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n", id="no-colon"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n", id="path-bytes"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", id="connect"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01", id="tls"),
    ],
)
def test_malformed_http(raw: bytes):
    """What is not HTTP gets a 400 in the envelope, and the connection is closed."""
    response = ends(ConnectionLimits(), raw)
    assert status_of(response) == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_the_rest_of_a_refused_body_is_not_waited_for():
    """After a 413 the client may finish sending for a moment; then the connection ends."""
    head = http("POST", "/v1/chat/completions", "content-type: application/json")
    head = head.replace(b"connection: close\r\n", b"").replace(b"length: 0", b"length: 99999999")
    assert status_of(ends(QUICK, head, b"x" * 1000)) == 413


def test_too_many_connections():
    """Past the limit a request gets a 503 that says to come back; an open one is still served."""

    async def main() -> tuple[bytes, bytes]:
        async with served(ScriptedGateway(), limits=ConnectionLimits(max_connections=1)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(http("GET", "/healthz").replace(b"connection: close\r\n", b""))
            await reader.readuntil(b"}")
            refused = await send_raw(port, chat())
            writer.write(chat())
            taken = await reader.read()
            writer.close()
            return refused, taken

    refused, taken = asyncio.run(main())
    assert (503, "overloaded") == (status_of(refused), error_of(refused)["code"])
    assert b"retry-after: 1\r\n" in refused
    assert status_of(taken) == 200


def test_far_too_many_connections():
    """Past twice the limit a connection is dropped without a word."""

    async def main() -> bytes:
        async with served(ScriptedGateway(), limits=ConnectionLimits(max_connections=1)) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            try:
                for reader, writer in held[:1]:  # both are known to the server once the first was answered
                    writer.write(http("GET", "/healthz").replace(b"connection: close\r\n", b""))
                    await reader.readuntil(b"}")
                return await send_raw(port, b"")
            except ConnectionResetError:
                return b""
            finally:
                for _, writer in held:
                    writer.close()

    assert asyncio.run(main()) == b""
