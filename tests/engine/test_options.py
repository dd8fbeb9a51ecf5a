"""How likely each option of a question was: read from the very row that the first token is drawn from."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.engine import Engine
from hybrid.engine.options import logprobs_of, option_tokens
from hybrid.engine.sequence import Sequence
from hybrid.native import SampleParams


def test_an_options_share_is_the_sum_over_its_spellings():
    """Two tokens of one option add up, and all of them together are measured against the whole vocabulary."""
    row = np.log(np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)) + 5

    found = logprobs_of(row, ((0, 1), (2,), ()))

    assert found == pytest.approx((math.log(0.3), math.log(0.3), -math.inf))


def test_only_the_first_token_tells_of_options_whatever_else_runs():
    """Of two sequences in one batch the one with options tells them, once, and they fit the token it drew."""
    backend = FakeBackend(BackendOptions(model_path=Path("unused"), slots=2))
    engine = Engine(backend, clock=itertools.count(step=0.01).__next__)
    options = option_tokens(backend, "AB")
    for name, text, mine in (("plain", "xyz", ()), ("asked", "BAB", options)):
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n".encode()
        engine.submit(
            Sequence(
                id=name,
                prompt=np.frombuffer(prompt, dtype=np.uint8).astype(np.int32),
                params=SampleParams(temperature=0.0),
                seed=1,
                max_output_tokens=9,
                detokenizer=Detokenizer(),
                options=mine,
            )
        )
    told = []
    while engine.has_work:
        told += [delta for delta in engine.step().deltas if delta.options]

    assert [("asked", "B", 1)] == [(delta.id, delta.text, delta.completion_tokens) for delta in told]
    assert told[0].signal is not None
    assert told[0].options[1] == pytest.approx(told[0].signal.logprob, abs=1e-5)  # a logit of 12 is a 32-bit float
    assert told[0].options[0] < told[0].options[1]


def test_a_text_of_several_tokens_is_no_option():
    """It has no token of its own, and so is never likely."""
    backend = FakeBackend(BackendOptions(model_path=Path("unused")))

    assert ((65,), ()) == option_tokens(backend, ["A", "AB"])
