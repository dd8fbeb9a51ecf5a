"""Is what tuning takes estimated from above, and not by much?"""

from __future__ import annotations

import pytest

from hybrid.gguf import read_header
from hybrid.tuning.room import disk_bytes, file_bytes, memory_bytes, quantiser_bytes, reference_bytes

STARTER_BYTES = {
    "F16": 244_343_872,
    "Q8_0": 144_811_072,
    "Q6_K": 138_382_912,
    "Q5_K_M": 112_103_488,
    "Q4_K_M": 105_454_144,
    "Q4_0": 91_726_912,
    "IQ4_NL": 92_058_688,
    "Q4_1": 98_362_432,
}
"""What llama.cpp 0.3.36 makes of the starter; its rows are no whole K blocks, so the K formats fall back."""


@pytest.mark.parametrize("name", STARTER_BYTES)
def test_a_files_size_is_estimated_from_above(starter_model, name):
    """Never less than it takes, and at most a fifth more: room is not refused for nothing."""
    estimate = file_bytes(read_header(starter_model), name)
    assert STARTER_BYTES[name] <= estimate <= 1.2 * STARTER_BYTES[name]


def test_what_is_needed_adds_up(starter_model):
    """Disk: the logits and the two largest formats. Memory: more for a larger file."""
    header = read_header(starter_model)
    assert 4 * 49_152 * 256 * 5 == reference_bytes(header, 5)
    both = file_bytes(header, "Q8_0") + file_bytes(header, "Q6_K")
    assert disk_bytes(header, ("Q4_0", "Q8_0", "Q6_K"), 5) > both + reference_bytes(header, 5)
    assert memory_bytes(header, 10**9) - memory_bytes(header, 0) == 2 * 10**9
    assert quantiser_bytes(header) > header.file_bytes + 8 * 49_152 * 576


def test_an_unknown_format_is_taken_for_a_large_one(starter_model):
    """No format is larger than float32."""
    header = read_header(starter_model)
    assert file_bytes(header, "Q5_1") >= 4 * header.parameters
