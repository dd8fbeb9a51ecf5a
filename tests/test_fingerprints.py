"""Is one model's file told from another of the same shape?"""

import random
from pathlib import Path

import pytest

from hybrid.fingerprints import BLOCK_BYTES, BLOCKS, HEADER_BYTES, model_fingerprint

HEADER = random.Random(0).randbytes(HEADER_BYTES)  # noqa: S311 - any bytes will do
WEIGHTS_BYTES = 2 * BLOCKS * BLOCK_BYTES


def _file(folder: Path, weights: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(HEADER + weights)
    return path


@pytest.mark.parametrize(
    ("place", "count"),
    [
        pytest.param(0, WEIGHTS_BYTES, id="all-weights"),
        pytest.param(WEIGHTS_BYTES // 3, 4 * BLOCK_BYTES, id="a-part"),
        pytest.param(WEIGHTS_BYTES - 1, 1, id="the-last-byte"),
    ],
)
def test_other_weights_under_one_header_are_another_model(tmp_path, place, count):
    """Two fine-tunes have the same header and size, and only what lies behind it differs."""
    weights = bytes(WEIGHTS_BYTES)
    before = model_fingerprint(_file(tmp_path, weights))
    changed = weights[:place] + b"\x01" * count + weights[place + count :]

    assert before != model_fingerprint(_file(tmp_path, changed))
    assert before == model_fingerprint(_file(tmp_path, weights))


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK_BYTES])
def test_a_small_file_has_one_too(tmp_path, size_bytes):
    """Shorter than a block; another byte is another file, and so is another cache format."""
    path = tmp_path / "small"
    path.write_bytes(bytes(size_bytes))
    found = model_fingerprint(path)
    assert found == model_fingerprint(path)
    assert found != model_fingerprint(path, "q8_0", "q8_0")
    path.write_bytes(bytes(size_bytes + 1))
    assert found != model_fingerprint(path)
