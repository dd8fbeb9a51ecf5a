"""What becomes a prompt, and what is refused before it costs anything."""

import queue
from pathlib import Path

import pytest

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.engine.chat_template import ChatTemplate
from hybrid.engine.formats.speech import Speech
from hybrid.engine.frames import Frame, Prepared, Refused, prepare_frame
from hybrid.engine.intake import LARGE_CHARS, Intake

CONTEXT_TOKENS = 2048
ONLY_TEXT = "{% for message in messages %}{{ message.content }}{% endfor %}"
TIME_LIMIT_S = 10


class CountedBackend(FakeBackend):
    """Remembers how long the texts were that it tokenized."""

    def __init__(self) -> None:
        super().__init__(BackendOptions(model_path=Path(), context_tokens=CONTEXT_TOKENS, slots=1, threads=1))
        self.chars: list[int] = []

    def tokenize(self, text: str) -> list[int]:
        self.chars.append(len(text))
        return super().tokenize(text)


@pytest.fixture
def told():
    """Give what an intake answers to a conversation of one message, and what was tokenized for it."""
    backend, answers = CountedBackend(), queue.SimpleQueue[Frame]()
    intake = Intake(backend, ChatTemplate(ONLY_TEXT, bos_text="", eos_text=""), Speech(), send=answers.put)
    intake.start()

    def ask(text: str) -> tuple[Frame, list[int]]:
        intake.prepare(prepare_frame("r", [{"role": "user", "content": text}], None, None))
        return answers.get(timeout=TIME_LIMIT_S), backend.chars

    return ask


def test_a_text_is_counted(told):
    """The usual case: its tokens are told."""
    assert (Prepared("r", 5), [5]) == told("hello")


def test_a_prompt_without_a_token_is_refused(told):
    """Nothing could be drawn after it: it would hold a slot for ever."""
    answer, _ = told("")

    assert isinstance(answer, Refused)
    assert answer.is_caller


def test_control_tokens_alone_can_show_that_a_text_does_not_fit(told):
    """Too many are not tokenized: that would take so long that the worker passed for stuck and was killed."""
    mark = "<end>"
    assert CONTEXT_TOKENS * len(mark) < LARGE_CHARS < 2 * CONTEXT_TOKENS * len(mark)

    assert (Prepared("r", 2 * CONTEXT_TOKENS), []) == told(mark * (2 * CONTEXT_TOKENS))
    assert (Prepared("r", CONTEXT_TOKENS * len(mark)), [CONTEXT_TOKENS * len(mark)]) == told(mark * CONTEXT_TOKENS)
