"""Does everything stop when the client hangs up, at whatever point, or does not read?"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct

import pytest

from hybrid.server.protocol import ConnectionLimits
from hybrid.types import TextDelta

from .scripted import HEAD, ScriptedGateway, chat, http, served

PROMPT_S = 0.5
"""The contract: a slot is free within 500 ms of a hang-up."""


async def closes(gateway: ScriptedGateway) -> None:
    """Wait for the answer's generator to end."""
    await asyncio.wait_for(gateway.closed.wait(), PROMPT_S)


@pytest.mark.parametrize(
    ("script", "is_stream"),
    [
        pytest.param((), False, id="whole-before-the-head"),
        pytest.param((HEAD, TextDelta("x")), False, id="whole-while-generating"),
        pytest.param((), True, id="stream-before-the-head"),
        pytest.param((HEAD, TextDelta("x")), True, id="stream-while-generating"),
    ],
)
@pytest.mark.parametrize("is_reset", [pytest.param(False, id="closed"), pytest.param(True, id="reset")])
def test_hang_up(script: tuple[object, ...], *, is_stream: bool, is_reset: bool):
    """The gateway's generator is closed at once, whether the client closed or reset the connection."""

    async def main() -> None:
        gateway = ScriptedGateway(*script, asyncio.Event())
        async with served(gateway) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(chat(stream=is_stream))
            await gateway.started.wait()
            if is_reset:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            await closes(gateway)

    asyncio.run(main())


def test_hang_up_with_a_request_pipelined_behind():
    """A second request waiting on the connection does not hide the hang-up from the first."""

    async def main() -> None:
        gateway = ScriptedGateway(asyncio.Event())
        async with served(gateway) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(chat().replace(b"connection: close\r\n", b"") + http("GET", "/healthz"))
            await gateway.started.wait()
            writer.close()
            await closes(gateway)

    asyncio.run(main())


def test_the_clean_up_is_awaited_and_the_next_is_served():
    """Clean-up that itself waits is run to its end, and the server goes on."""

    class Careful(ScriptedGateway):
        settled = False

        async def stream(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def, override]
            try:
                async for item in super().stream(*args, **kwargs):  # type: ignore[arg-type]
                    yield item
            finally:
                await asyncio.get_running_loop().run_in_executor(None, int)
                self.settled = True
                self.is_settled.set()

    async def main() -> bytes:
        gateway = Careful(asyncio.Event())
        gateway.is_settled = asyncio.Event()
        async with served(gateway) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(chat())
            await gateway.started.wait()
            writer.close()
            await asyncio.wait_for(gateway.is_settled.wait(), PROMPT_S)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(http("GET", "/healthz"))
            answer = await reader.read()
            writer.close()
            return answer

    assert b'{"status":"ok"}' in asyncio.run(main())


def test_a_reader_that_does_not_read():
    """A client that leaves its stream unread is cut off after the stall limit, and its generator closed."""

    async def main() -> None:
        gateway = ScriptedGateway()
        gateway.script = itertools.chain((HEAD,), itertools.repeat(TextDelta("x" * 65_536)))  # type: ignore[assignment]
        async with served(gateway, limits=ConnectionLimits(write_stall_s=0.05)) as port:
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.sendall(chat(stream=True))
                await asyncio.wait_for(gateway.closed.wait(), 5)

    asyncio.run(main())


def test_a_slow_reader_is_waited_for():
    """While the client does not read, no more is pulled from the gateway than the buffers hold."""

    async def main() -> int:
        pulled = 0

        def endless():  # type: ignore[no-untyped-def]
            nonlocal pulled
            yield HEAD
            while pulled < 10_000:
                pulled += 1
                yield TextDelta("x" * 65_536)

        gateway = ScriptedGateway()
        gateway.script = endless()  # type: ignore[assignment]
        async with served(gateway) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(chat(stream=True))
            await reader.readuntil(b"\r\n\r\n")
            writer.close()
            await closes(gateway)
        return pulled

    assert asyncio.run(main()) < 1_000
