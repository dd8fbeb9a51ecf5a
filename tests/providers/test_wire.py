"""Is what `AiohttpWire` sends and takes, with the library's undocumented parts, what the library's own client does?"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from yarl import URL

from hybrid.providers.wire import WHOLE_WRITE_BYTES, AiohttpWire

from .calls import run

HEADERS = {
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "hybrid",
    "authorization": "Bearer sk-canary-5f3a9c1e",
}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
UNREADABLE = b"HTTP/1.1 two-hundred\r\n\r\n"


class Server:
    """Answers each request on its connections with the next of the given bytes, and notes what it was sent."""

    def __init__(self, answers):
        self.answers, self.sent, self.connections = list(answers), [], 0

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                self.sent.append(head + await reader.readexactly(int(length.split(b":")[1])))
                writer.write(self.answers.pop(0))
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(handler):
    """Serve connections so; give the base URL."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def whole(reply):
    """The status and the body of an answer, which is closed."""
    parts = [part async for part in _parts(reply)]
    assert reply.is_read
    reply.close()
    return reply.status, b"".join(parts)


async def _parts(reply):
    while part := await reply.read():
        yield part


async def posted(wire, url, body=b'{"a": 1}', headers=HEADERS):
    """One call, whole."""
    return await whole(await wire.post(url, body, headers, lambda: None))


def outcome(*answers, body=b'{"a": 1}', calls=1):
    """What so many calls get from a server that answers so, and the server."""

    async def scenario():
        server = Server(answers)
        async with serving(server.serve) as base_url:
            wire = AiohttpWire(base_url, connect_s=5.0)
            try:
                return [await posted(wire, f"{base_url}/v1/chat", body) for _ in range(calls)], server
            finally:
                await wire.aclose()

    return run(scenario())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models/a%2Fb:stream?alt=sse&api-version=1%202", "/"])
def test_a_call_is_the_library_s_own_to_the_byte(path):
    """Request line, headers, their order and spelling, and the body."""

    async def scenario():
        server = Server([OK, OK])
        async with serving(server.serve) as base_url:
            wire = AiohttpWire(base_url, connect_s=5.0)
            await posted(wire, base_url + path)
            await wire.aclose()
            async with (
                aiohttp.ClientSession(skip_auto_headers=("accept",)) as session,
                session.post(URL(base_url + path, encoded=True), data=b'{"a": 1}', headers=HEADERS),
            ):
                pass
        return server.sent

    ours, theirs = run(scenario())
    assert theirs == ours


@pytest.mark.parametrize("size_bytes", [0, 10, WHOLE_WRITE_BYTES - 1, WHOLE_WRITE_BYTES, 5_000_000])
def test_a_body_of_any_size_arrives(size_bytes):
    """Whether it leaves in one piece with its head or not."""
    body = b"x" * size_bytes
    answers, server = outcome(OK, body=body)
    assert [(200, b"{}")] == answers
    assert server.sent[0].endswith(b"Content-Length: %d\r\n\r\n%b" % (size_bytes, body))


def test_a_connection_is_used_again():
    """Once an answer was read to its end."""
    answers, server = outcome(OK, OK, OK, calls=3)
    assert ([(200, b"{}")] * 3, 1) == (answers, server.connections)


@pytest.mark.parametrize(("rest", "is_whole"), [(b"cd", True), (b"c", False)])
def test_a_body_is_read_at_its_end_and_not_before(rest, is_whole):
    """The end is known with the last piece; of a body that breaks off it never is."""

    async def scenario():
        goes_on = asyncio.Event()

        async def drip(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
            await goes_on.wait()
            writer.write(rest)
            writer.close()

        async with serving(drip) as base_url:
            wire = AiohttpWire(base_url, connect_s=5.0)
            reply = await wire.post(base_url, b"", HEADERS, lambda: None)
            told = [await reply.read(), reply.is_read]
            goes_on.set()
            told += [await reply.read(), reply.is_read]
            if not is_whole:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await reply.read()
            told.append(reply.is_read)
            reply.close()
            await wire.aclose()
        return told

    assert [b"ab", False, rest, is_whole, is_whole] == run(scenario())


def test_what_only_announces_an_answer_is_passed_over():
    """100 Continue that nobody asked for, and 103 Early Hints."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    assert [(200, b"{}")] == outcome(early + OK)[0]


def test_an_answer_that_switches_the_protocol_is_the_last_on_its_connection():
    """It is told as it is; nothing of ours can follow it."""
    switched = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    answers, server = outcome(switched, OK, calls=2)
    assert ([(101, b""), (200, b"{}")], 2) == (answers, server.connections)


def test_an_answer_that_is_no_http_is_told_as_the_library_tells_it():
    """Its own exception, with the address that was asked; the header with the key is in no text."""
    with pytest.raises(aiohttp.ClientResponseError) as caught:
        outcome(UNREADABLE)
    assert (400, "/v1/chat") == (caught.value.status, caught.value.request_info.real_url.path)
    assert HEADERS["authorization"] not in str(caught.value)


def test_an_answer_before_the_request_has_left_ends_the_connection():
    """As a 413 is: what is still to be sent would stand before the next request."""

    async def scenario():
        transports = []

        async def refuse(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            transports.append(writer.transport)

        async with serving(refuse) as base_url:
            wire = AiohttpWire(base_url, connect_s=5.0)
            told = [await posted(wire, base_url, b"x" * 50_000_000) for _ in range(2)]
            for transport in transports:
                transport.abort()
            await wire.aclose()
        return told, len(transports)

    assert ([(413, b"")] * 2, 2) == run(scenario())


@pytest.mark.parametrize(("path", "headers"), [("/a\x01b", {}), ("/", {"a": "b\r\nc: d"}), ("/", {"a\n": "b"})])
def test_nothing_adds_a_header(path, headers):
    """A line end in an address or a header is refused before there is a connection."""

    async def scenario():
        wire = AiohttpWire("http://127.0.0.1:1", connect_s=5.0)
        try:
            await wire.post(f"http://127.0.0.1:1{path}", b"", headers, lambda: None)
        finally:
            await wire.aclose()

    with pytest.raises(ValueError, match="control character"):
        run(scenario())


def test_a_proxy_is_asked_for_the_whole_address(monkeypatch):
    """Over plain HTTP, with its own password; and its connection is used again."""

    async def scenario():
        proxy = Server([OK, OK])
        async with serving(proxy.serve) as address:
            monkeypatch.setenv("http_proxy", address.replace("://", "://me:secret@"))
            wire = AiohttpWire("http://cloud.example/v1", connect_s=5.0)
            told = [await posted(wire, "http://cloud.example/v1/chat?a=b") for _ in range(2)]
            await wire.aclose()
        return told, proxy

    told, proxy = run(scenario())
    assert ([(200, b"{}")] * 2, 1) == (told, proxy.connections)
    start, host, *_ = proxy.sent[1].split(b"\r\n")
    assert (b"POST http://cloud.example/v1/chat?a=b HTTP/1.1", b"Host: cloud.example") == (start, host)
    assert b"proxy-authorization: basic bwu6c2vjcmv0" in proxy.sent[1].lower()  # me:secret


def test_a_proxy_only_carries_what_is_encrypted(monkeypatch):
    """It is asked to connect, with its own password; one that will not says so before anything has left."""

    async def scenario():
        heads, sent = [], []

        async def refuse(reader, writer):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
            writer.close()

        async with serving(refuse) as address:
            monkeypatch.setenv("https_proxy", address.replace("://", "://me:secret@"))
            wire = AiohttpWire("https://cloud.example/v1", connect_s=5.0)
            with pytest.raises(aiohttp.ClientHttpProxyError):
                await wire.post("https://cloud.example/v1/chat", b"{}", HEADERS, lambda: sent.append(True))
            await wire.aclose()
        return heads, sent

    [head], sent = run(scenario())
    assert head.startswith(b"CONNECT cloud.example:443 HTTP/1.1\r\n")
    assert b"proxy-authorization: basic " in head.lower()
    assert (False, []) == (b"sk-canary" in head, sent)


def test_no_call_after_the_end():
    """Closed is closed, with the library's own error; closing twice is once."""

    async def scenario():
        wire = AiohttpWire("http://127.0.0.1:1", connect_s=5.0)
        await wire.aclose()
        await wire.aclose()
        with pytest.raises(aiohttp.ClientConnectionError, match="we shut down"):
            await wire.post("http://127.0.0.1:1/", b"", {}, lambda: None)

    run(scenario())
