"""What a grammar does to a generation: it holds at every token, ends it when it is complete, and fails closed."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.engine.constraint import MAX_CACHED_CHARS, MAX_CACHED_GRAMMARS, Constraint, Grammars
from hybrid.engine.engine import Engine
from hybrid.engine.frames import Grammar
from hybrid.errors import InvalidRequest, LocalFailure
from hybrid.native import SampleParams, sample_row
from hybrid.types import FinishReason
from tests.engine.constrained import answer, finish, schema, sequence

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Fake:
    """An engine over the fake backend and its grammars."""

    def __init__(self, *, context_tokens: int = 4096, slots: int = 4) -> None:
        self.backend = FakeBackend(
            BackendOptions(model_path=Path("unused"), context_tokens=context_tokens, slots=slots)
        )
        self.engine = Engine(self.backend)
        self.grammars = Grammars(self.backend)

    def answer(self, grammar: Grammar, text: str, **options):
        return answer(self.engine, self.backend, self.grammars, grammar, text, **options)


@pytest.fixture(scope="module")
def starter(starter_model):
    """The starter model behind an engine that is shared by this module's tests."""
    backend = LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=2048, slots=4))
    yield backend, Engine(backend), Grammars(backend)
    backend.close()


@pytest.mark.parametrize(
    ("grammar", "echoed", "expected"),
    [
        pytest.param(schema(PERSON), '{"name": "Jo", "age": 4}', '{"name": "Jo", "age": 4}', id="schema-followed"),
        pytest.param(Grammar("regex", "(yes|no)"), "yes", "yes", id="regex"),
        pytest.param(Grammar("lark", 'start: "a" | "b" start'), "bba", "bba", id="lark"),
        pytest.param(Grammar("regex", "[0-9]{3}"), "abc", "000", id="what-the-model-wanted-is-not-allowed"),
        pytest.param(Grammar("regex", "ab?"), "ab and more", "ab", id="ends-when-nothing-may-follow"),
        pytest.param(Grammar("regex", "a*"), "", "", id="the-end-alone"),
        pytest.param(Grammar("lark", 'start: "ab" <end>'), "ab", "ab", id="the-end-spelled-out"),
    ],
)
def test_the_answer_keeps_to_the_grammar(grammar, echoed, expected):
    """Whatever the model would say, what comes out is the grammar's, and it ends where the grammar does."""
    outcome = Fake().answer(grammar, echoed)

    assert (expected, FinishReason.STOP, None) == (outcome.text, outcome.finish, outcome.failure)


def test_a_forced_token_is_measured_like_a_drawn_one():
    """Where only one token may come it is taken without a draw; text and signals are those of drawing it."""
    told, untold = Fake(), Fake()
    for fake, top_logprobs in ((told, 0), (untold, None)):
        constraint = fake.grammars.constraint(schema({"const": ["forced", 1]}))
        options = {"constraint": constraint, "temperature": 1.0, "top_logprobs": top_logprobs}
        fake.engine.submit(sequence(fake.backend, "s", "[doubt] something else", **options))
    signals: list[list] = [[], []]
    while told.engine.has_work or untold.engine.has_work:
        for fake, found in zip((told, untold), signals, strict=True):
            found += [(delta.text, delta.signal, delta.finish) for delta in fake.engine.step().deltas]

    assert ["forced", 1] == json.loads("".join(text for text, _, _ in signals[0]))
    assert signals[0] == signals[1]


def test_a_complete_answer_costs_no_step_for_its_end():
    """When the grammar is complete the generation ends with that token, and no end token is drawn."""
    assert 3 == Fake().answer(Grammar("regex", "yes"), "yes").tokens


def test_the_token_limit_still_cuts():
    """A constrained answer over its token limit is cut, and says so."""
    outcome = Fake().answer(schema(PERSON), '{"name": "a long name"', limit=12)

    assert FinishReason.LENGTH == outcome.finish
    assert '{"name": "a ' == outcome.text


def test_a_stop_string_cuts_a_constrained_answer_and_is_named():
    """Client's stop strings hold inside a grammar too, and the end says which one it was."""
    outcome = Fake().answer(schema(PERSON), '{"name": "one two", "age": 4}', stop=("two",))

    assert ('{"name": "one ', FinishReason.STOP, "two") == (outcome.text, outcome.finish, outcome.stopped_by)


def test_a_preempted_sequence_goes_on_where_its_grammar_was():
    """Sequences that lose their cells and start over still give whole, valid answers, each its own."""
    fake = Fake(context_tokens=300, slots=4)
    texts = {f"s{n}": json.dumps({"name": "x" * (60 + n), "age": n}) for n in range(4)}
    for name, text in texts.items():
        fake.engine.submit(sequence(fake.backend, name, text, constraint=fake.grammars.constraint(schema(PERSON))))
    preempted = 0
    preempt = fake.engine._preempt

    def counted(victim) -> None:
        nonlocal preempted
        preempted += 1
        preempt(victim)

    fake.engine._preempt = counted
    outcomes = finish(fake.engine)

    assert texts == {name: outcome.text for name, outcome in outcomes.items()}
    assert preempted > 0


def test_constrained_and_free_sequences_share_a_batch():
    """A grammar binds its own sequence only."""
    fake = Fake()
    fake.engine.submit(sequence(fake.backend, "free", "hello"))
    constraint = fake.grammars.constraint(Grammar("regex", "[0-9]+!"))
    fake.engine.submit(sequence(fake.backend, "bound", "12!hello", constraint=constraint))

    assert {"free": "hello", "bound": "12!"} == {name: end.text for name, end in finish(fake.engine).items()}


def test_a_cancelled_sequence_leaves_in_the_middle_of_its_grammar():
    """Cancelling frees slot and cells; the same grammar serves the next request from its start."""
    fake = Fake(slots=1)
    constraint = fake.grammars.constraint(schema(PERSON))
    fake.engine.submit(sequence(fake.backend, "gone", '{"name": "' + "x" * 50, constraint=constraint))
    for _ in range(10):
        fake.engine.step()
    fake.engine.cancel("gone")

    assert 4096 == fake.engine.free_cells
    assert '{"name": "Jo", "age": 4}' == fake.answer(schema(PERSON), '{"name": "Jo", "age": 4}').text


class Broken:
    """A matcher that misbehaves as llguidance's would at a limit: its mask then allows the end of the text."""

    def __init__(self, *, is_error: bool, mask_word: int) -> None:
        self._is_error, self._mask_word = is_error, mask_word

    def compute_ff_tokens(self):
        return []

    def unsafe_compute_mask_ptr(self, pointer: int, size: int) -> None:
        words = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint32 * (size // 4)).from_address(pointer))
        words[:] = self._mask_word

    def is_error(self) -> bool:
        return self._is_error

    def get_error(self) -> str:
        return "too many items"

    def is_accepting(self) -> bool:
        return False

    def consume_token(self, _token: int) -> bool:
        return False


@pytest.mark.parametrize(
    ("matcher", "why"),
    [
        pytest.param(Broken(is_error=True, mask_word=0xFFFFFFFF), "too many items", id="limit"),
        pytest.param(Broken(is_error=False, mask_word=0), "nothing to say", id="empty-mask"),
        pytest.param(Broken(is_error=False, mask_word=0xFFFFFFFF), "ended before", id="end-too-early"),
    ],
)
def test_a_grammar_that_breaks_fails_the_answer_and_not_the_loop(matcher, why):
    """No token is drawn without a mask, no end is taken that the grammar does not allow; others are served."""
    fake = Fake()
    broken = sequence(fake.backend, "broken", "", constraint=Constraint(matcher, fake.backend.facts.vocab_tokens))
    fake.engine.submit(broken)
    fake.engine.submit(sequence(fake.backend, "sound", "fine"))
    outcomes = finish(fake.engine)

    assert why in outcomes["broken"].failure
    assert "" == outcomes["broken"].text
    assert "fine" == outcomes["sound"].text


def test_a_token_the_grammar_does_not_allow_is_a_failure():
    """Should a token get past the mask, the answer fails instead of going on."""
    constraint = Fake().grammars.constraint(Grammar("regex", "yes"))

    with pytest.raises(LocalFailure, match="left its grammar"):
        constraint.advance(ord("n"), is_end=False)


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        pytest.param(schema({"type": "strng"}), "Invalid type: strng", id="type"),
        pytest.param(schema({"not": {"type": "string"}}), "Unimplemented keys", id="unsupported-keyword"),
        pytest.param(
            schema({"not": {"type": "string"}, "x-guidance": {"lenient": True}}), "Unimplemented keys", id="lenient"
        ),
        pytest.param(schema({"type": "integer", "minimum": 5, "maximum": 3}), "greater than maximum", id="impossible"),
        pytest.param(Grammar("json_schema", "{"), "cannot be read", id="not-json"),
        pytest.param(Grammar("json_schema", "true"), "cannot be read", id="not-an-object"),
        pytest.param(Grammar("regex", "("), "unclosed group", id="regex"),
        pytest.param(Grammar("lark", "start: nothing"), "unknown name", id="lark"),
        pytest.param(Grammar("gbnf", "root ::= x"), "unknown kind", id="kind"),
    ],
)
def test_a_grammar_that_cannot_be_compiled_is_refused_in_its_own_words(grammar, why):
    """It is the caller's fault, and llguidance's reason is passed on."""
    with pytest.raises(InvalidRequest, match=why):
        Fake().grammars.constraint(grammar)


def test_the_last_grammars_are_kept_and_no_more():
    """A client that always sends the same grammar does not pay for compiling it; memory stays bounded."""
    grammars = Fake().grammars
    for number in range(MAX_CACHED_GRAMMARS + 5):
        grammars.constraint(Grammar("regex", f"a{{{number + 1}}}"))

    assert MAX_CACHED_GRAMMARS == len(grammars._compiled)

    for number in range(3):
        grammars.constraint(schema({"enum": [f"{number}" + "x" * (MAX_CACHED_CHARS // 2)]}))

    assert 1 == len(grammars._compiled)


def test_a_long_constant_costs_as_much_as_it_is_long():
    """A constant of thousands of characters comes out whole, with its forced run found once and not at every token."""
    text = " ".join(str(number * number) for number in range(500))
    outcome = Fake().answer(schema({"const": text}), "", limit=4_000)

    assert text == json.loads(outcome.text)


# ---- on a real vocabulary

LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.integers(-99, 99).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 7}),
    st.integers(0, 12).map(lambda size: {"type": "string", "maxLength": size}),
    st.just({"type": "string", "pattern": "^[a-c]{2}-[0-9]{1,3}$"}),
    st.just({"type": "string", "format": "date"}),
    st.lists(
        st.sampled_from(["red", "gr\u00fcn", 1, None, True, "\u65e5"]), min_size=1, max_size=3, unique_by=repr
    ).map(lambda values: {"enum": values}),
    st.just({"const": {"fixed": ["\u00e9", 2]}}),
    st.just({"type": "number", "minimum": 0, "maximum": 1}),
)
KEYS = st.sampled_from(["name", "age", "gr\u00f6\u00dfe", "is it?", 'x"y', "k"])


def _containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    arrays = st.builds(
        lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3)
    )
    objects = st.builds(
        lambda fields, required: {
            "type": "object",
            "properties": fields,
            "required": sorted(key for key in fields if key in required),
            "additionalProperties": False,
        },
        st.dictionaries(KEYS, inner, max_size=3),
        st.sets(KEYS),
    )
    return arrays | objects | st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3))


SCHEMAS = st.recursive(LEAVES, _containers, max_leaves=5)


@settings(max_examples=80, deadline=None)
@given(wanted=SCHEMAS, seed=st.integers(0, 2**32))
def test_random_tokens_within_the_mask_are_a_valid_document(starter, wanted, seed):
    """Whatever tokens of the starter's vocabulary are drawn, as long as the mask allows them the schema holds."""
    backend, _, grammars = starter
    constraint = grammars.constraint(schema(wanted))
    noise = np.random.default_rng(seed)
    raw = b""
    for position in range(400):
        constraint.prepare()
        row = noise.normal(0.0, 3.0, backend.facts.vocab_tokens).astype(np.float32)
        token = sample_row(row, SampleParams(), seed=seed, position=position, allowed=constraint.allowed).token
        is_end = backend.is_end(token)
        constraint.advance(token, is_end=is_end)
        raw += backend.piece(token)
        if is_end or constraint.is_complete:
            Draft202012Validator(wanted).validate(json.loads(raw))
            return
    event("cut")


@settings(max_examples=3, deadline=None)
@given(wanted=st.lists(SCHEMAS, min_size=4, max_size=4), seed=st.integers(0, 2**32))
def test_any_schema_at_any_temperature_gives_a_valid_document(starter, wanted, seed):
    """At a temperature at which the starter babbles, what comes out is still a document its schema accepts."""
    backend, engine, grammars = starter
    for number, one in enumerate(wanted):
        constraint = grammars.constraint(schema(one))
        engine.submit(
            sequence(backend, str(number), "Anything.", constraint=constraint, temperature=2.0, seed=seed, limit=80)
        )
    outcomes = finish(engine)

    assert 4 == len(outcomes)
    for name, outcome in outcomes.items():
        assert outcome.failure is None
        if FinishReason.STOP == outcome.finish:
            Draft202012Validator(wanted[int(name)]).validate(json.loads(outcome.text))
        else:
            assert 80 == outcome.tokens


def test_the_starter_answers_in_the_form_it_is_given(starter):
    """Greedy and constrained, the starter fills in a form; unconstrained it would talk."""
    backend, engine, grammars = starter
    outcome = answer(engine, backend, grammars, schema(PERSON), "Who is Ann, aged 40?", limit=60)

    assert FinishReason.STOP == outcome.finish
    assert {"name", "age"} == set(json.loads(outcome.text))


def test_any_end_token_of_the_vocabulary_ends_a_complete_answer(starter):
    """Where the grammar may end, each of the model's end tokens is allowed, and nothing but them if it must."""
    backend, _, grammars = starter
    constraint = grammars.constraint(Grammar("regex", "(yes)?"))
    constraint.prepare()
    allowed = np.flatnonzero(np.unpackbits(constraint.allowed.view(np.uint8), bitorder="little"))

    assert {token for token in range(backend.facts.vocab_tokens) if backend.is_end(token)} <= set(allowed.tolist())
    assert not backend.is_end(backend.tokenize("yes")[0])


def test_what_a_grammar_forces_is_computed_in_one_step():
    """A constant of 40 characters takes the steps of its beginning and its end, not one a character."""
    fake, constant = Fake(), "a constant of some forty characters here"
    wanted = sequence(fake.backend, "s", "x", constraint=fake.grammars.constraint(Grammar("regex", constant)))
    fake.engine.submit(wanted)
    steps = 0
    while fake.engine.has_work:
        fake.engine.step()
        steps += 1

    assert constant == bytes(wanted.output).decode()
    assert steps < 8
