"""What is a runtime configured to, beside the parts it is made of?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid.policy.model import Limits
from hybrid.types import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """What the runtime is configured to.

    defaults: sampling where a client gives none; no field of it is None.
    adapters: names of the default local model's LoRA adapters, in the worker's order.
    embedding_model: the local model of embeddings; None takes the default one.
    """

    limits: Limits
    defaults: Sampling
    max_output_tokens: int | None = None
    max_reasoning_tokens: int | None = None
    aliases: Mapping[str, str]
    private_tags: frozenset[str] = frozenset()
    requires_key: bool = False
    adapters: tuple[str, ...] = ()
    embedding_model: str | None = None
