"""What names that which computes an answer: a model's file, its cache's formats, its chat template? Digests only."""

from __future__ import annotations

import hashlib
from pathlib import Path

HEADER_BYTES = 1 << 20
BLOCKS = 64
"""Read from places spread evenly over the file, the last of them its end."""
BLOCK_BYTES = 1 << 16


def model_fingerprint(path: Path, key_cache: str = "f16", value_cache: str = "f16") -> str:
    """SHA-256 over a file's size, its beginning and blocks of its weights, and the KV cache's formats if not 16-bit.

    It names what computes the logits by reading 5 MiB and not gigabytes. Told apart: other sizes or headers, and
    weights that differ everywhere, as fine-tunes and other quantizations of one shape do. Not told apart: files that
    differ only between the blocks, which a model of 1 GB has every 17 MB, such as one with a few tensors changed.

    Raises: OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        digest = hashlib.sha256(str(size_bytes).encode())
        digest.update(file.read(HEADER_BYTES))
        last_bytes = max(0, size_bytes - BLOCK_BYTES)
        for block in range(BLOCKS):
            file.seek(last_bytes * block // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    if (key_cache, value_cache) != ("f16", "f16"):
        digest.update(f"{key_cache} {value_cache}".encode())
    return digest.hexdigest()


def template_fingerprint(template: str | None) -> str:
    """SHA-256 of a chat template; of nothing where the model has none."""
    return hashlib.sha256((template or "").encode()).hexdigest()
