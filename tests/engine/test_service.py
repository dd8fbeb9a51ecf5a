"""How long a request is said to wait, by what the worker has before it."""

import pytest

from hybrid.engine.frames import Load
from hybrid.engine.service import ServiceTime

PROMPTS = [(3000, 2500), (100, 0)]
"""One that is long, which passes nobody of under 2,500 tokens, and one that came before and goes first in any case."""


def load(**changed):
    facts = {"running": 2, "waiting": 0, "free_slots": 2, "free_cells": 9000, "prefill_tok_s": 200.0}
    return Load(**facts | {"decode_tok_s": 20.0, "prompts": PROMPTS} | changed)


@pytest.mark.parametrize(
    ("prompt_tokens", "expected_s"),
    [
        pytest.param(30, 0.5, id="passes the long one"),
        pytest.param(2500, 15.5, id="comes after it"),
        pytest.param(None, 15.5, id="nobody counted it"),
    ],
)
def test_while_slots_are_free_the_prompts_before_it_are_waited_for(prompt_tokens, expected_s):
    assert expected_s == ServiceTime().wait_s(load(), answers=2, slots=4, prompt_tokens=prompt_tokens)


def test_where_no_slot_is_free_answers_must_end():
    service = ServiceTime()
    assert service.wait_s(load(), answers=4, slots=4, prompt_tokens=30) is None
    service.learn(8.0, load())
    assert 2.0 == service.wait_s(load(), answers=4, slots=4, prompt_tokens=30)


def test_before_any_speed_is_known_no_wait_is_told():
    assert ServiceTime().wait_s(load(prefill_tok_s=None), answers=0, slots=4) is None
