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


def prepared(
    template: str,
    messages: list[dict[str, str]],
    *,
    tools: list[dict[str, str]] | None = None,
    variables: dict[str, bool | str] | None = None,
) -> tuple[Frame, list[int]]:
    """Give what an intake answers to a conversation, and the lengths of what was tokenized for it."""
    backend, answers = CountedBackend(), queue.SimpleQueue[Frame]()
    intake = Intake(backend, ChatTemplate(template, bos_text="", eos_text=""), Speech(), send=answers.put)
    intake.start()
    intake.prepare(prepare_frame("r", messages, tools, variables))
    return answers.get(timeout=TIME_LIMIT_S), backend.chars


@pytest.fixture
def told():
    """Give what an intake answers to a conversation of one message, and what was tokenized for it."""

    def ask(text: str) -> tuple[Frame, list[int]]:
        return prepared(ONLY_TEXT, [{"role": "user", "content": text}])

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
    """Too many are not tokenized: that would take so long that the worker passed for stuck and was killed.

    A client's are text in two parts each, of at least a token; a template's are tokens.
    """
    mark = "<end>"
    assert CONTEXT_TOKENS * len(mark) < LARGE_CHARS < 2 * CONTEXT_TOKENS * len(mark)

    assert (Prepared("r", 2 * CONTEXT_TOKENS + 1), []) == told(mark * (2 * CONTEXT_TOKENS))
    fitting = CONTEXT_TOKENS - 1
    answer, lengths = told(mark * fitting)
    assert (Prepared("r", fitting * len(mark)), CONTEXT_TOKENS) == (answer, len(lengths))


def test_a_templates_own_control_tokens_are_counted():
    """Those it writes a turn: so many turns do not fit, and are not tokenized."""
    turns = [{"role": "user", "content": "hi"}] * (2 * CONTEXT_TOKENS)
    answer, lengths = prepared("{% for message in messages %}{{ message.content }}<end>{% endfor %}", turns)

    assert (Prepared("r", 2 * CONTEXT_TOKENS), []) == (answer, lengths)


def test_a_clients_control_token_is_tokenized_as_text():
    """In two pieces, so that no tokenizer sees it whole; the template's own are seen."""
    template = "{% for message in messages %}{{ message.content }}<end>{% endfor %}{{ tools[0].name }}{{ mood }}"
    answer, lengths = prepared(
        template, [{"role": "user", "content": "a<end>b"}], tools=[{"name": "<end>"}], variables={"mood": "<end>"}
    )

    assert Prepared("r", len("a<end>b<end><end><end>")) == answer
    assert [len("a<"), len("end>b<end><"), len("end><"), len("end>")] == lengths


@pytest.mark.parametrize("depth", [600, 900])
def test_what_is_nested_too_deeply_is_the_callers(depth):
    """Arguments of a past call may be nested as no request is: a refusal, and the worker goes on."""
    nested: dict[str, object] = {}
    for _ in range(depth):
        nested = {"a": nested}
    answer, lengths = prepared(ONLY_TEXT, [{"role": "user", "content": nested}])

    assert (Refused("r", "messages or tools are nested too deeply", is_caller=True), []) == (answer, lengths)
