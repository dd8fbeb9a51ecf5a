"""How long do eight chats at once take? Run through the very engine that serves, so this is what users wait for."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import Backend
from hybrid.catalog.tuned import Speed
from hybrid.devices.others import OthersWatch
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.drafting import Drafter
from hybrid.engine.engine import Engine
from hybrid.engine.report import StepReport
from hybrid.engine.sequence import Sequence
from hybrid.errors import LocalFailure
from hybrid.native import SampleParams
from hybrid.tuning.jobs import ANSWER_TOKENS, PROMPT_TOKENS

Tokens: TypeAlias = NDArray[np.int32]

CHATS = 8
WARM_TOKENS = 4
NEVER = -100.0
"""Added to the logits of tokens that end an answer, so that all answers are equally long."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of some chats at once. prefill_s: until each has its first token; step_s: one token more for each."""

    total_s: float
    prefill_s: float
    step_s: float


def measure_speed(
    backend: Backend,
    tokens: Seq[int],
    *,
    prompt_tokens: int,
    answer_tokens: int,
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Measure one chat and eight at once; of several runs the fastest counts, for other work can only slow one down.

    Prompts and answers that are shorter than the chat's are stretched by the time of what is missing.

    Raises: LocalFailure if a chat fails.
    """
    chats = _Chats(backend, tokens, prompt_tokens, clock)
    chats.run(1, WARM_TOKENS)  # the first touches every weight once, and the engine learns how much fits a step
    watch = OthersWatch()
    alone = min((chats.run(1, answer_tokens) for _ in range(runs)), key=_total_s)
    together = sorted((chats.run(CHATS, answer_tokens) for _ in range(runs)), key=_total_s)
    best = together[0]
    return Speed(
        prefill_1_tok_s=prompt_tokens / alone.prefill_s,
        prefill_8_tok_s=CHATS * prompt_tokens / best.prefill_s,
        decode_1_tok_s=1 / alone.step_s,
        decode_8_tok_s=CHATS / best.step_s,
        chats_s=best.total_s
        + (PROMPT_TOKENS / prompt_tokens - 1) * best.prefill_s
        + (ANSWER_TOKENS - answer_tokens) * best.step_s,
        spread=together[-1].total_s / best.total_s - 1 if runs > 1 else None,
        others_cores=watch.cores(),
    )


def _total_s(run: Run) -> float:
    return run.total_s


def _steps(report: StepReport) -> int:
    """How many steps one call made: whoever goes on through all of them draws a token in each."""
    return max(Counter(delta.id for delta in report.deltas).values(), default=1)


class _Chats:
    """One engine over one loaded model, with a text to take prompts from."""

    def __init__(self, backend: Backend, tokens: Seq[int], prompt_tokens: int, clock: Callable[[], float]) -> None:
        self._tokens, self._prompt_tokens, self._clock = tokens, prompt_tokens, clock
        # Small models repeat themselves, each in its own way: guessed tokens would time that, and not the format.
        self._engine = Engine(backend, drafter=Drafter(is_on=False), clock=clock, is_adaptive=False)
        ends = [token for token in range(backend.facts.vocab_tokens) if backend.is_end(token)]
        self._bias = np.array(ends, dtype=np.int32), np.full(len(ends), NEVER, dtype=np.float32)

    def run(self, chats: int, answer_tokens: int) -> Run:
        """Answer prompts that share nothing, and leave the cache empty. Raises: LocalFailure if one fails."""
        engine = self._engine
        for number in range(chats):
            engine.submit(self._chat(number, answer_tokens))
        waiting, steps_s = {str(number) for number in range(chats)}, []
        started_s = prefilled_s = now_s = self._clock()
        while engine.has_work:
            before_s, report = now_s, engine.step()
            now_s = self._clock()
            failure = next((delta.failure for delta in report.deltas if delta.failure), None)
            if failure is not None:
                raise LocalFailure(failure)
            if waiting:
                waiting -= {delta.id for delta in report.deltas if delta.signal is not None}
                prefilled_s = now_s
            else:
                steps = _steps(report)
                steps_s += [(now_s - before_s) / steps] * steps
        engine.cache.clear()
        return Run(now_s - started_s, prefilled_s - started_s, statistics.median(steps_s))

    def _chat(self, number: int, answer_tokens: int) -> Sequence:
        start, count = number * self._prompt_tokens, len(self._tokens)
        prompt = [self._tokens[(start + offset) % count] for offset in range(self._prompt_tokens)]
        return Sequence(
            id=str(number),
            prompt=np.asarray(prompt, dtype=np.int32),
            params=SampleParams(temperature=0.0),
            seed=0,
            max_output_tokens=answer_tokens,
            detokenizer=Detokenizer(),
            isolation=str(number),
            bias=self._bias,
        )
