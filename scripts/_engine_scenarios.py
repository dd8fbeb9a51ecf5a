"""How does the local engine do against a peer? The scenarios of scripts/bench_engine, each a function of a `Bench`."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

from scripts._load import Messages, Prompts, Stream, Target, chat, closed_loop
from scripts._measure import OthersWatch, Sample, compare, progress, quantile, tree_cpu_s, wait_quiet
from scripts._neighbours import BareLoop, Competitors, TellTale
from scripts._servers import Contestants, Size, worker_environ

Measure: TypeAlias = Callable[[Target, str], Awaitable[Sample]]

PROMPT_TOKENS, ANSWER_TOKENS = 175, 64
CONCURRENCY = (1, 4, 8, 16)
SYSTEM_TOKENS, SHARING_CHATS = 1_000, 8
LONG_PROMPT_TOKENS, STREAMS, STREAM_TOKENS = 4_000, 4, 600
SINGLE_TOKENS = 192
COMPETITORS = (0, 1, 2)
NEIGHBOUR_WINDOWS_S = {1: 5.0, 8: 16.0}
"""How long so many clients ask; three rounds of both, beside each number of competitors, take under eight minutes."""
NEIGHBOUR_PROMPT_TOKENS = {1: 50, 8: PROMPT_TOKENS}
"""One client asks shortly, so that even where a step takes a second its window is not over before the first token."""
ALONE_S = 1.0
QUICK_WINDOW_S = 8.0
STEP_SYSTEM_TOKENS, STEP_ANSWER_TOKENS = 40, 192
"""Short in, long out: most steps decode a token of every sequence."""
WARM_CHUNKS = 48
"""Chunks of each stream before the long prompt is sent: what is usual is known by then."""
OTHERS_CORES, CPU_COST = "others_busy_cores", "server_cpu_ms_per_token"
BARE, BARE_ALIKE, ENGINE_ALONE = "bare llama_decode", "bare in the worker's environment", "the engine alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a run is set to.

    others_cores: a round in which processes of others kept more cores busy is repeated, up to `retries` times.
    patience_s: how long to wait before a round until they use less.
    """

    contestants: Contestants
    prompts: Prompts
    rounds: int
    is_quick: bool
    soak: int
    soak_tokens: int
    others_cores: float
    patience_s: float
    retries: int

    async def rounds_of(self, label: str, targets: Sequence[Target], measure: Measure) -> dict[str, list[Sample]]:
        """Measure every target in every round, the order turned round each time, and keep what each round gave."""
        samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
        for number in range(self.rounds):
            for target in targets if number % 2 == 0 else tuple(reversed(targets)):
                samples[target.name].append(await self.quiet_sample(label, target, number, measure))
        return samples

    async def quiet_sample(self, label: str, target: Target, number: int, measure: Measure) -> Sample:
        """Measure once, and again while others disturbed it; keep the least disturbed."""
        best: Sample | None = None
        for attempt in range(1 + self.retries):
            wait_quiet(self.others_cores, self.patience_s)
            progress(f"{label}: round {number + 1}/{self.rounds}, {target.name}")
            watch, before_s = OthersWatch(), tree_cpu_s(target.pid) if target.pid else 0.0
            sample = await measure(target, f"{label}-{number}-{attempt}")
            if target.pid and sample.get("generated_tokens"):
                sample[CPU_COST] = (tree_cpu_s(target.pid) - before_s) * 1e3 / sample["generated_tokens"]
            sample[OTHERS_CORES] = watch.cores()
            if best is None or sample[OTHERS_CORES] < best[OTHERS_CORES]:
                best = sample
            if best[OTHERS_CORES] <= self.others_cores:
                break
        assert best is not None
        return best


# ---- 1: chats at several concurrencies


async def concurrency(bench: Bench) -> dict[str, Any]:
    """175-token prompts, 64-token answers: throughput and latencies with 1, 4, 8 and 16 clients in a closed loop."""
    result = {}
    with bench.contestants.both(Size(slots=max(CONCURRENCY), slot_tokens=512)) as targets:
        await warm_up(bench, targets)
        for clients in CONCURRENCY:
            measure = loop_measure(bench, clients, each=_each(bench, clients))
            result[f"{clients} clients"] = compare(await bench.rounds_of(f"{clients} clients", targets, measure))
    return result


def _each(bench: Bench, clients: int) -> int:
    if bench.is_quick:
        return 1
    return 4 if clients == 1 else 2


def loop_measure(bench: Bench, clients: int, *, each: int) -> Measure:
    """Give the measurement of `clients` that ask `each` times, prompt after prompt."""

    async def measure(target: Target, key: str) -> Sample:
        jobs = [bench.prompts.story(PROMPT_TOKENS, f"{key}-{n}") for n in range(clients * each)]
        started_s = time.perf_counter()
        streams = await closed_loop(target, clients, iter(jobs), ANSWER_TOKENS)
        return figures(streams, time.perf_counter() - started_s)

    return measure


def figures(streams: Sequence[Stream], elapsed_s: float) -> Sample:
    """What a set of answers says: generated tokens a second, times to the first token, times between tokens."""
    answers = [stream.read() for stream in streams]
    generated = sum(answer.completion_tokens or len(answer.token_times_s) for answer in answers)
    prompts = [answer.prompt_tokens for answer in answers if answer.prompt_tokens is not None]
    first_s = [answer.ttft_s for answer in answers if answer.token_times_s]
    gaps_s = [gap_s for answer in answers for gap_s in answer.gaps_s]
    return {
        "generated_tok_s": generated / elapsed_s,
        "total_s": elapsed_s,
        "ttft_p50_ms": quantile(first_s, 0.5) * 1e3,
        "ttft_p95_ms": quantile(first_s, 0.95) * 1e3,
        "between_pieces_p50_ms": quantile(gaps_s, 0.5) * 1e3,
        "between_pieces_p95_ms": quantile(gaps_s, 0.95) * 1e3,
        "generated_tokens": generated,
        "prompt_tokens_mean": sum(prompts) / len(prompts) if prompts else float("nan"),
        "cached_tokens": sum(answer.cached_tokens for answer in answers),
    }


async def warm_up(bench: Bench, targets: Sequence[Target]) -> None:
    """Touch the weights and let speeds be measured, before the clock runs."""
    for target in targets:
        await closed_loop(target, 2, iter([bench.prompts.story(100, f"warm-{n}") for n in range(4)]), 8)


# ---- 2: a shared system prompt


async def shared_prefix(bench: Bench) -> dict[str, Any]:
    """Eight chats that arrive together with one 1,000-token system prompt nobody has seen before."""

    async def measure(target: Target, key: str) -> Sample:
        jobs = bench.prompts.shared(SYSTEM_TOKENS, key, SHARING_CHATS)
        started_s = time.perf_counter()
        streams = await closed_loop(target, SHARING_CHATS, iter(jobs), ANSWER_TOKENS)
        return figures(streams, time.perf_counter() - started_s)

    with bench.contestants.both(Size(slots=SHARING_CHATS, slot_tokens=1_280)) as targets:
        await warm_up(bench, targets)
        return {"8 chats": compare(await bench.rounds_of("shared prefix", targets, measure))}


# ---- 3: one stream against the bare loop


async def single_stream(bench: Bench) -> dict[str, Any]:
    """Decode speed of one stream, from its first token to its last, against a bare `llama_decode` loop.

    The bare loop runs twice: in the environment of any program, and in that of the worker (threads spin otherwise).
    """
    model, threads = bench.contestants.model, bench.contestants.threads
    with ExitStack() as stack:
        targets = stack.enter_context(bench.contestants.both(Size(slots=8, slot_tokens=1_024)))
        alike = worker_environ(targets[0])
        loops = [
            BareLoop(BARE, model, threads),
            BareLoop(BARE_ALIKE, model, threads, alike),
            BareLoop(ENGINE_ALONE, model, threads, alike, "_engine_decode"),
        ]
        bare = {loop.name: stack.enter_context(loop) for loop in loops}
        await warm_up(bench, targets)

        async def measure(target: Target, key: str) -> Sample:
            messages = bench.prompts.story(PROMPT_TOKENS, key)
            if target.name in bare:
                return await asyncio.to_thread(bare[target.name].run, bench.prompts.tokens(messages), SINGLE_TOKENS)
            answer = (await chat(target, messages, SINGLE_TOKENS)).read()
            times_s = answer.token_times_s
            tokens = answer.completion_tokens or len(times_s)  # a piece of text may be of several tokens
            return {
                "decode_tok_s": (tokens - 1) / (times_s[-1] - times_s[0]),
                "between_pieces_p50_ms": quantile(answer.gaps_s, 0.5) * 1e3,
                "generated_tokens": tokens,
            }

        samples = await bench.rounds_of("one stream", [*targets, *(Target(name, "", 0, "") for name in bare)], measure)
    result = compare(samples)
    for name in bare:
        against = compare({"ours": samples["ours"], "peer": samples[name]})
        result["decode_tok_s"][f"ours to {name}"] = against["decode_tok_s"]["ratio"]
    for name in (BARE, BARE_ALIKE):
        against = compare({"ours": samples[ENGINE_ALONE], "peer": samples[name]})
        result["decode_tok_s"][f"{ENGINE_ALONE} to {name}"] = against["decode_tok_s"]["ratio"]
    return {"one stream": result}


# ---- 4: a long prompt among streams


async def long_prompt(bench: Bench) -> dict[str, Any]:
    """The longest silence in four running streams while a 4,000-token prompt is taken in."""

    async def measure(target: Target, key: str) -> Sample:
        jobs = (bench.prompts.story(PROMPT_TOKENS, f"{key}-{n}") for n in itertools.count())
        watched: list[Stream] = []
        tasks = [asyncio.create_task(_stream_on(target, jobs, watched)) for _ in range(STREAMS)]
        try:
            await asyncio.sleep(0)  # each task has put its first stream into the list
            await asyncio.gather(*(stream.reached(WARM_CHUNKS) for stream in watched[:STREAMS]))
            messages = bench.prompts.story(LONG_PROMPT_TOKENS, f"{key}-long")
            answer = (await chat(target, messages, 4)).read()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # A model may have nothing to say to it: then its end is when the prompt was taken in.
        first_s = answer.token_times_s[0] if answer.token_times_s else answer.ended_s
        assert first_s is not None
        return _silences(watched, answer.sent_s, first_s, answer.prompt_tokens or 0)

    with bench.contestants.both(Size(slots=STREAMS + 1, slot_tokens=4_608)) as targets:
        await warm_up(bench, targets)
        return {"4 streams": compare(await bench.rounds_of("long prompt", targets, measure))}


async def _stream_on(target: Target, jobs: Iterator[Messages], watched: list[Stream]) -> None:
    """Keep one stream running: a new chat where the model ends the old one."""
    for messages in jobs:
        watched.append(Stream())
        await chat(target, messages, STREAM_TOKENS, watched[-1])


def _silences(watched: Sequence[Stream], sent_s: float, first_s: float, prompt_tokens: int) -> Sample:
    usual_s, during_s, tokens = [], [], 0
    for stream in watched:
        times_s = stream.read().token_times_s
        tokens += sum(1 for at_s in times_s if sent_s < at_s <= first_s)
        for earlier_s, later_s in itertools.pairwise(times_s):
            if later_s <= sent_s:
                usual_s.append(later_s - earlier_s)
            elif earlier_s < first_s:
                during_s.append(later_s - earlier_s)
    return {
        "longest_gap_ms": max(during_s, default=float("nan")) * 1e3,
        "gap_p50_ms": quantile(during_s, 0.5) * 1e3,
        "gap_p95_ms": quantile(during_s, 0.95) * 1e3,
        "usual_gap_p50_ms": quantile(usual_s, 0.5) * 1e3,
        "long_ttft_s": first_s - sent_s,
        "streams_tok_s_meanwhile": tokens / (first_s - sent_s),
        "long_prompt_tokens": prompt_tokens,
        "streams_restarted": len(watched) - STREAMS,
    }


# ---- 5: a good neighbour


async def neighbours(bench: Bench) -> dict[str, Any]:
    """Throughput of one and of eight clients beside 0, 1 and 2 busy processes, and what these lose by it.

    Of hybrid also what it tells meanwhile: threads that compute, and the slowdown its latency policy reckons with.
    """
    result = {}
    with bench.contestants.both(Size(slots=8, slot_tokens=1_024)) as targets:
        await warm_up(bench, targets)
        for count, (clients, window_s) in itertools.product(COMPETITORS, NEIGHBOUR_WINDOWS_S.items()):
            label = f"{count} competitors, {clients} clients"
            measure = neighbour_measure(bench, clients, count, window_s=window_s)
            result[label] = compare(await bench.rounds_of(label, targets, measure))
    return result


def neighbour_measure(bench: Bench, clients: int, count: int, *, window_s: float) -> Measure:
    """Give the measurement of a fixed span of `clients` asking on and on, beside `count` busy processes."""
    window_s = min(window_s, QUICK_WINDOW_S) if bench.is_quick else window_s

    async def measure(target: Target, key: str) -> Sample:
        jobs = (bench.prompts.story(NEIGHBOUR_PROMPT_TOKENS[clients], f"{key}-{n}") for n in itertools.count())
        with Competitors(count) as rivals:
            alone_per_s = await rivals.loops_per_s(ALONE_S)
            before, started_s = rivals.loops(), time.perf_counter()
            async with TellTale(target) as told:
                streams = await closed_loop(target, clients, jobs, ANSWER_TOKENS, until_s=started_s + window_s)
            elapsed_s = time.perf_counter() - started_s
            loops_per_s = (rivals.loops() - before) / elapsed_s
        sample = figures(streams, elapsed_s) | told.sample()
        sample["longest_gap_ms"] = (
            max((gap for stream in streams for gap in stream.read().gaps_s), default=math.nan) * 1e3
        )
        if count:
            sample["competitor_slowdown"] = alone_per_s / loops_per_s
        return sample

    return measure


# ---- 6: a soak


async def soak(bench: Bench) -> dict[str, Any]:
    """Many requests of random sizes, a tenth of them hung up on: is the worker's memory flat, is everything free?"""
    from scripts._soak import run_soak

    return await run_soak(bench.contestants, bench.prompts, bench.soak, bench.soak_tokens)


# ---- 7: what is around llama_decode


async def overhead(bench: Bench) -> dict[str, Any]:
    """Time between the end of one `llama_decode` and the start of the next, in steps that only decode."""
    from scripts._step_times import StepTimes

    result: dict[str, Any] = {}
    times = StepTimes()
    size = Size(slots=max(CONCURRENCY), slot_tokens=512)
    with times.environ() as environ, bench.contestants.ours(size, environ) as (target, _):
        await warm_up(bench, [target])
        for clients in CONCURRENCY:

            async def measure(target: Target, key: str, clients: int = clients) -> Sample:
                times.forget()
                jobs = bench.prompts.shared(STEP_SYSTEM_TOKENS, key, clients)
                await closed_loop(target, clients, iter(jobs), STEP_ANSWER_TOKENS)
                return times.sample(clients)

            result[f"{clients} sequences"] = compare(await bench.rounds_of(f"{clients} sequences", [target], measure))
    return result


# ---- 8: how long threads should spin


async def spins(bench: Bench) -> dict[str, Any]:
    """Speed of one stream and of eight at several values of GOMP_SPINCOUNT, alone and beside a busy process."""
    result: dict[str, Any] = {}
    counts = ("300000", "10000", "1000", "200", "0")
    labels = dict(zip(counts, ("300000 (libgomp's default)", *counts[1:]), strict=True))
    for number, count in itertools.product(range(bench.rounds), counts):
        environ = {"GOMP_SPINCOUNT": count}
        with bench.contestants.ours(Size(slots=8, slot_tokens=1_024), environ) as (target, _):
            await warm_up(bench, [target])
            for clients, rivals in itertools.product((1, 8), (0, 1)):
                label = f"spins {labels[count]}: {clients} clients, {rivals} competitors"
                measure = neighbour_measure(bench, clients, rivals, window_s=12.0)
                sample = await bench.quiet_sample(label, target, number, measure)
                result.setdefault(label, []).append(sample)
    return {label: compare({"ours": samples}) for label, samples in sorted(result.items())}


# ---- 9: an answer that repeats its question


async def copies(bench: Bench) -> dict[str, Any]:
    """One stream that rewrites code."""
    from scripts._copying import copying

    return await copying(bench)


# ---- 10: short prompts behind a long one


async def short_prompts(bench: Bench) -> dict[str, Any]:
    """How soon short prompts have their first tokens while a long one is taken in."""
    from scripts._passing import passing

    return await passing(bench)


SCENARIOS: dict[int, tuple[str, Callable[[Bench], Awaitable[dict[str, Any]]]]] = {
    1: ("chats: 175-token prompts, 64-token answers", concurrency),
    2: ("eight chats sharing a 1,000-token system prompt, cold", shared_prefix),
    3: ("one stream's decode against a bare llama_decode loop", single_stream),
    4: ("a 4,000-token prompt arriving while four streams run", long_prompt),
    5: ("one and eight clients beside busy processes", neighbours),
    6: ("soak: requests of random sizes", soak),
    7: ("worker's time outside llama_decode, a step", overhead),
    8: ("how long OpenMP threads spin (only if asked for)", spins),
    9: ("rewriting code with one name changed: what drafts give", copies),
    10: ("short prompts arriving while a 4,000-token one is taken in", short_prompts),
}
