"""How a question is put, and that a recipe's name changes with every word of it."""

import msgspec

from hybrid.calibration.datasets import Question
from hybrid.calibration.recipes import RECIPES, ask
from hybrid.policy.tasks import TaskKind, kind_of, options_in

CHOICE = Question(id="a", scorer="choice", question="Which? ", choices=("x", "y", "z"), answer="B")


def test_a_choice_is_asked_as_the_policy_would_read_it():
    """The letters before the options are the ones `options_in` finds, and the kind is the policy's."""
    asked = ask(CHOICE, RECIPES["choice"])
    last = asked.request.messages[-1]

    assert last.text == "Which?\nA. x\nB. y\nC. z\nAnswer with the letter only."
    assert asked.options == options_in(last.text)
    assert kind_of(last.text) is TaskKind.CHOICE


def test_examples_come_before_the_question_as_turns():
    """Each is a user's turn and its answer, and the answer is one of the options it offers."""
    asked = ask(CHOICE, RECIPES["choice"])
    roles = [message.role for message in asked.request.messages]

    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    for question, answer in RECIPES["choice"].examples:
        assert answer in options_in(question)


def test_worked_examples_end_with_their_number():
    """In the form that the question asks for."""
    for _, answer in RECIPES["number"].examples:
        assert answer.splitlines()[-1].startswith("#### ")


def test_every_change_has_another_digest():
    """A letter more, an example less."""
    recipe = RECIPES["choice"]
    changed = [
        msgspec.structs.replace(recipe, closing=recipe.closing + "!"),
        msgspec.structs.replace(recipe, examples=recipe.examples[1:]),
        msgspec.structs.replace(recipe, max_output_tokens=2),
    ]

    assert len({recipe.digest, *(one.digest for one in changed)}) == 4
