"""What a `response_format` asks for, as a grammar and as the parameter to blame."""

import json

import pytest

from hybrid.structured import answer_format

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("response_format", "kind", "schema_type", "param"),
    [
        pytest.param({"type": "json_object"}, "json_schema", "object", "response_format", id="json-object"),
        pytest.param(
            {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}},
            *("json_schema", "object", "response_format.json_schema.schema"),
            id="json-schema",
        ),
        pytest.param(
            {"type": "json_schema", "json_schema": {"name": "c", "strict": True, "schema": {"type": "array"}}},
            *("json_schema", "array", "response_format.json_schema.schema"),
            id="strict",
        ),
        pytest.param(
            {"type": "json_schema", "json_schema": {"name": "c"}},
            *("json_schema", "object", "response_format.json_schema.schema"),
            id="no-schema",
        ),
        pytest.param(
            {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}},
            *("regex", None, "response_format.grammar.definition"),
            id="regex",
        ),
        pytest.param(
            {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "a"'}},
            *("lark", None, "response_format.grammar.definition"),
            id="lark",
        ),
    ],
)
def test_answer_format(response_format, kind, schema_type, param):
    """Each form becomes a grammar; an error in it is named by where the client wrote it."""
    wanted = answer_format({"response_format": response_format})

    assert (kind, param) == (wanted.grammar.kind, wanted.param)
    if schema_type is None:
        assert wanted.schema is None
        assert response_format["grammar"]["definition"] == wanted.grammar.source
    else:
        assert schema_type == wanted.schema["type"]
        assert wanted.schema == json.loads(wanted.grammar.source)


def test_any_text_will_do():
    """Without a format there is no grammar."""
    assert answer_format({"logprobs": True}) is None


def test_a_schema_cannot_make_itself_lenient():
    """What a client writes for llguidance's ears is overwritten, and the order of its properties kept."""
    sly = {"x-guidance": {"lenient": True}, "properties": {"z": {}, "a": {}}}
    wanted = answer_format({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": sly}}})

    assert wanted.schema["x-guidance"]["lenient"] is False
    assert ["z", "a"] == list(json.loads(wanted.grammar.source)["properties"])
