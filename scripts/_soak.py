"""Does memory stay flat, and is every slot and cell free again, after many requests of random sizes?"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from scripts._load import Messages, Prompts, Stream, Target, chat
from scripts._measure import progress
from scripts._servers import Contestants, Size

CLIENTS = 8
MAX_ANSWER_TOKENS = 96
MIN_PROMPT_TOKENS = 60
HANG_UP_SHARE = 0.1
SAMPLES = 100
SETTLE_POLLS = 200


@dataclass(frozen=True, slots=True)
class Job:
    """One request; `hangs_up` leaves after the first piece of the answer."""

    messages: Messages
    max_tokens: int
    hangs_up: bool


async def run_soak(contestants: Contestants, prompts: Prompts, count: int, most_tokens: int) -> dict[str, Any]:
    """Serve `count` requests, with prompts of up to `most_tokens`, to eight clients; watch the worker's memory."""
    jobs, step = _jobs(prompts, count, most_tokens), max(1, count // SAMPLES)
    slot_tokens = most_tokens + 3 * MAX_ANSWER_TOKENS
    with contestants.ours(Size(slots=CLIENTS, slot_tokens=slot_tokens)) as (target, server):
        worker = server.worker()
        rss_mb, gateway_mb = [_mb(worker)], [_mb(psutil.Process(server.process.pid))]
        for done in range(0, count, step):
            await _serve(target, itertools.islice(jobs, step))
            rss_mb.append(_mb(worker))
            gateway_mb.append(_mb(psutil.Process(server.process.pid)))
            progress(f"soak: {min(count, done + step)}/{count}, worker {rss_mb[-1]:.0f} MB")
        at_end = await _settled(server.local_state)
        is_same_worker = server.worker().pid == worker.pid
    return {f"{count} requests": _told(rss_mb, gateway_mb, count, at_end, is_same_worker=is_same_worker)}


def _jobs(prompts: Prompts, count: int, most_tokens: int) -> Iterator[Job]:
    """Sizes spread evenly over orders of magnitude, so that small ones are not drowned by large ones."""
    draw = random.Random("soak")  # noqa: S311 - sizes, not secrets
    for number in range(count):
        tokens = round(MIN_PROMPT_TOKENS * (most_tokens / MIN_PROMPT_TOKENS) ** draw.random())
        yield Job(
            prompts.story(tokens, f"soak-{number}"),
            max_tokens=round(MAX_ANSWER_TOKENS ** draw.random()),
            hangs_up=draw.random() < HANG_UP_SHARE,
        )


async def _serve(target: Target, jobs: Iterator[Job]) -> None:
    async def client() -> None:
        for job in jobs:
            if job.hangs_up:
                await _hang_up(target, job)
            else:
                (await chat(target, job.messages, job.max_tokens)).read()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def _hang_up(target: Target, job: Job) -> None:
    """Leave when the first piece of the answer is there, or when it is over already."""
    stream = Stream()
    asking = asyncio.create_task(chat(target, job.messages, job.max_tokens, stream))
    await stream.reached(2)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def _settled(local_state: Any) -> dict[str, Any]:
    """The engine's state once nothing runs; the last hang-up takes a step to arrive."""
    for _ in range(SETTLE_POLLS):
        state: dict[str, Any] = local_state()
        if not state["running"] and not state["waiting"]:
            break
        await asyncio.sleep(0.05)
    return state


def _told(
    rss_mb: list[float], gateway_mb: list[float], count: int, at_end: dict[str, Any], *, is_same_worker: bool
) -> dict[str, Any]:
    tenth = max(1, len(rss_mb) // 10)
    settled = rss_mb[2 * tenth :]
    slope = statistics.linear_regression(range(len(settled)), settled).slope if len(settled) > 1 else 0.0
    return {
        "worker_rss_mb": {
            "idle": round(rss_mb[0], 1),
            "after a tenth": round(rss_mb[tenth], 1),
            "at the end": round(rss_mb[-1], 1),
            "growth over the last four fifths, KB a request": round(slope * (len(rss_mb) - 1) / count * 1e3, 3),
            "samples": [round(value, 1) for value in rss_mb],
        },
        "gateway_rss_mb": {"idle": round(gateway_mb[0], 1), "at the end": round(gateway_mb[-1], 1)},
        "same worker process throughout": is_same_worker,
        "engine at the end": at_end,
    }


def _mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 1e6)
