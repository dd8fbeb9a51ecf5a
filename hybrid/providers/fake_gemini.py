"""What does a cloud look like that speaks Google's Gemini API? A server on loopback that is scripted, for tests.

Proved faithful by the official client. Like the API it refuses what the API refuses, as far as we could get it wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hybrid.providers.fake import FakeProvider
from hybrid.providers.fake_script import Answer, Exchange, FakeRequest, Piece, word_count
from hybrid.types import Json

_WORDS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND"}

_FIELDS = frozenset({"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings"})
_CONFIG_FIELDS = frozenset(
    {
        *("temperature", "topP", "topK", "seed", "presencePenalty", "frequencyPenalty", "maxOutputTokens"),
        *("stopSequences", "candidateCount", "responseLogprobs", "logprobs", "responseMimeType"),
        *("responseSchema", "responseJsonSchema", "thinkingConfig"),
    }
)


class ContentExchange(Exchange):
    """One generated content."""

    broken_text = '{"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": "'

    def limit(self) -> int | None:
        """See `Exchange`."""
        limit: int | None = (self.request.body.get("generationConfig") or {}).get("maxOutputTokens")
        return limit

    def words(self) -> int:
        """See `Exchange`."""
        system = self.request.body.get("systemInstruction", {})
        return word_count(system) + word_count(self.request.body.get("contents", []))

    def piece(self, piece: Piece) -> Iterator[bytes]:
        """See `Exchange`. A call comes whole, once all of it is there."""
        part = self._part(piece)
        if part is not None:
            yield self._event([part])

    def finish(self) -> Iterator[bytes]:
        """See `Exchange`."""
        yield self._event([{"text": ""}], self._finish_reason())

    def body(self) -> bytes:
        """See `Exchange`."""
        thoughts = [{"text": self.texts("reasoning"), "thought": True}] if self.texts("reasoning") else []
        text = self.texts("text") + self.texts("refusal")
        parts: list[Json] = [*thoughts, *([{"text": text}] if text else [])]
        calls = [self._part(piece) for piece in self.pieces if piece.kind == "arguments"]
        parts += [call for call in calls if call is not None]
        return msgspec.json.encode(self._response(parts, self._finish_reason()))

    def _part(self, piece: Piece) -> Json:
        if piece.kind == "reasoning":
            return {"text": piece.text, "thought": True}
        if piece.kind in ("text", "refusal"):
            return {"text": piece.text}
        if piece.call is None or not piece.is_last:
            return None
        arguments = msgspec.json.decode(piece.call.arguments or "{}")
        part = {"functionCall": {"id": piece.call.id, "name": piece.call.name, "args": arguments}}
        return part | ({"thoughtSignature": "c2ln"} if piece.number == 0 else {})

    def _event(self, parts: list[Json], finish_reason: str | None = None) -> bytes:
        return b"data: " + msgspec.json.encode(self._response(parts, finish_reason)) + b"\r\n\r\n"

    def _response(self, parts: list[Json], finish_reason: str | None) -> dict[str, Json]:
        candidate: dict[str, Json] = {"content": {"role": "model", "parts": parts}, "index": 0}
        if finish_reason is not None:
            candidate["finishReason"] = finish_reason
        ours: dict[str, Json] = {"candidates": [candidate], "modelVersion": "fake"}
        ours["responseId"] = f"fake{self.request.number}"
        return ours | ({"usageMetadata": self._usage()} if self.answer.has_usage else {})

    def _finish_reason(self) -> str:
        fitting = "STOP" if self.answer.refusal is None else "SAFETY"
        return "MAX_TOKENS" if self.is_cut else self.answer.finish_reason or fitting

    def _usage(self) -> Json:
        bill = self.bill
        usage = {
            "promptTokenCount": bill.prompt_tokens,
            # Thinking is not within the candidates' count.
            "candidatesTokenCount": bill.completion_tokens - bill.reasoning_tokens,
            "totalTokenCount": bill.prompt_tokens + bill.completion_tokens,
        }
        # What is zero is left out, as protobuf has it.
        usage |= {"thoughtsTokenCount": bill.reasoning_tokens} if bill.reasoning_tokens else {}
        return usage | ({"cachedContentTokenCount": bill.cached_tokens} if bill.cached_tokens else {})


class FakeGemini(FakeProvider):
    """The server. See `fake.FakeProvider`."""

    prefix = "/v1beta"
    ending = "enerateContent"

    def key_of(self, request: FakeRequest) -> str:
        """See `FakeProvider`."""
        return request.headers.get("x-goog-api-key", "")

    def is_stream(self, request: FakeRequest) -> bool:
        """See `FakeProvider`."""
        return ":streamGenerateContent" in request.path

    def exchange(self, answer: Answer, request: FakeRequest) -> Exchange:
        """See `FakeProvider`."""
        return ContentExchange(answer, request)

    def error(self, status: int, message: str) -> bytes:
        """See `FakeProvider`."""
        return msgspec.json.encode(
            {"error": {"code": status, "message": message, "status": _WORDS.get(status, "INTERNAL")}}
        )

    def complaint(self, request: FakeRequest) -> str | None:
        """See `FakeProvider`."""
        body, config = request.body, request.body.get("generationConfig") or {}
        unknown = (body.keys() - _FIELDS) | (config.keys() - _CONFIG_FIELDS)
        if unknown:
            return f"Invalid JSON payload received. Unknown name {sorted(unknown)[0]!r}: Cannot find field."
        if self.is_stream(request) and "alt=sse" not in request.path:
            return "this fake streams server-sent events only"
        thinking = config.get("thinkingConfig") or {}
        if "thinkingBudget" in thinking and "thinkingLevel" in thinking:
            return "You can only set only one of thinking budget and thinking level."
        if config.get("responseMimeType") == "application/json" and body.get("tools"):
            return "Function calling with a response mime type: 'application/json' is unsupported"
        return _complaint_of_contents(body.get("contents", []))


def _complaint_of_contents(contents: list[Json]) -> str | None:
    asked = 0
    for content in contents:
        parts = content.get("parts", [])
        answered = sum("functionResponse" in part for part in parts)
        if not parts or any(not part for part in parts):
            return "contents.parts must not be empty."
        if asked and answered != asked:
            return "the number of function response parts is not equal to the number of function call parts"
        if any(not part["functionResponse"].get("name") for part in parts if "functionResponse" in part):
            return "function_response.name: Name cannot be empty."
        asked = sum("functionCall" in part for part in parts)
    return None
