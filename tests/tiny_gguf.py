"""How does a test make a small GGUF file, right or wrong in one chosen place?"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10
F32, Q4_0 = 0, 2


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to write. `offset`, `size_bytes`: None means what is right."""

    name: str
    shape: tuple[int, ...] = (32, 4)
    kind: int = F32
    size_bytes: int = 512
    offset: int | None = None


def text(value: str | bytes) -> bytes:
    """Encode a GGUF string."""
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str | bytes, kind: int, value: Any) -> bytes:
    """Encode one metadata entry; an array's value is (item kind, items)."""
    return text(key) + struct.pack("<I", kind) + encode(kind, value)


def encode(kind: int, value: Any) -> bytes:
    """Encode a metadata value of a given kind."""
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        item_kind, items = value
        return struct.pack("<IQ", item_kind, len(items)) + b"".join(encode(item_kind, item) for item in items)
    layout = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<B", UINT64: "<Q"}[kind]
    return struct.pack(layout, value)


TOKENS = [f"token-{number}" for number in range(600)]
ENTRIES: Mapping[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "general.name": (STRING, "Tiny"),
    "general.file_type": (UINT32, 2),
    "llama.context_length": (UINT32, 2048),
    "llama.embedding_length": (UINT32, 64),
    "llama.block_count": (UINT32, 2),
    "llama.attention.head_count": (UINT32, 4),
    "llama.attention.head_count_kv": (UINT32, 2),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, TOKENS)),
    "tokenizer.ggml.scores": (ARRAY, (FLOAT32, [0.5] * len(TOKENS))),
    "tokenizer.ggml.bos_token_id": (UINT32, 1),
    "tokenizer.ggml.eos_token_id": (UINT32, 2),
    "tokenizer.chat_template": (STRING, "{{ messages }}"),
    "general.quantized_by_hand": (BOOL, 1),
}


@dataclass(frozen=True, slots=True)
class TinyGguf:
    """The parts of a file; change one with `dataclasses.replace` to make it wrong there."""

    magic: bytes = b"GGUF"
    version: int = 3
    entries: Sequence[bytes] = field(default_factory=lambda: [entry(k, *value) for k, value in ENTRIES.items()])
    tensors: Sequence[Tensor] = (Tensor("token_embd.weight"), Tensor("output.weight", (32, 2), Q4_0, 36))
    n_keys: int | None = None
    n_tensors: int | None = None
    alignment_bytes: int = 32
    data_bytes: int | None = None

    def build(self) -> bytes:
        """Return the whole file."""
        n_keys = len(self.entries) if self.n_keys is None else self.n_keys
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        out = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_keys) + b"".join(self.entries)
        offset = 0
        for tensor in self.tensors:
            out += text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            out += struct.pack("<IQ", tensor.kind, offset if tensor.offset is None else tensor.offset)
            offset += -(-tensor.size_bytes // self.alignment_bytes) * self.alignment_bytes
        out += bytes(-len(out) % self.alignment_bytes)
        return out + bytes(offset if self.data_bytes is None else self.data_bytes)
