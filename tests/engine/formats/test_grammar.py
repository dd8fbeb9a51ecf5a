"""The grammar lets through every sound answer and call, and nothing that is a call and wrong."""

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from hybrid.engine.formats.formats import BY_NAME
from hybrid.engine.formats.grammar import MAX_CALLS, ToolGrammar
from hybrid.engine.formats.speech import Speech

END, OPEN, CLOSE, THINK, UNTHINK, CALLS = range(256, 262)
MARKERS = {"<tool_call>": OPEN, "</tool_call>": CLOSE, "<think>": THINK, "</think>": UNTHINK, "[TOOL_CALLS]": CALLS}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
REFERRING = {
    "type": "object",
    "properties": {"x": {"$ref": "#/$defs/number"}},
    "required": ["x"],
    "additionalProperties": False,
    "$defs": {"number": {"type": "number"}},
}
TOOLS = (("weather", CITY), ("calc", REFERRING), ("now", {}))


class Vocabulary:
    """Bytes, an end, and the markers as control tokens."""

    eos_token_id, bos_token_id = END, None
    tokens = (
        *(bytes([byte]) for byte in range(256)),
        *(b"\xff" + name for name in (b"<end>", *(marker.encode() for marker in MARKERS))),
    )
    special_token_ids = tuple(range(END, CALLS + 1))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


TOKENIZER = LLTokenizer(TokenizerWrapper(Vocabulary()), n_vocab=CALLS + 1)


def grammar(form: str, *, markers: bool = False, **fields: object) -> str:
    """Write a grammar with the three tools for a format, its markers as text or as tokens."""
    given = {"tools": TOOLS, "markers": MARKERS if markers else {}, **fields}
    speech = fields.pop("speech", None) or Speech(tool_format=form, knows_tools=True)
    given["speech"] = speech
    return ToolGrammar(**given).lark()


def takes(lark: str, text: str, *, markers: bool = False) -> bool:
    """Say whether the grammar takes the whole text and lets it end there."""
    tokens: list[int] = []
    while text:
        marker = next((name for name in MARKERS if markers and text.startswith(name)), None)
        tokens += [MARKERS[marker]] if marker else list(text[0].encode())
        text = text[len(marker or text[0]) :]
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(lark), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def written(form: str, *calls: tuple[str, str]) -> str:
    """Write calls as a format writes them."""
    wording = BY_NAME[form].wording
    texts = [wording.call(*call) for call in calls]
    if wording.is_list:
        return wording.opening + wording.joint.join(texts) + wording.closing
    return wording.joint.join(wording.opening + text + wording.closing for text in texts)


WEATHER, CALC, NOW = ("weather", '{"city": "Köln {"}'), ("calc", '{"x": -1.5}'), ("now", "{}")
FORMS = [
    pytest.param(name, has, id=f"{name}-{'tokens' if has else 'text'}") for name in BY_NAME for has in (False, True)
]


@pytest.mark.parametrize(("form", "markers"), FORMS)
def test_free_choice_takes_text_and_sound_calls(form, markers):
    """With `auto`, text is free and calls must fit: names that exist, arguments by their schema, references and all."""
    lark = grammar(form, markers=markers)

    assert takes(lark, "Just text, {with} braces.", markers=markers)
    for calls in ((WEATHER,), (CALC, NOW), (NOW,)):
        assert takes(lark, written(form, *calls), markers=markers), calls
    for wrong in (("nobody", "{}"), ("weather", "{}"), ("calc", '{"x": "1"}'), ("now", '{"a": 1}')):
        assert not takes(lark, written(form, wrong), markers=markers), wrong


@pytest.mark.parametrize(("form", "markers"), FORMS)
def test_a_required_call_leaves_no_way_around(form, markers):
    """With `required` there is no text, and with one tool, as for a named function, no other call."""
    lark = grammar(form, markers=markers, is_required=True)

    assert takes(lark, written(form, WEATHER, NOW), markers=markers)
    assert not takes(lark, "Just text.", markers=markers)
    assert not takes(lark, "", markers=markers)
    one = grammar(form, markers=markers, is_required=True, tools=TOOLS[:1])
    assert not takes(one, written(form, NOW), markers=markers)


@pytest.mark.parametrize(("form", "markers"), FORMS)
def test_single_calls_stay_single(form, markers):
    """Without parallel calls one call is the end of it."""
    lark = grammar(form, markers=markers, is_single=True, is_required=True)

    assert takes(lark, written(form, WEATHER), markers=markers)
    assert not takes(lark, written(form, WEATHER, NOW), markers=markers)


@pytest.mark.parametrize("markers", [pytest.param(False, id="text"), pytest.param(True, id="tokens")])
def test_text_may_come_before_a_call(markers):
    """Where a marker opens calls, text before it is free, other markers' beginnings too."""
    lark = grammar("hermes", markers=markers)

    assert takes(lark, "Well, a < b. <tool box\n" + written("hermes", NOW, CALC), markers=markers)


def test_json_that_is_no_call_is_text():
    """Without a marker, an answer may still be JSON, as long as it does not begin as a call does."""
    lark = grammar("generic")

    assert takes(lark, '{"city": "Köln"}')
    assert not takes(lark, '{"name": "Bob"}')


THINKS = Speech(tool_format="hermes", knows_tools=True, thinking=("<think>", "</think>"))


@pytest.mark.parametrize("markers", [pytest.param(False, id="text"), pytest.param(True, id="tokens")])
def test_thinking_comes_first(markers):
    """A model that thinks may think before text and calls; one whose prompt opened the thinking must close it."""
    free = grammar("hermes", markers=markers, speech=THINKS)
    opened = grammar("hermes", markers=markers, speech=THINKS, is_thinking=True, is_required=True)

    assert takes(free, "<think>hm</think>\n\nYes", markers=markers)
    assert takes(free, "<think>hm</think>\n\n" + written("hermes", NOW), markers=markers)
    assert takes(opened, "hm\n</think>\n\n" + written("hermes", NOW), markers=markers)
    assert not takes(opened, "hm\n</think>\n\nYes", markers=markers)
    assert not takes(opened, written("hermes", NOW), markers=markers)


@pytest.mark.parametrize("markers", [pytest.param(False, id="text"), pytest.param(True, id="tokens")])
def test_thinking_is_closed_at_its_bound(markers):
    """After so many tokens of thinking the closing marker is the only way on."""
    lark = grammar("hermes", markers=markers, speech=THINKS, tools=(), is_thinking=True, thinking_tokens=4)

    assert takes(lark, "abcd</think>Yes", markers=markers)
    assert takes(lark, "ab</think>Yes", markers=markers)
    assert not takes(lark, "abcde</think>Yes", markers=markers)


def test_an_answer_in_place_of_calls_may_have_a_schema():
    """response_format and tools together: JSON by the schema, or calls."""
    lark = grammar("hermes", answer_schema=CITY)

    assert takes(lark, '{"city": "Köln"}')
    assert takes(lark, written("hermes", NOW))
    assert not takes(lark, "Köln")


def test_keywords_nobody_can_enforce_are_passed_over_unless_strict():
    """A tool that is not `strict` may use any keyword; a strict one is refused rather than half obeyed."""
    odd = (("odd", {"type": "object", "properties": {"a": {"type": "string", "contentMediaType": "x", "not": {}}}}),)

    def problem(**fields: object) -> str:
        lark = LLMatcher.grammar_from_lark(grammar("hermes", tools=odd, **fields))
        return LLMatcher(TOKENIZER, lark, log_level=0).get_error()

    assert "" == problem()
    assert "not" in problem(strict=frozenset({"odd"}))


def test_arguments_are_those_the_function_names():
    """A schema that does not speak of other properties allows none; one that does is taken at its word."""
    free = (("weather", {**CITY, "additionalProperties": True}),)
    call = written("hermes", ("weather", '{"city": "Bonn", "mood": 1}'))

    assert not takes(grammar("hermes"), call)
    assert takes(grammar("hermes", tools=free), call)


def test_a_parameter_that_is_only_required_may_be_given():
    """A schema may require what it does not describe; it is not made one that nothing can meet."""
    odd = (("weather", {**CITY, "required": ["city", "mood"]}),)

    assert takes(grammar("hermes", tools=odd), written("hermes", ("weather", '{"city": "Bonn", "mood": 1}')))


def test_the_calls_of_an_answer_come_to_an_end():
    """A model that would call for ever is made to stop."""
    lark = grammar("hermes", markers=True)

    assert takes(lark, written("hermes", *[NOW] * MAX_CALLS), markers=True)
    assert not takes(lark, written("hermes", *[NOW] * (MAX_CALLS + 1)), markers=True)


def test_a_clients_options_for_the_compiler_are_not_obeyed():
    """`x-guidance` in a client's schema is ours to set."""
    schema = {"type": "object", "x-guidance": {"lenient": True}}

    assert '"lenient"' not in grammar("hermes", tools=(("f", schema),), strict=frozenset({"f"}))
