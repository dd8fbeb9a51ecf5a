"""How does this model think and call tools? Read off its chat template, the only place that says so."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hybrid.engine.formats.formats import BY_NAME, FORMATS, GEMMA, GENERIC, Format

THINKING_MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
SWITCH = "enable_thinking"
"""The variable by which Qwen3's, SmolLM3's and other templates turn thinking off."""
_TOOLS = re.compile(r"\btools\b")
_FOREIGN = ("<function=", "<|tool_calls_section_begin|>", "<|channel|>", "<start_function_call>")
"""Marks of formats that are not read here: a model that speaks one is asked for the generic format instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """What a chat template tells of its model.

    tool_format: name of a `Format`. knows_tools: whether the template renders tools itself.
    is_single_call: whether it takes no more than one call a turn.
    thinking: the markers around thinking, None if the model does not think. can_stop_thinking: by a variable.
    """

    tool_format: str = GENERIC.name
    knows_tools: bool = False
    is_single_call: bool = False
    thinking: tuple[str, str] | None = None
    can_stop_thinking: bool = False

    @property
    def format(self) -> Format:
        """The format of its tool calls."""
        return BY_NAME[self.tool_format]

    def opens_thinking(self, prompt: str) -> bool:
        """Say whether a rendered prompt ends inside the model's thinking, as some templates make it."""
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking[0])

    @property
    def markers(self) -> tuple[str, ...]:
        """Every text of this model's speech that its vocabulary may hold as one control token."""
        return tuple(dict.fromkeys((*self.format.markers, *(self.thinking or ()))))


def hear(template: str | None) -> Speech:
    """Find out how the model of a chat template speaks; a model without a template is taken for a plain one."""
    source = template or ""
    thinking = next((pair for pair in THINKING_MARKERS if pair[1] in source), None)
    knows_tools = _TOOLS.search(source) is not None and not any(mark in source for mark in _FOREIGN)
    found = next((form for form in FORMATS if any(mark in source for mark in form.marks)), GENERIC)
    if found is GEMMA:
        knows_tools = False  # templates that add tools to Gemma disagree on the format; ours is the documented one
    if not knows_tools and found is not GEMMA:
        found = GENERIC
    return Speech(
        tool_format=found.name,
        knows_tools=knows_tools and found is not GENERIC,
        is_single_call="single tool-call" in source,
        thinking=thinking,
        can_stop_thinking=SWITCH in source,
    )
