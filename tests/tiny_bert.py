"""How does a test make a small embedding model? A random BERT, written as a GGUF that llama.cpp loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny_gguf import ARRAY, BOOL, F32, FLOAT32, INT32, STRING, UINT32, Tensor, TinyGguf, entry

WIDTH, FEED_FORWARD, BLOCKS, HEADS = 32, 64, 2, 4
CONTEXT_TOKENS = 64
WORDS = ["a", "cat", "dog", "sat", "on", "the", "mat", "stocks", "fell"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{word}" for word in WORDS)]
MEAN, CLS, LAST, RANK = 1, 2, 3, 4


def write_bert(path: Path, *, pooling: int = MEAN, seed: int = 0) -> Path:
    """Write a model whose tokens are a few whole words."""
    shapes = _shapes()
    random = np.random.default_rng(seed)
    tensors, data = [], b""
    for name, shape in shapes.items():
        values = (random.standard_normal(int(np.prod(shape))) * 0.3 + name.endswith("norm.weight")).astype("<f4")
        tensors.append(Tensor(name, shape, F32, values.nbytes))
        data += values.tobytes() + bytes(-values.nbytes % 32)
    metadata: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "bert"),
        "bert.context_length": (UINT32, CONTEXT_TOKENS),
        "bert.embedding_length": (UINT32, WIDTH),
        "bert.feed_forward_length": (UINT32, FEED_FORWARD),
        "bert.block_count": (UINT32, BLOCKS),
        "bert.attention.head_count": (UINT32, HEADS),
        "bert.attention.layer_norm_epsilon": (FLOAT32, 1e-6),
        "bert.attention.causal": (BOOL, 0),
        "bert.pooling_type": (UINT32, pooling),
        "tokenizer.ggml.model": (STRING, "bert"),
        "tokenizer.ggml.token_type_count": (UINT32, 2),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, TOKENS)),
        "tokenizer.ggml.scores": (ARRAY, (FLOAT32, [-1000.0] * len(TOKENS))),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, [3] * 5 + [1] * len(WORDS))),
        "tokenizer.ggml.unknown_token_id": (UINT32, 1),
        "tokenizer.ggml.bos_token_id": (UINT32, 2),
        "tokenizer.ggml.seperator_token_id": (UINT32, 3),
        "tokenizer.ggml.padding_token_id": (UINT32, 0),
        "tokenizer.ggml.mask_token_id": (UINT32, 4),
    }
    entries = [entry(key, *value) for key, value in metadata.items()]
    path.write_bytes(TinyGguf(entries=entries, tensors=tensors, data_bytes=0).build() + data)
    return path


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (WIDTH, len(TOKENS)),
        "token_types.weight": (WIDTH, 2),
        "position_embd.weight": (WIDTH, CONTEXT_TOKENS),
        "token_embd_norm.weight": (WIDTH,),
        "token_embd_norm.bias": (WIDTH,),
    }
    for block in range(BLOCKS):
        matrices = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
        matrices |= {"ffn_up": (WIDTH, FEED_FORWARD), "ffn_down": (FEED_FORWARD, WIDTH)}
        for name, shape in matrices.items():
            shapes[f"blk.{block}.{name}.weight"] = shape
            shapes[f"blk.{block}.{name}.bias"] = shape[1:]
        for name in ("attn_output_norm", "layer_output_norm"):
            shapes[f"blk.{block}.{name}.weight"] = shapes[f"blk.{block}.{name}.bias"] = (WIDTH,)
    return shapes
