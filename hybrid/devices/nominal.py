"""How fast is a device by its maker's data sheet? Pure; an unknown device is None, not an average.

Bandwidths and dense 16-bit rates (tensor cores, 32-bit accumulation where the maker tells it apart) follow the makers'
published specifications, rounded; they were written down in November 2026 without looking each up again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GB, TERA = 1e9, 1e12


@dataclass(frozen=True, slots=True)
class Peak:
    """What a device can do at most: bytes a second from its memory, operations a second (a multiplication and an
    addition are two)."""

    bytes_s: float
    ops_s: float | None


GPUS: tuple[tuple[str, float, float | None], ...] = (
    (r"\bH200", 4800, 989),
    (r"H100.*PCIe", 2000, 756),
    (r"H100|GH200", 3350, 989),
    (r"\bA100\b.*40GB", 1555, 312),
    (r"\bA100(?!\d)", 1935, 312),
    (r"L40S", 864, 362),
    (r"\bL4\b", 300, 121),
    (r"\bA10\b|\bA10G\b", 600, 125),
    (r"\bT4\b", 320, 65),
    (r"V100", 900, 112),
    (r"RTX 5090", 1792, 210),
    (r"RTX 5080", 960, 112),
    (r"RTX 4090", 1008, 165),
    (r"RTX 4080", 717, 97),
    (r"RTX 4070 Ti", 504, 80),
    (r"RTX 4070", 504, 58),
    (r"RTX 4060", 272, 30),
    (r"RTX 3090", 936, 71),
    (r"RTX 3080", 760, 59),
    (r"RTX 3060", 360, 25),
    (r"Orin", 204, 42),
    (r"MI300X", 5300, 1307),
    (r"MI210", 1638, 181),
    (r"7900 XTX", 960, 122),
    (r"7900 XT\b", 800, 103),
    (r"6[89]00 XT", 512, 41),
    (r"Arc.*A770", 560, 138),
    (r"Arc.*B580", 456, 117),
    (r"M1 Ultra|M2 Ultra", 800, 21),
    (r"M1 Max|M2 Max", 400, 10.4),
    (r"M1 Pro|M2 Pro", 200, 5.2),
    (r"M3 Max", 300, 14),
    (r"M3 Pro", 150, 7),
    (r"M4 Max", 410, 17),
    (r"M4 Pro", 273, 9),
    (r"Apple M1\b", 68, 2.6),
    (r"Apple M[23]\b", 100, 3.5),
    (r"Apple M4\b", 120, 4.3),
)
"""Name, GB/s, TFLOP/s; the first that matches. Where a name means several versions, the slowest."""
BOARDS: tuple[tuple[str, float], ...] = ((r"Raspberry Pi 5", 17.1), (r"Raspberry Pi 4", 12.8))
"""Single-board computers with one kind of memory: GB/s of it."""

OPS_PER_CYCLE: tuple[tuple[str, float], ...] = (
    ("amx_int8", 60), ("avx512_vnni", 20), ("avx_vnni", 20), ("avx2", 18),
    ("i8mm", 20), ("dotprod", 12), ("avx", 5), ("neon", 4),
)  # fmt: skip
"""What a core's int8 kernels reach in a cycle on repacked matrices; plain ones about half.

Calibrated on one 2-core AVX-512 machine at 2.6 GHz (18 on Q4_0, 9 on Q4_1 and 16 on Q5_0 were seen); the others scaled
by the width of their dot product. An estimate until `hybrid bench` has measured.
"""
PLAIN_SHARE = 0.55
UNKNOWN_CLOCK_HZ = 2.0e9
ASSUMED_CORE_BYTES_S, ASSUMED_CPU_BYTES_S, ASSUMED_SERVER_BYTES_S = 6 * GB, 20 * GB, 120 * GB
"""For a CPU nobody measured: what a core draws, and what a desktop's or a server's memory gives. On the low side."""
SERVER_CORES = 32


def gpu_peak(name: str) -> Peak | None:
    """Look a GPU up by its name."""
    for pattern, gigabytes_s, tera_ops in GPUS:
        if re.search(pattern, name, re.IGNORECASE):
            return Peak(gigabytes_s * GB, None if tera_ops is None else tera_ops * TERA)
    return None


def cpu_bytes_s(board: str | None, model: str | None, cores: int, logical_cores: int | None) -> tuple[float, bool]:
    """Estimate a CPU's memory bandwidth; the second says whether it is its data sheet's, or only assumed."""
    for pattern, gigabytes_s in BOARDS:
        if re.search(pattern, board or ""):
            return gigabytes_s * GB, True
    # Apple's processors and GPUs have one name and one memory; other names mean another thing here: AMD's A10 is a CPU.
    apple = gpu_peak(model) if model is not None and model.startswith("Apple") else None
    if apple is not None:
        return apple.bytes_s, True
    roof = ASSUMED_SERVER_BYTES_S if (logical_cores or 0) >= SERVER_CORES else ASSUMED_CPU_BYTES_S
    return min(max(cores, 1) * ASSUMED_CORE_BYTES_S, roof), False


def core_ops_s(isa: tuple[str, ...], max_mhz: float | None) -> float:
    """Estimate what one core's repacked int8 kernels reach, in operations a second."""
    per_cycle = next((ops for name, ops in OPS_PER_CYCLE if name in isa), 1.0)
    return per_cycle * (UNKNOWN_CLOCK_HZ if max_mhz is None else max_mhz * 1e6)
