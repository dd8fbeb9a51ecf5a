"""How long does a short prompt wait for a long one? Scenario 10 of scripts/bench_engine."""

from __future__ import annotations

import asyncio
from typing import Any

from scripts._engine_scenarios import Bench, warm_up
from scripts._load import Target, chat
from scripts._measure import Sample, compare, quantile
from scripts._servers import Size

LONG_TOKENS, SHORT_TOKENS, SHORTS = 4_000, 50, 4
APART_S = 0.5
"""Between the long prompt and the first short one, and between these: the long one takes many times as long."""


async def passing(bench: Bench) -> dict[str, Any]:
    """Times to the first token of short prompts that come while a 4,000-token one is taken in, and to its end."""

    async def measure(target: Target, key: str) -> Sample:
        long = asyncio.create_task(chat(target, bench.prompts.story(LONG_TOKENS, f"{key}-long"), 4))
        shorts = []
        for number in range(SHORTS):
            await asyncio.sleep(APART_S)
            shorts.append(asyncio.create_task(chat(target, bench.prompts.story(SHORT_TOKENS, f"{key}-{number}"), 4)))
        first_s = [(await short).read().ttft_s for short in shorts]
        answer = (await long).read()
        assert answer.ended_s is not None
        return {
            "short_ttft_p50_ms": quantile(first_s, 0.5) * 1e3,
            "short_ttft_longest_ms": max(first_s) * 1e3,
            # Not its first text: what this model says to a long story may have none.
            "long_answered_s": answer.ended_s - answer.sent_s,
        }

    with bench.contestants.both(Size(slots=SHORTS + 1, slot_tokens=4_608)) as targets:
        await warm_up(bench, targets)
        return {f"{SHORTS} short prompts": compare(await bench.rounds_of("short prompts", targets, measure))}
