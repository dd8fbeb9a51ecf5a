"""How is a choice asked for its reasons? A client's question in the words that calibrations count votes by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hybrid.calibration.recipes import REASONED, Recipe, turns_of
from hybrid.policy.tasks import options_in
from hybrid.types import ChatRequest, Message, TextPart

_LETTER = re.compile(r"\s*[(\[*]*[A-Z][)\].:*]*\s*")
_HOW_TO_ANSWER = re.compile(
    r"(?:please )?(?:answer|reply|respond|output|return|give)\b.{0,100}\b(?:letters?|only|just|single|one of)\b.{0,60}"
    r"|(?:the |your )?(?:correct )?answer(?: is)?:?",
    re.IGNORECASE,
)
"""A last line that says in what form to answer, which is another now; what is asked never begins so."""


def reasoned(request: ChatRequest, recipe: Recipe = REASONED) -> ChatRequest | None:
    """Ask the same, for a sentence of reasons before the letter; None where no letter is asked for in plain text.

    Rules of the system and what was talked of before stay. Turns that answer with a bare letter are examples of the
    other form, and give way to those of the recipe.
    """
    *before, last = request.messages
    question = "" if last.role != "user" else _without_form(last.text)
    is_plain = all(isinstance(part, TextPart) for message in request.messages for part in message.parts)
    if not is_plain or not options_in(question) or any(message.tool_calls for message in before):
        return None
    first = next((place for place, message in enumerate(before) if message.role not in ("system", "developer")), None)
    rules, talk = (before, []) if first is None else (before[:first], before[first:])
    asked = Message("user", (TextPart(f"{question}\n{recipe.closing}"),))
    return replace(
        request,
        messages=(*rules, *turns_of(recipe), *_without_letters(talk), asked),
        max_output_tokens=recipe.max_output_tokens,
        stop=(),
        is_stream=False,
        needs=frozenset(),
        extra={},
    )


def _without_form(question: str) -> str:
    head, newline, last = question.rstrip().rpartition("\n")
    return head.rstrip() if newline and _HOW_TO_ANSWER.fullmatch(last.strip().rstrip(".")) else question.strip()


def _without_letters(talk: Sequence[Message]) -> Iterator[Message]:
    for place, message in enumerate(talk):
        following = talk[place + 1] if place + 1 < len(talk) else None
        if message.role == "assistant" and _LETTER.fullmatch(message.text):
            continue
        if message.role == "user" and following is not None and _LETTER.fullmatch(following.text):
            continue
        yield message
