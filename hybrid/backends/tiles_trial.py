"""Does ggml's multiplication with AMX work as it was built? A program of its own: a wrong one ends its process.

python -I tiles_trial.py LIBLLAMA    exits with 0 if it is right or not in use, 1 if its product is wrong

GCC 12's `_tile_loadconfig` lets the compiler leave most of the tiles' configuration unwritten, and then ggml ends
by SIGSEGV at the first prompt of any model, on processors with AMX: llama.cpp's issue 20824. Standard library only.
"""

from __future__ import annotations

import ctypes
import resource
import struct
import sys
from collections.abc import Sequence

NAME = b"AMX"
_F32, _Q8_0 = 0, 8
_ARENA_BYTES = 1 << 20
ROWS, LENGTH, COLUMNS = 64, 64, 5
"""Of weights, a row, and of numbers: a multiple of the tiles' sizes, and more than the one column that needs none."""
_POINTERS = (
    *("init", "new_tensor_2d", "mul_mat", "new_graph"),
    *("backend_cpu_reg", "backend_reg_dev_get", "backend_reg_get_proc_address", "backend_cpu_init"),
    *("backend_alloc_ctx_tensors", "backend_alloc_ctx_tensors_from_buft"),
)
"""Functions that give a pointer, which ctypes would cut to 32 bits."""


class InitParams(ctypes.Structure):
    """`ggml_init_params` of ggml.h."""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def main(library: str) -> int:
    """Multiply something small with a known product as a loaded model would; give the exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ggml = ctypes.CDLL(library)  # the names of what it depends on are found through it
    for name in _POINTERS:
        getattr(ggml, f"ggml_{name}").restype = ctypes.c_void_p
    kind = _buffer_type(ggml)
    if kind is None:
        return 0
    right = [float(LENGTH * (row % 7 + 1) * (column + 1)) for column in range(COLUMNS) for row in range(ROWS)]
    found = _product(ggml, kind)
    return int(any(abs(got - want) > 1e-2 * want for got, want in zip(found, right, strict=True)))


def _buffer_type(ggml: ctypes.CDLL) -> ctypes.c_void_p | None:
    """Where the weights lie that are multiplied with AMX; None where none are."""
    registry = ctypes.c_void_p(ggml.ggml_backend_cpu_reg())
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return None
    ggml.ggml_backend_buft_name.restype = ctypes.c_char_p
    device = ctypes.c_void_p(ggml.ggml_backend_reg_dev_get(registry, ctypes.c_size_t(0)))
    kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
    at = 0
    while kinds and kinds[at]:
        kind = ctypes.c_void_p(kinds[at])
        if ggml.ggml_backend_buft_name(kind) == NAME:
            return kind
        at += 1
    return None


def _product(ggml: ctypes.CDLL, kind: ctypes.c_void_p) -> Sequence[float]:
    """Rows of weights, each of one number, times columns, each of one number: products by column and row."""
    held = ctypes.c_void_p(ggml.ggml_init(InitParams(_ARENA_BYTES, None, True)))
    passing = ctypes.c_void_p(ggml.ggml_init(InitParams(_ARENA_BYTES, None, True)))
    rows, length, columns = (ctypes.c_int64(number) for number in (ROWS, LENGTH, COLUMNS))
    weights = ctypes.c_void_p(ggml.ggml_new_tensor_2d(held, _Q8_0, length, rows))
    ggml.ggml_backend_alloc_ctx_tensors_from_buft(held, kind)
    numbers = ctypes.c_void_p(ggml.ggml_new_tensor_2d(passing, _F32, length, columns))
    product = ctypes.c_void_p(ggml.ggml_mul_mat(passing, weights, numbers))
    backend = ctypes.c_void_p(ggml.ggml_backend_cpu_init())
    ggml.ggml_backend_cpu_set_n_threads(backend, 1)
    ggml.ggml_backend_alloc_ctx_tensors(passing, backend)
    block = (struct.pack("<e", 1.0) + bytes([row % 7 + 1]) * 32 for row in range(ROWS))
    blocks = b"".join(one * (LENGTH // 32) for one in block)
    floats = struct.pack(f"{LENGTH * COLUMNS}f", *(1.0 + at // LENGTH for at in range(LENGTH * COLUMNS)))
    for tensor, data in ((weights, blocks), (numbers, floats)):
        ggml.ggml_backend_tensor_set(tensor, data, ctypes.c_size_t(0), ctypes.c_size_t(len(data)))
    graph = ctypes.c_void_p(ggml.ggml_new_graph(passing))
    ggml.ggml_build_forward_expand(graph, product)
    ggml.ggml_backend_graph_compute(backend, graph)
    out = ctypes.create_string_buffer(4 * ROWS * COLUMNS)
    ggml.ggml_backend_tensor_get(product, out, ctypes.c_size_t(0), ctypes.c_size_t(len(out)))
    return struct.unpack(f"{ROWS * COLUMNS}f", out.raw)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
