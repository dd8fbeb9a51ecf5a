"""How does a request for embeddings get its vectors from the worker? One by one, in any order, until all are there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid.engine.frames import Embed, Vector
from hybrid.engine.generation import Item
from hybrid.errors import InvalidRequest, LocalError


@dataclass(frozen=True, slots=True)
class Vectors:
    """The embeddings of a request's inputs in their order, each as little-endian 32-bit floats."""

    prompt_tokens: int
    values: tuple[bytes, ...]


def embed_frame(run_id: str, inputs: Sequence[str | Sequence[int]]) -> Embed:
    """Ask the worker for the vectors of texts or token ids."""
    return Embed(run_id, [one if isinstance(one, str) else list(one) for one in inputs])


async def collect(inbox: asyncio.Queue[Item], count: int) -> Vectors:
    """Wait for the vectors of `count` inputs.

    Raises: InvalidRequest for an input the model cannot take, LocalError if the worker fails or dies.
    """
    prompt_tokens = 0
    values: dict[int, bytes] = {}
    while len(values) < count:
        item = await inbox.get()
        if isinstance(item, LocalError | InvalidRequest):
            raise item
        if isinstance(item, int):
            prompt_tokens = item
        else:
            assert isinstance(item, Vector)
            values[item.index] = item.values
    return Vectors(prompt_tokens, tuple(values[index] for index in range(count)))
