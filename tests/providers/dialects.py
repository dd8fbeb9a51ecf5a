"""What do the tests of all dialects share? Each API's fake, our adapter for it, and what events and clients mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hybrid.providers.anthropic import AnthropicProvider
from hybrid.providers.base import Timeouts
from hybrid.providers.fake import FakeProvider
from hybrid.providers.fake_anthropic import FakeAnthropic
from hybrid.providers.fake_gemini import FakeGemini
from hybrid.providers.fake_responses import FakeResponses
from hybrid.providers.gemini import GeminiProvider
from hybrid.providers.http_provider import HttpProvider
from hybrid.providers.openai import OpenAIProvider, Options
from hybrid.types import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage

from .calls import KEY


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API: its fake, and what makes our adapter of a base URL."""

    name: str
    fake: type[FakeProvider]
    provider: Callable[..., HttpProvider]


def _responses(name: str, **options: Any) -> HttpProvider:
    return OpenAIProvider(name, options=Options(api="responses"), **options)


CHAT = Dialect("chat", FakeProvider, OpenAIProvider)
RESPONSES = Dialect("responses", FakeResponses, _responses)
ANTHROPIC = Dialect("anthropic", FakeAnthropic, AnthropicProvider)
GEMINI = Dialect("gemini", FakeGemini, GeminiProvider)
DIALECTS = (CHAT, RESPONSES, ANTHROPIC, GEMINI)


def provider_of(dialect: Dialect, base_url: str, **options: Any) -> HttpProvider:
    """Our adapter, with short patience but for `total_s`."""
    limits = {"connect_s": 5.0, "first_token_s": 5.0, "between_tokens_s": 5.0, "total_s": 10.0}
    limits |= {name: options.pop(name) for name in list(options) if name in limits}
    return dialect.provider("cloud", base_url=base_url, api_key=KEY, timeouts=Timeouts(**limits), **options)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an answer says, however it came: its texts, its calls as (id, name, arguments), its end and its use."""

    text: str
    reasoning: str
    calls: tuple[tuple[str, str, str], ...]
    reason: str
    usage: Usage | None
    stopped_by: str | None = None


def meaning_of(events: list[Event]) -> Meaning:
    """What our events say. Between them the last alone is `Finished`."""
    calls: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            call = calls.setdefault(event.index, [event.id or "", event.name or "", ""])
            call[2] += event.arguments
    assert [isinstance(event, Finished) for event in events] == [False] * (len(events) - 1) + [True]
    last = events[-1]
    assert isinstance(last, Finished)
    return Meaning(
        "".join(event.text for event in events if isinstance(event, TextDelta)),
        "".join(event.text for event in events if isinstance(event, ReasoningDelta)),
        tuple((call[0], call[1], call[2]) for call in calls.values()),
        str(last.reason),
        last.usage,
        last.stopped_by,
    )


def told(usage: Usage | None) -> Usage | None:
    """A usage whose cache writes are none where they were not told, to compare APIs that do tell."""
    return None if usage is None else replace(usage, cache_write_tokens=usage.cache_write_tokens or 0)
