"""What does a grammar cost, to compile and at each token? Run by scripts/bench_grammars on model files.

First random tokens within the masks, without the model: the time of each mask and of each advance. Then eight sequences
decode, free and constrained: the time of a step that is not spent in `llama_decode`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.backends.base import BackendOptions, BatchEntry
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.engine.constraint import Constraint, Grammars
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.engine import Engine
from hybrid.engine.frames import JSON_SPELLING, Grammar
from hybrid.engine.sequence import Sequence
from hybrid.native import SampleParams, sample_row

SEQUENCES = 8
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array", "minItems": 9}},
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SCHEMAS = {
    "any object": {"type": "object"},
    "person": PERSON,
    "800 optional fields": {"type": "object", "properties": {f"field_{n}": PERSON for n in range(800)}},
    "1000 values": {"type": "array", "items": {"enum": [f"value {n}" for n in range(1000)]}, "minItems": 20},
    "10 kB constant": {"const": "all work " * 1100},
}


def grammar_of(schema: dict[str, Any]) -> Grammar:
    """Give a schema as the server compiles it."""
    return Grammar("json_schema", json.dumps({**schema, "x-guidance": JSON_SPELLING}))


def microseconds(taken_s: Seq[float]) -> dict[str, float]:
    """Give median, 99th percentile and maximum."""
    ordered = sorted(taken_s)
    picked = {"p50": statistics.median(ordered), "p99": ordered[len(ordered) * 99 // 100], "max": ordered[-1]}
    return {name: round(value_s * 1e6, 1) for name, value_s in picked.items()}


def follow(
    constraint: Constraint, backend: LlamaCppBackend, seed: int, masks_s: list[float], advances_s: list[float]
) -> None:
    """Draw random tokens that the grammar allows, until it is complete or after a hundred."""
    row = np.random.default_rng(seed).normal(0, 3, backend.facts.vocab_tokens).astype(np.float32)
    for position in range(100):
        started_s = time.perf_counter()
        constraint.prepare()
        masks_s.append(time.perf_counter() - started_s)
        params = SampleParams(temperature=3.0)
        token = sample_row(row, params, seed=seed, position=position, allowed=constraint.allowed).token
        started_s = time.perf_counter()
        constraint.advance(token, is_end=backend.is_end(token))
        advances_s.append(time.perf_counter() - started_s)
        if constraint.is_complete or backend.is_end(token):
            return


def measure_grammar(backend: LlamaCppBackend, grammars: Grammars, schema: dict[str, Any], runs: int) -> dict[str, Any]:
    """Time compiling, masks and advances of one grammar."""
    grammar = grammar_of(schema)
    started_s = time.perf_counter()
    grammars.constraint(grammar)
    compile_s = time.perf_counter() - started_s
    masks_s: list[float] = []
    advances_s: list[float] = []
    for seed in range(runs):
        follow(grammars.constraint(grammar), backend, seed, masks_s, advances_s)
    times = {"mask_us": microseconds(masks_s), "advance_us": microseconds(advances_s)}
    return {"compile_ms": round(compile_s * 1e3, 1), **times, "tokens": len(masks_s)}


def measure_steps(
    backend: LlamaCppBackend, engine: Engine, constraints: Seq[Constraint | None], tokens: int
) -> dict[str, float]:
    """Decode some tokens of each sequence; time each full step's share outside `llama_decode`."""
    decoded_s = 0.0
    decode = backend.decode

    def timed(entries: Seq[BatchEntry]) -> list[Any]:
        nonlocal decoded_s
        started_s = time.perf_counter()
        rows = decode(entries)
        decoded_s = time.perf_counter() - started_s
        return rows

    backend.decode = timed  # type: ignore[method-assign]
    for number, constraint in enumerate(constraints):
        text = f"<|im_start|>user\nTell me of {number + 20} people.<|im_end|>\n<|im_start|>assistant\n"
        prompt = np.asarray(backend.tokenize(text), dtype=np.int32)
        params = SampleParams(temperature=0.7)
        engine.submit(
            Sequence(
                id=str(number),
                prompt=prompt,
                params=params,
                seed=number,
                max_output_tokens=tokens,
                detokenizer=Detokenizer(),
                constraint=constraint,
            )
        )
    outside_s = []
    while engine.has_work:
        started_s = time.perf_counter()
        report = engine.step()
        if len(report.deltas) == len(constraints):
            outside_s.append(time.perf_counter() - started_s - decoded_s)
    backend.decode = decode  # type: ignore[method-assign]
    return microseconds(outside_s)


def measure(path: Path, runs: int, tokens: int) -> dict[str, Any]:
    """Measure one model file, printing as it goes."""
    backend = LlamaCppBackend(BackendOptions(model_path=path, context_tokens=4096, slots=SEQUENCES))
    backend.facts = replace(backend.facts, can_run=False)  # in a run of steps no call's rest belongs to one of them
    started_s = time.perf_counter()
    backend.grammar_tokenizer()
    found: dict[str, Any] = {"model": path.stem, "n_vocab": backend.facts.vocab_tokens}
    found["tokenizer_ms"] = round((time.perf_counter() - started_s) * 1e3)
    print(f"{path.stem}: {found['n_vocab']} tokens, vocabulary described in {found['tokenizer_ms']} ms")
    grammars = Grammars(backend)
    grammars.constraint(grammar_of({"type": "null"}))  # so that no grammar pays for the vocabulary
    found["grammars"] = {name: measure_grammar(backend, grammars, schema, runs) for name, schema in SCHEMAS.items()}
    for name, figures in found["grammars"].items():
        mask, advance = figures["mask_us"], figures["advance_us"]
        print(
            f"  {name:20} compile {figures['compile_ms']:6.1f} ms, mask us {mask['p50']:6.1f} median "
            f"{mask['p99']:8.1f} p99 {mask['max']:9.1f} max, advance us {advance['p50']:5.1f} median"
        )
    engine, constrained = Engine(backend), grammar_of(PERSON)
    found["outside_us"] = {
        "free": measure_steps(backend, engine, [None] * SEQUENCES, tokens),
        "constrained": measure_steps(
            backend, engine, [grammars.constraint(constrained) for _ in range(SEQUENCES)], tokens
        ),
    }
    for name, times in found["outside_us"].items():
        print(f"  {SEQUENCES} {name} sequences: {times['p50']:.0f} us a step outside llama_decode (median)")
    backend.close()
    return found


def main() -> None:
    """Measure each file and write the figures where asked."""
    parser = argparse.ArgumentParser(prog="scripts/bench_grammars", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--runs", type=int, default=20, help="random documents a grammar")
    parser.add_argument("--tokens", type=int, default=60, help="tokens a sequence decodes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    results = [measure(path, options.runs, options.tokens) for path in options.models]
    if options.json is not None:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
