"""What does our matrix multiplication gain beside ggml's? Run by scripts/bench_matmul on model files.

Each model is loaded by a fresh process and measured as `hybrid bench` does it, once with each multiplier in every
round; the ratios are of a round's two figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

from hybrid.backends.matmul import Multiplier, multiplier_version, who_multiplies
from hybrid.devices.measure import measure_model
from hybrid.devices.speed import SpeedPlan
from hybrid.wiring import BARRIER_SPINS

PROMPTS = (16, 64, 175, 512)
SEQUENCES = (1, 2, 4, 8, 16)
MULTIPLIERS: tuple[Multiplier, ...] = ("ggml", "hybrid")


def measure(model: Path, multiplier: Multiplier) -> dict[str, float]:
    """Give tokens a second by what was computed: `prefill 175`, `decode 8`."""
    plan = SpeedPlan(
        model_path=str(model),
        context_tokens=1024,
        prefill_tokens=PROMPTS,
        decode_sequences=SEQUENCES,
        first_token_prompt=None,
        rounds=3,
        matmul=multiplier,
    )
    speed = measure_model(plan, environment={"GOMP_SPINCOUNT": BARRIER_SPINS, **os.environ})
    prefill = {f"prefill {tokens}": figure.median for tokens, figure in speed.prefill_tok_s.items()}
    return prefill | {f"decode {count}": figure.median for count, figure in speed.decode_tok_s.items()}


def compare(model: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Give both multipliers' figures of each round, and the ratios, by what was computed."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        in_turn = MULTIPLIERS if number % 2 == 0 else MULTIPLIERS[::-1]
        figures = {multiplier: measure(model, multiplier) for multiplier in in_turn}
        for name, ours in figures["hybrid"].items():
            row = found.setdefault(name, {"ggml_tok_s": [], "hybrid_tok_s": [], "ratio": []})
            theirs = figures["ggml"][name]
            row["ggml_tok_s"].append(theirs)
            row["hybrid_tok_s"].append(ours)
            row["ratio"].append(round(ours / theirs, 3))
    return found


def main() -> int:
    """Compare, print a table, and write what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if who_multiplies("hybrid") != "hybrid":
        print("our matrix multiplication cannot be had here: it needs Linux, x86-64, AVX2, and a llama.cpp it fits")
        return 1
    models: dict[str, Any] = {}
    for model in options.model:
        models[model.stem] = rows = compare(model, options.rounds)
        print(model.stem)
        for name, row in rows.items():
            ours, theirs, ratio = (statistics.median(row[key]) for key in ("hybrid_tok_s", "ggml_tok_s", "ratio"))
            spread = f"[{min(row['ratio']):.2f}, {max(row['ratio']):.2f}]"
            print(f"  {name:12} ours {ours:7.1f} | ggml {theirs:7.1f} tok/s | ratio {ratio:.2f} {spread}", flush=True)
    if options.json is not None:
        told = {
            "command": " ".join(["scripts/bench_matmul", *(Path(word).name for word in sys.argv[1:])]),
            "date": date.today().isoformat(),  # noqa: DTZ011 - the reader's day
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "multiplier": multiplier_version(),
            "models": models,
        }
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
