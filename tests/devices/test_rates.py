"""Do predicted speeds come near what was measured, and does each part of a prediction do what it says?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.devices.host import Cpu, Multiplier
from hybrid.devices.nominal import cpu_bytes_s, gpu_peak
from hybrid.devices.rates import Measured, Roof, cpu_roof, fast_share, predict_rate
from hybrid.devices.shape import ModelShape

CAPTURED = Path(__file__).parent.parent / "captured" / "devices"
SHAPES = {
    case["shape"]["name"]: ModelShape(**case["shape"])
    for case in json.loads((CAPTURED / "worker-memory.json").read_text())["workers"]
}
BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
WITH_GGML = json.loads((BENCHMARKS / "bench-2026-11-29.json").read_text())
WITH_OURS = json.loads((BENCHMARKS / "bench-2026-11-30b.json").read_text())
LOOP_OF_THEN = 2.0
"""The int8 peak was measured by a loop of three instructions then, of two now: 300 and 620 Gop/s on one machine."""
AVX2 = Cpu(isa=("avx", "avx2", "fma", "f16c"))


def _measured(record: dict[str, Any]) -> list[tuple[str, str, int, float]]:
    """Name, kind, tokens and figure of everything that was sampled at least twice."""
    return [
        (model["speed"]["name"], kind, int(count), figure["median"])
        for model in record["runs"][0]["models"]
        for kind in ("prefill", "decode")
        for count, figure in model["speed"][f"{kind}_tok_s"].items()
        if figure["n"] >= 2
    ]


def _predicted(machine: dict[str, Any], name: str, kind: str, count: int, multiplier: Multiplier) -> float:
    """From bandwidth and int8 peak alone, tokens a second."""
    read = max(one["read_bytes_s"]["median"] for one in machine["bandwidth"])
    int8 = max(one["all_cores_ops_s"]["median"] for one in machine["int8"])
    if multiplier == "ggml":
        int8 *= LOOP_OF_THEN
    shape, measured = SHAPES[name], Measured(cpu_read_bytes_s=read, cpu_int8_ops_s=int8)
    is_decode = kind == "decode"
    predicted, _ = predict_rate(
        shape,
        [(1.0, cpu_roof(AVX2, 2, None, shape, measured, multiplier))],
        tokens=count,
        logits=count if is_decode else 1,
        cells=count * 32 if is_decode else count / 2,
    )
    return predicted


@pytest.mark.parametrize(("name", "kind", "count", "tok_s"), _measured(WITH_GGML))
def test_predictions_come_near(name, kind, count, tok_s):
    """Within half of what `hybrid bench` measured on three models with AVX2."""
    predicted = _predicted(WITH_GGML["runs"][0]["machine"], name, kind, count, "ggml")
    assert 1.0 == pytest.approx(predicted / tok_s, abs=0.5)


@pytest.mark.parametrize(("name", "kind", "count", "tok_s"), _measured(WITH_OURS))
def test_predictions_come_near_where_we_multiply(name, kind, count, tok_s):
    """The same with our own matrix multiplication."""
    predicted = _predicted(WITH_OURS["runs"][0]["machine"], name, kind, count, "hybrid")
    assert 1.0 == pytest.approx(predicted / tok_s, abs=0.5)


@pytest.mark.parametrize(
    ("name", "gigabytes_s"),
    [
        pytest.param("NVIDIA H200 NVL", 4800, id="h200"),
        pytest.param("NVIDIA GH200 480GB", 3350, id="gh200-is-no-h200"),
        pytest.param("NVIDIA A100-PCIE-40GB", 1555, id="a100-40"),
        pytest.param("NVIDIA A100X", 1935, id="a100x"),
        pytest.param("NVIDIA RTX A1000", None, id="a1000-is-no-a100"),
        pytest.param("Apple M1 Pro", 200, id="m1-pro"),
    ],
)
def test_a_data_sheet_is_of_the_named_gpu(name, gigabytes_s):
    """A name that only holds another's in it is not given that one's figures."""
    peak = gpu_peak(name)
    assert gigabytes_s == (None if peak is None else peak.bytes_s / 1e9)


def test_a_processor_is_not_taken_for_a_gpu_of_its_name():
    """AMD's A10 is a processor and NVIDIA's a card of 600 GB/s; Apple's names mean both."""
    assert (20e9, False) == cpu_bytes_s(None, "AMD A10-9700 RADEON R7", 4, 4)
    assert (200e9, True) == cpu_bytes_s(None, "Apple M1 Pro", 8, 10)


def test_a_single_token_is_multiplied_more_slowly():
    """Between one token and a full batch the rate grows evenly; a device that is told no other rate has one."""
    roof = Roof(bytes_s=1.0, ops_s=32.0, basis="measured", row_ops_s=1.0)
    assert (1.0, 32.0, 32.0) == (roof.ops_at(1), roof.ops_at(32), roof.ops_at(512))
    assert 1.0 < roof.ops_at(8) < roof.ops_at(16) < 32.0
    assert 5.0 == Roof(bytes_s=1.0, ops_s=5.0, basis="nominal").ops_at(1)


def test_layers_cost_time_whatever_their_size():
    """Threads meet in each: a step of many small layers waits for longer."""
    shape = next(iter(SHAPES.values()))
    plain, slow = (Roof(bytes_s=1e10, ops_s=1e11, basis="measured", layer_s=layer_s) for layer_s in (0.0, 1e-3))
    rates = [predict_rate(shape, [(1.0, roof)], tokens=1, logits=1, cells=0)[0] for roof in (plain, slow)]
    assert 1 / rates[1] - 1 / rates[0] == pytest.approx(shape.block_count * 1e-3)


@pytest.mark.parametrize(
    ("kind", "isa", "share"),
    [
        pytest.param("Q4_0", ("avx2",), 1.0, id="repacked"),
        pytest.param("Q8_0", ("avx2",), 0.65, id="tiled"),
        pytest.param("Q4_1", ("avx2",), 0.0, id="plain"),
        pytest.param("Q8_0", ("avx",), 0.0, id="no-tiles-without-avx2"),
    ],
)
def test_how_much_of_a_model_has_fast_kernels(kind, isa, share):
    """By format and instruction set."""
    shape = next(iter(SHAPES.values()))
    made = ModelShape(
        **{name: getattr(shape, name) for name in shape.__slots__}
        | {"matrix_bytes": {kind: 100}, "layer_bytes": 100, "output_bytes": 0, "embedding_type": "Q6_K"}
    )
    assert share == pytest.approx(fast_share(made, isa))
