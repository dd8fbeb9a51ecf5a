"""How sure is a figure? Medians and spreads, ratios with a bootstrap interval, and what else the machine was doing."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import psutil

Sample: TypeAlias = dict[str, float]
"""What one round of one server gave: metric name, with its unit at the end, to value."""

RESAMPLES = 4000
INTERVAL = 0.95
QUIET_POLL_S = 1.0
ROOT = Path(__file__).resolve().parent.parent


def quantile(values: Sequence[float], q: float) -> float:
    """Give the q-quantile of what was seen, in [0, 1], interpolated; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(values: Sequence[float]) -> dict[str, object]:
    """Median, extremes and the values themselves, in the order they were measured; None where there was none."""
    seen = [round(value, 4) if math.isfinite(value) else None for value in values]
    known = [value for value in seen if value is not None]
    if not known:
        return {"median": None, "min": None, "max": None, "samples": seen}
    return {"median": statistics.median(known), "min": min(known), "max": max(known), "samples": seen}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float] | None:
    """Compare round by round: the median of the rounds' ratios, with a percentile bootstrap interval over rounds.

    Both of a round were measured right after each other, so what drifts with the machine cancels. None where no
    round has both.
    """
    ratios = [a / b for a, b in zip(ours, theirs, strict=True) if b and math.isfinite(a) and math.isfinite(b)]
    if not ratios:
        return None
    draw = random.Random(0)  # noqa: S311 - resampling, not a secret; the same file gives the same interval
    medians = [statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES)]
    tail = (1 - INTERVAL) / 2
    return {
        "median": round(statistics.median(ratios), 4),
        "low": round(quantile(medians, tail), 4),
        "high": round(quantile(medians, 1 - tail), 4),
    }


def compare(samples: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, object]]:
    """Summarise rounds: metric -> {server: spread, ..., "ratio": ours against the peer, if both were measured}."""
    metrics: dict[str, dict[str, object]] = {}
    for server, rounds in samples.items():
        for metric in rounds[0]:
            metrics.setdefault(metric, {})[server] = spread([sample[metric] for sample in rounds])
    if {"ours", "peer"} <= samples.keys():
        for metric, sides in metrics.items():
            if {"ours", "peer"} <= sides.keys():
                ours, peer = ([sample[metric] for sample in samples[side]] for side in ("ours", "peer"))
                sides["ratio"] = ratio(ours, peer)
    return metrics


class OthersWatch:
    """How much of the machine went to processes that are not ours, since this was made.

    Ours are this process and what it started. Time stolen by the hypervisor is other people's work too.
    """

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._busy_s, self._own_s = _busy_s(), _own_s()

    def cores(self) -> float:
        """Cores that others kept busy, on average."""
        elapsed_s = max(time.monotonic() - self._started_s, 1e-3)
        return max(0.0, (_busy_s() - self._busy_s) - (_own_s() - self._own_s)) / elapsed_s


def wait_quiet(limit_cores: float, patience_s: float) -> float:
    """Wait until others use less than `limit_cores`, for at most `patience_s`; return what they use then."""
    until_s = time.monotonic() + patience_s
    while True:
        watch = OthersWatch()
        time.sleep(QUIET_POLL_S)
        cores = watch.cores()
        if cores <= limit_cores or time.monotonic() >= until_s:
            return cores
        progress(f"waiting: others use {cores:.2f} cores")


def progress(note: str) -> None:
    """Show people where a run is, on one line that the next one overwrites; nothing where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K  {note}", end="", file=sys.stderr, flush=True)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def _own_s() -> float:
    return tree_cpu_s(os.getpid())


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and all it started; those that ended are counted by whoever waited for them."""
    root = psutil.Process(pid)
    total_s = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            total_s += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue  # it ended between the list and the look
    return total_s


def machine() -> dict[str, object]:
    """Name the machine by what decides its speed."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "os": f"{platform.system()} {platform.machine()}"}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Tell the versions of what was measured, with the commit this ran from."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found


def model_facts(path: Path) -> dict[str, object]:
    """Name a model file so that another person can tell whether theirs is the same."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256_prefix": digest[:16]}


def shown_command(argv: Sequence[str]) -> str:
    """The command as it may be published: paths lose their folders, which belong to one machine."""
    words = " ".join(argv).split()
    return " ".join(word if "/" not in word or "://" in word else Path(word).name for word in words)
