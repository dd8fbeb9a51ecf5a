"""What may a client send to `/v1/embeddings`, and what does it get? Bytes to a request, vectors to bytes."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from hybrid.errors import InvalidRequest
from hybrid.server.hybrid_headers import read_wishes
from hybrid.server.openai_chat import decode
from hybrid.server.openai_wire import Hint, Wire
from hybrid.types import EmbeddingRequest, Embeddings

MAX_INPUTS = 2048

Token: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Format: TypeAlias = Literal["float", "base64"]
_NO_HINT = msgspec.Raw(b"null")


class EmbeddingWire(Wire):
    """The body of a request. `input`: a text, texts, token ids, or lists of token ids; checked further by `parse`."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | list[str | Token | list[Token]]
    encoding_format: Format | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    user: Hint = _NO_HINT


class _Embedding(msgspec.Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class _Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class _List(msgspec.Struct):
    object: Literal["list"]
    data: list[_Embedding]
    model: str
    usage: _Usage


def parse(
    body: bytes, headers: Iterable[tuple[bytes, bytes]], *, client_key: str | None = None
) -> tuple[EmbeddingRequest, Format]:
    """Read one request for embeddings, and in which form its vectors are wanted.

    Raises: InvalidRequest naming the parameter that is wrong.
    """
    wire = decode(body, EmbeddingWire)
    wishes = read_wishes(headers)
    request = EmbeddingRequest(
        model=wire.model,
        inputs=_inputs(wire.input),
        dimensions=wire.dimensions,
        policy=wishes.policy,
        deadline_s=wishes.deadline_s,
        tag=wishes.tag,
        client_key=client_key,
    )
    return request, wire.encoding_format or "float"


def render(answer: Embeddings, encoding_format: Format) -> bytes:
    """Write the whole answer."""
    tokens = answer.usage.prompt_tokens
    data = [
        _Embedding("embedding", index, _encoded(vector, encoding_format)) for index, vector in enumerate(answer.vectors)
    ]
    return msgspec.json.encode(_List("list", data, answer.head.model, _Usage(tokens, tokens)))


def _encoded(vector: bytes, encoding_format: Format) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(vector).decode("ascii")
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def _inputs(given: str | list[str | int | list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """Tell the four forms of `input` apart. A list of numbers is one input."""
    if isinstance(given, str):
        return (_filled(given, "input"),)
    kinds = {type(one) for one in given}
    if len(kinds) > 1:
        raise _bad("input mixes texts and tokens; send one kind")
    if kinds == {int}:
        return (tuple(one for one in given if isinstance(one, int)),)
    if not given:
        raise _bad("input is empty; send at least one text")
    if len(given) > MAX_INPUTS:
        raise _bad(f"input has {len(given)} items; at most {MAX_INPUTS} are taken in one request")
    return tuple(_filled(one, f"input[{index}]") for index, one in enumerate(given) if not isinstance(one, int))


def _filled(one: str | list[int], at: str) -> str | tuple[int, ...]:
    if not one:
        raise _bad(f"{at} is empty")
    return one if isinstance(one, str) else tuple(one)


def _bad(what: str) -> InvalidRequest:
    return InvalidRequest(what, param="input", code="invalid_value")
