"""What do the `x-hybrid-*` headers say? Read from a request, written to a response, and the same as a JSON object."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from hybrid.errors import InvalidRequest
from hybrid.types import MAX_TAG_CHARS, Head, Json, PolicyChoice, Priority, RateLimit

MAX_DEADLINE_MS = 86_400_000
MAX_VALUE_CHARS = 256

_PREFIX = "x-hybrid-"
_VALID = tuple(_PREFIX + name for name in ("policy", "deadline-ms", "priority", "max-cost-usd", "min-quality", "tag"))
_POLICY, _DEADLINE, _PRIORITY, _COST, _QUALITY, _TAG = _VALID
_USD = re.compile(r"\d{1,9}(\.\d{1,12})?")
_SHARE = re.compile(r"0(\.\d{1,6})?|1(\.0{1,6})?")
_UNSAFE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a client asked for by header. `is_any` is True when it sent one at all."""

    policy: PolicyChoice = PolicyChoice.AUTO
    deadline_s: float | None = None
    priority: Priority = Priority.NORMAL
    max_cost_usd: Decimal | None = None
    min_quality: float | None = None
    tag: str | None = None
    is_any: bool = False


_NONE = Wishes()


def read_wishes(headers: Iterable[tuple[bytes, bytes]]) -> Wishes:
    """Read the `x-hybrid-*` request headers.

    An unknown one is refused, not ignored: a misspelt `x-hybrid-policy: local-only` would leak what it should keep.

    Args:
        headers: as ASGI has them, names in lower case.
    Raises: InvalidRequest naming the header.
    """
    sent: dict[str, str] = {}
    for raw_name, raw_value in headers:
        if not raw_name.startswith(b"x-hybrid-"):
            continue
        name = raw_name.decode("latin-1")
        if name not in _VALID:
            raise _unknown(name)
        if name in sent:
            raise _bad(name, "was sent twice; send it once")
        sent[name] = _text(name, raw_value)
    if not sent:
        return _NONE
    return Wishes(
        policy=_policy(sent[_POLICY]) if _POLICY in sent else PolicyChoice.AUTO,
        deadline_s=_deadline_s(sent[_DEADLINE]) if _DEADLINE in sent else None,
        priority=_priority(sent[_PRIORITY]) if _PRIORITY in sent else Priority.NORMAL,
        max_cost_usd=_usd(sent[_COST]) if _COST in sent else None,
        min_quality=_quality(sent[_QUALITY]) if _QUALITY in sent else None,
        tag=_tag(sent[_TAG]) if _TAG in sent else None,
        is_any=True,
    )


def head_headers(head: Head) -> list[tuple[bytes, bytes]]:
    """Write what is known of an answer as response headers; what is unknown is absent."""
    own = [(name, safe_value(value)) for name, value in _facts(head)]
    return own + rate_limit_headers(head.rate_limits) if head.rate_limits else own


def rate_limit_headers(limits: Iterable[RateLimit]) -> list[tuple[bytes, bytes]]:
    """Write a key's limits in OpenAI's form: limit, remaining, and the time until all of it is free again."""
    return [
        (f"x-ratelimit-{kind}-{limit.name}".encode(), value.encode())
        for limit in limits
        for kind, value in (
            ("limit", str(limit.limit)),
            ("remaining", str(limit.remaining)),
            ("reset", duration(limit.reset_s)),
        )
    ]


def duration(span_s: float) -> str:
    """Write a time span as those headers do: 120ms, 1s, 1.5s, 6m0s. Rounded up to a millisecond."""
    ms = math.ceil(round(span_s * 1000, 3))
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, rest_ms = divmod(ms, 60_000)
    seconds = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def head_object(head: Head) -> dict[str, Json]:
    """Write the same as the `hybrid` object of a stream's last data chunk; numbers stay numbers."""
    return {
        "request_id": head.request_id,
        "route": head.route.value,
        "model": head.model,
        "reason": head.reason,
        "confidence": None if head.confidence is None else round(head.confidence, 4),
        "calibration": _calibration(head),
        "cost_usd": head.cost_usd,
        "saved_usd": head.saved_usd,
        "overhead_ms": None if head.overhead_s is None else round(head.overhead_s * 1000, 2),
        "degraded": head.degraded,
    }


def safe_value(value: str) -> bytes:
    """Make any text a header value: printable ASCII, bounded; a hostile model name must not add a header."""
    value = value[:MAX_VALUE_CHARS]
    if not (value.isascii() and value.isprintable()):
        value = _UNSAFE.sub("?", value)
    return value.encode("ascii")


def _facts(head: Head) -> Iterable[tuple[bytes, str]]:
    yield b"x-hybrid-request-id", head.request_id
    yield b"x-hybrid-route", head.route.value
    yield b"x-hybrid-model", head.model
    yield b"x-hybrid-reason", head.reason
    if head.confidence is not None:
        yield b"x-hybrid-confidence", f"{head.confidence:.4f}"
        yield b"x-hybrid-calibration", _calibration(head) or ""
    if head.cost_usd is not None:
        yield b"x-hybrid-cost-usd", _plain(head.cost_usd)
    if head.saved_usd is not None:
        yield b"x-hybrid-saved-usd", _plain(head.saved_usd)
    if head.overhead_s is not None:
        yield b"x-hybrid-overhead-ms", f"{head.overhead_s * 1000:.2f}"
    if head.degraded is not None:
        yield b"x-hybrid-degraded", head.degraded


def _calibration(head: Head) -> str | None:
    if head.confidence is None:
        return None
    return "calibrated" if head.is_calibrated else "uncalibrated"


def _plain(usd: Decimal) -> str:
    return format(usd.normalize(), "f")


def _text(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError as exc:
        raise _bad(name, "is not UTF-8") from exc


def _policy(value: str) -> PolicyChoice:
    try:
        return PolicyChoice(value.lower())
    except ValueError as exc:
        raise _bad(_POLICY, f"must be one of {', '.join(PolicyChoice)}; got {_short(value)}") from exc


def _priority(value: str) -> Priority:
    try:
        return Priority(value.lower())
    except ValueError as exc:
        raise _bad(_PRIORITY, f"must be one of {', '.join(Priority)}; got {_short(value)}") from exc


def _deadline_s(value: str) -> float:
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and 1 <= int(value) <= MAX_DEADLINE_MS):
        raise _bad(_DEADLINE, f"must be whole milliseconds from 1 to {MAX_DEADLINE_MS}; got {_short(value)}")
    return int(value) / 1000


def _quality(value: str) -> float:
    if not _SHARE.fullmatch(value):
        raise _bad(_QUALITY, "is the share of a cloud model's answers that must be right, from 0 to 1, such as 0.85")
    return float(value)


def _usd(value: str) -> Decimal:
    if not (value.isascii() and _USD.fullmatch(value)):
        raise _bad(_COST, f"must be an amount such as 0.05, at least 0; got {_short(value)}")
    return Decimal(value)


def _tag(value: str) -> str:
    if not (1 <= len(value) <= MAX_TAG_CHARS and value.isprintable()):
        raise _bad(_TAG, f"must be 1 to {MAX_TAG_CHARS} printable characters")
    return value


def _unknown(name: str) -> InvalidRequest:
    near = difflib.get_close_matches(name, _VALID, n=1) if len(name) <= 64 else []
    hint = f"did you mean {near[0]}?" if near else f"valid ones are {', '.join(_VALID)}"
    return InvalidRequest(f"unknown header {_short(name)}; {hint}", param=name[:64], code="unknown_header")


def _bad(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"header {name} {what}", param=name, code="invalid_header")


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")
