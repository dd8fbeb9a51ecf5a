"""How long does a decision take? Run by scripts/bench_policy; the bound is 50 us in the median for all of a request's.

  scripts/bench_policy [--calls 3000] [--json OUT]

Facts as a busy server has them: two clouds whose times were learned, errors and lengths that were seen, two limits.
Each call is timed by itself. A request costs one `route`, one `review` of what is held back, and where it may be
hedged the choice of the moment, once more at each change; their sum is the last row.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

from hybrid.policy.hedge import Progress, start_at
from hybrid.policy.model import (
    CloudLatency,
    CloudOption,
    Draft,
    Limits,
    LocalErrors,
    RunLocal,
    Signals,
    SpeedSource,
)
from hybrid.policy.review import review
from hybrid.policy.route import route
from hybrid.policy.spread import lognormal
from hybrid.types import Capability, PolicyChoice

BOUND_US = 50.0
NEEDS = frozenset({Capability.TOOLS})
QUICK = CloudOption(
    provider="big",
    model="quick",
    context_tokens=200_000,
    reserve_usd=Decimal("0.0123"),
    latency=CloudLatency(lognormal(0.45, 0.5), lognormal(0.012, 0.3), 400),
)
DEAR = replace(QUICK, model="dear", reserve_usd=Decimal("0.2"))
USUAL = Signals(
    needs=NEEDS,
    local_capabilities=frozenset(Capability),
    prompt_tokens=412,
    max_output_tokens=512,
    queue_wait_s=0.2,
    prefill_tok_s=900.0,
    decode_tok_s=42.0,
    local_threads=8,
    local_slowdown=1.05,
    speeds_from=SpeedSource.MEASURED,
    clouds=(QUICK, DEAR),
    budget_left_usd=Decimal("4.2"),
    is_stream=True,
    elapsed_s=0.004,
    errors=LocalErrors(lognormal(1.05, 0.2), lognormal(1.2, 0.5), lognormal(1.1, 0.25), lognormal(140.0, 0.7)),
)
LIMITS = Limits(ttft_s=1.5, total_s=30.0, hedge_chance=0.1)
BARE = replace(USUAL, clouds=(), errors=LocalErrors(), max_output_tokens=None)
DRAFT = Draft(
    logprobs=tuple(-0.02 * (i % 17) for i in range(16)),
    entropies=tuple(0.05 * (i % 13) for i in range(16)),
    margins=tuple(1.0 - 0.01 * (i % 29) for i in range(16)),
)
LONG_DRAFT = Draft(logprobs=DRAFT.logprobs * 16, entropies=DRAFT.entropies * 16, margins=DRAFT.margins * 16)


def cases() -> dict[str, Callable[[], object]]:
    """What is timed, by its name in the table."""
    unstreamed = replace(USUAL, is_stream=False)
    plan, whole = route(USUAL, LIMITS), route(unstreamed, LIMITS)
    assert isinstance(plan, RunLocal)
    assert isinstance(whole, RunLocal)
    hedge, whole_hedge = plan.hedge, whole.hedge
    assert hedge is not None
    assert whole_hedge is not None
    busy = replace(USUAL, queue_wait_s=9.0)
    private = replace(USUAL, policy=PolicyChoice.LOCAL_ONLY)

    def request() -> None:
        route(USUAL, LIMITS)
        start_at(hedge, Progress(0.0))
        review(DRAFT, LIMITS)

    return {
        "route, a stream with two limits and a hedge": lambda: route(USUAL, LIMITS),
        "route, a whole answer with two limits and a hedge": lambda: route(unstreamed, LIMITS),
        "route, local is late and the cloud is asked": lambda: route(busy, LIMITS),
        "route, no limits": lambda: route(USUAL, Limits()),
        "route, local only": lambda: route(private, LIMITS),
        "route, no cloud and nothing seen": lambda: route(BARE, LIMITS),
        "the hedge's moment, a stream": lambda: start_at(hedge, Progress(0.0)),
        "the hedge's moment, a whole answer": lambda: start_at(whole_hedge, Progress(0.3, started_s=0.2)),
        "review, 16 tokens": lambda: review(DRAFT, LIMITS),
        "review, 256 tokens": lambda: review(LONG_DRAFT, LIMITS),
        "all of a stream: route, moment, review": request,
    }


def measure(work: Callable[[], object], calls: int) -> dict[str, float]:
    """Time each call; microseconds."""
    for _ in range(calls // 10):
        work()
    taken_ns = []
    gc.disable()
    try:
        for _ in range(calls):
            started_ns = time.perf_counter_ns()
            work()
            taken_ns.append(time.perf_counter_ns() - started_ns)
    finally:
        gc.enable()
    taken_ns.sort()
    picked = {"p50": statistics.median(taken_ns), "p99": taken_ns[len(taken_ns) * 99 // 100], "min": taken_ns[0]}
    return {name: round(ns / 1e3, 2) for name, ns in picked.items()}


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    found = {name: measure(work, options.calls) for name, work in cases().items()}
    print(f"{'microseconds':<52} {'p50':>8} {'p99':>8} {'least':>8}")
    for name, us in found.items():
        print(f"{name:<52} {us['p50']:>8.1f} {us['p99']:>8.1f} {us['min']:>8.1f}")
    print(f"asked: p50 of a decision <= {BOUND_US:g} us")
    if options.json:
        record = {
            "command": f"scripts/bench_policy --calls {options.calls}",
            "date": date.today().isoformat(),  # noqa: DTZ011 - the user's calendar
            "machine": platform.machine(),
            "python": platform.python_version(),
            "bound_us": BOUND_US,
            "us": found,
        }
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
