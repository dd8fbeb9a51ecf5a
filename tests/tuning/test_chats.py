"""Are the speeds that tuning tells those of single steps, however many of them the engine takes at once?"""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.catalog.tuned import Speed
from hybrid.tuning.chats import measure_speed

STEP_S = 0.005
TEXT = b"<|im_start|>user\n[endless] x<|im_end|>\n<|im_start|>assistant\n"


class Timed(FakeBackend):
    """Each step takes as long, by a clock of its own."""

    now_s = 0.0

    def decode(self, entries):
        self.now_s += STEP_S
        return super().decode(entries)


def speed_of(*, can_run: bool, answer_tokens: int) -> Speed:
    """Time chats of which each has the text as its prompt."""
    options = BackendOptions(model_path=Path("unused"), context_tokens=2048, slots=8)
    backend = Timed(options, can_run=can_run)
    return measure_speed(
        backend,
        list(TEXT),
        prompt_tokens=len(TEXT),
        answer_tokens=answer_tokens,
        runs=1,
        clock=lambda: backend.now_s,
    )


@pytest.mark.parametrize("answer_tokens", [16, 64])
def test_a_run_of_steps_is_not_taken_for_one(answer_tokens):
    """One chat draws a token each 5 ms and eight draw eight, as where each step is a call of its own."""
    single = speed_of(can_run=False, answer_tokens=answer_tokens)
    together = speed_of(can_run=True, answer_tokens=answer_tokens)
    rates = pytest.approx((1 / STEP_S, 8 / STEP_S))
    assert rates == (single.decode_1_tok_s, single.decode_8_tok_s)
    assert rates == (together.decode_1_tok_s, together.decode_8_tok_s)
    assert pytest.approx(single.chats_s) == together.chats_s
