"""What does measuring and sampling one row cost, in the extension and in its twin? Run by scripts/bench_native.

Times single calls on one thread, on two made-up rows a vocabulary: `sure`, where a dozen tokens hold 95 % of the
probability, and `unsure`, where thousands do. No model is needed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from hybrid.native import SampleParams, reference

VOCABULARIES = {"SmolLM2": 49_152, "Qwen2.5": 151_936}
CASES = {
    "greedy": SampleParams(temperature=0),
    "top_k 40, top_p, min_p": SampleParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
    "top_p 0.95 only": SampleParams(temperature=0.8, top_p=0.95),
}


def row_of(n_vocab: int, kind: str) -> np.ndarray:
    """Make a row of logits; `sure` lifts a dozen tokens far above the rest."""
    random = np.random.default_rng(n_vocab)
    row = random.normal(0, 2.5, n_vocab).astype(np.float32)
    if kind == "sure":
        row[random.integers(0, n_vocab, 12)] = random.uniform(20, 24, 12).astype(np.float32)
    return row


def call_us(native: ModuleType, row: np.ndarray, params: SampleParams, calls: int) -> dict[str, float]:
    """Time `calls` calls one by one, after ten to warm up; microseconds."""
    taken = []
    for position in range(-10, calls):
        start = time.perf_counter_ns()
        native.sample_row(row, params, seed=1, position=position + 10)
        taken.append((time.perf_counter_ns() - start) / 1e3)
    taken = sorted(taken[10:])
    return {"p50_us": round(statistics.median(taken), 1), "p99_us": round(taken[len(taken) * 99 // 100], 1)}


def measure(calls: int) -> Iterator[dict[str, Any]]:
    """Yield one result a vocabulary, row and case: the extension's times, the twin's, and how many times faster."""
    from hybrid.native import _native

    for model, n_vocab in VOCABULARIES.items():
        for kind in ("sure", "unsure"):
            row = row_of(n_vocab, kind)
            for case, params in CASES.items():
                native = call_us(_native, row, params, calls)
                twin = call_us(reference, row, params, max(3, calls // 20))
                yield {
                    "n_vocab": n_vocab,
                    "model": model,
                    "row": kind,
                    "case": case,
                    "native": native,
                    "twin": twin,
                    "speedup": round(twin["p50_us"] / native["p50_us"], 1),
                }


def cpu_name() -> str:
    """Name the processor as the system does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> int:
    """Print the table, and with --json write the figures and the machine they come from."""
    parser = argparse.ArgumentParser(prog="scripts/bench_native", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=500, help="timed calls a case; the twin gets a 20th")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    results = []
    print(f"{'n_vocab':>7}  {'row':6}  {'case':22}  {'native p50':>10}  {'p99':>8}  {'twin p50':>9}  {'speedup':>7}")
    for result in measure(options.calls):
        results.append(result)
        native, twin = result["native"], result["twin"]
        print(
            f"{result['n_vocab']:>7}  {result['row']:6}  {result['case']:22}  {native['p50_us']:>7} us"
            f"  {native['p99_us']:>5} us  {twin['p50_us']:>6.0f} us  {result['speedup']:>6}x",
            flush=True,
        )
    if options.json:
        machine = {"cpu": cpu_name(), "python": platform.python_version(), "numpy": np.__version__}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
