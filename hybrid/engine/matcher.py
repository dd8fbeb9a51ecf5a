"""How does a grammar's text become something that can be followed? Compiled by llguidance, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits

from hybrid.errors import InvalidRequest

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from hybrid.engine.frames import Grammar

MAX_ITEMS_IN_ROW = 10_000
"""llguidance's default of 2,000 ends generations in objects of some 800 properties; this takes 4,000."""
STEP_MAX_ITEMS = 100_000
WHITESPACE = r"( |\n{1,2}[ \t]{0,20})"
"""Between the tokens of a JSON document, at most once: a small model that may write any amount of it often never stops.

Source: the bound of llama.cpp's json-schema-to-grammar.
"""


def compile_matcher(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    """Compile a grammar against a vocabulary.

    Unknown JSON Schema keywords that restrict are errors and not passed over; `oneOf` is followed as `anyOf`, which
    the check of the finished document makes up for.

    Raises: InvalidRequest in llguidance's words if the grammar is malformed, contradicts itself, uses what llguidance
        does not know, or is over its limits. It does not bound the time: see `check_process`.
    """
    try:
        compiled = _translate(grammar)
    except ValueError as broken:
        raise InvalidRequest(f"the {grammar.kind} cannot be read: {broken}") from broken
    limits = LLParserLimits(
        max_items_in_row=MAX_ITEMS_IN_ROW,
        step_max_items=STEP_MAX_ITEMS,
        verbose_errors=False,
    )
    matcher = LLMatcher(tokenizer, compiled, log_level=0, limits=limits)
    if matcher.is_error():
        raise InvalidRequest(f"the {grammar.kind} cannot be followed: {matcher.get_error().strip()}")
    return matcher


def _translate(grammar: Grammar) -> str:
    if grammar.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(
            grammar.source,
            # Overrides, so that no `x-guidance` in a client's schema makes it lenient.
            overrides={"lenient": False, "coerce_one_of": True, "whitespace_pattern": WHITESPACE},
        )
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.source)
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.source)
    raise ValueError("unknown kind; valid are json_schema, regex and lark")
