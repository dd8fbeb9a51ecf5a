"""What do the tests of the providers share? Making a call, collecting its events, and cutting bytes into pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from hybrid.errors import ProviderError
from hybrid.providers.base import CloudCall, EventParser, Provider, Timeouts
from hybrid.providers.fake import FakeProvider, Script
from hybrid.providers.openai import OpenAIProvider
from hybrid.types import ChatRequest, Event, Message, TextDelta, TextPart, Usage

T = TypeVar("T")

KEY = "sk-canary-5f3a9c1e"
CAPTURED = Path(__file__).parent / "captured"
"""What servers put on the wire, shortened, in the shapes that each of them documents or is seen to send."""

HELLO = [TextDelta("Hello"), TextDelta(", "), TextDelta("world"), TextDelta("!")]
USAGE = Usage(prompt_tokens=2, completion_tokens=4)
"""What the fake says unless told otherwise, and bills for it."""

PATIENCE_S = 20.0
"""No test waits so long unless something hangs."""


def captured(name: str) -> bytes:
    """One of those answers, byte for byte."""
    return (CAPTURED / name).read_bytes()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or fail when it hangs."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await coroutine

    return asyncio.run(bounded())


def user(text: str) -> Message:
    """A user's message of plain text."""
    return Message("user", (TextPart(text),))


def call(text: str = "Say hello", *, is_stream: bool = True, max_output_tokens: int = 100, **fields: Any) -> CloudCall:
    """A call with one user message, or those in `messages`; `fields` are ChatRequest's."""
    messages = fields.pop("messages", (user(text),))
    request = ChatRequest(model="hybrid", messages=messages, is_stream=is_stream, **fields)
    return CloudCall(request, "gpt-test", max_output_tokens)


@asynccontextmanager
async def provider_at(base_url: str, **options: Any):
    """An adapter with short patience but for `total_s`, closed at the end."""
    limits = {"connect_s": 5.0, "first_token_s": 5.0, "between_tokens_s": 5.0, "total_s": 10.0}
    limits |= {name: options.pop(name) for name in list(options) if name in limits}
    provider = OpenAIProvider("cloud", base_url=base_url, api_key=KEY, timeouts=Timeouts(**limits), **options)
    try:
        yield provider
    finally:
        await provider.aclose()


async def collect(provider: Provider, call: CloudCall) -> list[Event]:
    """All events of a call."""
    return [event async for event in provider.stream(call)]


def parse(parser: EventParser, chunks: Iterable[bytes]) -> tuple[list[Event], str | None]:
    """Feed all chunks and close; give the events, and the failure as its class and text."""
    events: list[Event] = []
    for chunk in chunks:
        events += parser.feed(chunk)
    events += parser.close()
    return events, None if parser.failure is None else f"{type(parser.failure).__name__}: {parser.failure}"


def halves(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut into two at every boundary."""
    return ((data[:at], data[at:]) for at in range(len(data) + 1))


def cut(data: bytes, ats: Iterable[int]) -> Iterator[bytes]:
    """Cut at the given offsets, wherever they lie."""
    bounds = [0, *sorted(at % (len(data) + 1) for at in ats), len(data)]
    return (data[begin:end] for begin, end in pairwise(bounds))


async def outcome(provider: Provider, call: CloudCall) -> tuple[list[Event], ProviderError | None]:
    """The events of a call up to its end, and the error it ended with."""
    events: list[Event] = []
    try:
        async for event in provider.stream(call):
            events.append(event)
    except ProviderError as error:
        return events, error
    return events, None


def failure(script: Script, *, is_stream: bool = True, **options: Any) -> ProviderError | None:
    """The error of one call to a fake with this script."""

    async def scenario() -> ProviderError | None:
        async with FakeProvider(script) as fake, provider_at(fake.base_url, **options) as provider:
            return (await outcome(provider, call(is_stream=is_stream)))[1]

    return run(scenario())
