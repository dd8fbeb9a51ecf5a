"""One multiplication by ggml itself, as a model's graph has it: quantised weights, columns of floats, some threads."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hybrid.backends.matmul import find_pair

Array = NDArray[np.float32]
TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_K": 10, "q4_K": 12, "q5_K": 13, "q6_K": 14}
BLOCKS = {"q2_K": 256, "q4_K": 256, "q5_K": 256, "q6_K": 256}
ARENA_BYTES = 64 << 20


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


@cache
def ggml() -> ctypes.CDLL:
    """The library's code for processors, in which names of ggml-base are found too."""
    pair = find_pair()
    assert pair is not None
    library = ctypes.CDLL(str(pair.ggml))
    for name in ("init", "new_tensor_2d", "new_tensor_3d", "mul_mat", "new_graph", "get_data"):
        getattr(library, f"ggml_{name}").restype = ctypes.c_void_p
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_row_size.restype = ctypes.c_size_t
    return library


def quantise(kind: str, weights: Array) -> NDArray[np.uint8]:
    """ggml's own quantisation of rows; its bytes."""
    rows, length = weights.shape
    out = np.zeros(rows * int(ggml().ggml_row_size(TYPES[kind], ctypes.c_int64(length))), dtype=np.uint8)
    floats = np.ascontiguousarray(weights, dtype=np.float32)
    ggml().ggml_quantize_chunk(
        TYPES[kind], floats.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(length), None,
    )  # fmt: skip
    return out


def dequantise(kind: str, data: NDArray[np.uint8], shape: tuple[int, int]) -> Array:
    """The weights that these bytes stand for, by ggml."""
    out = np.zeros(shape, dtype=np.float32)
    getattr(ggml(), f"dequantize_row_{kind}")(
        data.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size)
    )
    return out


def multiply(kind: str, data: NDArray[np.uint8], rows: int, columns: Array, *, threads: int = 2) -> Array:
    """Let ggml compute columns [..., length] times weights [rows, length]: [..., rows]."""
    library, length = ggml(), columns.shape[-1]
    context = ctypes.c_void_p(library.ggml_init(_InitParams(ARENA_BYTES, None, False)))
    try:
        sizes = [ctypes.c_int64(size) for size in reversed(columns.shape)]
        make = library.ggml_new_tensor_2d if len(sizes) == 2 else library.ggml_new_tensor_3d
        weights = ctypes.c_void_p(
            library.ggml_new_tensor_2d(context, TYPES[kind], ctypes.c_int64(length), ctypes.c_int64(rows))
        )
        numbers = ctypes.c_void_p(make(context, 0, *sizes))
        product = ctypes.c_void_p(library.ggml_mul_mat(context, weights, numbers))
        floats = np.ascontiguousarray(columns, dtype=np.float32)
        ctypes.memmove(library.ggml_get_data(weights), data.ctypes.data, data.nbytes)
        ctypes.memmove(library.ggml_get_data(numbers), floats.ctypes.data, floats.nbytes)
        graph = ctypes.c_void_p(library.ggml_new_graph(context))
        library.ggml_build_forward_expand(graph, product)
        assert library.ggml_graph_compute_with_ctx(context, graph, threads) == 0
        out = np.empty((*columns.shape[:-1], rows), dtype=np.float32)
        ctypes.memmove(out.ctypes.data, library.ggml_get_data(product), out.nbytes)
        return out
    finally:
        library.ggml_free(context)
