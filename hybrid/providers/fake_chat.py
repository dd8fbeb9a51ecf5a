"""How does the fake cloud speak OpenAI's chat completions?"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hybrid.providers.fake_script import Exchange, Piece, word_count
from hybrid.types import Json, Usage


class ChatExchange(Exchange):
    """One chat completion."""

    broken_text = '{"choices": [{"index": 0, "delta": {"content": "'

    def limit(self) -> int | None:
        """See `Exchange`."""
        body = self.request.body
        limit: int | None = body.get("max_completion_tokens", body.get("max_tokens"))
        return limit

    def words(self) -> int:
        """See `Exchange`."""
        return sum(word_count(message.get("content") or "") for message in self.request.body.get("messages", []))

    def copies(self) -> int:
        """See `Exchange`."""
        return int(self.request.body.get("n") or 1)

    def opening(self) -> Iterator[bytes]:
        """See `Exchange`."""
        yield from self._events({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> Iterator[bytes]:
        """See `Exchange`."""
        yield from self._events(_delta(piece))

    def finish(self) -> Iterator[bytes]:
        """See `Exchange`."""
        yield from self._events({}, self._finish_reason())
        if self._wants_usage and self.answer.has_usage:
            yield b"data: " + msgspec.json.encode(self._head() | {"choices": [], "usage": self._usage()}) + b"\n\n"

    def done(self) -> Iterator[bytes]:
        """See `Exchange`."""
        yield b"data: [DONE]\n\n"

    def body(self) -> bytes:
        """See `Exchange`."""
        message: dict[str, Json] = {"role": "assistant", "content": None, "refusal": None}
        names = {"reasoning": "reasoning_content", "text": "content", "refusal": "refusal"}
        message |= {names[kind]: self.texts(kind) for kind in names if self.texts(kind)}
        if self.calls():
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
                for call, arguments in self.calls()
            ]
        choice = {"message": message, "logprobs": None, "finish_reason": self._finish_reason()}
        choices = [{"index": index, **choice} for index in range(self.copies())]
        body = self._head() | {"object": "chat.completion", "choices": choices}
        return msgspec.json.encode(body | ({"usage": self._usage()} if self.answer.has_usage else {}))

    @property
    def _wants_usage(self) -> bool:
        return bool((self.request.body.get("stream_options") or {}).get("include_usage", False))

    def _events(self, delta: Json, finish_reason: str | None = None) -> Iterator[bytes]:
        usage = {"usage": None} if self._wants_usage else {}
        for index in range(self.copies()):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            yield b"data: " + msgspec.json.encode(self._head() | {"choices": [choice]} | usage) + b"\n\n"

    def _head(self) -> dict[str, Json]:
        ours = {
            "id": f"chatcmpl-fake-{self.request.number}",
            "object": "chat.completion.chunk",
            "created": 1_780_000_000,
        }
        return ours | {"model": self.request.body.get("model", "fake")}

    def _finish_reason(self) -> str:
        fitting = "tool_calls" if self.answer.tool_calls else "stop"
        return "length" if self.is_cut else self.answer.finish_reason or fitting

    def _usage(self) -> Json:
        bill = self.bill
        usage = {
            "prompt_tokens": bill.prompt_tokens,
            "completion_tokens": bill.completion_tokens,
            "total_tokens": bill.prompt_tokens + bill.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": bill.cached_tokens} | _written(bill),
            "completion_tokens_details": {"reasoning_tokens": bill.reasoning_tokens},
        }
        # As a JSON number with its digits as written: an encoder would make a Decimal a string.
        return usage | ({} if bill.cost_usd is None else {"cost": msgspec.Raw(str(bill.cost_usd).encode())})


def _written(bill: Usage) -> dict[str, int]:
    return {} if bill.cache_write_tokens is None else {"cache_write_tokens": bill.cache_write_tokens}


def _delta(piece: Piece) -> dict[str, Json]:
    match piece.kind:
        case "reasoning":
            return {"reasoning_content": piece.text}
        case "text":
            return {"content": piece.text}
        case "refusal":
            return {"refusal": piece.text}
        case "call":
            assert piece.call is not None
            function = {"name": piece.call.name, "arguments": ""}
            opening = {"index": piece.number, "id": piece.call.id, "type": "function", "function": function}
            return {"tool_calls": [opening]}
    return {"tool_calls": [{"index": piece.number, "function": {"arguments": piece.text}}]}
