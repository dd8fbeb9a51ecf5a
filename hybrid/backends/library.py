"""Which llama.cpp computes? The installed one, with our matrix multiplication before its own where it is known to fit.

Import `llama` from here and not `llama_cpp`: ours must be in the process first, for the dynamic linker binds a call to
the first definition it meets.
"""

from __future__ import annotations

import ctypes
import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Literal

from hybrid.backends.base import Matmul

FITTING_VERSIONS = ("0.3.36",)
"""Of llama-cpp-python, whose ggml has the functions and structures that native/src/ggml_abi.hpp names.

Before one is added: its ggml-cpu-impl.h and repack.h and the callers in ggml-cpu.c are the same there, and
tests/backends/test_matmul.py passes.
"""
OURS = "libhybrid_matmul.so"
REPLACED = ("ggml_compute_forward_mul_mat_tiled", "ggml_gemm_q4_K_8x8_q8_K", "ggml_gemm_q4_0_8x8_q8_0")
CALLED = ("ggml_barrier", "ggml_threadpool_chunk_set", "ggml_threadpool_chunk_add")
NO_SUPPORT, HAS_VNNI = 0, 2
"""What `hybrid_matmul_support` says of this processor; 1 is one that has all we need, and nothing more of use."""


def _ggml_path() -> Path | None:
    """Where the installed ggml's code for processors lies, if it is a library that ours is known to fit."""
    try:
        version, found = metadata.version("llama-cpp-python"), importlib.util.find_spec("llama_cpp")
    except metadata.PackageNotFoundError:
        return None
    if version not in FITTING_VERSIONS or found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "lib" / "libggml-cpu.so"
    return path if path.is_file() else None


def _put_first(ggml: Path | None) -> ctypes.CDLL | None:
    """Make our functions the first of their names in this process; None where they cannot be, or would not run."""
    built = importlib.util.find_spec("hybrid.native._native")
    if ggml is None or built is None or built.origin is None:
        return None
    path = Path(built.origin).with_name(OURS)
    try:
        ours = ctypes.CDLL(str(path))  # for nobody yet: it may not suit this processor
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) if ours.hybrid_matmul_support() != NO_SUPPORT else None
    except OSError:  # not built: no x86-64 Linux
        return None


def _hand_over(ours: ctypes.CDLL, ggml: Path) -> bool:
    """Give our functions ggml's own, for what they leave to it. False if ggml was in the process first."""
    theirs = ctypes.CDLL(str(ggml))
    ours.hybrid_matmul_install(*(_address(theirs, name) for name in (*REPLACED, *CALLED)))
    first = ctypes.CDLL(None)
    return all(_address(first, name).value == _address(ours, name).value for name in REPLACED)


def _address(library: ctypes.CDLL, name: str) -> ctypes.c_void_p:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p)


_ggml = _ggml_path()
_ours = _put_first(_ggml)

import llama_cpp as llama  # noqa: E402 - after ours, see above

if _ours is not None and _ggml is not None and not _hand_over(_ours, _ggml):
    _ours = None


def choose_matmul(wanted: Matmul) -> Literal["hybrid", "ggml"]:
    """Say who multiplies from now on, in this whole process; give who it is.

    auto: ours where that is faster than ggml's, which is not known of processors with VNNI. ggml where ours cannot be.
    """
    if _ours is None:
        return "ggml"
    is_ours = wanted == "hybrid" or (wanted == "auto" and _ours.hybrid_matmul_support() != HAS_VNNI)
    _ours.hybrid_matmul_switch(int(is_ours))
    return "hybrid" if is_ours else "ggml"


__all__ = ["choose_matmul", "llama"]
