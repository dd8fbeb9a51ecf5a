"""What does the server need of the runtime behind it? One narrow seam, and the options it is started with."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from hybrid.errors import HybridError
from hybrid.types import ChatRequest, EmbeddingRequest, Embeddings, Event, Head, Json, ServedModel, Tail


class Gateway(Protocol):
    """Whoever answers. `hybrid.runtime.Runtime` does; the tests have a scripted one."""

    def stream(
        self, request: ChatRequest, *, dialect: str, arrived_s: float
    ) -> AsyncGenerator[Head | Event | Tail, None]:
        """Answer one request: exactly one `Head`, then events with exactly one `Finished` a choice, then one `Tail`.

        The consumer stops it by `aclose()` between items, or by cancelling the task that awaits the next one; either
        way everything behind it is cancelled and settled before control comes back. It does so when the client hangs
        up, and nothing waits for the client in between: an item is pulled when the one before it was written. It is
        closed after its `Tail` too, and only then is the end of the answer sent.

        Args:
            arrived_s: when the request's head was read, by `time.monotonic()`.
        Raises: HybridError before the first item if the request is refused, and after the head if it fails on the
            way; its `request_id` names the ledger row if there is one.
        """
        ...

    async def embed(self, request: EmbeddingRequest, *, dialect: str, arrived_s: float) -> Embeddings:
        """Answer one request for embeddings. Cancelling it stops everything behind it, as with `stream`.

        Raises: HybridError if it is refused or fails; its `request_id` names the ledger row.
        """
        ...

    def refuse(self, error: HybridError, *, dialect: str, model: str | None, arrived_s: float) -> str:
        """Record a request that never became a `ChatRequest`, and return the id of its row. Must not block."""
        ...

    def models(self, client_key: str | None = None) -> tuple[ServedModel, ...]:
        """Every name a client with this key may send."""
        ...

    def readiness(self) -> tuple[bool, dict[str, Json]]:
        """Whether some route can answer now, and what `/readyz` should say about it."""
        ...

    def authenticate(self, presented: str | None) -> str | None:
        """Name the client key behind what was presented; None where no key is required.

        Raises: Unauthorized if a key is required and this is none, or a revoked one.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What the routes and guards may be told. Connection limits are `protocol.ConnectionLimits`.

    bound_host: the address we listen on; on a wildcard any IP address is a valid Host (a rebound name never is one).
    allowed_hosts: further host names clients may use, without port; `*` turns the check off.
    max_body_bytes: larger request bodies get a 413, before they are read where their length is announced.
    body_deadline_s: a body that takes longer to arrive gets a 408.
    ping_s: an SSE comment is sent on a stream after this much silence; None for clients that choke on comments.
    """

    bound_host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 8 * 1024 * 1024
    body_deadline_s: float = 30.0
    ping_s: float | None = 15.0
