"""Which formats of tool calls exist? What marks each in a template, how a call is written, who reads it.

Sources: the chat templates the makers publish with their models, and their prompt-format pages (Qwen's and
NousResearch's function calling, Meta's Llama 3 prompt formats, Mistral's instruct tokenizers, Google's Gemma pages).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hybrid.engine.formats.json_call import CallLog, JsonCalls
from hybrid.engine.formats.mistral import ARGS, CALL_ID, MistralCalls
from hybrid.engine.formats.python_call import BlockCalls
from hybrid.engine.formats.scan import MakeReader, Opening, Scanner

_FENCES = {
    "```tool_code": Opening(BlockCalls),
    "```tool_call": Opening(BlockCalls),
    "```json": Opening(JsonCalls, "```", is_certain=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a call is written, for grammars and for prompts.

    opening, closing: stand around each call, or around all of them with `is_list`; their markers may be tokens.
    before_name, before_arguments, after: stand around the name and the arguments' JSON. joint: between two calls.
    """

    opening: str = ""
    closing: str = ""
    before_name: str = '{"name": "'
    before_arguments: str = '", "arguments": '
    after: str = "}"
    joint: str = "\n"
    is_list: bool = False

    def call(self, name: str, arguments: str) -> str:
        """Write one call, without what stands around it."""
        return f"{self.before_name}{name}{self.before_arguments}{arguments}{self.after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way of calling tools.

    marks: texts of which one stands in the templates of models that speak it. openings: markers and who reads what
    follows. bare: reads calls without a marker at the start of an answer; None where there are none.
    """

    name: str
    marks: tuple[str, ...]
    wording: Wording
    openings: dict[str, Opening]
    bare: MakeReader | None = None
    inner_markers: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """Every text that models of this format may have a token of its own for."""
        closings = (opening.close for opening in self.openings.values() if opening.close)
        return tuple(dict.fromkeys((*self.openings, *closings, *self.inner_markers)))

    def scanner(self, names: frozenset[str], new_id: Callable[[], str]) -> Scanner:
        """Give what finds calls of these tools in an answer."""
        return Scanner(CallLog(names, new_id), self.openings, bare=self.bare)


HERMES = Format(
    name="hermes",
    marks=("<tool_call>",),
    wording=Wording(opening="<tool_call>\n", closing="\n</tool_call>"),
    openings={"<tool_call>": Opening(JsonCalls, "</tool_call>"), "```json": _FENCES["```json"]},
    bare=JsonCalls,  # small models forget the tags
)
MISTRAL_ARGS = Format(
    name="mistral_args",
    marks=(ARGS,),
    wording=Wording(opening="[TOOL_CALLS]", before_name="", before_arguments=ARGS, after="", joint=""),
    openings={"[TOOL_CALLS]": Opening(MistralCalls)},
    inner_markers=(ARGS, CALL_ID),
)
MISTRAL = Format(
    name="mistral",
    marks=("[TOOL_CALLS]",),
    wording=Wording(opening="[TOOL_CALLS][", closing="]", joint=", ", is_list=True),
    openings={"[TOOL_CALLS]": Opening(MistralCalls)},
)
LLAMA = Format(
    name="llama",
    marks=("<|python_tag|>", "Environment: ipython"),
    wording=Wording(before_arguments='", "parameters": '),
    openings={"<|python_tag|>": Opening(JsonCalls)},
    bare=JsonCalls,
)
GEMMA = Format(
    name="gemma",
    marks=("<start_of_turn>",),
    wording=Wording(opening="```tool_call\n", closing="\n```", is_list=True),
    openings=_FENCES,
    bare=JsonCalls,
)
GENERIC = Format(name="generic", marks=(), wording=Wording(), openings=_FENCES, bare=JsonCalls)

FORMATS = (HERMES, MISTRAL_ARGS, MISTRAL, LLAMA, GEMMA, GENERIC)
"""In the order in which they are looked for: the more telling mark first."""
BY_NAME = {form.name: form for form in FORMATS}
