"""Is it read how long a rate limit lasts, in the words of each provider?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hybrid.providers.hints import limit_reset_s

NOW_UNIX_S = 1_780_000_000.0
NOW = datetime.fromtimestamp(NOW_UNIX_S, UTC)


def at(later_s: float) -> str:
    """A time as Anthropic writes it."""
    return (NOW + timedelta(seconds=later_s)).isoformat().replace("+00:00", "Z")


def openai(requests: str, tokens: str, *, requests_left: int = 9, tokens_left: int = 9) -> dict[str, str]:
    """OpenAI's headers, which Groq and others copy."""
    return {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": str(requests_left),
        "x-ratelimit-remaining-tokens": str(tokens_left),
        "x-ratelimit-reset-requests": requests,
        "x-ratelimit-reset-tokens": tokens,
    }


RESETS = [
    pytest.param({}, None, id="not-told"),
    pytest.param(openai("1s", "6m0s", tokens_left=0), 360.0, id="openai-the-used-up-one"),
    pytest.param(openai("2m59.56s", "7.66s", requests_left=0), 179.56, id="groq"),
    pytest.param(openai("1s", "6m0s", requests_left=0, tokens_left=0), 360.0, id="the-last-of-those-used-up"),
    pytest.param(openai("12ms", "6m0s"), 0.012, id="none-used-up-the-first"),
    pytest.param(openai("1h2m3s", "1d", tokens_left=0), 86_400.0, id="days"),
    pytest.param(openai("17", "29", requests_left=0), 17.0, id="azure-bare-seconds"),
    pytest.param(
        {
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": at(1),
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": at(42),
            "anthropic-ratelimit-output-tokens-remaining": "8000",
            "anthropic-ratelimit-output-tokens-reset": at(5),
        },
        42.0,
        id="anthropic",
    ),
    pytest.param({"anthropic-ratelimit-tokens-reset": at(-5)}, 0.0, id="a-time-that-passed"),
    pytest.param(
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int((NOW_UNIX_S + 30) * 1000))}, 30.0, id="openrouter"
    ),
    pytest.param({"x-ratelimit-reset": str(int(NOW_UNIX_S + 30))}, 30.0, id="seconds-since-1970"),
    pytest.param({"ratelimit-remaining": "0", "ratelimit-reset": "50"}, 50.0, id="ietf-draft"),
    pytest.param(openai("soon", "6 minutes"), None, id="unreadable"),
    pytest.param(openai("-5s", "nan"), None, id="no-span"),
    pytest.param(openai("1s2", "s1"), None, id="half-readable"),
]


@pytest.mark.parametrize(("headers", "expected"), RESETS)
def test_a_rate_limit_tells_when_it_is_over(headers, expected):
    """Durations, seconds, times in RFC 3339 and since 1970: all become seconds from now; the rest is not told."""
    assert expected == pytest.approx(limit_reset_s(headers, now_unix_s=NOW_UNIX_S))
