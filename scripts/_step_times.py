"""How long is the worker busy with anything but `llama_decode`? Times each call in a real worker, from outside.

Python runs a module named `sitecustomize` at its start. In the worker, ours puts a function of C before
`llama_cpp.llama_decode` that appends to a file when each call began and ended and how many tokens it had; the time
between two calls is everything else: reading logits, sampling, text, the frame to the gateway, the inbox, the next
plan, filling the batch. In a run of steps only sampling is between two calls, and the rest after the last: so means
count, beside medians. It is told by the clock and as the thread's own CPU time, which others on the machine hardly
change. Nothing of the engine is changed; the timer itself adds some 3 us a step, for the most part the write.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scripts._measure import Sample, quantile

RECORD = struct.Struct("=ddddi")
"""Clock at start and end, the thread's CPU time at start and end, tokens."""
_SHIM = """
#include <time.h>
#include <unistd.h>

struct batch { int n_tokens; void *token, *embd, *pos, *n_seq_id, *seq_id, *logits; };
struct record { double started_s, ended_s, cpu_before_s, cpu_after_s; int tokens; } __attribute__((packed));
static int (*decode)(void *, struct batch);
static int file;

static double now(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

void timed_setup(void *function, int descriptor) { decode = function; file = descriptor; }

int timed_decode(void *context, struct batch batch) {
    struct record one = {0, 0, now(CLOCK_THREAD_CPUTIME_ID), 0, batch.n_tokens};
    one.started_s = now(CLOCK_MONOTONIC);
    int status = decode(context, batch);
    one.ended_s = now(CLOCK_MONOTONIC);
    one.cpu_after_s = now(CLOCK_THREAD_CPUTIME_ID);
    if (write(file, &one, sizeof one) != sizeof one) return -1;
    return status;
}
"""
_SITE = """
import sys
if "hybrid.engine.worker" in sys.orig_argv:
    import ctypes, os
    import llama_cpp
    shim = ctypes.CDLL(os.environ["STEP_TIMES_SHIM"])
    real = llama_cpp.llama_decode
    file = os.open(os.environ["STEP_TIMES_FILE"], os.O_WRONLY | os.O_APPEND)
    shim.timed_setup(ctypes.cast(real, ctypes.c_void_p), file)
    shim.timed_decode.argtypes, shim.timed_decode.restype = real.argtypes, real.restype
    llama_cpp.llama_decode = shim.timed_decode
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
            shim = Path(folder) / "shim.so"
            (Path(folder) / "shim.c").write_text(_SHIM)
            command = ["cc", "-O2", "-shared", "-fPIC", "-o", shim, Path(folder) / "shim.c"]
            subprocess.run(command, check=True)
            self._path = Path(folder) / "steps"
            self._path.touch()
            python_path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
            yield {"PYTHONPATH": python_path, "STEP_TIMES_FILE": str(self._path), "STEP_TIMES_SHIM": str(shim)}

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
            "outside_decode_mean_ms": _mean(clock_s) * 1e3,
            "outside_decode_p50_ms": quantile(clock_s, 0.5) * 1e3,
            "outside_decode_p95_ms": quantile(clock_s, 0.95) * 1e3,
            "outside_decode_cpu_p50_ms": quantile(cpu_s, 0.5) * 1e3,
            "bound_ms": 0.3 + 0.03 * sequences,
            "decode_p50_ms": quantile(decode_s, 0.5) * 1e3,
            "steps": len(pairs),
        }


def _mean(values: list[float]) -> float:
    """The mean without the hundredth that took longest: a step that waited for somebody else's program."""
    return statistics.fmean(sorted(values)[: max(1, len(values) * 99 // 100)]) if values else math.nan
