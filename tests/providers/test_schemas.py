"""Are schemas that a cloud would not keep to found, and are those it gets rewritten without a change of meaning?"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hybrid.providers.anthropic import AnthropicDialect
from hybrid.providers.anthropic import Options as AnthropicOptions
from hybrid.providers.gemini import GeminiDialect
from hybrid.providers.gemini import Options as GeminiOptions
from hybrid.providers.openai_responses import ResponsesDialect
from hybrid.providers.schemas import anthropic_obstacles, closed, for_gemini, gemini_obstacles

from .calls import call

NAME = {"type": "object", "properties": {"name": {"type": "string"}}}
TREE = {"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"}

ANTHROPIC = [
    pytest.param(NAME, set(), id="open-by-default-is-closed"),
    pytest.param({**NAME, "additionalProperties": {"type": "string"}}, {"additionalProperties"}, id="a-map"),
    pytest.param({"type": "object"}, {"additionalProperties"}, id="anything"),
    pytest.param({"type": "array", "items": NAME, "minItems": 1}, set(), id="a-list-of-one"),
    pytest.param({"type": "array", "items": NAME, "minItems": 2}, {"minItems"}, id="a-list-of-two"),
    pytest.param({"type": "array", "items": NAME, "maxItems": 2}, {"maxItems"}, id="at-most"),
    pytest.param({"type": "string", "format": "date"}, set(), id="a-date"),
    pytest.param({"type": "string", "format": "iri"}, {"format"}, id="another-format"),
    pytest.param({"type": "string", "format": ["date"]}, {"format"}, id="no-format"),
    pytest.param({"enum": ["a", 1, None]}, set(), id="plain-enum"),
    pytest.param({"enum": [{"a": 1}]}, {"enum"}, id="enum-of-objects"),
    pytest.param({"$ref": "https://example.com/x.json"}, {"$ref"}, id="elsewhere"),
    pytest.param(TREE, {"$ref"}, id="recursive"),
    pytest.param({**NAME, "properties": {"name": {"type": "string", "minLength": 1}}}, {"minLength"}, id="nested"),
    pytest.param({**NAME, "properties": {"minLength": {"type": "string"}}}, set(), id="a-property-called-so"),
    pytest.param({**NAME, "title": "x", "description": "y", "default": {}}, set(), id="annotations"),
]


@pytest.mark.parametrize(("schema", "expected"), ANTHROPIC)
def test_what_anthropic_does_not_keep_to_is_named(schema, expected):
    """Keywords and values that it refuses, wherever they stand; not what only looks like one."""
    assert expected == anthropic_obstacles(schema)


GEMINI = [
    pytest.param({**NAME, "additionalProperties": {"type": "string"}}, set(), id="a-map"),
    pytest.param({"type": "integer", "minimum": 1, "maximum": 9}, set(), id="bounds"),
    pytest.param({"const": "a"}, set(), id="a-constant"),
    pytest.param({"const": None}, {"const"}, id="a-constant-that-is-no-text"),
    pytest.param({"enum": ["a", None]}, {"enum"}, id="enum-with-null"),
    pytest.param({"type": "string", "pattern": "a"}, {"pattern"}, id="pattern"),
    pytest.param({"allOf": [NAME]}, {"allOf"}, id="all-of"),
    pytest.param({"not": NAME}, {"not"}, id="not"),
]


@pytest.mark.parametrize(("schema", "expected"), GEMINI)
def test_what_gemini_does_not_keep_to_is_named(schema, expected):
    """It would ignore the rest without a word."""
    assert expected == gemini_obstacles(for_gemini(schema))


def test_gemini_gets_nothing_beside_a_reference():
    """A description beside a `$ref` is refused; it says nothing that rules anything out."""
    given_ = {"$defs": {"a": NAME}, "properties": {"x": {"$ref": "#/$defs/a", "description": "It."}}}
    assert {"$ref": "#/$defs/a"} == for_gemini(given_)["properties"]["x"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["a", "name"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "x"]), inner, max_size=2),
    max_leaves=6,
)
SCHEMAS = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"enum": ["a", 1]}, {"const": "a"}, {}]),
    lambda inner: (
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.sampled_from(["name", "x"]), inner, max_size=2),
            }
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)})
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(schema=SCHEMAS, value=VALUES)
def test_what_fits_the_closed_schema_fits_the_original(schema, value):
    """Closing objects only narrows, so an answer that keeps to it keeps to what the client asked for."""
    if Draft202012Validator(closed(schema)).is_valid(value):
        assert Draft202012Validator(schema).is_valid(value)


@settings(deadline=None)
@given(schema=SCHEMAS, value=VALUES)
def test_gemini_is_told_the_same(schema, value):
    """The rewritten schema fits the same values as the original."""
    rewritten = Draft202012Validator(for_gemini(schema)).is_valid(value)
    assert Draft202012Validator(schema).is_valid(value) == rewritten


WORDS = [
    "type",
    "properties",
    "items",
    "enum",
    "$ref",
    "$defs",
    "anyOf",
    "const",
    "minItems",
    "additionalProperties",
    "format",
]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)
DIALECTS = (
    AnthropicDialect(AnthropicOptions()),
    AnthropicDialect(AnthropicOptions(structured="tool")),
    GeminiDialect(GeminiOptions()),
    ResponsesDialect(),
)


@settings(deadline=None)
@given(schema=st.dictionaries(st.sampled_from(WORDS), JUNK, max_size=5))
def test_a_schema_that_is_none_is_judged_all_the_same(schema):
    """Clients send anything: each dialect says whether it can, and writes what it said it could."""
    extra = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    asked = call(extra=extra)
    for dialect in DIALECTS:
        if not dialect.missing(asked.request):
            dialect.post(asked)
