"""How long is the worker busy with anything but `llama_decode`? Times each call in a real worker, from outside.

Python runs a module named `sitecustomize` at its start. In the worker, ours wraps `llama_cpp.llama_decode` in a timer
that appends to a file when each call began and ended and how many tokens it had; the time between two calls is
everything else: reading logits, sampling, text, the frame to the gateway, the inbox, the next plan, filling the batch.
It is told by the clock and as the thread's own CPU time, which others on the machine hardly change. Nothing of the
engine is changed; the timer itself adds some 5 us a step, for the most part the write.
"""

from __future__ import annotations

import itertools
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scripts._measure import Sample, quantile

RECORD = struct.Struct("ddddi")
"""Clock at start and end, the thread's CPU time at start and end, tokens."""
_SITE = """
import sys
if "hybrid.engine.worker" in sys.orig_argv:
    import os, struct, time
    import llama_cpp
    def timed(ctx, batch, _decode=llama_cpp.llama_decode, _clock=time.perf_counter, _cpu=time.thread_time):
        before_s, started_s = _cpu(), _clock()
        status = _decode(ctx, batch)
        ended_s, after_s = _clock(), _cpu()
        os.write(_file, _record.pack(started_s, ended_s, before_s, after_s, batch.n_tokens))
        return status
    _record = struct.Struct("ddddi")
    _file = os.open(os.environ["STEP_TIMES_FILE"], os.O_WRONLY | os.O_APPEND)
    llama_cpp.llama_decode = timed
"""


class StepTimes:
    """The records of one worker."""

    def __init__(self) -> None:
        self._path = Path(os.devnull)
        self._seen = 0

    @contextmanager
    def environ(self) -> Iterator[Mapping[str, str]]:
        """Give what the worker's environment must hold; the file lives as long as the block."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "sitecustomize.py").write_text(_SITE)
            self._path = Path(folder) / "steps"
            self._path.touch()
            python_path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
            yield {"PYTHONPATH": python_path, "STEP_TIMES_FILE": str(self._path)}

    def forget(self) -> None:
        """Look only at what is recorded from now on."""
        self._seen = self._path.stat().st_size

    def sample(self, sequences: int) -> Sample:
        """What the steps since `forget` say that decoded one token of each of `sequences`, one after another."""
        with self._path.open("rb") as file:
            file.seek(self._seen)
            steps = list(RECORD.iter_unpack(file.read()))
        pairs = [(step, after) for step, after in itertools.pairwise(steps) if step[4] == after[4] == sequences]
        clock_s = [after[0] - step[1] for step, after in pairs]
        cpu_s = [after[2] - step[3] for step, after in pairs]
        decode_s = [after[1] - after[0] for _, after in pairs]
        return {
            "outside_decode_p50_ms": quantile(clock_s, 0.5) * 1e3,
            "outside_decode_p95_ms": quantile(clock_s, 0.95) * 1e3,
            "outside_decode_cpu_p50_ms": quantile(cpu_s, 0.5) * 1e3,
            "bound_ms": 0.3 + 0.03 * sequences,
            "decode_p50_ms": quantile(decode_s, 0.5) * 1e3,
            "steps": len(pairs),
        }
