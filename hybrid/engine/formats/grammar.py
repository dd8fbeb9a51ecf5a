"""What may a model say when tools are there? A lark grammar: free text, and calls whose arguments fit their schema.

Each tool's schema is a JSON document of its own, so `$ref` and `$defs` inside it keep their meaning, and the text
around it is spelled out as the model's template writes it. Source of the syntax: llguidance's documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hybrid.engine.formats.formats import Wording
from hybrid.engine.formats.speech import Speech
from hybrid.types import Json

NO_PARAMETERS: Mapping[str, Json] = {"type": "object", "properties": {}, "additionalProperties": False}
"""A function that names no parameters takes none."""
MAX_CALLS = 32
"""Calls in one answer. Small models made to call something may never stop calling."""
_OPEN_KEYWORDS = frozenset(
    {"additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "$ref", "if"}
    | {"allOf", "anyOf", "oneOf", "dependentSchemas"}
)
"""Keywords with which a schema says itself, or may say, what other properties an object has."""
_SPELLING = {"coerce_one_of": True, "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As json.dumps and the templates write it. With free white space small models write nothing else until their end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolGrammar:
    """What to allow.

    tools: name and JSON Schema of each that may be called, in order. strict: names whose schema must be kept to the
    letter; in others, keywords that cannot be enforced are passed over.
    markers: token of each marker that is one control token. is_thinking: the prompt has opened the thinking.
    thinking_tokens: the most it may take; None leaves it free. answer_schema: what an answer in place of calls must be.
    """

    speech: Speech
    tools: Sequence[tuple[str, Mapping[str, Json]]] = ()
    strict: frozenset[str] = frozenset()
    markers: Mapping[str, int] = field(default_factory=dict)
    is_required: bool = False
    is_single: bool = False
    is_thinking: bool = False
    thinking_tokens: int | None = None
    answer_schema: Mapping[str, Json] | None = None

    def lark(self) -> str:
        """Write the grammar."""
        lines = [f"start: {self._thinking()}answer", "TEXT: /(.|\\n)*/", "SPACE: /[ \\t\\r\\n]{0,4}/"]
        lines += self._thinking_rules()
        lines += self._answer_rules()
        if self.tools:
            lines += self._call_rules(self.speech.format.wording)
        return "\n".join(lines) + "\n"

    # ---- thinking

    def _thinking(self) -> str:
        if self.speech.thinking is None:
            return ""
        return "thinking " if self.is_thinking else "(opened thinking)? "

    def _thinking_rules(self) -> list[str]:
        if self.speech.thinking is None:
            return []
        opening, closing = self.speech.thinking
        rules = [f"opened: {self._text(opening)}", f"THINKING: /{_escaped(opening)}(.|\\n)*/"]
        if self.thinking_tokens is None and closing not in self.markers:
            return [*rules, "thinking: thought SPACE", f"thought[lazy]: TEXT {_quoted(closing)}"]
        bound = "" if self.thinking_tokens is None else f"[max_tokens={self.thinking_tokens}]"
        # A bound and a lazy end exclude each other, so where the marker is plain text, its first character is not.
        thought = "TEXT" if closing in self.markers else f"/[^{_escaped(closing[0])}]*/"
        return [*rules, f"thinking: thought {self._text(closing)} SPACE", f"thought{bound}: {thought}"]

    # ---- the answer

    def _answer_rules(self) -> list[str]:
        plain = "FREE" if self.answer_schema is None else "schema"
        rules = [f"FREE: TEXT{self._but_thinking()}"]
        rules += [] if self.answer_schema is None else [f"schema: %json {json.dumps(self.answer_schema)}"]
        if not self.tools:
            return [*rules, f"answer: {plain}"]
        if self.is_required:
            return [*rules, "answer: calls"]
        marker = self._marker()
        if self.answer_schema is not None:
            return [*rules, f"answer: {plain} | calls"]
        if not marker:
            begins = _escaped(self._wording.before_name)
            return [*rules, "answer: PLAIN | calls", "PLAIN: FREE & ~CALL", f"CALL: /{begins}(.|\\n)*/"]
        if marker in self.markers:
            return [*rules, "answer: FREE | FREE calls"]
        # `lazy` ends the text at the first marker; from there the call is the only way on.
        return [*rules, "answer: FREE | marked", "marker[lazy]: FREE " + _quoted(marker)]

    def _but_thinking(self) -> str:
        """Keep text from being a way around the rules of thinking; a marker that is a token is no text anyway."""
        thinking = self.speech.thinking
        return "" if thinking is None or thinking[0] in self.markers else " & ~THINKING"

    # ---- calls

    @property
    def _wording(self) -> Wording:
        return self.speech.format.wording

    def _marker(self) -> str:
        """The text by which a call begins, where the format has one."""
        opening = self._wording.opening
        return max((marker for marker in self.speech.markers if opening.startswith(marker)), key=len, default="")

    def _call_rules(self, wording: Wording) -> list[str]:
        names = range(len(self.tools))
        opening, closing, joint = (self._text(part) for part in (wording.opening, wording.closing, wording.joint))
        rest = self._text(wording.opening.removeprefix(self._marker()))
        if wording.is_list:
            more = "" if self.is_single else f"({joint} call){{0,{MAX_CALLS - 1}}}"
            body = f"call {more} {closing}"
        else:
            more = "" if self.is_single else f"({joint} {opening} call {closing}){{0,{MAX_CALLS - 1}}}"
            body = f"call {closing} {more}"
        rules = [f"calls: {opening} {body}", "call: " + " | ".join(f"call_{index}" for index in names)]
        if self._marker() and self._marker() not in self.markers:
            rules.append(f"marked: marker {rest} {body}")
        for index, (name, schema) in enumerate(self.tools):
            before = self._text(f"{wording.before_name}{name}{wording.before_arguments}")
            rules.append(f"call_{index}: {before} arguments_{index} {self._text(wording.after)}")
            rules.append(f"arguments_{index}: %json {self._schema(name, schema)}")
        return rules

    def _schema(self, name: str, schema: Mapping[str, Json]) -> str:
        spelling = dict(_SPELLING) if name in self.strict else {**_SPELLING, "lenient": True}
        return json.dumps({**_closed(schema), "x-guidance": spelling})

    def _text(self, text: str) -> str:
        """Write a text as grammar: markers that are tokens by their number, all else as literals."""
        known = [re.escape(marker) for marker in sorted(self.markers, key=len, reverse=True)]
        parts = re.split(f"({'|'.join(known)})", text) if known else [text]
        return " ".join(
            f"<[{self.markers[part]}]>" if part in self.markers else _quoted(part) for part in parts if part
        )


def _closed(schema: Mapping[str, Json]) -> Mapping[str, Json]:
    """Keep arguments to the parameters a function names, unless its schema speaks of others.

    JSON Schema allows any others by default, and small models make them up.
    Source: llama.cpp's json-schema-to-grammar has the same default.
    """
    if not schema:
        return NO_PARAMETERS
    named = schema.get("properties")
    is_plain = isinstance(named, Mapping) and not _OPEN_KEYWORDS & schema.keys()
    if isinstance(named, Mapping) and isinstance(schema.get("required"), list):
        # What is required and not described is a parameter all the same; closed, the schema could not be met.
        is_plain = is_plain and all(name in list(named) for name in schema["required"])
    return {"type": "object", **schema, **({"additionalProperties": False} if is_plain else {})}


def _escaped(text: str) -> str:
    """Write a text as part of a regular expression between slashes."""
    return re.escape(text).replace('"', '\\"').replace("/", "\\/")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
