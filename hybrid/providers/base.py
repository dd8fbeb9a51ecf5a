"""What is a cloud provider to the rest of us? A call, its time limits, and events that end with one `Finished`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from hybrid.errors import ProviderError
from hybrid.types import Capability, ChatRequest, Event


@dataclass(frozen=True, slots=True)
class CloudCall:
    """One paid call. `max_output_tokens` is what was reserved for; the provider is always told to keep to it.

    model: the provider's own name for it, not the client's.
    request.is_stream decides how it is fetched: event by event, or whole.
    on_sent: called when the first byte of the request may have left: from then on the call may be billed.
    max_wait_s: how long a provider that refuses for now (a rate limit) may be waited for before it is asked again.
    """

    request: ChatRequest
    model: str
    max_output_tokens: int
    on_sent: Callable[[], None] = lambda: None
    max_wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each phase of a call may last, in seconds, each measured by itself.

    connect_s: name lookup with TCP, TLS, and a free connection of the pool; each of these, in each attempt.
    first_token_s: from the start of the call to the first event with content; not of an answer fetched whole.
    between_tokens_s: from our readiness for more to the next event; comments that keep a connection alive do not count.
    total_s: the whole call, the time the consumer took included.
    """

    connect_s: float = 10.0
    first_token_s: float = 60.0
    between_tokens_s: float = 30.0
    total_s: float = 600.0


class Provider(Protocol):
    """A cloud API that answers chat requests. One instance serves all calls to one configured `[[cloud]]`."""

    @property
    def name(self) -> str:
        """The configured name, as errors, ledger and metrics say it."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What a request may need of it."""

    def missing(self, request: ChatRequest) -> frozenset[str]:
        """Say what the request wants and this provider cannot do; empty: it can. Pure, to be asked before a call.

        Finer than `capabilities`: it also names single parameters, and what would cost more than can be reserved.
        """

    def stream(self, call: CloudCall) -> AsyncGenerator[Event, None]:
        """Make the call and yield its events, the last of which is the one `Finished`.

        Closing the generator, or cancelling the task that awaits it, closes the connection at once.

        Raises: errors.Provider* and nothing else from the network. errors.UnsupportedCapability, at once or before
            anything is sent, where `missing` was not asked or not heeded.
        """

    def warm(self) -> None:
        """Have a connection ready for a call that may come soon, if none is: nothing is said, nothing is paid.

        Waits for nothing, and cannot fail.
        """

    async def aclose(self) -> None:
        """Close all connections; calls in flight fail with ProviderUnavailable."""


class EventParser(Protocol):
    """Turns the bytes of one response into events, wherever the network split them. Pure: no clock, no I/O.

    The events and the failure depend on the bytes alone, not on how they were cut into chunks. So a failure is kept
    and not raised: what came before it in the same chunk was already paid for and must be seen.
    """

    @property
    def failure(self) -> ProviderError | None:
        """What was wrong with the bytes; nothing is parsed after it."""

    @property
    def is_finished(self) -> bool:
        """Whether `Finished` was returned; what follows it in the stream is of no interest."""

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; return the events they complete."""

    def close(self) -> list[Event]:
        """Say that no bytes follow; return the events that were waiting for that."""


class BodyParser:
    """An `EventParser` for an answer that comes whole: keeps the body and hands it to `decode` at its end."""

    __slots__ = ("_body", "_decode", "failure", "is_finished")

    def __init__(self, decode: Callable[[bytes], list[Event]]) -> None:
        """`decode` returns the events of a whole body or raises ProviderError."""
        self._decode = decode
        self._body = bytearray()
        self.failure: ProviderError | None = None
        self.is_finished = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Keep the bytes; nothing is known before the last."""
        self._body += chunk
        return []

    def close(self) -> list[Event]:
        """Decode the body."""
        try:
            events = self._decode(bytes(self._body))
        except ProviderError as error:
            self.failure = error
            return []
        self.is_finished = True
        return events
