"""What is a fake cloud told to say, and how is an answer taken apart for it? The same for every dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar, Literal, TypeAlias

import msgspec

from hybrid.providers.fake_http import Ending
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
    """The body ends properly, but what ends a stream ([DONE], message_stop, response.completed) is missing."""
    NO_FINISH = "no_finish"
    """The body ends properly, but that and the reason why the answer ended are missing."""
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
    finish_reason: in the words of the dialect; None picks the fitting one.
    stop_sequence: the stop text that ended it, told where the dialect tells one.
    prompt_tokens: None counts the words of the messages.
    cache_write_tokens: None is not told, where the dialect lets it be left out.
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
    stop_sequence: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int | None = None
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


@dataclass(frozen=True, slots=True)
class Piece:
    """What is billed as one token. number: of the tool call, from 0; is_last: nothing of that call follows."""

    kind: Literal["reasoning", "text", "refusal", "call", "arguments"]
    text: str = ""
    number: int = 0
    call: ToolCall | None = None
    is_last: bool = False


def pieces(answer: Answer) -> Iterator[Piece]:
    """Take an answer apart, in the order it is said in."""
    yield from (Piece("reasoning", text) for text in answer.reasoning)
    yield from (Piece("text", text) for text in answer.chunks)
    if answer.refusal is not None:
        yield Piece("refusal", answer.refusal)
    for number, call in enumerate(answer.tool_calls):
        half = len(call.arguments) // 2
        yield Piece("call", call.name, number, call)
        yield Piece("arguments", call.arguments[:half], number, call)
        yield Piece("arguments", call.arguments[half:], number, call, is_last=True)


class Exchange:
    """The bytes of one answer to one request, and its bill as they are made. A dialect says how it is written."""

    broken_text: ClassVar[str]
    """How an event or body begins whose text breaks off in the middle of a character."""

    def __init__(self, answer: Answer, request: FakeRequest) -> None:
        everything = list(pieces(answer))
        self.answer, self.request = answer, request
        self.pieces = everything[: self.limit()]
        self.is_cut = len(self.pieces) < len(everything)
        self._prompt_tokens = self.words() if answer.prompt_tokens is None else answer.prompt_tokens
        self._bill(0)

    def limit(self) -> int | None:
        """The bound on the output that the request sets."""
        raise NotImplementedError

    def words(self) -> int:
        """The words of the request, which are its prompt's tokens."""
        raise NotImplementedError

    def copies(self) -> int:
        """How many answers were asked for; all say the same, and each is billed."""
        return 1

    def opening(self) -> Iterator[bytes]:
        """What a stream begins with."""
        yield from ()

    def piece(self, piece: Piece) -> Iterator[bytes]:
        """What is sent for one piece of the answer."""
        raise NotImplementedError

    def finish(self) -> Iterator[bytes]:
        """What tells why the answer ended, and what it used."""
        raise NotImplementedError

    def done(self) -> Iterator[bytes]:
        """What ends a stream."""
        yield from ()

    def body(self) -> bytes:
        """An answer that is not streamed."""
        raise NotImplementedError

    def stream(self) -> Iterator[bytes]:
        """Yield the stream, event by event, up to the fault."""
        fault, count = self.answer.fault, self.answer.after_chunks
        sent = self.pieces if fault is None or count is None else self.pieces[:count]
        yield from self.opening()
        for number, piece in enumerate(sent, start=1):
            self._bill(number)
            yield from self.piece(piece)
        if fault in (None, Fault.NO_DONE):
            yield from self.finish()
        if fault is None:
            yield from self.done()
        else:
            yield from self._broken(f"data: {self.broken_text}", b"data: ", b"\n\n")

    def whole(self) -> bytes:
        """Give the body of an answer that is not streamed, or what stands in its place."""
        self._bill(len(self.pieces))
        return b"".join(self._broken(self.broken_text, b"", b"")) or self.body()

    def _broken(self, opening: str, before: bytes, after: bytes) -> Iterator[bytes]:
        match self.answer.fault:
            case Fault.HALF_CHARACTER:
                # The first of the two bytes of an e with an acute accent.
                yield opening.encode() + b"caf\xc3"
            case Fault.GARBAGE:
                yield before + b'{"choices": [' + after
            case Fault.ERROR_OBJECT:
                yield before + msgspec.json.encode(self.answer.error) + after

    def _bill(self, completion_tokens: int) -> None:
        self.request.billed = Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion_tokens * self.copies(),
            cached_tokens=self.answer.cached_tokens,
            cache_write_tokens=self.answer.cache_write_tokens,
            reasoning_tokens=min(len(self.answer.reasoning), completion_tokens) * self.copies(),
            cost_usd=self.answer.cost_usd,
        )

    @property
    def bill(self) -> Usage:
        """What a real provider would charge so far."""
        assert self.request.billed is not None
        return self.request.billed

    def texts(self, kind: str) -> str:
        """All text of one kind, joined."""
        return "".join(piece.text for piece in self.pieces if piece.kind == kind)

    def calls(self) -> list[tuple[ToolCall, str]]:
        """The calls that were begun, each with its arguments as far as they came."""
        begun = [piece for piece in self.pieces if piece.kind == "call"]
        return [
            (piece.call, "".join(p.text for p in self.pieces if p.kind == "arguments" and p.number == piece.number))
            for piece in begun
            if piece.call is not None
        ]


def word_count(value: Json) -> int:
    """Count the words of all texts in a part of a request."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(word_count(item) for item in value)
    if isinstance(value, dict):
        return sum(word_count(item) for key, item in value.items() if key in ("text", "content", "parts"))
    return 0
