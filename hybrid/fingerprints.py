"""What names that which computes an answer: a model's file, its cache's formats, its chat template? Digests only."""

from __future__ import annotations

import hashlib
from pathlib import Path

FINGERPRINT_BYTES = 1 << 20


def model_fingerprint(path: Path, key_cache: str = "f16", value_cache: str = "f16") -> str:
    """SHA-256 over a file's size and its header bytes, and the KV cache's formats where they are not 16-bit.

    It names what computes the logits without reading a gigabyte. Raises: OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.sha256(str(path.stat().st_size).encode())
        digest.update(file.read(FINGERPRINT_BYTES))
    if (key_cache, value_cache) != ("f16", "f16"):
        digest.update(f"{key_cache} {value_cache}".encode())
    return digest.hexdigest()


def template_fingerprint(template: str | None) -> str:
    """SHA-256 of a chat template; of nothing where the model has none."""
    return hashlib.sha256((template or "").encode()).hexdigest()
