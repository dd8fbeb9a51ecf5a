"""Does scripts/bench_grammars still run, and write what it says?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_bench_grammars_writes_its_figures(tmp_path, starter_model):
    """A short run on the starter times each grammar's compiling, masks and advances, and steps with and without one."""
    out = tmp_path / "grammars.json"
    command = [sys.executable, "scripts/bench_grammars.py", str(starter_model), "--runs", "1", "--tokens", "30"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--json", str(out)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))["results"][0]
    assert 49_152 == result["n_vocab"]
    assert all(0 < figures["mask_us"]["p50"] for figures in result["grammars"].values())
    assert {"free", "constrained"} == set(result["outside_us"])
