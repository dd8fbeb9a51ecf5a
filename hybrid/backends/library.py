"""Which llama.cpp computes? The installed one, with our matrix multiplication before its own where that fits.

Import `llama` from here and not `llama_cpp`: ours must be in the process first, for the dynamic linker binds a call to
the first definition it meets.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import subprocess
import sys
from collections import Counter
from functools import cache

from hybrid.backends import tiles_trial
from hybrid.backends.matmul import Matmul, Multiplier, Pair, find_pair, who_multiplies
from hybrid.gguf import GgufHeader
from hybrid.gguf_format import is_mostly_k_quants

log = logging.getLogger(__name__)

REPLACED = ("ggml_compute_forward_mul_mat_tiled", "ggml_gemm_q4_K_8x8_q8_K", "ggml_gemm_q4_0_8x8_q8_0")
CALLED = ("ggml_barrier", "ggml_threadpool_chunk_set", "ggml_threadpool_chunk_add")
_F32, _Q8_0 = 0, 8
_TRIAL_BYTES, _ROWS, _COLUMNS, _LENGTH = 1 << 20, 9, 5, 32
_VNNI = 2
"""The version of our multiplication that uses it, and all above (native/src/matmul_hook.cpp)."""
_HAS_TILES = b"AMX_INT8 = 1"
"""What llama.cpp says of itself where it was built for a processor with AMX."""
_TILES_LIMIT_S = 60.0


def _put_first(pair: Pair | None) -> ctypes.CDLL | None:
    return None if pair is None else ctypes.CDLL(str(pair.ours), mode=ctypes.RTLD_GLOBAL)


def _fits(ours: ctypes.CDLL, theirs: ctypes.CDLL, pair: Pair) -> bool:
    """Give our functions ggml's own, for what they leave to it, and see that they are called and right.

    The library in the process may be another than the package's own (LD_LIBRARY_PATH, LLAMA_CPP_LIB_PATH), or hide
    its names.
    """
    hidden = [name for name in (*REPLACED, *CALLED) if not hasattr(theirs, name)]
    if not hidden:
        addresses = (ctypes.cast(getattr(theirs, name), ctypes.c_void_p) for name in (*REPLACED, *CALLED))
        ours.hybrid_matmul_install(*addresses)
    try:
        ctypes.CDLL(str(pair.ggml), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    return not hidden and _proves_itself(ours, theirs)


def _proves_itself(ours: ctypes.CDLL, theirs: ctypes.CDLL) -> bool:
    """Have ggml multiply what has a known product: does it come to ours, and is the product right?

    A library that was linked in another way keeps to its own functions, and nothing else would tell.
    """
    ours.hybrid_matmul_switch(1)
    calls = int(ours.hybrid_matmul_calls())
    products = _trial(theirs)
    ours.hybrid_matmul_switch(0)
    right = [float(_LENGTH * (row + 1) * (column + 1)) for column in range(_COLUMNS) for row in range(_ROWS)]
    is_right = all(abs(got - want) <= 1e-3 * want for got, want in zip(products, right, strict=True))
    return is_right and int(ours.hybrid_matmul_calls()) > calls


def _trial(ggml: ctypes.CDLL) -> tuple[float, ...]:
    """Nine rows of weights, each of one number, times five columns, each of one number: products by column and row."""
    for name in ("init", "new_tensor_2d", "mul_mat", "new_graph", "get_data"):
        getattr(ggml, f"ggml_{name}").restype = ctypes.c_void_p
    context = ctypes.c_void_p(ggml.ggml_init(tiles_trial.InitParams(_TRIAL_BYTES, None, False)))
    length, rows, columns = (ctypes.c_int64(number) for number in (_LENGTH, _ROWS, _COLUMNS))
    weights = ctypes.c_void_p(ggml.ggml_new_tensor_2d(context, _Q8_0, length, rows))
    numbers = ctypes.c_void_p(ggml.ggml_new_tensor_2d(context, _F32, length, columns))
    product = ctypes.c_void_p(ggml.ggml_mul_mat(context, weights, numbers))
    blocks = b"".join(struct.pack("<e", 1.0) + bytes([row + 1]) * _LENGTH for row in range(_ROWS))
    floats = struct.pack(f"{_LENGTH * _COLUMNS}f", *(1.0 + at // _LENGTH for at in range(_LENGTH * _COLUMNS)))
    ctypes.memmove(ggml.ggml_get_data(weights), blocks, len(blocks))
    ctypes.memmove(ggml.ggml_get_data(numbers), floats, len(floats))
    graph = ctypes.c_void_p(ggml.ggml_new_graph(context))
    ggml.ggml_build_forward_expand(graph, product)
    ggml.ggml_graph_compute_with_ctx(context, graph, 1)
    got = ctypes.string_at(ggml.ggml_get_data(product), 4 * _ROWS * _COLUMNS)
    ggml.ggml_free(context)
    return struct.unpack(f"{_ROWS * _COLUMNS}f", got)


_pair = find_pair() if "llama_cpp" not in sys.modules else None
_ours = _put_first(_pair)

import llama_cpp as llama  # noqa: E402 - after ours, see above

# The names of its dependencies are found through libllama's handle: of those that compute, whichever they are.
if _ours is not None and _pair is not None and not _fits(_ours, llama.llama_cpp._lib, _pair):
    log.warning("ggml multiplies alone: our matrix multiplication does not fit the libraries of llama-cpp-python here")
    _ours = None

_users: list[Multiplier] = []
"""Who multiplies for each open model. While there is one, nothing is switched: threads of a graph must see the same."""


def choose_multiplier(wanted: Matmul) -> Multiplier:
    """Have ours multiply in this whole process, or ggml, until the last `release_multiplier`; give who it is.

    The first open model decides for those after it.
    """
    multiplier = _would_multiply(wanted)
    if not _users and _ours is not None:
        _ours.hybrid_matmul_switch(int(multiplier == "hybrid"))
    _users.append(multiplier)
    return multiplier


def _would_multiply(wanted: Matmul) -> Multiplier:
    if _users:
        return _users[0]
    return who_multiplies(wanted) if _ours is not None else "ggml"


def release_multiplier() -> None:
    """A model is closed."""
    _users.pop()


@cache
def has_sound_tiles() -> bool:
    """Whether llama.cpp may multiply with AMX, or was not built to: found out in a process that may die of it."""
    if _HAS_TILES not in llama.llama_print_system_info():
        return True
    command = [sys.executable, "-I", tiles_trial.__file__, llama.llama_cpp._lib._name]
    try:
        status = subprocess.run(command, capture_output=True, timeout=_TILES_LIMIT_S).returncode
    except (OSError, subprocess.TimeoutExpired) as failed:
        log.warning("llama.cpp computes without AMX: it cannot be tried whether it is sound: %s", failed)
        return False
    if status != 0:
        log.warning(
            "llama.cpp computes without AMX: the installed one fails at it (%s), as builds by GCC 12 do; "
            "scripts/serve of the source tree makes one that works",
            f"signal {-status}" if status < 0 else "wrong products",
        )
    return status == 0


def wants_layouts(header: GgufHeader, wanted: Matmul) -> bool:
    """Whether llama.cpp shall keep this model's weights in layouts of its kernels' own, AMX's among them.

    Not where it was built for AMX and that is unsound here, or beside our multiplication with VNNI where most weights
    are K-quants: ggml unpacks those anew for every 32 columns, ours once for all. wanted: as for `choose_multiplier`.
    """
    if _HAS_TILES not in llama.llama_print_system_info():
        return True
    sizes_bytes: Counter[str] = Counter()
    has_experts = False  # whose matrices are always ggml's
    for tensor in header.tensors:
        if len(tensor.shape) > 1 and tensor.name != "token_embd.weight":
            sizes_bytes[tensor.type_name] += tensor.size_bytes
            has_experts |= "_exps." in tensor.name
    has_vnni = _ours is not None and int(_ours.hybrid_matmul_support()) >= _VNNI
    is_ours = has_vnni and not has_experts and _would_multiply(wanted) == "hybrid"
    return not (is_ours and is_mostly_k_quants(sizes_bytes)) and has_sound_tiles()


__all__ = ["choose_multiplier", "has_sound_tiles", "llama", "release_multiplier", "wants_layouts"]
