"""What does a cloud look like that speaks Anthropic's Messages API? A server on loopback that is scripted, for tests.

Proved faithful by the official client. Like the API it refuses what the API refuses, as far as we could get it wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hybrid.providers.fake import FakeProvider
from hybrid.providers.fake_script import Answer, Exchange, FakeRequest, Piece, word_count
from hybrid.types import Json

_BLOCKS = {"reasoning": "thinking", "text": "text", "refusal": "text", "call": "tool_use", "arguments": "tool_use"}
_WORDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}


class MessageExchange(Exchange):
    """One message."""

    broken_text = '{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "'

    def __init__(self, answer: Answer, request: FakeRequest) -> None:
        super().__init__(answer, request)
        self._open: tuple[str, int] | None = None
        self._index = -1

    def limit(self) -> int | None:
        """See `Exchange`."""
        limit: int | None = self.request.body.get("max_tokens")
        return limit

    def words(self) -> int:
        """See `Exchange`."""
        return word_count(self.request.body.get("system", "")) + word_count(self.request.body.get("messages", []))

    def opening(self) -> Iterator[bytes]:
        """See `Exchange`."""
        # The count of output tokens is a first guess here, the others are final.
        message = self._message([], None) | {"usage": self._usage() | {"output_tokens": 1}}
        yield _event({"type": "message_start", "message": message})
        yield _event({"type": "ping"})

    def piece(self, piece: Piece) -> Iterator[bytes]:
        """See `Exchange`."""
        block = (_BLOCKS[piece.kind], piece.number)
        if block != self._open:
            yield from self._close()
            self._open, self._index = block, self._index + 1
            yield _event({"type": "content_block_start", "index": self._index, "content_block": _started(piece)})
        if piece.kind != "call":
            yield self._delta(_piece(piece))

    def finish(self) -> Iterator[bytes]:
        """See `Exchange`."""
        yield from self._close()
        ending = {"stop_reason": self._stop_reason(), "stop_sequence": self.answer.stop_sequence}
        usage = self._usage() if self.answer.has_usage else {}
        yield _event({"type": "message_delta", "delta": ending, "usage": usage})

    def done(self) -> Iterator[bytes]:
        """See `Exchange`."""
        yield _event({"type": "message_stop"})

    def body(self) -> bytes:
        """See `Exchange`."""
        content: list[Json] = []
        if self.texts("reasoning"):
            content.append({"type": "thinking", "thinking": self.texts("reasoning"), "signature": "c2ln"})
        if self.texts("text") + self.texts("refusal"):
            content.append({"type": "text", "text": self.texts("text") + self.texts("refusal")})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": msgspec.json.decode(arguments or "{}")}
            for call, arguments in self.calls()
        ]
        message = self._message(content, self._stop_reason())
        return msgspec.json.encode(message | ({"usage": self._usage()} if self.answer.has_usage else {}))

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        if self._open[0] == "thinking":
            yield self._delta({"type": "signature_delta", "signature": "c2ln"})
        yield _event({"type": "content_block_stop", "index": self._index})
        self._open = None

    def _delta(self, delta: Json) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _message(self, content: list[Json], stop_reason: str | None) -> dict[str, Json]:
        ours = {"id": f"msg_fake_{self.request.number}", "type": "message", "role": "assistant"}
        stop_sequence = self.answer.stop_sequence if stop_reason else None
        return ours | {
            "model": self.request.body.get("model"),
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
        }

    def _stop_reason(self) -> str:
        fitting = "tool_use" if self.answer.tool_calls else "stop_sequence" if self.answer.stop_sequence else "end_turn"
        fitting = "refusal" if self.answer.refusal is not None else fitting
        return "max_tokens" if self.is_cut else self.answer.finish_reason or fitting

    def _usage(self) -> dict[str, Json]:
        bill = self.bill
        written = bill.cache_write_tokens or 0
        return {
            # What the cache gave or took is not within the input tokens.
            "input_tokens": bill.prompt_tokens - bill.cached_tokens - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": bill.cached_tokens,
            "output_tokens": bill.completion_tokens,
            "output_tokens_details": {"thinking_tokens": bill.reasoning_tokens},
        }


def _started(piece: Piece) -> Json:
    if piece.call is not None:
        return {"type": "tool_use", "id": piece.call.id, "name": piece.call.name, "input": {}}
    return {"type": "thinking", "thinking": "", "signature": ""} if piece.kind == "reasoning" else _text("text", "")


def _piece(piece: Piece) -> Json:
    if piece.kind == "arguments":
        return {"type": "input_json_delta", "partial_json": piece.text}
    if piece.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": piece.text}
    return _text("text_delta", piece.text)


def _text(kind: str, text: str) -> Json:
    return {"type": kind, "text": text}


def _event(event: dict[str, Json]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


class FakeAnthropic(FakeProvider):
    """The server. See `fake.FakeProvider`."""

    ending = "/messages"

    def key_of(self, request: FakeRequest) -> str:
        """See `FakeProvider`."""
        return request.headers.get("x-api-key", "")

    def exchange(self, answer: Answer, request: FakeRequest) -> Exchange:
        """See `FakeProvider`."""
        return MessageExchange(answer, request)

    def error(self, status: int, message: str) -> bytes:
        """See `FakeProvider`."""
        error = {"type": _WORDS.get(status, "api_error"), "message": message}
        return msgspec.json.encode({"type": "error", "error": error, "request_id": "req_fake"})

    def complaint(self, request: FakeRequest) -> str | None:
        """See `FakeProvider`."""
        body = request.body
        if "anthropic-version" not in request.headers:
            return "anthropic-version: header is required"
        if not isinstance(body.get("max_tokens"), int):
            return "max_tokens: Field required"
        if "temperature" in body and "top_p" in body:
            return "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        return _complaint_of_thinking(body) or _complaint_of_messages(body.get("messages", []))


def _complaint_of_thinking(body: Json) -> str | None:
    thinking = body.get("thinking") or {"type": "disabled"}
    if thinking["type"] == "disabled":
        return None
    if thinking["type"] == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        return "`max_tokens` must be greater than `thinking.budget_tokens`, which must be at least 1024"
    if body.get("temperature", 1) != 1 or "top_k" in body:
        return "`temperature` may only be set to 1 when thinking is enabled"
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        return "Thinking may not be enabled when tool_choice forces tool use."
    return None


def _complaint_of_messages(messages: list[Json]) -> str | None:
    asked: set[str] = set()
    for number, message in enumerate(messages):
        blocks = message["content"] if isinstance(message["content"], list) else [_text("text", message["content"])]
        answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if not blocks or any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            return f"messages.{number}: text content blocks must contain non-whitespace text"
        if answered != asked:
            return f"messages.{number}: each `tool_use` must have its `tool_result` in the next message"
        asked = {block["id"] for block in blocks if block["type"] == "tool_use"}
    return None
