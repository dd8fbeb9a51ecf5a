"""What do guessed tokens give where an answer repeats its question? Code that is rewritten with one name changed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from scripts._engine_scenarios import Bench, warm_up
from scripts._load import Target, chat
from scripts._measure import Sample, compare
from scripts._servers import Size

ANSWER_TOKENS = 256
WITHOUT = "without drafts"
CODE = '''\
class Basket:
    """Things somebody wants to buy, each with its price in cents and how many of it."""

    def __init__(self, owner):
        self.owner = owner
        self.lines = []

    def add(self, name, price_cents, count=1):
        if price_cents < 0 or count < 1:
            raise ValueError(f"{name}: a price of {price_cents} for {count} makes no sense")
        self.lines.append((name, price_cents, count))

    def remove(self, name):
        self.lines = [line for line in self.lines if line[0] != name]

    def total_cents(self):
        return sum(price_cents * count for _, price_cents, count in self.lines)

    def describe(self):
        rows = [f"{count} x {name} at {price_cents / 100:.2f}" for name, price_cents, count in self.lines]
        return "\\n".join([f"Basket of {self.owner}", *rows, f"Total: {self.total_cents() / 100:.2f}"])
'''


async def copying(bench: Bench) -> dict[str, Any]:
    """Decode speed of one stream that copies, with drafts, without, and the peer's."""
    with ExitStack() as stack:
        size = Size(slots=4, slot_tokens=1_024)
        targets = stack.enter_context(bench.contestants.both(size))
        off, _ = stack.enter_context(bench.contestants.ours(size, {"HYBRID_LOCAL_SPECULATION": "off"}))
        targets = [*targets, replace(off, name=WITHOUT)]
        await warm_up(bench, targets)

        async def measure(target: Target, key: str) -> Sample:
            number = sum(key.encode()) % 1000
            task = (
                f"Write this code again with the class renamed to Basket{number}. Answer with the code alone.\n\n{CODE}"
            )
            answer = (await chat(target, [{"role": "user", "content": task}], ANSWER_TOKENS)).read()
            tokens, times_s = answer.completion_tokens or len(answer.token_times_s), answer.token_times_s
            # Lines of the answer that stand in the question: whether it copies at all.
            lines = [line for line in answer.text.splitlines() if line.strip()]
            copied = sum(line in CODE.splitlines() for line in lines) / max(len(lines), 1)
            return {
                "decode_tok_s": (tokens - 1) / (times_s[-1] - times_s[0]),
                "generated_tokens": tokens,
                "copied_lines_share": copied,
            }

        samples = await bench.rounds_of("copying", targets, measure)
    result = compare(samples)
    against = compare({"ours": samples["ours"], "peer": samples[WITHOUT]})
    result["decode_tok_s"]["with drafts to without"] = against["decode_tok_s"]["ratio"]
    return {"one stream": result}
