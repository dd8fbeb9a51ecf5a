"""What does a cloud's failure mean in our words? Statuses, error objects and Retry-After become errors.Provider*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from hybrid.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderThrottled,
    ProviderTimeout,
    ProviderUnavailable,
)
from hybrid.types import Json

MESSAGE_CHARS = 500
"""An upstream's words are quoted up to here: enough to act on, too little to fill a log."""

UNREADABLE_JSON = (ValueError, RecursionError)
"""All that msgspec raises over bytes from elsewhere: malformed, wrongly typed, not UTF-8, nested too deep."""

STATUS_OF_WORD: Mapping[str, int] = {
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "insufficient_quota": 402,
    "billing_hard_limit_reached": 402,
    "billing_not_active": 402,
    "billing_error": 402,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "api_key_invalid": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "failed_precondition": 400,
    "not_found": 404,
    "request_too_large": 413,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "invalid_prompt": 400,
    "invalid_image": 400,
    "invalid_image_url": 400,
    "invalid_base64_image": 400,
    "image_too_large": 400,
    "image_content_policy_violation": 400,
    "failed_to_download_image": 400,
    "timeout": 504,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "overloaded_error": 503,
    "service_unavailable": 503,
    "unavailable": 503,
    "internal": 500,
    "api_error": 500,
    "server_error": 500,
}
"""HTTP status that the `code` or `type` of an error object stands for. What is not listed here is a 502."""


class Credential:
    """An API key: sent in one header, cut out of every text, and shown by no repr."""

    __slots__ = ("_header", "_key", "_prefix")

    def __init__(self, key: str | None, *, header: str = "authorization", prefix: str = "Bearer ") -> None:
        """Hold `key`; None is an API that asks for none.

        Raises: ValueError, without the key in it, for one that no header can carry (an HTTP library would quote it
            in its own error).
        """
        if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
            raise ValueError("the API key is empty or holds a blank, a line end or a character that is not ASCII")
        self._key, self._header, self._prefix = key, header, prefix

    def __repr__(self) -> str:
        return f"Credential({'none' if self._key is None else 'hidden'})"

    def headers(self) -> dict[str, str]:
        """Give the one header that carries the key, or none."""
        return {} if self._key is None else {self._header: f"{self._prefix}{self._key}"}

    def redact(self, text: str) -> str:
        """Cut the key out of a text from elsewhere."""
        return text if self._key is None else text.replace(self._key, "[redacted]")


@dataclass(frozen=True, slots=True)
class Fault:
    """An upstream's error object: its words, the HTTP status they stand for, and how long to wait, where said."""

    message: str
    status: int | None = None
    retry_after_s: float | None = None

    @staticmethod
    def from_json(value: Json) -> Fault:
        """Read the shapes in use: `{"error": {...}}`, `{"error": "..."}`, `{"message": ...}`, `{"detail": ...}`.

        Google puts one of these into a list where an answer is streamed as one, and its sharper words into `details`.
        """
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        inner = value.get("error", value) if isinstance(value, dict) else value
        if not isinstance(inner, dict):
            return Fault(str(inner) if inner else "no explanation")
        message = next((inner[key] for key in ("message", "detail", "msg") if inner.get(key)), None)
        details = [one for one in _list(inner.get("details")) if isinstance(one, dict)]
        words = [*(one.get("reason") for one in details), *(inner.get(key) for key in ("code", "type", "status"))]
        text = message if isinstance(message, str) else msgspec.json.encode(message or inner).decode()
        named = [word for word in words if isinstance(word, str) and word]
        waits = [_duration_s(one.get("retryDelay")) for one in details]
        wait_s = next((wait for wait in waits if wait is not None), None)
        return Fault(f"{text} ({named[0]})" if named else text, _status_of(words), wait_s)

    @staticmethod
    def from_body(body: bytes) -> Fault:
        """Read an error body, which may be JSON, HTML, text or nothing."""
        try:
            return Fault.from_json(msgspec.json.decode(body))
        except UNREADABLE_JSON:
            return Fault(" ".join(body.decode("utf-8", "replace").split()) or "no explanation")


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _duration_s(value: Json) -> float | None:
    """Read a protobuf duration as JSON has it, such as "34.07s"; None for anything else."""
    return _seconds(value.removesuffix("s")) if isinstance(value, str) and value.endswith("s") else None


def _status_of(words: list[Json]) -> int | None:
    for word in words:
        if isinstance(word, int) and 400 <= word < 600:
            return word
        if isinstance(word, str) and word.isdecimal() and 400 <= int(word) < 600:
            return int(word)
        if isinstance(word, str) and word.lower() in STATUS_OF_WORD:
            return STATUS_OF_WORD[word.lower()]
    return None


def retry_after_s(headers: Mapping[str, str], *, now_unix_s: float) -> float | None:
    """Read how long the provider asks us to wait: `retry-after-ms`, then `retry-after` in seconds or as a date.

    Returns: seconds, >= 0; None where nothing readable is said.
    Source: RFC 9110, section 10.2.3; `retry-after-ms` is OpenAI's and Azure's own.
    """
    millis = _seconds(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is not None or value is None:
        return seconds
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_unix_s)


def _seconds(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


@dataclass(frozen=True, slots=True)
class Failures:
    """Makes the errors of one provider: its name in front, its words cut to size, its key cut out."""

    provider: str
    credential: Credential = field(default_factory=lambda: Credential(None))

    def quote(self, text: str) -> str:
        """Make an upstream's text fit to be shown. The key goes first: a cut through it would leave half of it."""
        clean = self.credential.redact(text)
        return clean if len(clean) <= MESSAGE_CHARS else clean[:MESSAGE_CHARS] + "..."

    def protocol(self, what: str) -> ProviderProtocolError:
        """It broke its own API."""
        return ProviderProtocolError(self.provider, self.quote(what))

    def unavailable(self, what: str) -> ProviderUnavailable:
        """It broke off."""
        return ProviderUnavailable(self.provider, self.quote(what))

    def timeout(self, what: str) -> ProviderTimeout:
        """It was too slow; `what` names the limit and its value."""
        return ProviderTimeout(self.provider, self.quote(what))

    def unsent(self, error: ProviderError) -> ProviderError:
        """Mark a failure before any byte of the request left: nobody can bill for it."""
        error.may_have_billed = False
        return error

    def from_fault(self, fault: Fault) -> ProviderError:
        """An error object inside an answer that began with 200: what was generated up to it may be billed."""
        error = self.from_status(fault.status or 502, fault, None)
        error.may_have_billed = True
        return error

    def from_status(self, status: int, fault: Fault, wait_s: float | None) -> ProviderError:
        """An HTTP status that is not 200, with what its body and Retry-After said.

        A 429 for an empty account is no rate limit: waiting does not fill it, so it is a rejection. A 400 that says
        the key is wrong, as Google's does, is the 401 it stands for.
        """
        message = self.quote(fault.message)
        wait_s = fault.retry_after_s if wait_s is None else wait_s
        error: ProviderError
        if status == 429 and fault.status != 402:
            return ProviderThrottled(self.provider, wait_s)
        if status in (408, 504):
            error = ProviderTimeout(self.provider, f"gave up by itself with HTTP {status}: {message}")
        elif status >= 500:
            error = ProviderUnavailable(self.provider, f"answered HTTP {status}: {message}")
        else:
            sharper = fault.status if status == 400 and fault.status in (401, 402, 403) else status
            error = ProviderRejected(self.provider, sharper, message)
        error.retry_after_s = wait_s
        return error
