"""How much memory will a model take, part by part, before it is loaded? Pure.

The parts and their sizes were learnt from llama.cpp's load log and the resident memory of workers on Linux
(llama-cpp-python 0.3.36); `scripts/measure_memory` prints prediction and measurement side by side.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from hybrid.devices.host import Multiplier
from hybrid.devices.shape import ModelShape

MICRO_BATCH_TOKENS = 512
SEQUENCES = 40
"""Slots and idle sequences together, as the worker is loaded."""
CELL_STEP = 256
"""llama.cpp rounds the cells of a cache up to this."""
PROCESS_BYTES = 45_000_000
"""A worker without a model: Python, numpy, the template engine, llama.cpp's libraries."""
TOKENIZER_BYTES_PER_TOKEN = 325
"""The vocabulary in memory, its merges among it: 346 of 49,152 tokens, 319 of 151,936 were seen."""
FLOAT_BYTES = 4
KV_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
}
"""Bytes of one number in a KV cache, by its type."""
FEED_FORWARD_ROWS, HIDDEN_ROWS = 3, 5
"""Rows of a micro-batch that a step on the CPU has in memory at once, by width; fitted to three models within 3 %."""
GPU_CONTEXT_BYTES = 450_000_000
"""What a driver takes for a process: kernels and queues. An allowance, not measured here."""

X86_REPACKED = {"Q4_0": "avx2", "Q4_K": "avx2", "IQ4_NL": "avx2", "MXFP4": "avx2", "Q2_K": "avx512"}
ARM_REPACKED = frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"})
AMX_REPACKED = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"})
"""What ggml lays out anew for its kernels, as a second copy beside the mapped file. Sources: ggml-cpu/repack.cpp,
ggml-cpu/amx/common.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Bytes by purpose. weights: the mapped file, or what is in its stead; repacked: what is there a second time;
    output: a row of logits a sequence.
    """

    weights_bytes: int = 0
    repacked_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    output_bytes: int = 0
    tokenizer_bytes: int = 0
    process_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return sum(getattr(self, part.name) for part in fields(self))

    @property
    def needed_bytes(self) -> int:
        """What must be there: of matrices laid out anew the mapped originals are never read again, so the system may
        take their pages back, though they count as resident until it does."""
        return self.total_bytes - self.repacked_bytes


@dataclass(frozen=True, slots=True)
class Needs:
    """What a loaded model takes of main memory and of the GPUs' together."""

    host: Parts
    gpu: Parts


def is_repacked(kind: str, isa: Collection[str]) -> bool:
    """Whether ggml's CPU kernels keep matrices of a type in a layout of their own on this processor."""
    if kind in ARM_REPACKED and ("dotprod" in isa or "i8mm" in isa):
        return True
    if kind in AMX_REPACKED and "amx_int8" in isa:
        return True
    return kind in X86_REPACKED and X86_REPACKED[kind] in isa


def layout_isa(shape: ModelShape, isa: Collection[str], multiplier: Multiplier) -> Collection[str]:
    """The instruction sets that ggml lays this model out for: none where AMX's layout would be slower than none.

    As `backends.library.wants_layouts` decides.
    """
    is_ours = multiplier == "hybrid" and not shape.experts and {"amx_int8", "avx512_vnni"} <= set(isa)
    return () if is_ours and shape.is_mostly_k_quants else isa


def repacked_bytes(shape: ModelShape, isa: Collection[str]) -> int:
    """Bytes that are laid out anew; an embedding that is also the output layer may be among them."""
    twice = sum(size for kind, size in shape.matrix_bytes.items() if is_repacked(kind, isa))
    return twice + (shape.embedding_bytes if shape.is_tied and is_repacked(shape.embedding_type, isa) else 0)


def cells_of(context_tokens: int) -> int:
    """Cells of the cache for a context."""
    return -(-context_tokens // CELL_STEP) * CELL_STEP


def predict(
    shape: ModelShape,
    *,
    context_tokens: int,
    isa: Collection[str] = (),
    gpu_layers: int = 0,
    gpus: int = 1,
    sequences: int = SEQUENCES,
    kv_type: str = "f16",
    batch_tokens: int = MICRO_BATCH_TOKENS,
) -> Needs:
    """Predict the memory of a worker that has served a full micro-batch, by part.

    gpu_layers: blocks on GPUs; one more than the model has means the output layer too. The embedding stays in main
    memory. On the CPU llama.cpp reserves compute buffers for logits of every token, and touches only those it needs.
    """
    blocks = max(shape.block_count, 1)
    share = min(gpu_layers, blocks) / blocks
    is_output_there = gpu_layers > blocks
    table = shape.embedding_bytes if shape.is_tied else shape.output_bytes
    kv = shape.kv_numbers_per_token * cells_of(context_tokens) * KV_BYTES[kv_type]
    rest = max(shape.file_bytes - shape.layer_bytes - shape.embedding_bytes - shape.output_bytes, 0)
    weights = shape.layer_bytes * (1 - share) + shape.embedding_bytes + (0 if is_output_there else shape.output_bytes)
    # The output layer lies at an end of the file: where it is laid out anew, llama.cpp maps the file without it.
    unmapped = shape.output_bytes if is_repacked(shape.output_type, isa) else 0
    host = Parts(
        weights_bytes=int(weights) + (0 if shape.is_estimated else min(rest, weights_slack(shape))),
        repacked_bytes=int((repacked_bytes(shape, isa) - unmapped) * (1 - share)),
        kv_bytes=int(kv * (1 - share)),
        compute_bytes=_touched_bytes(shape, context_tokens, batch_tokens),
        output_bytes=sequences * shape.vocab_tokens * FLOAT_BYTES,
        tokenizer_bytes=shape.vocab_tokens * TOKENIZER_BYTES_PER_TOKEN,
        process_bytes=PROCESS_BYTES,
    )
    if gpu_layers == 0:
        return Needs(host, Parts())
    gpu = Parts(
        weights_bytes=int(shape.layer_bytes * share) + (table if is_output_there else 0),
        kv_bytes=int(kv * share),
        compute_bytes=_reserved_bytes(shape, context_tokens, batch_tokens, is_output_there=is_output_there) * gpus,
        process_bytes=GPU_CONTEXT_BYTES * gpus,
    )
    return Needs(host, gpu)


def weights_slack(shape: ModelShape) -> int:
    """Norms and padding lie in the same mapping; the header's text, which is read and let go, does not count."""
    return shape.file_bytes // 1000


def _mask_bytes(context_tokens: int, batch_tokens: int) -> int:
    return cells_of(context_tokens) * batch_tokens * 2


def _touched_bytes(shape: ModelShape, context_tokens: int, batch_tokens: int) -> int:
    widths = FEED_FORWARD_ROWS * shape.feed_forward_length + HIDDEN_ROWS * shape.embedding_length
    return widths * batch_tokens * FLOAT_BYTES + _mask_bytes(context_tokens, batch_tokens)


def _reserved_bytes(shape: ModelShape, context_tokens: int, batch_tokens: int, *, is_output_there: bool) -> int:
    widest = shape.vocab_tokens + 2 * shape.embedding_length if is_output_there else 0
    widest = max(widest, FEED_FORWARD_ROWS * shape.feed_forward_length + HIDDEN_ROWS * shape.embedding_length)
    return widest * batch_tokens * FLOAT_BYTES + _mask_bytes(context_tokens, batch_tokens)
