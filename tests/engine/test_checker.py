"""What a client's grammar may cost, and whether an answer keeps to it: asked of a process that may be lost."""

import asyncio
import json

import pytest

from hybrid.engine.check_process import check
from hybrid.engine.checker import MAX_GRAMMAR_BYTES, Checker
from hybrid.engine.frames import JSON_DOCUMENT, Check, Grammar
from hybrid.errors import InvalidRequest
from tests.engine.constrained import schema


def _run(work):
    """Run `work(checker)` with a checker that is closed after it."""

    async def main():
        checker = Checker()
        try:
            return await work(checker)
        finally:
            await checker.aclose()

    return asyncio.run(main())


def _nested(depth: int) -> dict:
    value: dict = {"type": "string"}
    for _ in range(depth):
        value = {"type": "object", "properties": {"a": value}, "required": ["a"], "additionalProperties": False}
    return value


FINE = {
    "ten-thousand-values": {"enum": [f"value {number}" for number in range(10_000)]},
    "sixty-levels": _nested(60),
    "recursive": {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
    "a-hundred-kilobytes": {
        "type": "object",
        "properties": {
            f"field_{n}": {"type": "object", "properties": {"value": {"type": "number"}}} for n in range(1500)
        },
    },
    "branches-twice-thirty-deep": {
        "$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
        | {"d30": {"type": "null"}},
        "$ref": "#/$defs/d0",
    },
    "nested-repetition": {"type": "string", "pattern": "^((a{0,100}){0,100}){0,100}$"},
    "a-billion-characters": {"type": "string", "minLength": 10**9},
    "formats": {"type": "array", "items": {"type": "string", "format": "date-time"}},
    "one-of": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
}
REFUSED = {
    "too-many-values": ({"enum": [f"value number {n}" for n in range(9_000)] * 2}, "characters"),
    "refers-to-itself": ({"$ref": "#"}, "nothing may come"),
    "refers-in-a-circle": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#"}}, "$ref": "#/$defs/a"}, "nothing"),
    "refers-to-nothing": ({"$ref": "#/$defs/none"}, "does not exist"),
    "refers-elsewhere": ({"$ref": "http://127.0.0.1:1/schema.json"}, "does not fetch"),
    "unsupported-not": ({"not": {"type": "string"}}, "Unimplemented keys"),
    "unsupported-if": ({"if": {"type": "string"}, "then": {"minLength": 2}}, "Unimplemented keys"),
    "unsupported-unique": ({"type": "array", "uniqueItems": True}, "Unimplemented keys"),
    "unknown-format": ({"type": "string", "format": "zip"}, "Unknown format"),
    "impossible": ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "Unsatisfiable"),
    "a-gigabyte-of-states": ({"type": "integer", "multipleOf": 12_345_678}, "too long or too much memory|fuel"),
    "minutes-of-states": ({"type": "integer", "multipleOf": 1_234_567}, "too long or too much memory"),
    "product-of-branches": (
        {"allOf": [{"anyOf": [{"properties": {f"k{i}_{j}": {}}} for j in range(10)]} for i in range(12)]},
        "too large",
    ),
    "broken-pattern": ({"type": "string", "pattern": "(["}, "unclosed"),
    "looks-ahead": ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
}


@pytest.fixture(scope="module")
def checker_loop():
    """One checker and one event loop for the hostile schemas: each finds the process as the one before left it."""
    with asyncio.Runner() as runner:
        checker = Checker()
        yield runner, checker
        runner.run(checker.aclose())


@pytest.mark.parametrize("wanted", FINE.values(), ids=FINE)
def test_a_large_schema_is_taken(checker_loop, wanted):
    """Size alone is no reason to refuse: what can be compiled within the limits is taken."""
    runner, checker = checker_loop

    assert runner.run(checker.check(schema(wanted))) is None


@pytest.mark.parametrize(("wanted", "why"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_schema_is_refused_by_the_name_of_its_parameter(checker_loop, wanted, why):
    """What cannot be followed, or costs too much to compile, is the caller's error; the next question is answered."""
    runner, checker = checker_loop
    with pytest.raises(InvalidRequest, match=why) as caught:
        runner.run(checker.check(schema(wanted), param="response_format.json_schema.schema"))

    assert "response_format.json_schema.schema" == caught.value.param
    assert runner.run(checker.check(schema({"type": "null"}))) is None


@pytest.mark.parametrize(
    ("grammar", "is_fine"),
    [
        pytest.param(Grammar("regex", "(yes|no)"), True, id="regex"),
        pytest.param(Grammar("regex", r"[^\s\S]"), False, id="regex-that-matches-nothing"),
        pytest.param(Grammar("regex", "("), False, id="broken-regex"),
        pytest.param(Grammar("lark", 'start: "a" start | "b"'), True, id="lark"),
        pytest.param(Grammar("lark", 'start: <tool_call> "x" <[151657]> <[7-9]>'), True, id="control-tokens"),
        pytest.param(Grammar("lark", "start: start"), False, id="lark-without-end"),
        pytest.param(Grammar("lark", "%json {}"), False, id="broken-lark"),
        pytest.param(Grammar("regex", "a" * (MAX_GRAMMAR_BYTES + 1)), False, id="too-large"),
    ],
)
def test_other_grammars(checker_loop, grammar, is_fine):
    """Regular expressions and lark are checked as schemas are; control tokens in them are the model's to know."""
    runner, checker = checker_loop
    if is_fine:
        assert runner.run(checker.check(grammar)) is None
    else:
        with pytest.raises(InvalidRequest):
            runner.run(checker.check(grammar))


PERSON = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("wanted", "text", "fault"),
    [
        pytest.param(PERSON, '{"age": 4}', None, id="valid"),
        pytest.param(PERSON, '{"age": 4, "more": [1.5]}', None, id="more-than-asked"),
        pytest.param(PERSON, '{"age": -4}', "after 8 of 11 bytes", id="out-of-range"),
        pytest.param(PERSON, '{"age": 4', "after 9 of 9 bytes", id="cut"),
        pytest.param(PERSON, '{"age": 4} Sure!', "after 10 of", id="talks-on"),
        pytest.param(PERSON, "", "after 0 of 0 bytes", id="empty"),
        pytest.param({"type": "number", "multipleOf": 0.01}, "0.29", None, id="decimal"),
        pytest.param({"type": "string", "pattern": "^\\d+$"}, '"123"', None, id="pattern"),
        pytest.param({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "1", "valid under each", id="ambiguous"),
        pytest.param({"type": "string"}, '"\\n\\\\ \u65e5\U0001f600"', None, id="escapes"),
    ],
)
def test_a_finished_document_is_judged_again(checker_loop, wanted, text, fault):
    """By the grammar, byte for byte, and by a second implementation of JSON Schema."""
    runner, checker = checker_loop
    found = runner.run(checker.fault_of(text, schema(wanted)))

    assert (fault is None) is (found is None), found
    assert (fault or "") in (found or "")


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        pytest.param({"items": [{"type": "string"}]}, '["x"]', id="items-of-an-older-draft"),
        pytest.param({"type": "dict"}, "{}", id="unknown-type"),
        pytest.param({"maxLength": "5"}, '"x"', id="a-limit-that-is-text"),
        pytest.param({"properties": {"a": None}}, '{"a": 1}', id="no-schema"),
        pytest.param({"multipleOf": 0.01}, "1e40", id="far-from-its-step"),
        pytest.param({"multipleOf": 0}, "1", id="no-step"),
    ],
)
def test_a_schema_the_judge_cannot_read_is_no_fault_of_the_document(wanted, text):
    """Models are given such schemas for their tools; the process that judges must not end over them."""
    assert check(Check(Grammar(JSON_DOCUMENT, json.dumps(wanted)), text)) is None


@pytest.mark.parametrize(("text", "is_fine"), [("yes", True), ("ye", False), ("yes!", False)])
def test_a_finished_text_is_judged_by_its_expression(checker_loop, text, is_fine):
    """A regular expression must match all of the answer."""
    runner, checker = checker_loop

    assert is_fine is (runner.run(checker.fault_of(text, Grammar("regex", "yes|no"))) is None)


def test_a_judgement_that_does_not_end_is_a_fault():
    """A document whose validation takes exponential time is not waited for, and not let through."""
    deep = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {"type": "string"}}

    async def judge(checker: Checker) -> str | None:
        return await checker.fault_of('"x"', schema({"$defs": deep, "$ref": "#/$defs/d0"}))

    assert "too long" in _run(judge)


def test_a_grammar_is_checked_once():
    """The same grammar again costs no question: the verdict is remembered, good or bad."""

    async def twice(checker: Checker) -> list[str]:
        await checker.check(schema(PERSON))
        with pytest.raises(InvalidRequest):
            await checker.check(schema({"type": "odd"}))
        await checker.aclose()
        await checker.check(schema(PERSON))
        with pytest.raises(InvalidRequest):
            await checker.check(schema({"type": "odd"}))
        return [] if checker._process is None else ["a process was started"]

    assert [] == _run(twice)


def test_a_caller_that_goes_away_does_not_confuse_the_next():
    """Cancelled in the middle of a question, the checker gives the next caller its own answer."""

    async def leave(checker: Checker) -> str | None:
        await checker.check(schema(PERSON))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await checker.check(schema({"type": "integer", "multipleOf": 1_234_567}))
        return await checker.fault_of("[]", schema({"type": "array"}))

    assert _run(leave) is None


def test_what_it_is_asked_is_what_it_answers():
    """Many callers at once each get the verdict on their own grammar."""

    async def ask(checker: Checker) -> list[str]:
        async def one(number: int) -> str:
            try:
                await checker.check(schema({"type": f"t{number}"}))
            except InvalidRequest as refused:
                return str(refused)
            return "taken"

        return await asyncio.gather(*map(one, range(8)))

    assert [f"t{number}" for number in range(8)] == [answer.rpartition(" ")[2] for answer in _run(ask)]


def test_sources_are_told_apart_by_kind():
    """The same text is one thing as a schema and another as an expression."""
    text = json.dumps({"type": "null"})

    async def both(checker: Checker) -> str | None:
        await checker.check(Grammar("json_schema", text))
        return await checker.fault_of("null", Grammar("regex", text))

    assert _run(both) is not None
