"""What does a cloud look like that we can script, break and audit? An OpenAI-compatible server on loopback, for tests.

    async with FakeProvider(Answer(chunks=("Hi", "!"))) as fake:
        provider = OpenAIProvider("fake", base_url=fake.base_url, api_key="any")

Proved faithful by the official client, which reads the same from it as our adapter does. It never sleeps on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Self

import msgspec

from hybrid.providers.fake_chat import ChatExchange
from hybrid.providers.fake_http import Connection
from hybrid.providers.fake_script import ENDINGS, Answer, Exchange, FakeRequest, Fault, Script
from hybrid.types import Usage

__all__ = ["Answer", "FakeProvider", "FakeRequest", "Fault", "Script"]

_ACCEPT_TURNS = 4
"""Of the loop, from the acceptance of a connection until it is handed over; before that nobody could close it."""


class FakeProvider:
    """The server, which speaks chat completions; each other dialect is a subclass.

    A script is one answer for all requests, one for each in turn (the last repeats), or a function.
    """

    prefix: ClassVar[str] = "/v1"
    """Where the API begins."""
    ending: ClassVar[str] = "/chat/completions"
    """How the path of a call ends."""

    def __init__(self, script: Script | None = None, *, api_key: str | None = None, port: int = 0) -> None:
        """Prepare; `async with` opens and closes.

        api_key: the one that is accepted; others get a 401 that quotes the key they sent, as careless servers do.
        port: on 127.0.0.1; 0: any free one.
        """
        self._script: Script = script if script is not None else Answer()
        self._api_key = api_key
        self.port = port
        self.requests: list[FakeRequest] = []
        self._arrived = asyncio.Condition()
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        """The URL to configure. With https:// it is a server whose TLS handshake never ends: a slow connect."""
        return f"{self.origin}{self.prefix}"

    @property
    def origin(self) -> str:
        """Scheme, host and port alone, as some clients are configured."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def billed(self) -> Usage:
        """What all requests so far were billed, together."""
        bills = [request.billed for request in self.requests if request.billed is not None]
        return Usage(
            prompt_tokens=sum(bill.prompt_tokens for bill in bills),
            completion_tokens=sum(bill.completion_tokens for bill in bills),
        )

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for _turn in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # Tasks that had ended are waited for without a turn of the loop, in which they would leave the set.
            await asyncio.sleep(0)
        await self._server.wait_closed()
        if self._errors:
            # A script that raised is a mistake in the test, which saw only a closed connection.
            raise self._errors[0]

    async def request(self, number: int) -> FakeRequest:
        """Wait until request `number` has arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) > number)
        return self.requests[number]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(Connection(reader, writer), self._connections))
        self._connections += 1
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, writer))

    def _ended(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        writer.close()  # one that was cancelled before its first step has closed nothing
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._errors.append(error)

    async def _serve(self, connection: Connection, number: int) -> None:
        try:
            while not connection.is_over:
                path, headers, body = await connection.receive()
                decoded = msgspec.json.decode(body) if body else {}
                request = FakeRequest(
                    number=len(self.requests), connection=number, path=path, headers=headers, body=decoded
                )
                async with self._arrived:
                    self.requests.append(request)
                    self._arrived.notify_all()
                if not await connection.watch(self._answer(connection, request)):
                    request.gone_at_s = asyncio.get_running_loop().time()
                    request.gone.set()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            await connection.close()

    def key_of(self, request: FakeRequest) -> str:
        """The key that came with a request."""
        return request.headers.get("authorization", "").removeprefix("Bearer ")

    def is_stream(self, request: FakeRequest) -> bool:
        """Whether the request asks for its answer event by event."""
        return bool(request.body.get("stream"))

    def exchange(self, answer: Answer, request: FakeRequest) -> Exchange:
        """Write the answer in the dialect."""
        return ChatExchange(answer, request)

    def complaint(self, request: FakeRequest) -> str | None:
        """What the API would refuse about a request."""
        del request
        return None

    def error(self, status: int, message: str) -> bytes:
        """The body of an answer that is no 200."""
        code = {401: "invalid_api_key", 404: "not_found_error"}.get(status, "invalid_request_error")
        return msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error", "code": code}})

    async def _refuse(self, connection: Connection, status: int, message: str) -> None:
        await connection.send(status, {}, [self.error(status, message)])

    async def _answer(self, connection: Connection, request: FakeRequest) -> None:
        key = self.key_of(request)
        if self._api_key is not None and key != self._api_key:
            await self._refuse(connection, 401, f"Incorrect API key provided: {key}")
            return
        if not request.path.partition("?")[0].endswith(self.ending):
            await self._refuse(connection, 404, f"Unknown path {request.path}")
            return
        complaint = self.complaint(request)
        if complaint is not None:
            await self._refuse(connection, 400, complaint)
            return
        answer = self._pick(request)
        if answer.headers_delay_s:
            await asyncio.sleep(answer.headers_delay_s)
        if answer.fault is Fault.NO_HEADERS:
            await asyncio.Event().wait()
        headers = {**answer.headers, "content-type": "application/json"}
        ending = ENDINGS.get(answer.fault, "whole")
        if answer.status != 200:
            await connection.send(answer.status, headers, [msgspec.json.encode(answer.error)] if answer.error else [])
        elif answer.raw is not None:
            await connection.send(200, headers | {"content-type": answer.content_type}, [answer.raw], ending)
        elif self.is_stream(request):
            headers |= {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
            await connection.send(200, headers, self.exchange(answer, request).stream(), ending)
        else:
            await connection.send(200, headers, [self.exchange(answer, request).whole()], ending)

    def _pick(self, request: FakeRequest) -> Answer:
        if isinstance(self._script, Answer):
            return self._script
        if isinstance(self._script, Sequence):
            return self._script[min(request.number, len(self._script) - 1)]
        return self._script(request)
