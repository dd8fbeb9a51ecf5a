"""How are a model and its context made? The library's parameters from ours."""

from __future__ import annotations

from typing import Any

from hybrid.backends.base import BackendOptions
from hybrid.backends.library import llama, wants_layouts
from hybrid.errors import ModelFileError
from hybrid.gguf import GgufHeader

ALL_LAYERS = 9_999
EMBEDDER_CELLS = 64
"""The context for generating, of a model that never does: llama.cpp's own least is about this."""
CACHE_FORMATS = {
    "f32": 0, "bf16": 30, "f16": 1, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "iq4_nl": 20, "q4_0": 2,
}  # fmt: skip
"""What the KV cache can be kept in, with ggml's number (`ggml_type`), which never changes, for files hold it."""


def load_model(header: GgufHeader, options: BackendOptions) -> Any:
    """Read a model's weights.

    Raises: ModelFileError if llama.cpp cannot.
    """
    params = llama.llama_model_default_params()
    path, wanted = options.model_path, ALL_LAYERS if options.gpu_layers is None else options.gpu_layers
    params.use_extra_bufts = wants_layouts(header, options.matmul)
    params.n_gpu_layers = wanted if llama.llama_supports_gpu_offload() else 0
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ModelFileError(
            f"{path.name} has a sound header, but llama.cpp cannot load it: its architecture or format may be newer "
            "than the installed llama-cpp-python, or there is too little memory"
        )
    return model


def make_context(model: Any, options: BackendOptions, context_tokens: int, threads: int) -> Any:
    """Set aside what computing takes: cache, buffers, threads.

    Raises: ModelFileError if there is too little memory, ValueError for a cache format there is not.
    """
    params = llama.llama_context_default_params()
    most = int(llama.llama_max_parallel_sequences())
    if options.is_embedder:
        params.n_ctx, params.n_seq_max = min(context_tokens, EMBEDDER_CELLS), 1
    elif options.has_one_pool:
        params.n_ctx, params.n_seq_max = context_tokens, min(options.slots + options.idle_sequences, most)
    else:
        params.n_ctx, params.n_seq_max = context_tokens * options.slots, min(options.slots, most)
    # llama.cpp aborts where a batch could not hold a token of each sequence.
    params.n_batch = params.n_ubatch = max(options.batch_tokens, params.n_seq_max)
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = options.has_one_pool
    params.type_k, params.type_v = _cache_type(options.key_cache), _cache_type(options.value_cache)
    if options.flash_attention is not None:
        params.flash_attn_type = (
            llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if options.flash_attention else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
    ctx = llama.llama_init_from_model(model, params)
    if not ctx:
        raise ModelFileError(
            f"llama.cpp could not make a context of {context_tokens} tokens; lower local.context_tokens or free memory"
        )
    return ctx


def _cache_type(name: str) -> int:
    if name not in CACHE_FORMATS:
        raise ValueError(f"no KV cache format {name!r}; there are {', '.join(CACHE_FORMATS)}")
    return CACHE_FORMATS[name]
