"""Which JSON Schemas do the clouds keep to? What they would ignore is found before the call, never after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hybrid.types import Json

ANNOTATIONS = frozenset({"title", "description", "$schema", "$id", "$comment", "default", "examples", "deprecated"})
"""Keywords that rule nothing out."""

STRING_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"},
)


@dataclass(frozen=True, slots=True)
class Subset:
    """The keywords of JSON Schema that an API keeps to, beside annotations."""

    keywords: frozenset[str]


ANTHROPIC = Subset(
    frozenset(
        {
            *("type", "enum", "const", "anyOf", "allOf", "$ref", "$defs", "definitions", "format"),
            *("properties", "required", "additionalProperties", "items", "minItems"),
        }
    )
)
"""Source: Anthropic, "Structured outputs", section "JSON Schema limitations", and what its own client rewrites."""

GEMINI = Subset(
    frozenset(
        {
            *("type", "enum", "anyOf", "oneOf", "$ref", "$defs", "$anchor", "format", "propertyOrdering"),
            *("properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"),
            *("minimum", "maximum"),
        }
    )
)
"""Source: Google, Gemini API reference, `GenerationConfig.responseJsonSchema`."""


def foreign_keywords(schema: Json, subset: Subset) -> set[str]:
    """Name the keywords of a schema, anywhere in it, that the API would refuse or ignore."""
    return {word for node in _nodes(schema) for word in node.keys() - ANNOTATIONS - subset.keywords}


def anthropic_obstacles(schema: Json) -> set[str]:
    """Name what Anthropic's output format cannot keep to: foreign keywords, and values it does not take."""
    found = foreign_keywords(schema, ANTHROPIC)
    if not isinstance(schema, dict):
        return found | {"schema"}
    for node in _nodes(schema):
        # An object that may hold anything would be closed to the empty one, which is not what was asked for.
        is_open = _is_object(node) and not isinstance(node.get("properties"), dict)
        if isinstance(node.get("additionalProperties"), dict) or (is_open and node.get("additionalProperties", True)):
            found.add("additionalProperties")
        if node.get("minItems", 0) not in (0, 1):
            found.add("minItems")
        if "format" in node and str(node["format"]) not in STRING_FORMATS:
            found.add("format")
        if any(isinstance(value, dict | list) for value in _list(node.get("enum"))):
            found.add("enum")
        if str(node.get("$ref", "#")).partition("#")[0]:
            found.add("$ref")
    return found | ({"$ref"} if _is_recursive(schema) else set())


def gemini_obstacles(schema: Json) -> set[str]:
    """Name what Gemini cannot keep to in a schema that `for_gemini` wrote."""
    if not isinstance(schema, dict):
        return {"schema"}
    found = foreign_keywords(schema, GEMINI)
    if any(not isinstance(value, str | int | float) for node in _nodes(schema) for value in _list(node.get("enum"))):
        found.add("enum")
    return found


def for_gemini(schema: Json) -> Json:
    """Say the same in Gemini's words: a constant as an enum of one, and nothing beside a `$ref`."""
    if isinstance(schema, list):
        return [for_gemini(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: _child(key, value, for_gemini) for key, value in schema.items()}
    if isinstance(copy.get("const"), str | int | float):
        copy["enum"] = [copy.pop("const")]
    if "$ref" in copy:
        copy = {key: value for key, value in copy.items() if key.startswith("$") or key not in ANNOTATIONS}
    return copy


def closed(schema: Json) -> Json:
    """Forbid each object what it does not name, as Anthropic demands. What fits the result fits the original."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: _child(key, value, closed) for key, value in schema.items()}
    if _is_object(copy):
        copy["additionalProperties"] = False
    return copy


def _child(key: str, value: Json, rewrite: Callable[[Json], Json]) -> Json:
    """Rewrite the value of a keyword where it holds schemas; leave names, enums and numbers alone."""
    if key in _MAPS and isinstance(value, dict):
        return {name: rewrite(child) for name, child in value.items()}
    return rewrite(value) if key in _CHILDREN else value


def _is_object(node: Mapping[str, Json]) -> bool:
    kinds = node.get("type")
    return kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in node


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


_DEFINITIONS = ("$defs", "definitions")
_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_CHILDREN = (
    *("items", "prefixItems", "anyOf", "oneOf", "allOf", "not", "if", "then", "else", "contains"),
    *("additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"),
)


def _nodes(schema: Json) -> Iterator[Mapping[str, Json]]:
    """Yield every schema object, and not what only looks like one: names of properties, values of enums."""
    pending: list[Json] = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        if not isinstance(node, dict):
            continue
        yield node
        pending += [node[key] for key in _CHILDREN if key in node]
        pending += [child for key in _MAPS for child in _dict(node.get(key)).values()]


def _is_recursive(schema: Mapping[str, Json]) -> bool:
    """Whether a `$ref` leads back to a schema it stands in."""
    refers = {f"#/{key}/{name}": part for key in _DEFINITIONS for name, part in _dict(schema.get(key)).items()}
    leads = {name: {str(node["$ref"]) for node in _nodes(part) if "$ref" in node} for name, part in refers.items()}
    if any(str(node.get("$ref")) in ("#", "#/") for node in _nodes(schema)):
        return True
    for start in leads:
        seen: set[str] = set()
        pending = list(leads[start])
        while pending:
            name = pending.pop()
            if name == start:
                return True
            if name not in seen:
                seen.add(name)
                pending += leads.get(name, set())
    return False
