"""What does a cloud look like that we can script, break and audit? An OpenAI-compatible server on loopback, for tests.

    async with FakeProvider(Answer(chunks=("Hi", "!"))) as fake:
        provider = OpenAIProvider("fake", base_url=fake.base_url, api_key="any")

Proved faithful by the official client, which reads the same from it as our adapter does. It never sleeps on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Self, TypeAlias

import msgspec

from hybrid.providers.fake_http import Connection, Ending
from hybrid.types import Json, ToolCall, Usage


class Fault(StrEnum):
    """How an answer goes wrong, once `Answer.after_chunks` of it were sent. The first four break the connection."""

    NO_HEADERS = "no_headers"
    """Nothing is ever answered."""
    STALL = "stall"
    """Nothing more comes; the connection stays open."""
    RESET = "reset"
    """The connection is reset (RST)."""
    CUT = "cut"
    """The connection is closed in the middle of the body."""
    NO_DONE = "no_done"
    """The body ends properly, but [DONE] is missing."""
    NO_FINISH = "no_finish"
    """The body ends properly, but finish_reason and [DONE] are missing."""
    HALF_CHARACTER = "half_character"
    """The body ends properly, in the middle of a UTF-8 character."""
    ERROR_OBJECT = "error_object"
    """`Answer.error` comes inside the 200."""
    GARBAGE = "garbage"
    """JSON that is none."""


ENDINGS: Mapping[Fault | None, Ending] = {Fault.STALL: "stall", Fault.RESET: "reset", Fault.CUT: "cut"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the fake says to one request, and what goes wrong with it.

    reasoning, chunks, refusal, tool_calls: the content, in this order. Each piece is one streamed event and is billed
        as one token; a tool call is three. The request's limit on output tokens cuts it, and ends it with `length`.
    finish_reason: None picks the fitting one.
    prompt_tokens: None counts the words of the messages.
    status, headers, error: an answer other than 200 is its status, these headers, and `error` as its JSON body.
    raw: sent as the body of a 200 instead of everything else, with `content_type`.
    headers_delay_s: from the request to the first byte of the answer.
    fault, after_chunks: what goes wrong, after how many pieces of content; None: after all of them.
    """

    chunks: tuple[str, ...] = ("Hello", ", ", "world", "!")
    reasoning: tuple[str, ...] = ()
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    cost_usd: Decimal | None = None
    has_usage: bool = True
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Json = None
    raw: bytes | None = None
    content_type: str = "text/event-stream"
    headers_delay_s: float = 0.0
    fault: Fault | None = None
    after_chunks: int | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class FakeRequest:
    """One request as it arrived, and what became of it.

    number: of the request, from 0. connection: of the connection it came on, from 0.
    headers: with lower-case names. body: decoded JSON.
    gone: set when the client closed the connection before the answer was complete; `gone_at_s` is the loop's time then.
    billed: what a real provider would charge so far: the prompt once accepted, and each token as it is generated.
    """

    number: int
    connection: int
    path: str
    headers: Mapping[str, str]
    body: Json
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    gone_at_s: float | None = None
    billed: Usage | None = None


Script: TypeAlias = Answer | Sequence[Answer] | Callable[[FakeRequest], Answer]


class FakeProvider:
    """The server. A script is one answer for all requests, one for each in turn (the last repeats), or a function."""

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
        return f"http://127.0.0.1:{self.port}/v1"

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
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

    async def _answer(self, connection: Connection, request: FakeRequest) -> None:
        authorization = request.headers.get("authorization", "")
        if self._api_key is not None and authorization != f"Bearer {self._api_key}":
            await connection.send(
                401, {}, [_error(f"Incorrect API key provided: {authorization[7:]}", "invalid_api_key")]
            )
            return
        if not request.path.partition("?")[0].endswith("/chat/completions"):
            await connection.send(404, {}, [_error(f"Unknown path {request.path}", "not_found_error")])
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
        elif request.body.get("stream"):
            headers |= {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
            await connection.send(200, headers, _Exchange(answer, request).stream(), ending)
        else:
            await connection.send(200, headers, [_Exchange(answer, request).whole()], ending)

    def _pick(self, request: FakeRequest) -> Answer:
        if isinstance(self._script, Answer):
            return self._script
        if isinstance(self._script, Sequence):
            return self._script[min(request.number, len(self._script) - 1)]
        return self._script(request)


class _Exchange:
    """The bytes of one answer to one request, and its bill as they are made."""

    def __init__(self, answer: Answer, request: FakeRequest) -> None:
        body = request.body
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        deltas = list(_deltas(answer))
        self._answer, self._request = answer, request
        self._deltas = deltas[:limit]
        self._is_cut = len(self._deltas) < len(deltas)
        self._wants_usage = (body.get("stream_options") or {}).get("include_usage", False)
        words = sum(len(str(message.get("content") or "").split()) for message in body.get("messages", []))
        self._prompt_tokens = words if answer.prompt_tokens is None else answer.prompt_tokens
        self._bill(0)

    def stream(self) -> Iterator[bytes]:
        """Yield the stream, event by event, up to the fault."""
        fault, count = self._answer.fault, self._answer.after_chunks
        sent = self._deltas if fault is None or count is None else self._deltas[:count]
        yield self._event({"role": "assistant", "content": ""})
        for number, delta in enumerate(sent, start=1):
            self._bill(number)
            yield self._event(delta)
        if fault in (None, Fault.NO_DONE):
            yield self._event({}, self._finish_reason())
            if self._wants_usage and self._answer.has_usage:
                yield b"data: " + msgspec.json.encode(self._head() | {"choices": [], "usage": self._usage()}) + b"\n\n"
        if fault is None:
            yield b"data: [DONE]\n\n"
        else:
            yield from self._broken('data: {"choices": [{"index": 0, "delta": {"content": "', b"data: ", b"\n\n")

    def whole(self) -> bytes:
        """Give the body of an answer that is not streamed, or what stands in its place."""
        self._bill(len(self._deltas))
        broken = b"".join(self._broken('{"choices": [{"index": 0, "message": {"content": "', b"", b""))
        if broken:
            return broken
        message: dict[str, Json] = {"role": "assistant", "content": None, "refusal": None}
        for delta in self._deltas:
            for key in delta.keys() - {"tool_calls"}:
                message[key] = (message.get(key) or "") + delta[key]
            for piece in delta.get("tool_calls", ()):
                calls = message.setdefault("tool_calls", [])
                if "id" in piece:
                    calls.append({"id": piece["id"], "type": "function", "function": dict(piece["function"])})
                else:
                    calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason()}
        body = self._head() | {"object": "chat.completion", "choices": [choice]}
        return msgspec.json.encode(body | ({"usage": self._usage()} if self._answer.has_usage else {}))

    def _broken(self, opening: str, before: bytes, after: bytes) -> Iterator[bytes]:
        match self._answer.fault:
            case Fault.HALF_CHARACTER:
                # The first of the two bytes of an e with an acute accent.
                yield opening.encode() + b"caf\xc3"
            case Fault.GARBAGE:
                yield before + b'{"choices": [' + after
            case Fault.ERROR_OBJECT:
                yield before + msgspec.json.encode(self._answer.error) + after

    def _event(self, delta: Json, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._wants_usage else {}
        return b"data: " + msgspec.json.encode(self._head() | {"choices": [choice]} | usage) + b"\n\n"

    def _head(self) -> dict[str, Json]:
        ours = {
            "id": f"chatcmpl-fake-{self._request.number}",
            "object": "chat.completion.chunk",
            "created": 1_780_000_000,
        }
        return ours | {"model": self._request.body.get("model", "fake")}

    def _finish_reason(self) -> str:
        fitting = "tool_calls" if self._answer.tool_calls else "stop"
        return "length" if self._is_cut else self._answer.finish_reason or fitting

    def _bill(self, completion_tokens: int) -> None:
        self._request.billed = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion_tokens,
            cached_tokens=self._answer.cached_tokens,
            reasoning_tokens=min(len(self._answer.reasoning), completion_tokens),
            cost_usd=self._answer.cost_usd,
        )

    def _usage(self) -> Json:
        bill = self._request.billed
        assert bill is not None
        usage = {
            "prompt_tokens": bill.prompt_tokens,
            "completion_tokens": bill.completion_tokens,
            "total_tokens": bill.prompt_tokens + bill.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": bill.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": bill.reasoning_tokens},
        }
        # As a JSON number with its digits as written: an encoder would make a Decimal a string.
        return usage | ({} if bill.cost_usd is None else {"cost": msgspec.Raw(str(bill.cost_usd).encode())})


def _deltas(answer: Answer) -> Iterator[dict[str, Json]]:
    yield from ({"reasoning_content": text} for text in answer.reasoning)
    yield from ({"content": text} for text in answer.chunks)
    if answer.refusal is not None:
        yield {"refusal": answer.refusal}
    for index, call in enumerate(answer.tool_calls):
        half = len(call.arguments) // 2
        opening = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield {"tool_calls": [opening]}
        for piece in (call.arguments[:half], call.arguments[half:]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _error(message: str, code: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "invalid_request_error", "code": code}})
