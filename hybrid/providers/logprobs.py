"""How do OpenAI's APIs write the log-probabilities of an answer's tokens?"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hybrid.types import TokenLogprob


class TokenWire(msgspec.Struct):
    """One token, with the likeliest at its place; `bytes` is absent in some streams, and null for control tokens."""

    token: str
    logprob: float
    bytes: list[int] | msgspec.UnsetType | None = msgspec.UNSET
    top_logprobs: list[TokenWire] | None = None


def token_logprobs(tokens: Iterable[TokenWire] | None) -> tuple[TokenLogprob, ...]:
    """Say them in our words. Bytes that are not told are those of the token's text."""
    return tuple(_token(wire) for wire in tokens or ())


def _token(wire: TokenWire) -> TokenLogprob:
    raw: bytes | None
    if isinstance(wire.bytes, list):
        raw = bytes(byte & 0xFF for byte in wire.bytes)
    else:
        raw = None if wire.bytes is None else wire.token.encode("utf-8", "surrogatepass")
    return TokenLogprob(wire.token, raw, wire.logprob, token_logprobs(wire.top_logprobs))
