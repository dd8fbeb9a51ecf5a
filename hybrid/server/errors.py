"""What does a client see when something went wrong? One envelope, in OpenAI's shape, for every status."""

from __future__ import annotations

import math

import msgspec

from hybrid.errors import CallerError, HybridError
from hybrid.server.hybrid_headers import rate_limit_headers, safe_value

_ENCODER = msgspec.json.Encoder()


class PathNotFound(CallerError):
    """Nothing is served at this path."""

    status, code = 404, "path_not_found"


class MethodNotAllowed(CallerError):
    """The path exists and does not take this method; `allow` lists those it takes."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class BodyTimeout(CallerError):
    """The body did not arrive in time."""

    status, code, type = 408, "body_timeout", "timeout_error"


class UnsupportedMedia(CallerError):
    """The body is not plain JSON: another content type or a content encoding."""

    status, code = 415, "unsupported_media_type"


class ShuttingDown(HybridError):
    """The server is stopping and took the request back."""

    status, code, is_retryable = 503, "shutting_down", True
    retry_after_s = 1.0


class Overloaded(HybridError):
    """More connections are open than the server takes."""

    status, code, is_retryable = 503, "overloaded", True
    retry_after_s = 1.0


class _Body(msgspec.Struct):
    message: str
    type: str
    code: str
    param: str | None
    src: str


class _Envelope(msgspec.Struct):
    error: _Body


def envelope(error: HybridError) -> bytes:
    """Render an error as the JSON that OpenAI's clients expect, plus `src`: whose fault it is."""
    message = str(error) or error.code
    try:
        return _encode(error, message)
    except UnicodeEncodeError:  # half a surrogate pair, from a provider's or a file's text
        return _encode(error, message.encode("utf-8", "replace").decode())


def error_headers(error: HybridError) -> list[tuple[bytes, bytes]]:
    """The headers that go with `envelope`, without the content length."""
    headers = [(b"content-type", b"application/json")]
    if error.request_id is not None:
        headers.append((b"x-hybrid-request-id", safe_value(error.request_id)))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    headers += rate_limit_headers(error.rate_limits)
    if error.status >= 500 and not error.is_retryable:
        # OpenAI's clients retry every 5xx unless told not to, and each try may cost money.
        headers.append((b"x-should-retry", b"false"))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", safe_value(error.allow)))
    return headers


def internal_error(request_id: str | None) -> HybridError:
    """What a client may know of a bug of ours: that it is logged, and under which id."""
    where = "" if request_id is None else f" under request {request_id}"
    error = HybridError(f"something broke inside hybrid; the server's log has the details{where}")
    error.request_id = request_id
    return error


def _encode(error: HybridError, message: str) -> bytes:
    return _ENCODER.encode(
        _Envelope(_Body(message=message, type=error.type, code=error.code, param=error.param, src=error.src))
    )
