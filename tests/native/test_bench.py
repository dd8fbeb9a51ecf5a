"""Does scripts/bench_native still run, and write what it says?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_bench_native_writes_its_figures(tmp_path):
    """A short run prints a line a case, and writes both implementations' times for each vocabulary, row and case."""
    out = tmp_path / "native.json"
    command = [sys.executable, "scripts/bench_native.py", "--calls", "5", "--json", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert (0, "") == (done.returncode, done.stderr)
    results = json.loads(out.read_text(encoding="utf-8"))["results"]
    assert 2 * 2 * 3 == len(results) == len(done.stdout.splitlines()) - 1
    assert {49_152, 151_936} == {result["n_vocab"] for result in results}
    assert all(0 < result["native"]["p50_us"] for result in results)
    assert all(0 < result["twin"]["p50_us"] for result in results)
