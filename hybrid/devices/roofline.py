"""How fast could this model be here at most? Pure: what a token touches and computes, against what the machine gives.

A decode step reads every weight it uses once, whatever the number of sequences, and each sequence's cache; it cannot
be faster than memory delivers them, nor than the arithmetic units compute.
Source: Williams, Waterman, Patterson, "Roofline", Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hybrid.devices.shape import cached_value_length
from hybrid.gguf import GgufHeader

CACHE_ELEMENT_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
_FLOAT_WEIGHTS = ("F32", "F16", "BF16")
_EXPERT = re.compile(r"_exps\.")
Limit = Literal["bandwidth", "arithmetic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWork:
    """What one token costs.

    weight_bytes: read in a step. cell_bytes: keys and values of one token in the cache; None where the file does not
    tell. ops: multiplications and additions of one token, without attention. is_quantised: most weights are integers,
    so the int8 peak bounds them and not the fp32 one.
    """

    weight_bytes: int
    cell_bytes: int | None
    ops: int
    is_quantised: bool


@dataclass(frozen=True, slots=True)
class Roof:
    """The most tokens a second, what limits it, and operations for each byte read."""

    tok_s: float
    limit: Limit
    ops_per_byte: float


def model_work(header: GgufHeader, *, key_cache: str = "f16", value_cache: str = "f16") -> ModelWork:
    """Read off a file's header what one token touches.

    A table of embeddings is read only at one row, unless it also makes the logits; of a mixture's experts only those
    chosen for a token count.
    """
    names = {tensor.name for tensor in header.tensors}
    is_tied = "output.weight" not in names
    share = _expert_share(header)
    weight_bytes = ops = float_bytes = 0.0
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and not is_tied:
            continue
        part = share if _EXPERT.search(tensor.name) else 1.0
        weight_bytes += part * tensor.size_bytes
        if len(tensor.shape) > 1:
            ops += 2 * part * tensor.elements
        if tensor.type_name in _FLOAT_WEIGHTS:
            float_bytes += part * tensor.size_bytes
    return ModelWork(
        weight_bytes=int(weight_bytes),
        cell_bytes=_cell_bytes(header, key_cache, value_cache),
        ops=int(ops),
        is_quantised=float_bytes < weight_bytes / 2,
    )


def _expert_share(header: GgufHeader) -> float:
    experts = header.metadata.get(f"{header.architecture}.expert_count")
    used = header.metadata.get(f"{header.architecture}.expert_used_count")
    if isinstance(experts, int) and isinstance(used, int) and 0 < used <= experts:
        return used / experts
    return 1.0


def _cell_bytes(header: GgufHeader, key_cache: str, value_cache: str) -> int | None:
    blocks, heads, key = header.block_count, header.head_count_kv, header.key_length
    value = cached_value_length(header)
    if not (blocks and heads and key) or value is None:
        return None
    key_bytes, value_bytes = CACHE_ELEMENT_BYTES.get(key_cache, 2.0), CACHE_ELEMENT_BYTES.get(value_cache, 2.0)
    return int(blocks * heads * (key * key_bytes + value * value_bytes))


def decode_roof(work: ModelWork, *, sequences: int, depth_tokens: int, bytes_s: float, ops_s: float | None) -> Roof:
    """Bound the tokens a second of `sequences` decoded together, each with `depth_tokens` in its cache.

    Args:
        bytes_s: read bandwidth. ops_s: arithmetic peak; None where it is unknown, and then only memory bounds.
    """
    step_bytes = work.weight_bytes + sequences * depth_tokens * (work.cell_bytes or 0)
    return _roof(work.ops, sequences, step_bytes, bytes_s, ops_s)


def prefill_roof(
    work: ModelWork, *, prompt_tokens: int, batch_tokens: int, bytes_s: float, ops_s: float | None
) -> Roof:
    """Bound the prompt tokens a second: weights are read once for each batch of at most `batch_tokens`."""
    return _roof(work.ops, min(prompt_tokens, batch_tokens), work.weight_bytes, bytes_s, ops_s)


def _roof(ops: int, tokens: int, step_bytes: float, bytes_s: float, ops_s: float | None) -> Roof:
    by_memory = bytes_s / step_bytes * tokens
    by_arithmetic = ops_s / ops if ops_s and ops else float("inf")
    limit: Limit = "bandwidth" if by_memory <= by_arithmetic else "arithmetic"
    return Roof(min(by_memory, by_arithmetic), limit, ops * tokens / step_bytes)
