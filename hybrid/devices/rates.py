"""How fast will a model run, and what will hold it up: bandwidth or arithmetic? Pure.

A decoded token reads every weight once, so it can not come faster than bandwidth / bytes read; a prompt's tokens share
that reading, and cost two operations a parameter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hybrid.devices.host import Cpu, Gpu, Multiplier
from hybrid.devices.needs import KV_BYTES, is_repacked, layout_isa, repacked_bytes
from hybrid.devices.nominal import PLAIN_SHARE, core_ops_s, cpu_bytes_s, gpu_peak
from hybrid.devices.shape import ModelShape

Basis: TypeAlias = Literal["measured", "nominal", "assumed"]
Limit: TypeAlias = Literal["bandwidth", "arithmetic"]

CPU_BANDWIDTH_SHARE, GPU_BANDWIDTH_SHARE = 0.8, 0.7
"""What decoding reaches of a measured or nominal read bandwidth; the rest is launches, caches and small matrices."""
GPU_ARITHMETIC_SHARE = 0.35
INT8_SHARE, INT8_SHARE_AVX2 = 0.3, 0.21
"""What ggml's quantised matrix kernels reach of a measured int8 dot-product peak, which has no scales to apply."""
OUR_SHARES = {
    "Q4_0": 0.5, "Q4_1": 0.5, "Q4_K": 0.5, "Q5_0": 0.46, "Q5_1": 0.46, "Q5_K": 0.46, "Q6_K": 0.36, "Q8_0": 0.25,
}  # fmt: skip
"""The same of our own multiplication (native/README.md), by what a weight's code costs it; seen on three models."""
OUR_SHARE_VNNI = 0.62
"""Of these with VNNI: its peak is 2.4 times that of AVX2, and what is not multiplied takes as long as before."""
PLAIN_SHARE_AVX2 = 0.35
ROW_SHARE, ROW_SHARE_AVX2 = 0.18, 0.09
"""The same of kernels that multiply one token at a time, whatever the format; seen at 0.08 to 0.14 on three models."""
FULL_BATCH_TOKENS, OUR_FULL_BATCH_TOKENS = 32, 24
"""From so many tokens together the matrix kernels reach what they can; below, it is taken to grow evenly."""
TILED = frozenset({"Q4_0", "Q5_0", "Q8_0", "IQ4_NL"})
"""Formats that llama.cpp's tinyBLAS multiplies in tiles on x86 (llamafile/sgemm.cpp)."""
TILED_SHARE = 0.65
"""How fast those are beside repacked ones; 0.58 to 0.72 were seen with AVX2."""
CPU_LAYER_S = 150e-6
DECODE_DEPTH_TOKENS = 1024
"""Tokens already in the cache where a decode rate is predicted."""
PROMPT_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured on this machine; None where nothing was. Overrides data sheets and assumptions."""

    cpu_read_bytes_s: float | None = None
    cpu_int8_ops_s: float | None = None
    gpu_read_bytes_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """What a device sustains: bytes read a second, and operations a second on this model's matrices.

    layer_s: seconds a step waits in each layer, whatever its size: threads meet after every operation.
    row_ops_s: as `ops_s`, of a single token; None where it is the same. full_tokens: from so many on it is `ops_s`.
    """

    bytes_s: float
    ops_s: float
    basis: Basis
    layer_s: float = 0.0
    row_ops_s: float | None = None
    full_tokens: int = FULL_BATCH_TOKENS

    def ops_at(self, tokens: int) -> float:
        """Operations a second on a batch of so many tokens."""
        if self.row_ops_s is None:
            return self.ops_s
        grown = min(1.0, (tokens - 1) / (self.full_tokens - 1))
        return self.row_ops_s + (self.ops_s - self.row_ops_s) * grown


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Predicted tokens a second: a prompt of 512, one sequence at 1,024 cached tokens, and all slots together."""

    prefill_tok_s: float
    prefill_limit: Limit
    decode_tok_s: float
    decode_limit: Limit
    all_slots_tok_s: float
    all_slots_limit: Limit
    basis: Basis


def cpu_roof(
    cpu: Cpu, threads: int, board: str | None, shape: ModelShape, measured: Measured, multiplier: Multiplier = "ggml"
) -> Roof:
    """What the processors sustain on this model."""
    told, is_nominal = cpu_bytes_s(board, cpu.model, threads, cpu.logical_cores)
    read = measured.cpu_read_bytes_s or told
    share = fast_share(shape, layout_isa(shape, cpu.isa, multiplier))
    has_vnni = not {"avx512_vnni", "avx_vnni"}.isdisjoint(cpu.isa)
    is_avx2_alone = "avx2" in cpu.isa and not has_vnni
    mix = share + (1 - share) * (PLAIN_SHARE_AVX2 if is_avx2_alone else PLAIN_SHARE)
    int8_share = INT8_SHARE_AVX2 if is_avx2_alone else INT8_SHARE
    most = OUR_SHARE_VNNI if has_vnni else 1.0
    peak = measured.cpu_int8_ops_s
    ops = core_ops_s(cpu.isa, cpu.max_mhz) * threads if peak is None else peak * int8_share
    basis: Basis = "measured" if measured.cpu_read_bytes_s else "nominal" if is_nominal else "assumed"
    return Roof(
        bytes_s=read * CPU_BANDWIDTH_SHARE,
        ops_s=ops * (mix if multiplier == "ggml" else our_share(shape, int8_share * mix, most=most) / int8_share),
        basis=basis,
        layer_s=CPU_LAYER_S,
        row_ops_s=ops * (ROW_SHARE_AVX2 if is_avx2_alone else ROW_SHARE) / int8_share,
        full_tokens=FULL_BATCH_TOKENS if multiplier == "ggml" else OUR_FULL_BATCH_TOKENS,
    )


def our_share(shape: ModelShape, of_ggml: float, *, most: float = 1.0) -> float:
    """What of the int8 peak is reached where we multiply, over the formats of a model; `of_ggml` of those it keeps.

    most: how much of OUR_SHARES can be had on this processor.
    """
    every = shape.layer_bytes + shape.output_bytes
    is_ours = not shape.experts  # ggml multiplies with experts
    ours = {kind: size for kind, size in shape.matrix_bytes.items() if is_ours and kind in OUR_SHARES}
    time = sum(size / (most * OUR_SHARES[kind]) for kind, size in ours.items()) + (every - sum(ours.values())) / of_ggml
    return every / time if every else of_ggml


def fast_share(shape: ModelShape, isa: Collection[str]) -> float:
    """Which share of what is multiplied lies in the fast layout; what has fast kernels of its own counts in part."""
    every = shape.layer_bytes + shape.output_bytes
    tiled = sum(size for kind, size in shape.matrix_bytes.items() if kind in TILED and not is_repacked(kind, isa))
    fast = repacked_bytes(shape, isa) + (TILED_SHARE * tiled if "avx2" in isa else 0)
    return min(1.0, fast / every) if every else 0.0


def gpu_roof(gpus: Collection[Gpu], measured: Measured) -> Roof | None:
    """What GPUs sustain that hold a model's layers one after the other: the mean, for each waits for the one before.

    None where a data sheet is not known and nothing was measured.
    """
    peaks = [gpu_peak(gpu.name) for gpu in gpus]
    known = [peak for peak in peaks if peak is not None]
    if len(known) < len(peaks) or not known:
        if measured.gpu_read_bytes_s is None:
            return None
        # Arithmetic nobody told: 50 operations a byte read is what the slowest of the table have.
        return Roof(
            bytes_s=measured.gpu_read_bytes_s * GPU_BANDWIDTH_SHARE,
            ops_s=measured.gpu_read_bytes_s * 50 * GPU_ARITHMETIC_SHARE,
            basis="measured",
        )
    read = measured.gpu_read_bytes_s or len(known) / sum(1 / peak.bytes_s for peak in known)
    ops = min(peak.ops_s or peak.bytes_s * 50 for peak in known)
    return Roof(
        bytes_s=read * GPU_BANDWIDTH_SHARE,
        ops_s=ops * GPU_ARITHMETIC_SHARE,
        basis="measured" if measured.gpu_read_bytes_s else "nominal",
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """One step's work on one device."""

    bytes: float
    ops: float


def predict_rate(
    shape: ModelShape,
    shares: Collection[tuple[float, Roof]],
    *,
    tokens: int,
    logits: int,
    cells: float,
    kv_type: str = "f16",
) -> tuple[float, Limit]:
    """Predict the tokens a second of a step, and what limits it.

    Args:
        shares: of the model, on devices that compute one after the other. logits: of so many tokens the output layer
            computes. cells: tokens in the cache that the step looks at.
    """
    cell = shape.kv_numbers_per_token * KV_BYTES[kv_type]
    table = shape.embedding_length * shape.vocab_tokens
    work = _Work(shape.read_bytes + cells * cell, 2.0 * (shape.layer_parameters * tokens + table * logits))
    seconds, reading_s = 0.0, 0.0
    for share, roof in shares:
        read_s, count_s = share * work.bytes / roof.bytes_s, share * work.ops / roof.ops_at(tokens)
        seconds += max(read_s, count_s) + share * shape.block_count * roof.layer_s
        reading_s += read_s if read_s >= count_s else 0.0
    return tokens / seconds, "bandwidth" if reading_s * 2 >= seconds else "arithmetic"


def predict_speed(
    shape: ModelShape, shares: Collection[tuple[float, Roof]], *, slots: int, context_tokens: int, kv_type: str = "f16"
) -> Prediction:
    """Predict speeds for layers shared out over devices (share of the model, roof); each step passes all of them."""
    depth = min(DECODE_DEPTH_TOKENS, context_tokens)
    prompt = min(PROMPT_TOKENS, context_tokens)
    prefill, prefill_limit = predict_rate(shape, shares, tokens=prompt, logits=1, cells=prompt / 2, kv_type=kv_type)
    decode, decode_limit = predict_rate(shape, shares, tokens=1, logits=1, cells=depth, kv_type=kv_type)
    together, together_limit = predict_rate(
        shape, shares, tokens=slots, logits=slots, cells=min(slots * depth, context_tokens), kv_type=kv_type
    )
    basis = max((roof.basis for _, roof in shares), key=("measured", "nominal", "assumed").index)
    return Prediction(
        prefill_tok_s=prefill,
        prefill_limit=prefill_limit,
        decode_tok_s=decode,
        decode_limit=decode_limit,
        all_slots_tok_s=together,
        all_slots_limit=together_limit,
        basis=basis,
    )
