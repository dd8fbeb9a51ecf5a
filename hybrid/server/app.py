"""Which routes are there, and what happens on each? A request's path starts here.

A chat: guards (`middleware`), body (`exchange`), `openai_chat.parse`, `Gateway.stream`, `openai_render`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TypeAlias

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hybrid.errors import HybridError, ModelNotFound
from hybrid.server import openai_embeddings as embeddings
from hybrid.server.errors import MethodNotAllowed, PathNotFound, ShuttingDown, envelope, error_headers, internal_error
from hybrid.server.exchange import Exchange, Pinging, Reply, until_gone
from hybrid.server.gateway import Gateway, ServerOptions
from hybrid.server.hybrid_headers import head_headers
from hybrid.server.middleware import ErrorBoundary, HostGuard, KeyGuard
from hybrid.server.openai_chat import parse
from hybrid.server.openai_render import PING, Answer, Chunks, answer_headers, model_object, stream_headers
from hybrid.server.recorded import read_recorded
from hybrid.types import ChatRequest, EmbeddingRequest, Event, Head, Json, ServedModel, Tail

_LOG = logging.getLogger(__name__)
_DIALECT = "openai"

Items: TypeAlias = AsyncGenerator[Head | Event | Tail, None]


class App:
    """The routes behind the guards, as one ASGI application.

    The routes that answer prompts are found by their path alone. Starlette's own layers around a route (two that catch
    errors, which the guards do, and the router) cost a tenth of what a gateway adds to a request.
    """

    def __init__(self, prompts: Mapping[str, ASGIApp], others: Starlette, guard: Callable[[ASGIApp], ASGIApp]) -> None:
        self._prompts, self._others = prompts, others
        self._guarded = guard(self._route)
        self.routes = others.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._guarded(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        prompt = self._prompts.get(scope["path"]) if scope["method"] == "POST" else None
        await (prompt or self._others)(scope, receive, send)


def make_app(gateway: Gateway, options: ServerOptions) -> App:
    """Wire the routes, in order, behind the guards."""
    info = _Info(gateway)
    prompts: dict[str, ASGIApp] = {
        "/v1/chat/completions": ChatCompletions(gateway, options),
        "/v1/embeddings": EmbeddingsRoute(gateway, options),
    }
    others = Starlette(
        routes=[
            *(Route(path, app, methods=["POST"]) for path, app in prompts.items()),
            Route("/v1/models", info.models, methods=["GET"]),
            Route("/v1/models/{id:path}", info.model, methods=["GET"]),
            Route("/healthz", info.healthz, methods=["GET"]),
            Route("/readyz", info.readyz, methods=["GET"]),
        ],
        # Starlette's outermost layer answers an error itself before ours sees it.
        middleware=[Middleware(ErrorBoundary)],
        exception_handlers={HTTPException: _no_route},
    )
    others.router.redirect_slashes = False  # the redirect's URL would be built from the Host header
    return App(prompts, others, lambda app: ErrorBoundary(HostGuard(KeyGuard(app, gateway), options)))


class ChatCompletions:
    """`POST /v1/chat/completions`, as an ASGI application."""

    def __init__(self, gateway: Gateway, options: ServerOptions) -> None:
        self._gateway, self._options = gateway, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        arrived_s = Exchange.of(scope).arrived_s
        request = await self._read(scope, receive)
        items = self._gateway.stream(request, dialect=_DIALECT, arrived_s=arrived_s)
        answer = self._stream if request.is_stream else self._whole
        reply = Reply(send, scope)
        try:
            await until_gone(scope, receive, answer(request, items, reply))
        except ShuttingDown as exc:
            if not reply.is_started:
                raise
            if not reply.is_finished and request.is_stream:
                await reply.finish(Chunks.failure(exc))

    async def _read(self, scope: Scope, receive: Receive) -> ChatRequest:
        def read(body: bytes) -> ChatRequest:
            return parse(body, scope["headers"], client_key=Exchange.of(scope).client_key)

        return await read_recorded(self._gateway, self._options, scope, receive, read, dialect=_DIALECT)

    async def _whole(self, _request: ChatRequest, items: Items, reply: Reply) -> None:
        async with aclosing(items):
            tail, body = await self._gathered(items)
        # Only now: whoever has the whole answer finds its ledger row closed.
        await reply.whole(200, answer_headers(tail), body)

    async def _gathered(self, items: Items) -> tuple[Tail, bytes]:
        answer = Answer()
        head: Head | None = None
        try:
            async for item in items:
                if isinstance(item, Tail):
                    return item, answer.render(item, int(time.time()))
                if isinstance(item, Head):
                    head = item
                else:
                    answer.add(item)
        except Exception as exc:
            raise _told(exc, head) from exc
        raise _told(AssertionError("an answer ends with a Tail"), head)

    async def _stream(self, request: ChatRequest, items: Items, reply: Reply) -> None:
        async with aclosing(items):
            head = await anext(items)  # nothing is sent before it: until then a failure is a real HTTP error
            assert isinstance(head, Head), "an answer starts with its Head"
            await reply.start(200, stream_headers(head))
            chunks = Chunks(head, int(time.time()), wants_usage=request.wants_usage, wants_hybrid=request.wants_hybrid)
            with Pinging(reply, PING, self._options.ping_s):
                last = await self._chunks(head, chunks, items, reply)
        await reply.finish(last)

    async def _chunks(self, head: Head, chunks: Chunks, items: Items, reply: Reply) -> bytes:
        """Write the events as they come, and return the last bytes of the stream: its end, or why it broke off."""
        try:
            async for item in items:
                if isinstance(item, Tail):
                    return chunks.end(item)
                assert not isinstance(item, Head), "an answer has one Head"
                if data := chunks.event(item):
                    await reply.write(data)
        except Exception as exc:  # noqa: BLE001 (a request's boundary; _told logs it)
            return chunks.failure(_told(exc, head))
        return chunks.failure(_told(AssertionError("an answer ends with a Tail"), head))


class EmbeddingsRoute:
    """`POST /v1/embeddings`, as an ASGI application."""

    def __init__(self, gateway: Gateway, options: ServerOptions) -> None:
        self._gateway, self._options = gateway, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange.of(scope)

        def read(body: bytes) -> tuple[EmbeddingRequest, embeddings.Format]:
            return embeddings.parse(body, scope["headers"], client_key=exchange.client_key)

        request, form = await read_recorded(self._gateway, self._options, scope, receive, read, dialect=_DIALECT)
        await until_gone(scope, receive, self._answer(request, form, exchange.arrived_s, Reply(send, scope)))

    async def _answer(self, request: EmbeddingRequest, form: embeddings.Format, arrived_s: float, reply: Reply) -> None:
        answer = await self._gateway.embed(request, dialect=_DIALECT, arrived_s=arrived_s)
        # A large answer takes a while to write, and nobody else should wait for it.
        body = await asyncio.to_thread(embeddings.render, answer, form)
        await reply.whole(200, [(b"content-type", b"application/json"), *head_headers(answer.head)], body)


class _Info:
    """The routes that only tell what is there."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        data = [model_object(model) for model in self._served(request)]
        return _json(200, {"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`; ids may contain slashes."""
        wanted: str = request.path_params["id"]
        served = self._served(request)
        for model in served:
            if model.name == wanted:
                return _json(200, model_object(model))
        raise ModelNotFound(wanted[:256], [model.name for model in served])

    def _served(self, request: Request) -> tuple[ServedModel, ...]:
        return self._gateway.models(Exchange.of(request.scope).client_key)

    async def healthz(self, _request: Request) -> Response:
        """`GET /healthz`: the process answers."""
        return _json(200, {"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """`GET /readyz`: some route can answer a chat now."""
        is_ready, details = self._gateway.readiness()
        return _json(200 if is_ready else 503, {"status": "ready" if is_ready else "not_ready", **details})


def _told(exc: Exception, head: Head | None) -> HybridError:
    """What the client is told of whatever broke an answer; a bug of ours is logged here and told as an id."""
    request_id = None if head is None else head.request_id
    if isinstance(exc, HybridError):
        exc.request_id = exc.request_id or request_id
        return exc
    _LOG.error("unexpected error in request %s", request_id, exc_info=exc)
    return internal_error(request_id)


def _json(status: int, value: dict[str, Json]) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _no_route(request: Request, exc: Exception) -> Response:
    """Starlette's own refusals, in our envelope."""
    assert isinstance(exc, HTTPException)
    method, path = request.scope["method"], request.scope["path"][:200]
    error: HybridError = PathNotFound(f"there is nothing at {path}; chat completions are at /v1/chat/completions")
    if exc.status_code == 405:
        allow = (exc.headers or {}).get("Allow", "")
        error = MethodNotAllowed(f"{path} does not take {method}; it takes {allow}", allow)
    headers = {name.decode(): value.decode("latin-1") for name, value in error_headers(error)}
    return Response(envelope(error), error.status, headers=headers)
