"""How is a GGUF written again in another format? llama.cpp's own quantiser, through llama_cpp's low-level bindings."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from hybrid.backends.library import llama
from hybrid.backends.llama_cpp import forward_log
from hybrid.errors import ModelFileError
from hybrid.gguf import read_header
from hybrid.gguf_format import FILE_TYPES

FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}
Q8_0_TENSOR = 8
"""ggml's number of Q8_0 as a tensor's type."""


def requantise(source: Path, target: Path, format_name: str, *, threads: int = 0) -> None:
    """Write `source` in another format as `target`, and have it on the disk when this returns.

    The weights are read as they were shipped, so a source of four bits gives back no more than its four bits in any
    format. Where a format's blocks do not fit a tensor's rows, llama.cpp takes another of about its size for that
    tensor. Of F16 the vocabulary is kept as Q8_0, in which files of four bits have it already: the matrix that is read
    whole for each token. Whoever calls gives `target` a name that nothing loads, and another when it has been judged.

    Args:
        format_name: as in `hybrid.gguf_format.FILE_TYPES`, such as `Q4_0`. threads: 0 takes every core.
    Raises: ModelFileError if the source is no sound GGUF, the format unknown, or the quantiser or the disk refuses.
    """
    read_header(source)
    if format_name not in FILE_TYPE_NUMBERS:
        raise ModelFileError(f"{format_name!r} is no format; there is: {', '.join(FILE_TYPE_NUMBERS)}")
    llama.llama_log_set(forward_log, ctypes.c_void_p(0))
    llama.llama_backend_init()
    params = llama.llama_model_quantize_default_params()
    params.ftype = FILE_TYPE_NUMBERS[format_name]
    params.allow_requantize = True
    if format_name == "F16":
        params.token_embedding_type = params.output_tensor_type = Q8_0_TENSOR
    params.nthread = threads or len(os.sched_getaffinity(0))
    status = int(llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)))
    if status != 0:
        raise ModelFileError(f"llama.cpp cannot write {source.name} as {format_name} (status {status})")
    try:
        with target.open("rb") as file:
            os.fsync(file.fileno())
        # The disk may have been full without the quantiser's noticing: the header knows how long the file must be.
        read_header(target)
    except OSError as failed:
        raise ModelFileError(f"{target} cannot be kept: {failed.strerror}") from failed
