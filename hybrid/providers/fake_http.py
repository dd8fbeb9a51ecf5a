"""How does the server's side of one HTTP/1.1 connection look, when its answers are to be broken on purpose?"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET
from typing import Literal, TypeAlias

Ending: TypeAlias = Literal["whole", "stall", "reset", "cut"]
"""Whole; or the body stops where it is, and the connection stays open, is reset (RST) or is closed."""


class Connection:
    """One HTTP/1.1 connection: a request in, an answer out, and an eye on whether the client is still there."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._early = b""
        self.is_over = False

    async def receive(self) -> tuple[str, dict[str, str], bytes]:
        """Await the next request: its path, its headers and its body."""
        head = (self._early + await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self._early = b""
        start, *lines = head.rstrip().split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        return start.split(" ")[1], headers, await self._reader.readexactly(int(headers.get("content-length", 0)))

    async def watch(self, answering: Coroutine[None, None, None]) -> bool:
        """Run `answering` to its end. False: the client went away before, and it was cancelled."""
        loop = asyncio.get_running_loop()
        answer, ear = loop.create_task(answering), loop.create_task(self._reader.read(1))
        is_gone = False
        try:
            await asyncio.wait((answer, ear), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and ear.exception() is None and ear.result():
                # Not gone: it sends its next request early.
                await asyncio.wait((answer,))
            is_gone = not self.is_over and not answer.done()
        finally:
            answer.cancel()
            ear.cancel()
            outcome, heard = await asyncio.gather(answer, ear, return_exceptions=True)
        self._early = heard if isinstance(heard, bytes) else b""
        if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError):
            raise outcome
        is_gone = is_gone or isinstance(outcome, ConnectionError)
        self.is_over = self.is_over or is_gone
        return not is_gone

    async def send(
        self,
        status: int,
        headers: Mapping[str, str],
        pieces: Sequence[bytes] | Iterator[bytes],
        ending: Ending = "whole",
    ) -> None:
        """Send an answer, chunked if its headers say so, else of known length, and end it as told."""
        is_chunked = "transfer-encoding" in headers
        if not is_chunked:
            body = b"".join(pieces)
            headers = {"content-type": "application/json", **headers, "content-length": str(len(body))}
            pieces = [body if ending == "whole" else body[: len(body) // 2]]
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers.items())]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        for piece in pieces:
            self._writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            await self._writer.drain()
        if ending == "whole":
            self._writer.write(b"0\r\n\r\n" if is_chunked else b"")
            await self._writer.drain()
        elif ending == "stall":
            await asyncio.Event().wait()
        else:
            self._break(is_reset=ending == "reset")

    def _break(self, *, is_reset: bool) -> None:
        self.is_over = True
        if is_reset:
            # Lingering for no time at all is how a socket is told to reset.
            self._writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
