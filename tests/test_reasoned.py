"""A client's question of letters, asked for its reasons: in the words that calibrations count votes by."""

from dataclasses import replace

import pytest

from hybrid.calibration.datasets import Question
from hybrid.calibration.recipes import REASONED, RECIPES, ask
from hybrid.reasoned import reasoned
from hybrid.types import ChatRequest, ImagePart, Message, TextPart

QUESTION = Question(id="a", scorer="choice", question="Which of these? ", choices=("x", "y", "z"), answer="B")
ASKED = "Which of these?\nA. x\nB. y\nC. z"


def _turn(role: str, text: str) -> Message:
    return Message(role, (TextPart(text),))


def _request(*messages: Message) -> ChatRequest:
    return ChatRequest(model="hybrid", messages=messages)


def _last(request: ChatRequest) -> str:
    found = reasoned(request)
    assert found is not None
    return found.messages[-1].text


def test_votes_are_asked_for_as_the_calibration_asked():
    """The recipe of a letter becomes that of reasons, word by word: its examples give way, its question stays."""
    served, calibrated = reasoned(ask(QUESTION, RECIPES["choice"]).request), ask(QUESTION, REASONED).request

    assert calibrated.messages == served.messages
    assert calibrated.max_output_tokens == served.max_output_tokens


def test_nothing_that_was_wanted_of_the_letter_is_wanted_of_the_reasons():
    """No stop, no biases, no stream."""
    request = replace(
        _request(_turn("user", ASKED)), stop=("\n",), is_stream=True, extra={"logit_bias": {"1": 5}, "n": 1}
    )
    found = reasoned(request)

    assert ((), False, {}) == (found.stop, found.is_stream, found.extra)


@pytest.mark.parametrize(
    "form",
    [
        "Answer with the letter only.",
        "answer with just A, B or C",
        "Please respond with a single letter.",
        "Reply with only one of A, B, C.",
        "Answer:",
        "The correct answer is:",
    ],
)
def test_the_form_that_was_asked_for_gives_way(form):
    """It would speak against the reasons."""
    assert f"{ASKED}\n{REASONED.closing}" == _last(_request(_turn("user", f"{ASKED}\n{form}")))


@pytest.mark.parametrize("more", ["Which one is NOT true?", "Answer for a child of ten.", "Mind the second law."])
def test_what_is_asked_after_the_options_stays(more):
    """Only what tells the form of an answer is left out."""
    assert f"{ASKED}\n{more}\n{REASONED.closing}" == _last(_request(_turn("user", f"{ASKED}\n{more}")))


@pytest.mark.parametrize("letter", ["B", " (B).", "**B**", "B.\n"])
def test_rules_and_talk_stay_and_letters_go(letter):
    """Rules come before the examples, what was talked of after them; turns that answer with a letter are examples."""
    letters = [_turn("user", "Which?\nA. 1\nB. 2"), _turn("assistant", letter)]
    talk = [_turn("user", "I am in year 9."), _turn("assistant", "Good to know.")]
    found = reasoned(_request(_turn("system", "Be exact."), *talk, *letters, _turn("user", ASKED)))

    examples = 2 * len(REASONED.examples)
    assert "Be exact." == found.messages[0].text
    assert REASONED.examples[0][0] == found.messages[1].text
    assert tuple(talk) == found.messages[1 + examples : -1]


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(_request(_turn("user", "What is 2 + 2?")), id="no-options"),
        pytest.param(_request(_turn("user", ASKED), _turn("assistant", "B")), id="the-last-turn-is-no-question"),
        pytest.param(
            _request(Message("user", (ImagePart("data:image/png;base64,AA=="), TextPart(ASKED)))), id="an-image"
        ),
    ],
)
def test_what_cannot_be_asked_so_is_not(request_):
    """None says that there will be no votes."""
    assert reasoned(request_) is None
