"""A conversation that goes on is expected to find its beginning in the cache, and a stranger's is not."""

import pytest

from hybrid.prefixes import MAX_PREFIXES, PrefixBook
from hybrid.types import ChatRequest, Message, TextPart

SYSTEM = Message("system", (TextPart("You answer in rhyme. " * 20),))
FIRST = Message("user", (TextPart("What is a river? " * 10),))
REPLY = Message("assistant", (TextPart("A river is a giver. " * 5),))
SECOND = Message("user", (TextPart("And a lake?"),))


def asked(*messages: Message, **fields: object) -> ChatRequest:
    """A conversation."""
    return ChatRequest(model="hybrid", messages=messages, **fields)


def expected(book: PrefixBook, request: ChatRequest, model: str = "tiny") -> float:
    """The share of a prompt of 1,000 tokens."""
    return book.expected_tokens(request, model, 1000) / 1000


def test_nothing_is_expected_before_anything_was_computed():
    """A first request computes all of its prompt, and one that was not counted is not guessed at."""
    assert 0 == expected(PrefixBook(), asked(SYSTEM, FIRST))
    assert PrefixBook().expected_tokens(asked(SYSTEM), "tiny", None) is None


def test_a_conversation_that_goes_on_finds_its_beginning():
    """All but the reply and the new question, by their share of the text; the same prompt again is there whole."""
    book = PrefixBook()
    book.learn(asked(SYSTEM, FIRST), "tiny")
    texts = [len(message.text) + len(message.role) for message in (SYSTEM, FIRST, REPLY, SECOND)]

    # Whole tokens: one of a thousand.
    assert expected(book, asked(SYSTEM, FIRST, REPLY, SECOND)) == pytest.approx(sum(texts[:2]) / sum(texts), abs=1e-3)
    assert 1.0 == expected(book, asked(SYSTEM, FIRST))


def test_a_shared_system_prompt_is_found():
    """Another question under the same instructions."""
    book = PrefixBook()
    book.learn(asked(SYSTEM, FIRST), "tiny")

    assert 0.9 < expected(book, asked(SYSTEM, SECOND)) < 1.0


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        pytest.param(asked(SYSTEM, FIRST, client_key="bob"), "tiny", id="another-key"),
        pytest.param(asked(SYSTEM, FIRST), "other", id="another-model"),
        pytest.param(asked(SYSTEM, FIRST, extra={"tools": [{"type": "function"}]}), "tiny", id="other-tools"),
        pytest.param(asked(FIRST, SYSTEM), "tiny", id="another-order"),
        pytest.param(asked(Message("developer", SYSTEM.parts), FIRST), "tiny", id="another-role"),
    ],
)
def test_what_is_not_shared_is_not_expected(request_, model):
    """Caches are shared within a key and a model, and only from the first token on."""
    book = PrefixBook()
    book.learn(asked(SYSTEM, FIRST), "tiny")

    assert 0 == expected(book, request_, model)


def test_a_few_tokens_in_common_are_nothing():
    """They save nothing worth a prediction."""
    book = PrefixBook()
    book.learn(asked(SECOND), "tiny")

    assert 0 == book.expected_tokens(asked(SECOND, REPLY), "tiny", 30)


def test_the_memory_is_bounded():
    """The beginnings that were unheard of the longest are forgotten."""
    book = PrefixBook()
    for number in range(MAX_PREFIXES + 1):
        book.learn(asked(Message("user", (TextPart(f"question {number} " * 10),))), "tiny")

    assert 0 == expected(book, asked(Message("user", (TextPart("question 0 " * 10),))))
    assert 1.0 == expected(book, asked(Message("user", (TextPart("question 1 " * 10),))))
