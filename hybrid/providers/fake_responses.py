"""What does a cloud look like that speaks OpenAI's Responses API? A server on loopback that is scripted, for tests."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hybrid.providers.fake import FakeProvider
from hybrid.providers.fake_script import Answer, Exchange, FakeRequest, Piece, word_count
from hybrid.types import Json

_ITEMS = {"reasoning": "reasoning", "text": "message", "refusal": "message", "call": "call", "arguments": "call"}
_PARTS = {
    "reasoning": ("reasoning_text", "text", "reasoning_text"),
    "text": ("output_text", "text", "output_text"),
    "refusal": ("refusal", "refusal", "refusal"),
}
"""Of each kind of text: its part's type, the part's key for it, and what its events are called."""


class ResponseExchange(Exchange):
    """One response."""

    broken_text = '{"type": "response.output_text.delta", "output_index": 0, "delta": "'

    def __init__(self, answer: Answer, request: FakeRequest) -> None:
        super().__init__(answer, request)
        self._number = 0
        self._open: tuple[str, int] | None = None
        self._items: list[dict[str, Json]] = []

    def limit(self) -> int | None:
        """See `Exchange`."""
        limit: int | None = self.request.body.get("max_output_tokens")
        return limit

    def words(self) -> int:
        """See `Exchange`."""
        return word_count(self.request.body.get("input", "")) + word_count(self.request.body.get("instructions") or "")

    def opening(self) -> Iterator[bytes]:
        """See `Exchange`."""
        yield self._event("response.created", response=self._response([], "in_progress"))
        yield self._event("response.in_progress", response=self._response([], "in_progress"))

    def piece(self, piece: Piece) -> Iterator[bytes]:
        """See `Exchange`."""
        yield from self._take(piece)

    def _take(self, piece: Piece) -> Iterator[bytes]:
        item = (_ITEMS[piece.kind], piece.number)
        if item != self._open:
            yield from self._close()
            self._open = item
            self._items.append(self._item(piece))
            yield self._event("response.output_item.added", output_index=self._at, item=self._items[-1])
        if piece.kind in _PARTS:
            yield from self._grow(self._items[-1], piece)
        elif piece.kind == "arguments":
            self._items[-1]["arguments"] += piece.text
            yield self._piece_event("response.function_call_arguments.delta", delta=piece.text)

    def _grow(self, item: dict[str, Json], piece: Piece) -> Iterator[bytes]:
        kind, key, event = _PARTS[piece.kind]
        if not item["content"] or item["content"][-1]["type"] != kind:
            item["content"].append({"type": kind, key: ""} | ({"annotations": []} if kind == "output_text" else {}))
            yield self._part_event("response.content_part.added", part=item["content"][-1])
        item["content"][-1][key] += piece.text
        logprobs: dict[str, Json] = {"logprobs": []} if kind == "output_text" else {}
        yield self._part_event(f"response.{event}.delta", delta=piece.text, **logprobs)

    def finish(self) -> Iterator[bytes]:
        """See `Exchange`."""
        yield from self._close()

    def done(self) -> Iterator[bytes]:
        """See `Exchange`."""
        status = self._status()
        yield self._event(f"response.{status}", response=self._response(self._items, status))

    def body(self) -> bytes:
        """See `Exchange`."""
        for piece in self.pieces:
            for _ in self._take(piece):
                pass
        return msgspec.json.encode(self._response(self._items, self._status()))

    @property
    def _at(self) -> int:
        return len(self._items) - 1

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        self._open, item = None, self._items[-1]
        if item["type"] == "function_call":
            arguments = {"name": item["name"], "arguments": item["arguments"]}
            yield self._piece_event("response.function_call_arguments.done", **arguments)
        for part in item.get("content", ())[-1:]:
            key, event = next((key, event) for kind, key, event in _PARTS.values() if kind == part["type"])
            yield self._part_event(f"response.{event}.done", **{key: part[key], "logprobs": []})
            yield self._part_event("response.content_part.done", part=part)
        item["status"] = "completed"
        yield self._event("response.output_item.done", output_index=self._at, item=item)

    def _piece_event(self, kind: str, **fields: Json) -> bytes:
        return self._event(kind, item_id=self._items[-1]["id"], output_index=self._at, **fields)

    def _part_event(self, kind: str, **fields: Json) -> bytes:
        return self._piece_event(kind, content_index=len(self._items[-1]["content"]) - 1, **fields)

    def _item(self, piece: Piece) -> dict[str, Json]:
        item_id = f"item_{self.request.number}_{len(self._items)}"
        if piece.call is not None:
            ours = {"type": "function_call", "call_id": piece.call.id, "name": piece.call.name, "arguments": ""}
            return {"id": item_id, "status": "in_progress"} | ours
        if piece.kind == "reasoning":
            return {"id": item_id, "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}
        return {"id": item_id, "type": "message", "role": "assistant", "content": [], "status": "in_progress"}

    def _event(self, kind: str, **fields: Json) -> bytes:
        event = {"type": kind, "sequence_number": self._number} | fields
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(event))

    def _status(self) -> str:
        is_incomplete = self.is_cut or self.answer.finish_reason in ("max_output_tokens", "content_filter")
        return "incomplete" if is_incomplete else "completed"

    def _response(self, output: list[dict[str, Json]], status: str) -> dict[str, Json]:
        body = self.request.body
        response: dict[str, Json] = {
            "id": f"resp_fake_{self.request.number}",
            "object": "response",
            "created_at": 1_780_000_000,
            "status": status,
            "model": body.get("model", "fake"),
            "output": output,
            "error": None,
            "incomplete_details": None,
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools", []),
        }
        if status == "incomplete":
            why = "max_output_tokens" if self.is_cut else self.answer.finish_reason
            response["incomplete_details"] = {"reason": why}
        if status != "in_progress" and self.answer.has_usage:
            response["usage"] = self._usage()
        return response

    def _usage(self) -> Json:
        bill = self.bill
        return {
            "input_tokens": bill.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": bill.cached_tokens,
                "cache_write_tokens": bill.cache_write_tokens or 0,
            },
            "output_tokens": bill.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": bill.reasoning_tokens},
            "total_tokens": bill.prompt_tokens + bill.completion_tokens,
        }


class FakeResponses(FakeProvider):
    """The server. See `fake.FakeProvider`."""

    ending = "/responses"

    def exchange(self, answer: Answer, request: FakeRequest) -> Exchange:
        """See `FakeProvider`."""
        return ResponseExchange(answer, request)

    def complaint(self, request: FakeRequest) -> str | None:
        """See `FakeProvider`."""
        limit = request.body.get("max_output_tokens")
        if limit is not None and limit < 16:
            return "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16."
        unknown = request.body.keys() & {"stop", "seed", "messages", "max_tokens", "response_format", "logit_bias"}
        return f"Unknown parameter: '{sorted(unknown)[0]}'." if unknown else None
