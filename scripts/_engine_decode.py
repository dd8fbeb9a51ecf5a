"""How fast is the engine with nothing around it? One greedy stream, every signal on. Started by scripts/_neighbours.py.

Arguments and lines are those of scripts/_bare_decode.py; the seconds of a step are here the time from the first token
to the last over the steps between them: all that the model's thread does for a token but the frame to the gateway.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.backends.base import BackendOptions
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.drafting import Drafter
from hybrid.engine.engine import Engine
from hybrid.engine.pressure import PressureReader
from hybrid.engine.sequence import Sequence
from hybrid.native import SampleParams

CONTEXT_TOKENS, SLOTS = 1_024, 8


def generate(engine: Engine, prompt: list[int], count: int) -> dict[str, list[Any]]:
    """Take the prompt in, then draw `count` tokens, or fewer where the text ends."""
    sequence = Sequence(
        id="one",
        prompt=np.asarray(prompt, dtype=np.int32),
        params=SampleParams(temperature=0.0),
        seed=0,
        max_output_tokens=count,
        detokenizer=Detokenizer(),
    )
    engine.submit(sequence)
    while not sequence.output:
        engine.step()
    started_s, first = time.perf_counter(), len(sequence.output)
    while engine.has_work:
        engine.step()
    steps = max(1, len(sequence.output) - first)
    step_s = (time.perf_counter() - started_s) / steps
    engine.cache.clear()
    return {"steps_s": [step_s] * steps, "tokens": sequence.output}


def main() -> None:
    """Answer lines until there are none."""
    options = BackendOptions(
        model_path=Path(sys.argv[1]),
        threads=int(sys.argv[2]),
        context_tokens=CONTEXT_TOKENS,
        slots=SLOTS,
        has_one_pool=False,
    )
    backend = LlamaCppBackend(options)
    engine = Engine(backend, drafter=Drafter(is_on=False), read_pressure=PressureReader().read)
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(generate(engine, wanted["prompt"], wanted["tokens"])), flush=True)


if __name__ == "__main__":
    main()
