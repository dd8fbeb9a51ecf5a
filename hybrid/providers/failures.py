"""What does a cloud's failure mean in our words? Statuses and error objects become errors.Provider*."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from hybrid.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderThrottled,
    ProviderTimeout,
    ProviderUnavailable,
)
from hybrid.providers.hints import seconds
from hybrid.types import Json

_STATUS = re.compile(r"[45][0-9]{2}")

MESSAGE_CHARS = 500
"""An upstream's words are quoted up to here: enough to act on, too little to fill a log."""

UNREADABLE_JSON = (ValueError, RecursionError)
"""All that msgspec raises over bytes from elsewhere: malformed, wrongly typed, not UTF-8, nested too deep."""

KEY_FAULTS = (401, 402, 403)
"""Statuses that say that the key is wrong, its account empty, or that it may not do this."""

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


class Redacting(Protocol):
    """Who knows what must not be shown."""

    def redact(self, text: str) -> str:
        """Cut it out of a text from elsewhere."""


class Nothing:
    """Nothing is secret."""

    def redact(self, text: str) -> str:
        """See `Redacting`."""
        return text


@dataclass(frozen=True, slots=True)
class Fault:
    """An upstream's error object: its words, the HTTP status they stand for, and how long to wait, where said.

    is_moderation: it is the input that was not allowed, and not who sent it.
    """

    message: str
    status: int | None = None
    retry_after_s: float | None = None
    is_moderation: bool = False

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
        # OpenRouter's 403 for an input that was flagged. Source: its page on errors, ModerationErrorMetadata.
        metadata = inner.get("metadata")
        is_moderation = isinstance(metadata, dict) and "flagged_input" in metadata
        return Fault(f"{text} ({named[0]})" if named else text, _status_of(words), wait_s, is_moderation)

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
    return seconds(value.removesuffix("s")) if isinstance(value, str) and value.endswith("s") else None


def _status_of(words: list[Json]) -> int | None:
    for word in words:
        if isinstance(word, int) and 400 <= word < 600:
            return word
        if isinstance(word, str) and _STATUS.fullmatch(word):
            return int(word)
        if isinstance(word, str) and word.lower() in STATUS_OF_WORD:
            return STATUS_OF_WORD[word.lower()]
    return None


@dataclass(frozen=True, slots=True)
class Failures:
    """Makes the errors of one provider: its name in front, its words cut to size, its key cut out.

    may_bill_400: whether it charges for some requests that it answers with 400; then none of them is free for sure.
    """

    provider: str
    secrets: Redacting = field(default_factory=Nothing)
    may_bill_400: bool = False

    def quote(self, text: str) -> str:
        """Make an upstream's text fit to be shown. The key goes first: a cut through it would leave half of it."""
        clean = self.secrets.redact(text)
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
        the key is wrong, as Google's does, is the 401 it stands for. A 403 that names the model, as OpenAI's does for a
        project without access to it, is the 404 it stands for: the key is good for other models.
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
            sharper = fault.status if status == 400 and fault.status in KEY_FAULTS else status
            sharper = 404 if status == 403 and fault.status == 404 else sharper
            # An input that was flagged must not cost us the key: any client could send one.
            is_key_fault = (sharper in KEY_FAULTS or fault.status == 402) and not fault.is_moderation
            error = ProviderRejected(self.provider, sharper, message, is_key_fault=is_key_fault)
            error.may_have_billed = self.may_bill_400 and status == 400 and not is_key_fault
        error.retry_after_s = wait_s
        return error
