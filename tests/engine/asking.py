"""How is an engine over the fake asked in tests, and run to its end?"""

import itertools
from pathlib import Path

import numpy as np

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.drafting import Drafter
from hybrid.engine.engine import Engine
from hybrid.engine.sequence import Sequence
from hybrid.native import SampleParams
from hybrid.types import FinishReason

GREEDY = SampleParams(temperature=0.0)


def engine_of(
    *,
    context_tokens: int = 4096,
    slots: int = 4,
    has_one_pool: bool = True,
    can_run: bool = False,
    step_s: float = 0.01,
    has_drafts: bool = True,
) -> Engine:
    """An engine for which every step takes as long: what it does must not depend on the machine's mood."""
    options = BackendOptions(
        model_path=Path("unused"), context_tokens=context_tokens, slots=slots, has_one_pool=has_one_pool
    )
    clock = itertools.count(step=step_s).__next__
    return Engine(FakeBackend(options, can_run=can_run), drafter=Drafter(is_on=has_drafts), clock=clock)


def sequence_of(name: str, text: str, *, limit: int = 1000, stop: tuple[str, ...] = ()) -> Sequence:
    prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n".encode()
    return Sequence(
        id=name,
        prompt=np.frombuffer(prompt, dtype=np.uint8).astype(np.int32),
        params=GREEDY,
        seed=1,
        max_output_tokens=limit,
        detokenizer=Detokenizer(stop),
    )


def finish(
    engine: Engine, drawn: list[int] | None = None, max_steps: int = 20_000
) -> dict[str, tuple[str, FinishReason | None, str | None]]:
    """Step to the end; give each sequence's text, finish reason and failure; collect how many drew in each step."""
    texts: dict[str, str] = {}
    ends = {}
    for _ in range(max_steps):
        if not engine.has_work:
            return {name: (texts.get(name, ""), *end) for name, end in ends.items()}
        deltas = engine.step().deltas
        if drawn is not None:
            drawn.append(len({delta.id for delta in deltas}))
        for delta in deltas:
            texts[delta.id] = texts.get(delta.id, "") + delta.text
            if delta.finish or delta.failure:
                ends[delta.id] = (delta.finish, delta.failure)
    raise AssertionError(f"still {len(engine.running)} running and {len(engine.waiting)} waiting")


def ask(engine: Engine, name: str, text: str, *, isolation: str = "") -> Sequence:
    sequence = sequence_of(name, text)
    sequence.isolation = isolation
    engine.submit(sequence)
    return sequence
