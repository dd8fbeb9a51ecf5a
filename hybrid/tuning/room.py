"""How much disk and memory will tuning take? Estimated from the file's header, from above, before anything is made."""

from __future__ import annotations

from collections.abc import Iterable

from hybrid.devices.shape import cached_value_length
from hybrid.gguf import GgufHeader

_BITS = {"F16": 16.0, "Q8_0": 8.5, "Q6_K": 8.5, "Q5_K_M": 6.6, "Q4_K_M": 6.0, "Q4_1": 5.1, "Q4_0": 4.7, "IQ4_NL": 4.7}
"""Bits a weight, where each tensor takes the larger format that llama.cpp falls back to."""
_MOST_BITS = 33.0
_WIDE_BITS = 8.5
_WIDE = ("token_embd", "output")
"""Tensors that llama.cpp keeps in a better format than the rest, and F16 in a smaller one."""
MARGIN_BYTES = 64 * 1024**2
_PROCESS_BYTES = 250_000_000
"""What a trial takes beside the model: Python, numpy, compute buffers."""
_CELLS = 2048
_ROWS = 256
"""Rows of logits that one chunk of the text gives, two tokens apart."""


def file_bytes(header: GgufHeader, format_name: str) -> int:
    """The size of a file in another format, at most; vocabulary and kin stay as they are."""
    bits = _BITS.get(format_name, _MOST_BITS)
    weights = sum(tensor.size_bytes for tensor in header.tensors)
    total = float(header.file_bytes - weights)
    for tensor in header.tensors:
        is_vector = len([length for length in tensor.shape if length > 1]) < 2
        wide = bits if format_name not in _BITS else _WIDE_BITS if tensor.name.startswith(_WIDE) else bits
        total += tensor.size_bytes if is_vector else tensor.elements * wide / 8
    return int(total)


def reference_bytes(header: GgufHeader, chunks: int) -> int:
    """What the source's logits of the text take on disk."""
    return 4 * (header.n_vocab or 0) * _ROWS * chunks


def disk_bytes(header: GgufHeader, formats: Iterable[str], chunks: int) -> int:
    """What tuning takes on disk at most: the logits, the best file so far and the one that is tried."""
    largest = sorted((file_bytes(header, name) for name in formats), reverse=True)[:2]
    return reference_bytes(header, chunks) + sum(largest) + MARGIN_BYTES


def memory_bytes(header: GgufHeader, size_bytes: int) -> int:
    """What measuring a file of that size takes: it may be held twice, as read and repacked for the kernels."""
    cell = 2 * (header.block_count or 0) * (header.head_count_kv or 0)
    cell *= (header.key_length or 0) + (cached_value_length(header) or 0)
    return 2 * size_bytes + cell * _CELLS + 2 * 4 * (header.n_vocab or 0) * _ROWS + _PROCESS_BYTES


def quantiser_bytes(header: GgufHeader) -> int:
    """What writing a file in another format takes: its largest tensor as float32, before and after."""
    return header.file_bytes + 2 * 4 * max(tensor.elements for tensor in header.tensors) + _PROCESS_BYTES
