"""What must an answer be? The client's `response_format` as a grammar, with the parameter to name if it is at fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from hybrid.engine.frames import JSON_SPELLING, Grammar
from hybrid.types import Json

ANY_OBJECT: Mapping[str, Json] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What a whole answer must be.

    schema: as JSON Schema, None where it is no JSON. param: where the client said so.
    """

    grammar: Grammar
    schema: Mapping[str, Json] | None
    param: str


def answer_format(extra: Mapping[str, Json]) -> AnswerFormat | None:
    """Read the `response_format` among a request's checked fields; None where any text will do.

    A json_schema is followed whether `strict` or not: what is asked for is what one gets.
    """
    wanted = extra.get("response_format")
    if wanted is None:
        return None
    if wanted["type"] == "grammar":
        grammar = wanted["grammar"]
        return AnswerFormat(
            Grammar(grammar["syntax"], grammar["definition"]), None, "response_format.grammar.definition"
        )
    if wanted["type"] == "json_schema":
        schema = wanted["json_schema"].get("schema") or ANY_OBJECT
        return _json(schema, "response_format.json_schema.schema")
    return _json(ANY_OBJECT, "response_format")


def _json(schema: Mapping[str, Json], param: str) -> AnswerFormat:
    spelled = {**schema, "x-guidance": JSON_SPELLING}
    return AnswerFormat(Grammar("json_schema", msgspec.json.encode(spelled).decode()), spelled, param)
