"""A chat template says how its model calls tools and thinks; what it does not say is asked for in plain words."""

import pytest

from hybrid.engine.formats.formats import FORMATS
from hybrid.engine.formats.speech import Speech, hear
from tests.engine.formats import templates

THINK = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param(templates.QWEN25, Speech(tool_format="hermes", knows_tools=True), id="qwen2.5-captured"),
        pytest.param(templates.SMOLLM2, Speech(), id="smollm2-captured"),
        pytest.param(None, Speech(), id="none"),
        pytest.param(
            templates.CHATML_THINKING,
            Speech(tool_format="hermes", knows_tools=True, thinking=THINK, can_stop_thinking=True),
            id="thinking",
        ),
        pytest.param(
            templates.LLAMA3,
            Speech(tool_format="llama", knows_tools=True, is_single_call=True),
            id="llama",
        ),
        pytest.param(templates.MISTRAL, Speech(tool_format="mistral", knows_tools=True), id="mistral"),
        pytest.param(templates.MISTRAL_ARGS, Speech(tool_format="mistral_args", knows_tools=True), id="mistral-args"),
        pytest.param(templates.GEMMA3, Speech(tool_format="gemma"), id="gemma"),
        pytest.param(templates.FOREIGN, Speech(), id="a-format-we-do-not-read"),
        pytest.param(
            "{{ tools }} [THINK][/THINK]", Speech(thinking=("[THINK]", "[/THINK]")), id="tools-without-a-mark"
        ),
    ],
)
def test_a_template_is_heard(template, expected):
    """The format, the markers and what the template can do are read off its text."""
    assert expected == hear(template)


def test_a_prompt_that_opens_thinking_is_known():
    """Some templates end the prompt inside the thinking; only the rendered prompt tells."""
    speech = hear(templates.CHATML_THINKING)

    assert speech.opens_thinking("<|im_start|>assistant\n<think>\n")
    assert not speech.opens_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not hear(None).opens_thinking("<think>")


def test_formats_are_told_apart_by_name():
    """No two formats share a name, and only the last, the generic one, has no mark."""
    assert len({form.name for form in FORMATS}) == len(FORMATS)
    assert [not form.marks for form in FORMATS] == [False] * (len(FORMATS) - 1) + [True]
