"""How is a question put to a model? As a chat with short worked answers before it, one recipe a kind, with a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from hybrid.calibration.datasets import LETTERS, Question, Scorer
from hybrid.policy.tasks import TaskKind
from hybrid.types import ChatRequest, Message, PolicyChoice, Sampling, TextPart

KINDS: Mapping[Scorer, TaskKind] = {
    "choice": TaskKind.CHOICE,
    "number": TaskKind.NUMBER,
    "python": TaskKind.CODE,
    "text": TaskKind.TEXT,
}
"""What kind of task each scorer's questions are to the policy."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How questions of one kind are asked.

    system: the system turn; empty is none. examples: pairs of a user's turn and its answer, before the question.
    closing: what follows the question. max_output_tokens: the answer's limit. version: raised when the shape changes.
    """

    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    closing: str = ""
    max_output_tokens: int
    version: int = 1

    @property
    def digest(self) -> str:
        """SHA-256 that names exactly this recipe."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it is sent. options: the letters its answer may begin with."""

    request: ChatRequest
    options: tuple[str, ...] = ()


def ask(question: Question, recipe: Recipe) -> Asked:
    """Put a question in the words of a recipe: greedy, and never to leave this machine."""
    asked = Message("user", (TextPart(said_of(question, recipe)),))
    request = ChatRequest(
        model="local",
        messages=(*turns_of(recipe), asked),
        sampling=Sampling(temperature=0.0),
        max_output_tokens=recipe.max_output_tokens,
        policy=PolicyChoice.LOCAL_ONLY,
    )
    return Asked(request, tuple(LETTERS[: len(question.choices)]) if question.scorer == "choice" else ())


def said_of(question: Question, recipe: Recipe) -> str:
    """The words of a question as it is asked: its turn."""
    return wording(question.question, question.choices, recipe.closing)


def turns_of(recipe: Recipe) -> tuple[Message, ...]:
    """What a recipe has before the question: its system turn and its examples."""
    turns = [Message("system", (TextPart(recipe.system),))] if recipe.system else []
    for asked, answered in recipe.examples:
        turns += [Message("user", (TextPart(asked),)), Message("assistant", (TextPart(answered),))]
    return tuple(turns)


def wording(question: str, choices: tuple[str, ...], closing: str) -> str:
    """Write a question, its lettered options if it has some, and what is to be done."""
    lines = [question.strip(), *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))]
    return "\n".join(line for line in [*lines, closing] if line)


_LETTER = "Answer with the letter only."
_REASON = "Think in one or two short sentences, then end with: The answer is LETTER."
_STEPS = "Work it out in a few short steps, then end with a line: #### NUMBER"


def _choice(question: str, choices: tuple[str, ...], answer: str) -> tuple[str, str]:
    return wording(question, choices, _LETTER), answer


def _number(question: str, answer: str) -> tuple[str, str]:
    return wording(question, (), _STEPS), answer


RECIPES: Mapping[Scorer, Recipe] = {
    "choice": Recipe(
        examples=(
            _choice(
                "Which planet of the solar system is closest to the sun?", ("Venus", "Mercury", "Mars", "Earth"), "B"
            ),
            _choice("If 3x + 4 = 19, what is x?", ("3", "4", "5", "6"), "C"),
            _choice(
                "A contract signed under a threat of violence can usually be avoided by the threatened party. "
                "What is this ground called?",
                ("Duress", "Frustration", "Laches", "Novation"),
                "A",
            ),
            _choice(
                "In a market where demand rises while supply stays the same, what happens to the price?",
                ("It falls", "It stays the same", "It becomes zero", "It rises"),
                "D",
            ),
            _choice(
                "Which organ filters waste from the blood and makes urine?",
                ("Liver", "Spleen", "Kidney", "Pancreas"),
                "C",
            ),
            _choice(
                "Who wrote the play Hamlet?",
                ("Christopher Marlowe", "William Shakespeare", "Ben Jonson", "John Milton"),
                "B",
            ),
        ),
        closing=_LETTER,
        max_output_tokens=1,
    ),
    "number": Recipe(
        examples=(
            _number(
                "A baker fills 6 trays with 12 rolls each. She sells 50 rolls in the morning and half of the rest in "
                "the afternoon. How many rolls are left?",
                "She bakes 6 * 12 = 72 rolls.\nAfter the morning 72 - 50 = 22 are left.\n"
                "In the afternoon she sells 22 / 2 = 11.\nSo 22 - 11 = 11 are left.\n#### 11",
            ),
            _number(
                "A train ticket costs $40. Children pay 25% less. How much do two adults and three children pay?",
                "A child pays 40 * 0.75 = 30 dollars.\nTwo adults pay 2 * 40 = 80 dollars.\n"
                "Three children pay 3 * 30 = 90 dollars.\nTogether they pay 80 + 90 = 170 dollars.\n#### 170",
            ),
            _number(
                "Lena reads 20 pages on Monday and twice as many on Tuesday. Her book has 180 pages, and she wants to "
                "finish it in 4 more days. How many pages must she read a day?",
                "On Tuesday she reads 2 * 20 = 40 pages.\nSo far she has read 20 + 40 = 60 pages.\n"
                "180 - 60 = 120 pages are left.\nIn 4 days that is 120 / 4 = 30 pages a day.\n#### 30",
            ),
            _number(
                "A tank holds 300 liters. A pump fills it at 25 liters a minute, while a leak loses 5 liters a minute. "
                "How many minutes does it take to fill the empty tank?",
                "Each minute 25 - 5 = 20 liters are gained.\nFilling takes 300 / 20 = 15 minutes.\n#### 15",
            ),
        ),
        closing=_STEPS,
        max_output_tokens=400,
    ),
    "python": Recipe(
        closing="Complete this Python function. Answer with the whole function in one code block, and nothing else.",
        max_output_tokens=512,
    ),
    "text": Recipe(max_output_tokens=512),
}
"""The recipe of each scorer. The examples are our own."""

REASONED = Recipe(
    examples=tuple(
        (asked.replace(_LETTER, _REASON), f"{thought} The answer is {letter}.")
        for (asked, letter), thought in zip(
            RECIPES["choice"].examples[1:4],
            (
                "3x = 19 - 4 = 15, so x = 5.",
                "A threat of violence that forces someone to agree is called duress, which makes a contract voidable.",
                "More buyers compete for the same goods, so sellers can ask more, and the price rises.",
            ),
            strict=True,
        )
    ),
    closing=_REASON,
    max_output_tokens=120,
)
"""A choice with its reasons: how the votes are drawn that stand beside the letter of the recipe `choice`."""
