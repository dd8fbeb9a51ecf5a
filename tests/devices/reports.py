"""What does a bench report look like? Made up for the tests, with the shape of a real one."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hybrid.devices.advice import advise
from hybrid.devices.bench import BenchedModel, BenchReport, Roofed
from hybrid.devices.machine import Bandwidth, LatencyPoint, MachineSpeed, Peak
from hybrid.devices.speed import Figure, ModelSpeed, ThreadSpeed


def about(value: float, spread: float = 0.05) -> Figure:
    """A figure with extremes."""
    return Figure(value, value * (1 - spread), value * (1 + spread), 5)


def speed(
    name: str = "small",
    prefill: Mapping[int, float] = {32: 200.0, 128: 240.0, 512: 230.0, 2048: 190.0},
    decode: Mapping[int, float] = {1: 60.0, 2: 90.0, 4: 120.0, 8: 140.0, 16: 145.0},
    **changes: object,
) -> ModelSpeed:
    """A model's figures."""
    made = ModelSpeed(
        name=name,
        fingerprint=f"fingerprint of {name}",
        file_bytes=98_362_432,
        context_tokens=8192,
        threads=2,
        batch_tokens=512,
        depth_tokens=64,
        device="cpu",
        prefill_tok_s={count: about(value) for count, value in prefill.items()},
        decode_tok_s={count: about(value) for count, value in decode.items()},
        prefill_tok_j={},
        decode_tok_j={},
        power="no RAPL counter",
        ttft_s=about(0.8),
        load_s=0.5,
        rss_bytes=383_983_616,
        rss_before_bytes=33_558_528,
        by_threads=(ThreadSpeed(1, about(120.0), about(40.0)), ThreadSpeed(2, about(240.0), about(60.0))),
        best_threads=2,
        left_out=(),
        others_cores=0.0,
        measured_s=100.0,
    )
    return msgspec.structs.replace(made, **changes)


def model(measured: ModelSpeed, ops: float = 2.7e8, weight_bytes: float = 9e7) -> BenchedModel:
    """A model under made-up roofs."""

    def under(figures: Mapping[int, Figure], largest: int) -> dict[int, Roofed]:
        return {
            count: Roofed(
                roof_tok_s=one.median * 2,
                limit="bandwidth" if count < 32 else "arithmetic",
                share=0.5,
                ops_per_byte=ops / weight_bytes * min(count, largest),
                ops_s=one.median * ops,
            )
            for count, one in figures.items()
        }

    return BenchedModel(
        speed=measured,
        quantisation="Q4_1",
        parameters=134_515_008,
        weight_bytes=int(weight_bytes),
        ops_per_token=int(ops),
        cell_bytes=23_040,
        decode_roof=under(measured.decode_tok_s, 16),
        prefill_roof=under(measured.prefill_tok_s, 512),
    )


MACHINE = MachineSpeed(
    cpus=(0, 1),
    array_bytes=128 << 20,
    bandwidth=(Bandwidth(1, about(3e10), about(2.9e10), about(2.8e10)), Bandwidth(2, *[about(3.5e10)] * 3)),
    fp32=(Peak("sse2", about(2.9e10), about(5.8e10)), Peak("avx512", about(1.15e11), about(2.3e11))),
    int8=(Peak("avx2", about(2.1e11), about(4.3e11)), Peak("avx512_vnni", about(4.7e11), about(9.2e11))),
    latency=tuple(
        LatencyPoint(4096 << step, ns) for step, ns in enumerate([1.1, 1.1, 3.8, 3.9, 15.0, 17.0, 120.0, 150.0])
    ),
    cache_bytes=(32 << 10, 1 << 20, 24 << 20),
    notes=(),
    others_cores=0.1,
    measured_s=9.0,
)


def report(*models: BenchedModel, **changes: object) -> BenchReport:
    """A report with its advice."""
    made = BenchReport(
        measured_at="2026-11-25T04:00:00+00:00",
        measured_s=230.0,
        is_quick=False,
        hardware_fingerprint="58052926687a367b",
        hardware={"cpu": "Some CPU", "cores": "2", "memory_gib": "24", "machine": "x86_64"},
        versions={"hybrid": "0.1.0", "llama-cpp-python": "0.3.36"},
        ttft_s=1.5,
        is_ttft_configured=True,
        machine=MACHINE,
        models=models,
        failed=(),
        notes=(),
    )
    made = msgspec.structs.replace(made, **changes)
    return msgspec.structs.replace(made, advice=advise(made))


FAST = model(speed("fast", prefill={128: 4000.0, 2048: 3500.0}, decode={1: 200.0, 8: 900.0}))
SMALL = model(speed())
