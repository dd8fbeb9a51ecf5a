"""How much of a prompt is the local model likely to have in its cache? Guessed from the conversations it answered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from hybrid.types import ChatRequest, ImagePart, Message, TextPart

MAX_PREFIXES = 1024
"""Beginnings of conversations that are remembered; a cache holds far fewer."""
LEAST_TOKENS = 32
"""Shorter beginnings are shared by chance and save nothing."""


class PrefixBook:
    """Remembers which beginnings of conversations were computed, by a hash of them and not by their text.

    A guess: the engine may have evicted them meanwhile. How often that makes predictions wrong is learned with their
    other errors.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()

    def expected_tokens(self, request: ChatRequest, model: str, prompt_tokens: int | None) -> int | None:
        """Guess how many of a prompt's tokens are cached; None where the prompt was not counted.

        The share of the text that is in messages seen before, of the tokens of all of it.
        """
        if prompt_tokens is None:
            return None
        shared = total = 0
        for key, size in _prefixes(request, model):
            total = size
            if key in self._seen:
                shared = size
        tokens = prompt_tokens * shared // total if total else 0
        return tokens if tokens >= LEAST_TOKENS else 0

    def learn(self, request: ChatRequest, model: str) -> None:
        """Remember a conversation whose prompt was computed."""
        for key, _ in _prefixes(request, model):
            self._seen[key] = None
            self._seen.move_to_end(key)
        while len(self._seen) > MAX_PREFIXES:
            self._seen.popitem(last=False)


def _prefixes(request: ChatRequest, model: str) -> Iterator[tuple[int, int]]:
    """Yield each beginning of the conversation, from its first message to all of it: its hash, its characters."""
    # Only requests of one key share caches, and tools are written before the messages.
    key = hash((model, request.client_key, repr(request.extra.get("tools"))))
    size = 0
    for message in request.messages:
        key = hash((key, message.role, message.name, message.tool_call_id, _said(message)))
        size += sum(len(part.text) for part in message.parts if isinstance(part, TextPart)) + len(message.role)
        yield key, size


def _said(message: Message) -> Sequence[object]:
    parts = [
        part.text if isinstance(part, TextPart) else part.url if isinstance(part, ImagePart) else ""
        for part in message.parts
    ]
    return (*parts, *((call.name, call.arguments) for call in message.tool_calls))
