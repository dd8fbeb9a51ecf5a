"""How does a grammar's text become something that can be followed? Compiled by llguidance, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits

from hybrid.engine.frames import JSON_SPELLING, Grammar
from hybrid.errors import InvalidRequest

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MAX_ITEMS_IN_ROW = 10_000
"""llguidance's default of 2,000 ends generations in objects of some 800 properties; this takes 4,000."""
STEP_MAX_ITEMS = 400_000
"""Bounds the work for one mask, some 0.1 s. The default of 50,000 ends generations in objects of 800 properties too."""


def compile_matcher(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    """Compile a grammar against a vocabulary.

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
            overrides=JSON_SPELLING,  # type: ignore[arg-type]  # a TypedDict of the same keys
        )
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.source)
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.source)
    raise ValueError("unknown kind; valid are json_schema, regex and lark")
