"""How fast is llama.cpp with nothing around it? A greedy one-sequence loop. Started by scripts/_neighbours.py.

Arguments: MODEL THREADS. Reads lines {"prompt": ids, "tokens": n}; answers {"steps_s": seconds of each decode of one
token, "tokens": ids}. Prompt and model setup are those of the engine; the environment is the caller's own.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

import llama_cpp as llama
import numpy as np

MICRO_BATCH_TOKENS = 512


class Loop:
    """One model in one context."""

    def __init__(self, path: str, threads: int) -> None:
        llama.llama_log_set(_silence, ctypes.c_void_p(0))
        llama.llama_backend_init()
        model_params = llama.llama_model_default_params()
        model_params.n_gpu_layers = 9_999 if llama.llama_supports_gpu_offload() else 0
        model = llama.llama_model_load_from_file(path.encode(), model_params)
        self._vocab_tokens = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 2_048, MICRO_BATCH_TOKENS, MICRO_BATCH_TOKENS
        params.n_threads = params.n_threads_batch = threads or len(os.sched_getaffinity(0))
        self._ctx = llama.llama_init_from_model(model, params)
        self._batch = llama.llama_batch_init(MICRO_BATCH_TOKENS, 0, 1)

    def generate(self, prompt: list[int], count: int) -> dict[str, list[Any]]:
        """Take the prompt in, then draw `count` tokens; time each decode after the first."""
        llama.llama_memory_clear(llama.llama_get_memory(self._ctx), False)
        for start in range(0, len(prompt), MICRO_BATCH_TOKENS):
            self._decode(prompt[start : start + MICRO_BATCH_TOKENS], start)
        tokens, steps_s = [self._likeliest(min(len(prompt), (len(prompt) - 1) % MICRO_BATCH_TOKENS + 1))], []
        for position in range(len(prompt), len(prompt) + count - 1):
            steps_s.append(self._decode(tokens[-1:], position))
            tokens.append(self._likeliest(1))
        return {"steps_s": steps_s, "tokens": tokens}

    def _decode(self, tokens: list[int], position: int) -> float:
        batch = self._batch
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row] = token, position + row
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
            batch.logits[row] = row == len(tokens) - 1
        batch.n_tokens = len(tokens)
        started_s = time.perf_counter()
        status = llama.llama_decode(self._ctx, batch)
        llama.llama_synchronize(self._ctx)
        elapsed_s = time.perf_counter() - started_s
        if status:
            raise SystemExit(f"llama_decode: status {status}")
        return elapsed_s

    def _likeliest(self, rows: int) -> int:
        row = llama.llama_get_logits_ith(self._ctx, rows - 1)
        return int(np.ctypeslib.as_array(row, shape=(self._vocab_tokens,)).argmax())


@llama.llama_log_callback
def _silence(_level: int, _text: bytes, _data: Any) -> None:
    """Keep llama.cpp's chatter off stderr."""


def main() -> None:
    """Answer lines until there are none."""
    loop = Loop(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(loop.generate(wanted["prompt"], wanted["tokens"])), flush=True)


if __name__ == "__main__":
    main()
