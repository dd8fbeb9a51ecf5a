"""How does a test make a small LoRA adapter for a model, and say what it does to it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybrid.gguf import read_header
from tests.tiny_gguf import F32, FLOAT32, STRING, Tensor, TinyGguf, entry

RANK = 4
ALPHA = 8.0


def write_lora(
    path: Path,
    base: Path,
    *,
    seed: int = 0,
    strength: float = 0.0,
    targets: Sequence[str] = ("attn_q", "attn_v", "ffn_down"),
    extra: Sequence[bytes] = (),
    **changed: str,
) -> Path:
    """Write an adapter of random A and, scaled by `strength`, random B matrices for every block of `base`.

    strength: 0 makes every B zero: an adapter that changes nothing. changed: metadata to write otherwise.
    extra: further metadata entries.
    """
    header = read_header(base)
    keys = {"general.architecture": header.architecture, "general.type": "adapter", "adapter.type": "lora"}
    keys |= {name.replace("__", "."): value for name, value in changed.items()}
    entries = [entry(key, STRING, value) for key, value in keys.items()]
    entries += [entry("adapter.lora.alpha", FLOAT32, ALPHA), *extra]
    random = np.random.default_rng(seed)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    tensors, data = [], b""
    for block in range(header.block_count or 0):
        for target in targets:
            name = f"blk.{block}.{target}.weight"
            wide, tall = shapes[name]
            for part, shape, scale in (("a", (wide, RANK), wide**-0.5), ("b", (RANK, tall), strength)):
                values = (random.standard_normal(shape[0] * shape[1]) * scale).astype("<f4")
                tensors.append(Tensor(f"{name}.lora_{part}", shape, F32, values.nbytes))
                data += values.tobytes() + bytes(-values.nbytes % 32)
    path.write_bytes(TinyGguf(entries=entries, tensors=tensors, data_bytes=0).build() + data)
    return path
