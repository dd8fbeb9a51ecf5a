"""Is an answer that leaves in one message, past uvicorn's own writing, the same to the byte as in uvicorn's two?"""

from __future__ import annotations

import asyncio
import re

import pytest

from hybrid.server.exchange import Reply
from hybrid.server.run import serve

from .scripted import http, send_raw

HEADERS = [(b"content-type", b"application/json"), (b"x-hybrid-model", b"m")]
BODY = b'{"a": 1}'
AGAIN = http("POST", "/2").replace(b"connection: close\r\n", b"")
"""A request that keeps its connection."""


def answers(sent, *, is_whole, headers=HEADERS, body=BODY):
    """All bytes that come back for those sent, from an app that answers each request so; without the date."""

    async def app(scope, receive, send):
        await Reply(send, scope if is_whole else None).whole(200, headers, body)

    async def main():
        ready = asyncio.get_running_loop().create_future()
        serving = asyncio.ensure_future(
            serve(app, host="127.0.0.1", port=0, on_ready=lambda _host, port: ready.set_result(port))
        )
        try:
            async with asyncio.timeout(10):
                return await send_raw(await ready, sent)
        finally:
            serving.cancel()
            await asyncio.wait((serving,))

    return re.sub(rb"date: [^\r]*\r\n", b"date: now\r\n", asyncio.run(main()))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(http("POST", "/1"), id="closing"),
        pytest.param(AGAIN + http("POST", "/1"), id="pipelined"),
        pytest.param(AGAIN.replace(b"HTTP/1.1", b"HTTP/1.0"), id="http-1.0"),
        pytest.param(http("POST", "/1", "expect: 100-continue", body=b"{}"), id="not-waited-for"),
    ],
)
@pytest.mark.parametrize("body", [pytest.param(BODY, id="short"), pytest.param(b"x" * 3_000_000, id="long")])
def test_the_bytes_are_uvicorn_s(sent, body):
    """The status line, the headers and their order, how the connection goes on, and the body."""
    whole = answers(sent, is_whole=True, body=body)
    assert answers(sent, is_whole=False, body=body) == whole
    assert whole.endswith(body)


def test_a_line_end_in_a_header_ends_the_connection(caplog):
    """Nothing of such an answer leaves, and the log has it, as with uvicorn."""
    assert b"" == answers(http("POST", "/1"), is_whole=True, headers=[(b"x-a", b"b\r\nc: d")])
    assert "a header of an answer holds a line end" in caplog.text


def test_a_client_that_is_gone_is_sent_nothing():
    """It hung up while its answer was made; the app is not told."""

    async def main():
        made, answered, ready = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop().create_future()

        async def app(scope, receive, send):
            await receive()
            made.set()
            assert "http.disconnect" == (await receive())["type"]
            await Reply(send, scope).whole(200, HEADERS, BODY)
            answered.set()

        serving = asyncio.ensure_future(
            serve(app, host="127.0.0.1", port=0, on_ready=lambda _host, port: ready.set_result(port))
        )
        _, writer = await asyncio.open_connection("127.0.0.1", await ready)
        writer.write(AGAIN)
        await made.wait()
        writer.transport.abort()
        await asyncio.wait_for(answered.wait(), 10)
        serving.cancel()
        await asyncio.wait((serving,))

    asyncio.run(main())
