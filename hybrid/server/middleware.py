"""Who may come in, and what becomes of an error? Plain ASGI guards around every route, outermost first.

Starlette's `BaseHTTPMiddleware` is not used: it runs the route in another task and hides the client's hang-up from it.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid.errors import Forbidden, HybridError, InvalidRequest, Unauthorized
from hybrid.server.errors import ShuttingDown, internal_error
from hybrid.server.exchange import ClientGone, Exchange, Reply
from hybrid.server.gateway import Gateway, ServerOptions

_LOG = logging.getLogger(__name__)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-][a-z0-9._-]*)(:[0-9]{1,5})?")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What answers without a key: nothing but the two probes, which tell no more than up and ready."""


class ErrorBoundary:
    """Every error leaves as one envelope, a bug of ours as a 500 that tells nothing but where to look."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an ASGI application."""
        if scope["type"] != "http":
            return
        if not Exchange.is_in(scope):
            Exchange(arrived_s=time.monotonic()).put(scope)
        is_started = False

        async def watched(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientGone:
            return
        except HybridError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 (the boundary of every request; logged)
            _LOG.exception("unexpected error on %s %s", scope["method"], ascii(scope["path"]))
            error = internal_error(getattr(exc, "request_id", None))
        else:
            return
        if not is_started:
            await Reply(send).error(error)
        elif not isinstance(error, ShuttingDown):
            _LOG.error("a response broke off: %s", error)


class HostGuard:
    """Answers only to its own names, on loopback too: a foreign name in `Host` is a web page's rebound DNS."""

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app = app
        names = {*_LOOPBACK_NAMES, _bracketed(options.bound_host), *map(_bracketed, options.allowed_hosts)}
        self._names = frozenset(name.lower().rstrip(".") for name in names)
        self._is_any_name_allowed = "*" in options.allowed_hosts
        self._is_any_address_allowed = _is_wildcard(options.bound_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an ASGI application."""
        if scope["type"] == "http":
            self._check(scope["headers"])
        await self._app(scope, receive, send)

    def _check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        hosts = [value for name, value in headers if name == b"host"]
        match = _HOST.fullmatch(hosts[0].decode("latin-1").lower()) if len(hosts) == 1 else None
        if match is None:
            raise InvalidRequest("the request needs one well-formed Host header", param="host", code="invalid_host")
        name = match[1].rstrip(".")
        if self._is_any_name_allowed or name in self._names:
            return
        if self._is_any_address_allowed and _is_address(name):
            return
        raise Forbidden(f"this server does not answer to the host {name[:100]!r}; add it to server.allowed_hosts")


class KeyGuard:
    """Default-deny: every path but the probes needs whatever key the gateway requires, known or unknown path alike."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an ASGI application."""
        # scope["path"] is what routing matches. A URL rebuilt from the Host header is the client's to choose.
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            Exchange.of(scope).client_key = self._gateway.authenticate(_presented(scope["headers"]))
        await self._app(scope, receive, send)


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) > 1:
        raise Unauthorized("send one Authorization header")
    if not values:
        return None
    scheme, _, key = values[0].decode("latin-1").strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_wildcard(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified
