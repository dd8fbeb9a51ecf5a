"""Do the latency policy's benchmarks still run, and write what they say?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _run(tmp_path: Path, *command: str) -> dict:
    out = tmp_path / "figures.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command, "--json", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(out.read_text(encoding="utf-8"))


def test_bench_policy_times_each_decision(tmp_path):
    """Every case has a median, and the bound they are held against is in the record."""
    record = _run(tmp_path, "scripts/bench_policy.py", "--calls", "20")

    assert 50.0 == record["bound_us"]
    assert len(record["us"]) >= 10
    assert all(0 < figures["min"] <= figures["p50"] <= figures["p99"] for figures in record["us"].values())


def test_bench_overload_puts_the_same_load_on_each_policy(tmp_path):
    """A short run of two policies: every request is counted, answered, and in one of the routes."""
    record = _run(tmp_path, "-m", "scripts.bench_overload", "--seconds", "1.5", "--only", "off", "--only", "both")

    off, both = record["policies"]["off"], record["policies"]["both"]
    assert off["requests"] == both["requests"] > 0
    assert {"local": off["requests"]} == off["routes"]
    assert both["requests"] == sum(count for route, count in both["routes"].items() if route in ("local", "cloud"))
