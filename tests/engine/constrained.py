"""How do tests run constrained sequences? The real engine over the fake or the starter, stepped to the end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from hybrid.backends.base import Backend
from hybrid.engine.constraint import Grammars
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.engine import Engine
from hybrid.engine.frames import Grammar
from hybrid.engine.logprobs import LogprobQueue
from hybrid.engine.sequence import Sequence
from hybrid.native import SampleParams
from hybrid.types import FinishReason, Json, TokenLogprob

MAX_STEPS = 20_000


@dataclass(slots=True)
class Outcome:
    """What became of one sequence."""

    text: str = ""
    finish: FinishReason | None = None
    failure: str | None = None
    stopped_by: str | None = None
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)


def schema(value: Json) -> Grammar:
    """Give a JSON Schema as a grammar."""
    return Grammar("json_schema", json.dumps(value))


def prompt_of(backend: Backend, text: str) -> np.ndarray:
    """Tokenize one user message in ChatML."""
    return np.asarray(backend.tokenize(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"), dtype=np.int32)


def sequence(
    backend: Backend,
    name: str,
    text: str,
    *,
    constraint=None,
    temperature: float = 0.0,
    seed: int = 1,
    limit: int = 1000,
    stop: tuple[str, ...] = (),
    bias: dict[int, float] | None = None,
    top_logprobs: int | None = None,
) -> Sequence:
    """Make a sequence as the worker does."""
    return Sequence(
        id=name,
        prompt=prompt_of(backend, text),
        params=SampleParams(temperature=temperature),
        seed=seed,
        max_output_tokens=limit,
        detokenizer=Detokenizer(stop),
        constraint=constraint,
        bias=None
        if not bias
        else (np.array(list(bias), dtype=np.int32), np.array(list(bias.values()), dtype=np.float32)),
        logprobs=None if top_logprobs is None else LogprobQueue(backend, top_logprobs),
    )


def finish(engine: Engine) -> dict[str, Outcome]:
    """Step to the end."""
    outcomes: dict[str, Outcome] = {}
    for _ in range(MAX_STEPS):
        if not engine.has_work:
            return outcomes
        for delta in engine.step().deltas:
            outcome = outcomes.setdefault(delta.id, Outcome())
            outcome.text += delta.text
            outcome.logprobs += delta.logprobs
            if delta.finish or delta.failure:
                outcome.finish, outcome.failure = delta.finish, delta.failure
                outcome.stopped_by, outcome.tokens = delta.stopped_by, delta.completion_tokens
    raise AssertionError("the engine does not end")


def answer(engine: Engine, backend: Backend, grammars: Grammars, grammar: Grammar, text: str, **options) -> Outcome:
    """Run one constrained sequence alone."""
    engine.submit(sequence(backend, "s", text, constraint=grammars.constraint(grammar), **options))
    return finish(engine)["s"]
