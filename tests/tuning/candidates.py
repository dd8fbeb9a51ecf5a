"""What do the tuning tests share? Candidates by their numbers, and a model file small enough to copy around."""

from __future__ import annotations

from hybrid.catalog.tuned import Candidate, Divergence, Settings, Speed
from tests.tiny_gguf import TinyGguf

TINY = TinyGguf().build()
SOURCE_FORMAT = "Q4_0"
"""What TinyGguf says its format is."""


def speed(chats_s: float, decode_1_tok_s: float = 40.0) -> Speed:
    """A speed with the one figure that decides, and one that may forbid."""
    return Speed(
        prefill_1_tok_s=400.0,
        prefill_8_tok_s=400.0,
        decode_1_tok_s=decode_1_tok_s,
        decode_8_tok_s=160.0,
        chats_s=chats_s,
        spread=0.01,
        others_cores=0.0,
    )


def divergence(nats: float) -> Divergence:
    """A divergence whose interval is a tenth to each side."""
    return Divergence(
        tokens=1000,
        mean_nats=nats,
        low_nats=0.9 * nats,
        high_nats=1.1 * nats,
        p99_nats=10 * nats,
        top1_agreement=0.9,
    )


def candidate(
    format_name: str, chats_s: float | None, nats: float | None = None, *, problem: str | None = None, **settings
) -> Candidate:
    """One thing that was tried."""
    return Candidate(
        format=format_name,
        settings=Settings(**settings),
        file_bytes=1000,
        speed=None if chats_s is None else speed(chats_s),
        divergence=None if nats is None else divergence(nats),
        problem=problem,
    )
