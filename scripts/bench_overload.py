"""How many requests are on time when local is overloaded? Run by scripts/bench_overload.

  scripts/bench_overload [--model MODEL.gguf] [--seconds 20] [--ttft-ms 1500] [--total-ms 4000] [--json OUT]

Local is the scripted backend, whose step takes 20 ms, or a GGUF file; the cloud is a scripted server whose first token
takes 0.35 s in the median and 2 s in one of a hundred, log-normally between. A short warm-up measures what local can
do and lets both sides be learned; then streamed requests arrive, open-loop, at a rate that grows from a third to twice
of that, so that the queue grows. The same arrivals and the same cloud meet each policy:

  off       no limits: local answers, however late
  escalate  the limits, and no hedging
  hedge     hedging alone: the cloud is only asked beside local, never instead (late_chance = 1)
  both      the limits and hedging

Printed and written: the share whose first text and whose end came in time, percentiles, money, and double spend: what
the cloud was paid for answers that local then gave. A refused or broken answer is never in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx2

from hybrid.providers.fake import Answer, FakeProvider, FakeRequest
from tests.e2e.serving import Serving, body, cloud_toml

SLOTS = 2
CLOUD_P50_S, CLOUD_P99_S = 0.35, 2.0
CLOUD_SIGMA = math.log(CLOUD_P99_S / CLOUD_P50_S) / 2.3263
LEAST_RATE, MOST_RATE = 0.33, 2.0
"""Of what local can do, at the beginning and at the end of the load."""
MOST_REQUESTS = 150
WARM_UPS = 24
POLICY = "[policy]\nhold_tokens = 4\nmin_confidence = 0\n"
"""Every draft is good enough: it is about time alone."""
POLICIES = {
    "off": "",
    "escalate": "{limits}hedge = false\n",
    "hedge": "{limits}hedge = true\nlate_chance = 1.0\n",
    "both": "{limits}hedge = true\n",
}
WORDS = (
    "river",
    "stone",
    "window",
    "paper",
    "morning",
    "garden",
    "letter",
    "market",
    "winter",
    "bridge",
    "silver",
    "corner",
    "engine",
    "harbour",
)


@dataclass(slots=True)
class Heard:
    """One answer as its client saw it; None where there was none."""

    ttft_s: float | None = None
    total_s: float | None = None
    route: str = "none"


@dataclass(slots=True)
class Result:
    """What one policy made of the load."""

    heard: list[Heard] = field(default_factory=list)
    capacity_per_s: float = 0.0
    report: dict[str, Any] = field(default_factory=dict)


def cloud_answer(request: FakeRequest) -> Answer:
    """Answer with a delay that depends on the request's number alone, so that each policy meets the same cloud."""
    draw = random.Random(f"cloud {request.number}")  # noqa: S311 - repeatable, no secret
    delay_s = CLOUD_P50_S * math.exp(CLOUD_SIGMA * draw.gauss(0, 1))
    return Answer(chunks=("from ", "the ", "cloud"), headers_delay_s=delay_s)


def question(number: int, *, is_fake: bool) -> str:
    """Give a short text; the scripted backend repeats it, 20 ms a byte."""
    draw = random.Random(f"text {number}")  # noqa: S311 - repeatable, no secret
    words = " ".join(draw.choices(WORDS, k=3))
    return f"[slow]{words}"[:24] if is_fake else f"Say something short about these words: {words}."


async def ask(client: httpx2.AsyncClient, text: str, model: str = "hybrid") -> Heard:
    """Ask, streamed, and note when the first text and the end came."""
    heard, began_s = Heard(), time.perf_counter()
    request = {**body(text, model=model), "stream": True, "max_tokens": 48}
    try:
        async with client.stream("POST", "/chat/completions", json=request) as answer:
            heard.route = answer.headers.get("x-hybrid-route", f"status {answer.status_code}")
            async for line in answer.aiter_lines():
                if heard.ttft_s is None and '"content":"' in line.replace('": "', '":"'):
                    heard.ttft_s = time.perf_counter() - began_s
                if line == "data: [DONE]":
                    heard.total_s = time.perf_counter() - began_s
    except httpx2.HTTPError as broken:
        heard.route = type(broken).__name__
    return heard


async def warm_up(client: httpx2.AsyncClient, *, is_fake: bool) -> float:
    """Let speeds, errors, lengths and the cloud's times be learned; return the answers a second that local can give."""
    await asyncio.gather(*(ask(client, question(-n, is_fake=is_fake), "cloud") for n in range(1, WARM_UPS + 1)))
    await ask(client, question(0, is_fake=is_fake), "local")
    began_s, rounds = time.perf_counter(), 4
    for number in range(rounds):
        texts = [question(1000 + SLOTS * number + n, is_fake=is_fake) for n in range(SLOTS)]
        await asyncio.gather(*(ask(client, text, "local") for text in texts))
    return SLOTS * rounds / (time.perf_counter() - began_s)


def arrivals(capacity_per_s: float, seconds: float) -> list[float]:
    """Draw the moments of arrival: at random, ever faster."""
    draw = random.Random("arrivals")  # noqa: S311 - repeatable, no secret
    moments, at_s = [], 0.0
    while len(moments) < MOST_REQUESTS:
        rate = capacity_per_s * (LEAST_RATE + (MOST_RATE - LEAST_RATE) * min(at_s / seconds, 1.0))
        at_s += draw.expovariate(rate)
        if at_s > seconds:
            break
        moments.append(at_s)
    return moments


async def meet(server: Serving, seconds: float, capacity_per_s: float | None, *, is_fake: bool) -> Result:
    """Put the load on one server. capacity_per_s: what sets the arrivals; None takes what the warm-up finds."""
    result = Result()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        result.capacity_per_s = await warm_up(client, is_fake=is_fake)
        began_s = time.perf_counter()

        async def at(moment_s: float, number: int) -> Heard:
            await asyncio.sleep(max(0.0, moment_s - (time.perf_counter() - began_s)))
            return await ask(client, question(number, is_fake=is_fake))

        moments = arrivals(capacity_per_s or result.capacity_per_s, seconds)
        result.heard = await asyncio.gather(*(at(moment_s, number) for number, moment_s in enumerate(moments, 1)))
    result.report = await asyncio.to_thread(server.report)
    return result


async def run(name: str, options: argparse.Namespace, capacity_per_s: float | None) -> Result:
    """Start a server with one policy, on a folder of its own, and put the load on it."""
    limits = f"{POLICY}ttft_ms = {options.ttft_ms}\ntotal_ms = {options.total_ms}\n"
    policy = POLICIES[name].format(limits=limits) or POLICY
    local = f'model = "{options.model}"\n' if options.model else 'model = ""\nbackend = "fake"\nspeculation = "off"\n'
    with tempfile.TemporaryDirectory(prefix="bench-overload-") as folder:
        async with FakeProvider(cloud_answer) as cloud:
            config = f"[local]\n{local}slots = {SLOTS}\n{cloud_toml(cloud.base_url, usd_per_day='100')}{policy}"
            server = Serving(Path(folder), config, is_forked=False)
            await asyncio.to_thread(server.__enter__)
            try:
                return await meet(server, options.seconds, capacity_per_s, is_fake=options.model is None)
            finally:
                await asyncio.to_thread(server.__exit__)


def figures(result: Result, options: argparse.Namespace) -> dict[str, Any]:
    """Put one policy's results into numbers."""
    heard = result.heard
    first, total = (sorted(one for one in times if one is not None) for times in _times(heard))
    return {
        "requests": len(heard),
        "capacity_per_s": round(result.capacity_per_s, 2),
        "ttft_met": _share(first, options.ttft_ms / 1000, len(heard)),
        "total_met": _share(total, options.total_ms / 1000, len(heard)),
        "ttft_s": _percentiles(first),
        "total_s": _percentiles(total),
        "routes": dict(sorted(Counter(one.route for one in heard).items())),
        "spent_usd": float(result.report["spent_usd"]),
        "double_usd": float(result.report["double_usd"]),
        "hedges": result.report["hedges"],
    }


def _times(heard: Sequence[Heard]) -> tuple[list[float | None], list[float | None]]:
    return [one.ttft_s for one in heard], [one.total_s for one in heard]


def _share(times_s: Sequence[float], limit_s: float, count: int) -> float:
    return round(sum(time_s <= limit_s for time_s in times_s) / max(count, 1), 4)


def _percentiles(ordered: Sequence[float]) -> dict[str, float | None]:
    if not ordered:
        return {"p50": None, "p95": None, "p99": None}
    last = len(ordered) - 1
    picked = {"p50": statistics.median(ordered), "p95": ordered[round(0.95 * last)], "p99": ordered[round(0.99 * last)]}
    return {name: round(seconds, 3) for name, seconds in picked.items()}


def show(name: str, made: dict[str, Any]) -> None:
    """Print one policy's line."""
    hedges = ", ".join(f"{count} {winner}" for winner, count in made["hedges"].items()) or "none"
    routes = ", ".join(f"{count} {route}" for route, count in made["routes"].items())
    first = made["ttft_s"]
    print(
        f"{name:<9} {made['requests']:>4} {made['ttft_met']:>7.1%} {made['total_met']:>7.1%} "
        f"{first['p50']:>7.2f} {first['p95']:>6.2f} {first['p99']:>6.2f}  "
        f"${made['spent_usd']:.5f} ${made['double_usd']:.5f}  {routes}; hedges won: {hedges}",
        flush=True,
    )


def main() -> None:
    """Measure each policy, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="MODEL.gguf")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--ttft-ms", type=int, default=1500)
    parser.add_argument("--total-ms", type=int, default=4000)
    parser.add_argument("--only", metavar="POLICY", choices=POLICIES, action="append")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    options.model = options.model and str(Path(options.model).resolve())
    print(f"{'policy':<9} {'n':>4} {'ttft':>7} {'total':>7} {'p50 s':>7} {'p95':>6} {'p99':>6}  {'spent':<8} double")
    found: dict[str, dict[str, Any]] = {}
    capacity_per_s: float | None = None
    for name in options.only or POLICIES:
        result = asyncio.run(run(name, options, capacity_per_s))
        # One schedule for all: what the first run found, so that all meet the same load on a machine that varies.
        capacity_per_s = capacity_per_s or result.capacity_per_s
        found[name] = figures(result, options)
        show(name, found[name])
    if options.json:
        record = {
            "command": f"scripts/bench_overload --seconds {options.seconds:g}",
            "model": Path(options.model).name if options.model else "scripted, 20 ms a step",
            "date": date.today().isoformat(),  # noqa: DTZ011 - the user's calendar
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
            "limits": {"ttft_ms": options.ttft_ms, "total_ms": options.total_ms},
            "cloud_ttft_s": {"p50": CLOUD_P50_S, "p99": CLOUD_P99_S},
            "slots": SLOTS,
            "load_of_capacity": [LEAST_RATE, MOST_RATE],
            "policies": found,
        }
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
