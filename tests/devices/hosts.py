"""Which machines and models do the tests of placement decide about?"""

from __future__ import annotations

from typing import Any

from hybrid.devices.host import Cpu, Engine, EngineDevice, Gpu, Host, Memory
from hybrid.devices.shape import CardFacts, ModelShape, shape_of_card

GB = 1_000_000_000
GIB = 1 << 30
AVX2, VNNI = ("avx2", "fma", "f16c"), ("avx2", "fma", "f16c", "avx512", "avx512_vnni")
ARM = ("neon", "dotprod")


def card(name: str, size: int, parameters: int, blocks: int, *sizes: int, is_tied: bool, context: int) -> ModelShape:
    """A model as its card tells of it; sizes: embedding, KV heads, key, feed-forward, vocabulary."""
    embedding, heads, key, width, vocabulary = sizes
    facts = CardFacts(
        name=name,
        bytes=size,
        parameters=parameters,
        quantisation="Q4_K_M",
        context_tokens=context,
        block_count=blocks,
        embedding_length=embedding,
        head_count_kv=heads,
        key_length=key,
        feed_forward_length=width,
        vocab_tokens=vocabulary,
        is_tied=is_tied,
    )
    return shape_of_card(facts)


B135 = card("smollm2-135m", 98_362_432, 135_000_000, 30, 576, 3, 64, 1536, 49_152, is_tied=True, context=8192)
B1_5 = card("1.5b", 1_117_000_000, 1_780_000_000, 28, 1536, 2, 128, 8960, 151_936, is_tied=False, context=32_768)
B8 = card("8b", 4_920_000_000, 8_030_000_000, 32, 4096, 8, 128, 14_336, 128_256, is_tied=False, context=131_072)
B14 = card("14b", 9_000_000_000, 14_800_000_000, 40, 5120, 8, 128, 17_408, 151_936, is_tied=False, context=40_960)
B70 = card("70b", 42_500_000_000, 70_600_000_000, 80, 8192, 8, 128, 28_672, 128_256, is_tied=False, context=131_072)


def host(
    *,
    cores: int = 8,
    memory: int = 32 * GB,
    free: int | None = None,
    isa: tuple[str, ...] = AVX2,
    gpus: tuple[Gpu, ...] = (),
    backends: tuple[str, ...] = ("CPU",),
    board: str | None = None,
    quota: float | None = None,
    limit: int | None = None,
    **cpu: Any,
) -> Host:
    """A machine; its ggml sees the GPUs that it was built for."""
    seen = tuple(
        EngineDevice(
            name=f"{name}{number}", description=gpu.name, backend=name, kind="gpu",
            memory_free_bytes=gpu.memory_free_bytes, memory_total_bytes=gpu.memory_total_bytes,
        )
        for number, gpu in enumerate(gpus)
        for name in backends
        if name != "CPU"
    )  # fmt: skip
    return Host(
        board=board,
        cpu=Cpu(isa=isa, usable_physical=cores, logical_cores=cores, quota_cores=quota, **cpu),
        memory=Memory(
            total_bytes=memory,
            available_bytes=memory * 9 // 10 if free is None else free,
            limit_bytes=limit,
            limit_used_bytes=None if limit is None else 0,
        ),
        gpus=gpus,
        engine=Engine(package_version="0.3.36", backends=backends, devices=seen),
    )


def nvidia(name: str, gib: int, free: int | None = None, **facts: Any) -> Gpu:
    """An NVIDIA card with most of its memory free."""
    total = gib * GIB
    return Gpu(
        name=name,
        vendor="nvidia",
        source="nvml",
        memory_total_bytes=total,
        memory_free_bytes=total - GIB // 2 if free is None else free,
        **facts,
    )
