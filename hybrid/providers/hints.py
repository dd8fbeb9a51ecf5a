"""How long does a provider ask us to stay away? Retry-After in all its forms, and the reset headers of rate limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_EPOCH_S = 1e9
"""A bare number from here on is a time and no span: seconds since 1970, or milliseconds if it is larger still."""
_EPOCH_MS = 1e11

_WINDOWS = (
    *(f"x-ratelimit-{{}}-{what}" for what in ("requests", "tokens")),
    *(f"anthropic-ratelimit-{what}-{{}}" for what in ("requests", "tokens", "input-tokens", "output-tokens")),
    "x-ratelimit-{}",
    "ratelimit-{}",
)
"""Where each limit's `remaining` and `reset` stand.

Sources: the rate limit pages of OpenAI (durations such as 6m0s; Groq's are the same), Anthropic (RFC 3339), OpenRouter
(milliseconds since 1970), and draft-ietf-httpapi-ratelimit-headers (seconds).
"""


def retry_after_s(headers: Mapping[str, str], *, now_unix_s: float) -> float | None:
    """Read how long the provider asks us to wait: `retry-after-ms`, then `retry-after` in seconds or as a date.

    Returns: seconds, >= 0; None where nothing readable is said.
    Source: RFC 9110, section 10.2.3; `retry-after-ms` is OpenAI's and Azure's own.
    """
    millis = seconds(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    value = headers.get("retry-after")
    span_s = seconds(value)
    if span_s is not None or value is None:
        return span_s
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for a year or zone that no machine number holds
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_unix_s)


def limit_reset_s(headers: Mapping[str, str], *, now_unix_s: float) -> float | None:
    """Read from a 429 without Retry-After when its rate limit is over: of the limits that are used up, the last reset.

    Where none is used up (the request alone was larger than what remains), the first reset of any: then there is room.

    Returns: seconds, >= 0; None where no reset is told that can be read.
    """
    resets = list(_resets(headers, now_unix_s))
    used_up = [reset_s for reset_s, is_used_up in resets if is_used_up]
    return max(used_up) if used_up else min((reset_s for reset_s, _ in resets), default=None)


def _resets(headers: Mapping[str, str], now_unix_s: float) -> Iterator[tuple[float, bool]]:
    for window in _WINDOWS:
        reset_s = _span_s(headers.get(window.format("reset")), now_unix_s)
        if reset_s is not None:
            yield reset_s, seconds(headers.get(window.format("remaining"))) == 0


def _span_s(text: str | None, now_unix_s: float) -> float | None:
    """Seconds from now that a reset says: a duration, a bare number of seconds, a time as a number or in RFC 3339."""
    text = (text or "").strip()
    number = seconds(text)
    if number is not None:
        at_unix_s = number / 1000 if number >= _EPOCH_MS else number if number >= _EPOCH_S else None
        return number if at_unix_s is None else max(0.0, at_unix_s - now_unix_s)
    parts = _PARTS.findall(text)
    if parts and "".join(amount + unit for amount, unit in parts) == text:
        return sum(float(amount) * _UNIT_S[unit] for amount, unit in parts)
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_unix_s)


def seconds(text: str | None) -> float | None:
    """Read a number >= 0 that is finite; None for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
