#!/usr/bin/env python3
"""What does the starter say greedily, one sequence at a time, with nothing but `llama_decode`? Writes tests/golden.

  .venv/bin/python scripts/make_golden.py MODEL.gguf [--out tests/golden/smollm2-135m.json]

The loop is its own, so that it can contradict the engine: of hybrid/ it takes only how a chat template is rendered.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime as dt
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.backends.library import llama
from hybrid.engine.chat_template import ChatTemplate
from hybrid.gguf import read_header

ROOT = Path(__file__).resolve().parent.parent
BATCH_TOKENS = 512
ANSWER_TOKENS = 32
CONTEXT_TOKENS = 2048
THREADS = 2
CODE = "def add(a, b):\n    return a + b\n\n\nclass Counter:\n    def __init__(self):\n        self.count = 0\n"
STORY = (
    "The lighthouse keeper counted {} ships that night, and wrote their names into the log before the lamp went out. "
)
PROMPTS = {
    "fact": "What is the capital of France?",
    "chat": "Hi! I am planning a picnic for six people. What should I bring?",
    "list": "Name three colours of the rainbow, separated by commas.",
    "sum": "What is 17 + 25? Answer with the number only.",
    "code": f"Add a method that increments the count:\n```python\n{CODE}```",
    "sql": "Write an SQL query that counts the rows of the table `orders` by customer.",
    "unicode": "Übersetze ins Englische: «Größe zählt nicht», sagte 花子. 🚀 Ça va? Ça ira.",
    "json": 'Give {"name": "Ada", "born": 1815} as a sentence.',
    "long": "".join(STORY.format(number) for number in range(2, 32)) + "\nWho counted the ships?",
    "blank": " ",
}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden/smollm2-135m.json")
    options = parser.parse_args()
    llama.llama_log_set(_silence, ctypes.c_void_p(0))
    llama.llama_backend_init()
    loop = Loop(options.model)
    template = ChatTemplate(read_header(options.model).chat_template, bos_text="", eos_text="<|im_end|>")
    answers = []
    for name, text in PROMPTS.items():
        prompt = loop.tokenize(template.render([{"role": "user", "content": text}]))
        answers.append({"name": name, "text": text, "prompt": prompt, **loop.generate(prompt)})
        print(f"{name}: {len(prompt)} tokens, least margin {min(answers[-1]['margins']):.4f} nats")
    provenance = {
        "script": "scripts/make_golden.py",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "model_sha256": hashlib.sha256(options.model.read_bytes()).hexdigest(),
        "llama_cpp_python": llama.__version__,
        "kernels": llama.llama_print_system_info().decode().strip(),
        "machine": f"{platform.machine()}, {THREADS} threads",
    }
    lines = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers)
    options.out.write_text(f'{{"provenance": {json.dumps(provenance, indent=1)},\n"answers": [\n{lines}\n]}}\n')


class Loop:
    """One model in a context of one sequence."""

    def __init__(self, path: Path) -> None:
        self._model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        self._vocab = llama.llama_model_get_vocab(self._model)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = CONTEXT_TOKENS, BATCH_TOKENS, BATCH_TOKENS
        params.n_threads = params.n_threads_batch = THREADS
        self._ctx = llama.llama_init_from_model(self._model, params)
        self._batch = llama.llama_batch_init(BATCH_TOKENS, 0, 1)

    def tokenize(self, text: str) -> list[int]:
        """Turn rendered text into ids."""
        data = text.encode()
        ids = (llama.llama_token * (len(data) + 8))()
        count = llama.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, True)
        return list(ids[:count])

    def generate(self, prompt: list[int]) -> dict[str, list[Any]]:
        """Give the likeliest tokens, the log-probability of each, and how far the second likeliest is behind."""
        llama.llama_memory_clear(llama.llama_get_memory(self._ctx), False)
        row = np.empty(0)
        for start in range(0, len(prompt), BATCH_TOKENS):
            row = self._decode(prompt[start : start + BATCH_TOKENS], start)
        found: dict[str, list[Any]] = {"output": [], "logprobs": [], "margins": []}
        while True:
            token = int(row.argmax())
            second, first = np.partition(row, -2)[-2:]
            found["output"].append(token)
            found["logprobs"].append(round(float(first - np.logaddexp.reduce(row)), 6))
            found["margins"].append(round(float(first - second), 6))
            if len(found["output"]) == ANSWER_TOKENS or llama.llama_vocab_is_eog(self._vocab, token):
                return found
            row = self._decode([token], len(prompt) + len(found["output"]) - 1)

    def _decode(self, tokens: list[int], position: int) -> Any:
        batch = self._batch
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row] = token, position + row
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
            batch.logits[row] = row == len(tokens) - 1
        batch.n_tokens = len(tokens)
        if llama.llama_decode(self._ctx, batch):
            raise SystemExit(f"llama_decode failed at position {position}")
        row = llama.llama_get_logits_ith(self._ctx, len(tokens) - 1)
        return np.ctypeslib.as_array(row, shape=(llama.llama_vocab_n_tokens(self._vocab),)).astype(np.float64)


@llama.llama_log_callback
def _silence(_level: int, _text: bytes, _data: Any) -> None:
    """Keep llama.cpp's chatter off stderr."""


if __name__ == "__main__":
    main()
