"""Who multiplies a quantised model: we (native/src/matmul_compute.hpp), or ggml? Loads no llama.cpp to know it.

Ours is for Linux on x86-64 with AVX2. It replaces functions inside ggml, so it fits the versions that it was tried with
and no other.
"""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

Matmul: TypeAlias = Literal["auto", "hybrid", "ggml"]
Multiplier: TypeAlias = Literal["hybrid", "ggml"]
VERSION = 2
"""Raised when ours becomes faster or slower, so that what was measured and tuned with the last one is known for old."""
FITTING_VERSIONS = ("0.3.36",)
"""Of llama-cpp-python, whose ggml has the functions and structures that native/src/ggml_abi.hpp names.

Before one is added: its ggml-cpu-impl.h and repack.h and the callers in ggml-cpu.c are the same there, and
tests/backends/test_matmul.py passes.
"""
_LIBRARY = "libhybrid_matmul.so"


@dataclass(frozen=True, slots=True)
class Pair:
    """Our library, and that of ggml which it goes before."""

    ours: Path
    ggml: Path


@cache
def find_pair() -> Pair | None:
    """Find both libraries, if ours is built, fits the other, and runs on this processor."""
    built, ggml = importlib.util.find_spec("hybrid.native._native"), _fitting_ggml()
    if ggml is None or built is None or built.origin is None:
        return None
    ours = Path(built.origin).with_name(_LIBRARY)
    try:
        runs_here = bool(ctypes.CDLL(str(ours)).hybrid_matmul_support())
    except OSError:  # not built: no x86-64 Linux
        return None
    return Pair(ours, ggml) if runs_here else None


def _fitting_ggml() -> Path | None:
    try:
        version, package = metadata.version("llama-cpp-python"), importlib.util.find_spec("llama_cpp")
    except metadata.PackageNotFoundError:
        return None
    if version not in FITTING_VERSIONS or package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "lib" / "libggml-cpu.so"
    return path if path.is_file() else None


def who_multiplies(wanted: Matmul = "auto") -> Multiplier:
    """Say who would: ggml wherever ours cannot be had, whatever is wanted. What lies in AMX's layout is always its."""
    return "ggml" if wanted == "ggml" or find_pair() is None else "hybrid"


def multiplier_version() -> str:
    """Name who multiplies where nothing is configured, and in which version: speeds depend on it."""
    return f"hybrid {VERSION}" if who_multiplies() == "hybrid" else "ggml"
