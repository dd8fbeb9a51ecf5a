"""Is the memory of a worker predicted within a tenth of what was measured?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.catalog import load_cards
from hybrid.cli.recommend import _shape
from hybrid.devices.needs import cells_of, is_repacked, layout_isa, predict
from hybrid.devices.shape import ModelShape, shape_of_header
from hybrid.gguf import read_header

CAPTURED = Path(__file__).parent.parent / "captured" / "devices"
CASES = [
    pytest.param(
        record["isa"],
        record.get("multiplier", "ggml"),
        case,
        id=f"{name}-{case['shape']['name']}-{case['context_tokens']}",
    )
    for name in ("worker-memory", "worker-memory-amx", "worker-memory-vnni")
    for record in [json.loads((CAPTURED / f"{name}.json").read_text())]
    for case in record["workers"]
]


@pytest.mark.parametrize(("isa", "multiplier", "case"), CASES)
def test_predictions_are_within_a_tenth(isa, multiplier, case):
    """Resident memory of real workers, three models at three contexts each, as scripts/measure_memory recorded it."""
    shape = ModelShape(**case["shape"])
    needs = predict(shape, context_tokens=case["context_tokens"], isa=layout_isa(shape, isa, multiplier))
    assert 1.0 == pytest.approx(needs.host.total_bytes / case["measured"]["total_bytes"], abs=0.1)


@pytest.mark.parametrize(
    ("kind", "isa", "expected"),
    [
        ("Q4_0", ("avx2",), True), ("Q4_K", ("avx2",), True), ("Q6_K", ("avx2", "avx512"), False),
        ("Q2_K", ("avx2",), False), ("Q2_K", ("avx512",), True), ("Q6_K", ("neon", "dotprod"), True),
        ("Q4_1", ("avx2",), False), ("Q4_0", ("neon",), False), ("Q8_0", ("i8mm",), True),
        ("Q4_1", ("avx2", "amx_int8"), True), ("Q5_0", ("avx2", "amx_int8"), False),
    ],
)  # fmt: skip
def test_which_formats_lie_in_memory_twice(kind, isa, expected):
    """By format and instruction set, as ggml chooses."""
    assert expected is is_repacked(kind, isa)


AMX = ("avx2", "avx512_vnni", "amx_int8")


@pytest.mark.parametrize(
    ("matrix_bytes", "isa", "multiplier", "expected"),
    [
        ({"Q4_K": 60, "Q5_0": 40}, AMX, "hybrid", ()),
        ({"Q4_K": 40, "Q5_0": 60}, AMX, "hybrid", AMX),
        ({"Q4_K": 30, "Q6_K": 21, "F16": 49}, AMX, "hybrid", ()),
        ({"Q4_K": 100}, AMX, "ggml", AMX),
        ({"Q4_K": 100}, ("avx2", "avx512_vnni"), "hybrid", ("avx2", "avx512_vnni")),
        ({"Q4_K": 100}, ("avx2", "amx_int8"), "hybrid", ("avx2", "amx_int8")),
        ({}, AMX, "hybrid", AMX),
    ],
)
def test_the_layout_of_amx_is_kept_where_it_is_the_faster(matrix_bytes, isa, multiplier, expected):
    """Not for K-quants beside our multiplication with VNNI; without AMX nothing changes."""
    shape = ModelShape(**{**CASES[0].values[2]["shape"], "matrix_bytes": matrix_bytes})
    assert expected == layout_isa(shape, isa, multiplier)
    assert AMX == layout_isa(replace(shape, experts=8), AMX, multiplier)


def test_the_cache_is_rounded_up():
    """Cells come in steps of 256."""
    assert (256, 256, 512) == (cells_of(1), cells_of(256), cells_of(257))


def test_a_card_predicts_what_its_file_does(starter_model):
    """Before the pull the card's sizes give the memory of the file within a tenth."""
    card = load_cards()["smollm2-135m"]
    by_card, by_file = _shape(card, None), shape_of_header(read_header(starter_model))
    assert by_card is not None
    both = [predict(shape, context_tokens=8192, isa=("avx2",)).host.total_bytes for shape in (by_card, by_file)]
    assert 1.0 == pytest.approx(both[0] / both[1], abs=0.1)


@pytest.mark.parametrize("name", load_cards())
def test_each_card_has_sizes_that_agree(name):
    """The embedding and the blocks of [shape] make up the parameters the card states, within a fifth."""
    card = load_cards()[name]
    assert card.shape is not None
    shape = card.shape
    heads = shape.embedding_length // shape.key_length if "gemma" not in name and "qwen3" not in name else None
    attention = 2 * shape.embedding_length * shape.head_count_kv * shape.key_length
    attention += 2 * shape.embedding_length * (heads or 0) * shape.key_length
    attention += 0 if heads else 3 * shape.embedding_length * shape.embedding_length
    block = attention + 3 * shape.embedding_length * shape.feed_forward_length
    tables = shape.embedding_length * shape.vocab_tokens * (1 if shape.is_tied else 2)
    assert card.parameters == pytest.approx(shape.block_count * block + tables, rel=0.25)
