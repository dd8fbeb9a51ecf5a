"""What do the providers share that are reached over HTTP? A call becomes a POST, its answer events, by one dialect."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

import msgspec

from hybrid.errors import UnsupportedCapability
from hybrid.providers.base import BodyParser, CloudCall, EventParser
from hybrid.providers.failures import Failures
from hybrid.providers.stream import Reader, StreamParser
from hybrid.providers.transport import Transport
from hybrid.types import Capability, ChatRequest, Event, Json


@dataclass(frozen=True, slots=True)
class Post:
    """What is sent. path: behind the base URL, with what it adds to the query."""

    path: str
    body: Json


class Dialect(Protocol):
    """How one API is spoken. Pure: values in, values out."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the API can do and our events can carry."""

    def missing(self, request: ChatRequest) -> frozenset[str]:
        """See `base.Provider.missing`."""

    def post(self, call: CloudCall) -> Post:
        """Write the call. Raises: UnsupportedCapability for what only the call's model or output bound rules out."""

    def reader(self, failures: Failures, call: CloudCall, /) -> Reader:
        """What reads the events of a streamed answer."""

    def decode(self, body: bytes, failures: Failures, call: CloudCall, /) -> list[Event]:
        """Read the body of an answer that was not streamed. Raises: ProviderError."""


class HttpProvider:
    """A `base.Provider` that speaks a dialect over one transport."""

    def __init__(self, name: str, dialect: Dialect, transport: Transport) -> None:
        self.name = name
        self.capabilities = dialect.capabilities
        self._dialect = dialect
        self._transport = transport

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def missing(self, request: ChatRequest) -> frozenset[str]:
        """Say what the request wants and this provider cannot do. See `base.Provider`."""
        missing = self._dialect.missing(request)
        if request.needs <= self.capabilities:
            return missing
        return missing | {str(need) for need in request.needs - self.capabilities}

    def stream(self, call: CloudCall) -> AsyncGenerator[Event, None]:
        """Make the call and give its events. See `base.Provider`."""
        missing = self.missing(call.request)
        if missing:
            raise UnsupportedCapability(missing, where=self.name)
        post = self._dialect.post(call)
        failures = self._transport.failures

        def parser_for(media_type: str) -> EventParser:
            # By what came, not by what was asked: servers without streaming answer a stream request whole.
            if media_type == "text/event-stream":
                return StreamParser(failures, self._dialect.reader(failures, call))
            return BodyParser(lambda whole: self._dialect.decode(whole, failures, call))

        return self._transport.events(
            post.path,
            msgspec.json.encode(post.body),
            parser_for,
            is_stream=call.request.is_stream,
            model=call.model,
            on_sent=call.on_sent,
            max_wait_s=call.max_wait_s,
        )

    def warm(self) -> None:
        """Have a connection ready. See `base.Provider`."""
        self._transport.warm()

    async def aclose(self) -> None:
        """Close all connections. See `base.Provider`."""
        await self._transport.aclose()
