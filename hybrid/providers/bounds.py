"""How many prompt tokens can a request be billed for at most?"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

from hybrid.types import ChatRequest, ImagePart, Json, Message, Part, TextPart, ToolCall

REQUEST_TOKENS = 512
"""What chat templates put around a conversation: begin and end marks, a date, a default system prompt."""

TOOLS_TOKENS = 1024
"""The instructions that templates add once a request has tools, or a form to keep to, which some APIs make a tool of.

Anthropic states the most: up to 804 tokens.
"""

MESSAGE_TOKENS = 32
"""Marks and role around one message; 4 to 10 in the templates in use."""

CALL_TOKENS = 64
"""What templates write around one tool call; Qwen's 54 bytes of XML and JSON are the most."""

IMAGE_TOKENS = 48_169
"""The dearest image known: gpt-4o-mini's 2,833 + 5,667 for each of at most 8 tiles. Servers may ignore `detail`.

Source: OpenAI, "Images and vision", section "Calculating costs"; 2048 x 768 pixels at most is 4 x 2 tiles of 512.
"""


def text_bytes(text: str) -> int:
    """Bytes of the text, or of its composed form where that is longer: Qwen and others normalise to NFC first."""
    plain = len(text.encode("utf-8", "surrogatepass"))
    if text.isascii():
        return plain
    return max(plain, len(unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")))


def upper_bound_prompt_tokens(request: ChatRequest, count: Callable[[str], int] = text_bytes) -> int | None:
    """Bound the prompt tokens of a request from above, for the reservation of a call's worst case. Pure.

    A byte-level tokenizer, or one that falls back to bytes, never makes more tokens of a text than the text has bytes
    in UTF-8, so bytes bound tokens; the marks of the chat template come on top. JSON (tools, schemas, arguments) is
    counted as the widest form a template prints it in: indented by four, with every other character than ASCII escaped.
    Three to five times the truth for English, so a reservation is high and never low.

    count: bounds the tokens of a message's text; by the provider's own tokenizer, where that is at hand.
    Returns: tokens; None where no bound can be stated (audio, files), which must block a paid call, not cheapen it.
    """
    total = REQUEST_TOKENS + sum(_json_tokens(value) + _json_tokens(key) for key, value in request.extra.items())
    if request.extra.get("tools") or request.extra.get("response_format"):
        total += TOOLS_TOKENS
    for message in request.messages:
        tokens = _message_tokens(message, count)
        if tokens is None:
            return None
        total += tokens
    return total


def _message_tokens(message: Message, count: Callable[[str], int]) -> int | None:
    total = MESSAGE_TOKENS + sum(
        text_bytes(text) for text in (message.role, message.name, message.tool_call_id) if text
    )
    total += sum(_call_tokens(call) for call in message.tool_calls)
    for part in message.parts:
        tokens = _part_tokens(part, count)
        if tokens is None:
            return None
        total += tokens
    return total


def _part_tokens(part: Part, count: Callable[[str], int]) -> int | None:
    if isinstance(part, TextPart):
        return count(part.text)
    if isinstance(part, ImagePart):
        return IMAGE_TOKENS
    return None


def _call_tokens(call: ToolCall) -> int:
    try:
        parsed = _json_tokens(json.loads(call.arguments))
    except (ValueError, RecursionError):
        parsed = 0
    # Templates print arguments as an object or as the string that they are.
    return CALL_TOKENS + text_bytes(call.id) + text_bytes(call.name) + max(parsed, _json_tokens(call.arguments))


def _json_tokens(value: Json) -> int:
    return len(json.dumps(value, indent=4))
