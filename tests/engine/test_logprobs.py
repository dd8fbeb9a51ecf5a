"""Log-probabilities of tokens: of the raw distribution, told with the text they belong to, never past a stop string."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import END, FakeBackend
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.engine.constraint import Grammars
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.engine import Engine
from hybrid.engine.frames import Grammar
from hybrid.engine.logprobs import LogprobQueue
from hybrid.native import Sampled
from tests.engine.constrained import Outcome, finish, sequence

BACKEND = FakeBackend(BackendOptions(model_path=Path("unused")))


def _told(text: bytes, *, stop: tuple[str, ...] = ()) -> tuple[str, list[bytes], list[str]]:
    """Push bytes as tokens; give the shown text, the raw bytes told of, and the shown text at each telling."""
    detokenizer, queue = Detokenizer(stop), LogprobQueue(BACKEND, 0)
    shown, raw, at = "", [], []
    for byte in [*text, None]:
        if byte is None:
            shown += detokenizer.flush()
        else:
            shown += detokenizer.push(bytes([byte]))
            queue.push(Sampled(byte, -1.0, 0.0, 0.0, ()), detokenizer.settled_chars)
        for token in queue.take(detokenizer.shown_chars):
            raw.append(token.raw)
            at.append(shown)
        if detokenizer.is_stopped:
            break
    return shown, raw, at


def _run(text: str, *, grammar: Grammar | None = None, **options) -> Outcome:
    backend = FakeBackend(BackendOptions(model_path=Path("unused")))
    engine = Engine(backend)
    constraint = None if grammar is None else Grammars(backend).constraint(grammar)
    engine.submit(sequence(backend, "s", text, constraint=constraint, **options))
    return finish(engine)["s"]


@pytest.mark.parametrize(
    ("text", "stop", "shown", "told"),
    [
        pytest.param("abc", (), "abc", "abc", id="plain"),
        pytest.param("né", (), "né", "né", id="bytes-of-one-character"),
        pytest.param("one STOP two", ("STOP",), "one ", "one ", id="nothing-of-the-stop-string"),
        pytest.param("one STOMP", ("STOP",), "one STOMP", "one STOMP", id="held-back-and-shown-after-all"),
        pytest.param("S", ("STOP",), "S", "S", id="held-back-until-the-end"),
        pytest.param("", (), "", "", id="nothing"),
    ],
)
def test_tokens_are_told_with_their_text(text, stop, shown, told):
    """What is told of is what is shown, in order, whatever was held back on the way."""
    found, raw, _ = _told(text.encode(), stop=stop)

    assert shown == found
    assert told.encode() == b"".join(raw)


@given(st.binary(max_size=40), st.lists(st.text("ab\u00e9", min_size=1, max_size=3), max_size=2))
def test_no_token_is_told_before_its_text_is_shown(text, stop):
    """For any bytes, broken ones too: the tokens told of at any time are covered by the text shown by then."""
    _, raw, at = _told(text, stop=tuple(stop))

    for count, shown_then in enumerate(at, start=1):
        whole = b"".join(raw[:count]).decode("utf-8", "replace").rstrip("\ufffd")
        assert shown_then.startswith(whole)
    assert text.startswith(b"".join(raw))
    if not any(word in text.decode("utf-8", "replace") for word in stop):
        assert text == b"".join(raw)


def test_a_token_cut_by_a_stop_string_is_not_told():
    """Part of a token may be shown; it is told of whole or not at all."""
    detokenizer, queue = Detokenizer(("e",)), LogprobQueue(BACKEND, 0)
    shown = detokenizer.push(b"the")
    queue.push(Sampled(ord("t"), -1.0, 0.0, 0.0, ()), detokenizer.settled_chars)

    assert "th" == shown
    assert () == queue.take(detokenizer.shown_chars)


def test_the_end_is_no_token_of_the_text():
    """The end token is drawn and counted, and not told of; as an alternative it goes by its name."""
    outcome = _run("ab", top_logprobs=2)

    assert ["a", "b"] == [token.text for token in outcome.logprobs]
    assert 3 == outcome.tokens
    assert ("<end>", None) == (BACKEND.control_name(END), LogprobQueue(BACKEND, 1)._tell(END, -1.0).raw)


def test_none_are_told_unless_asked():
    """A request that does not ask for them carries none, and one that asks for no alternatives gets none."""
    assert [] == _run("ab").logprobs
    assert [()] * 2 == [token.top for token in _run("ab", top_logprobs=0).logprobs]


def test_bias_and_grammar_change_the_draw_and_not_what_the_model_thought():
    """Log-probabilities are of the model's own distribution: a token forced on it has the low one that it has."""
    free = _run("abc", top_logprobs=1).logprobs[0]
    biased = _run("abc", top_logprobs=1, bias={ord("x"): 100.0}, limit=1).logprobs[0]
    forced = _run("abc", top_logprobs=1, grammar=Grammar("regex", "x")).logprobs[0]

    assert ("a", "x", "x") == (free.text, biased.text, forced.text)
    assert free.top == biased.top == forced.top
    assert biased.logprob == forced.logprob < -10
    assert math.isclose(free.logprob, free.top[0].logprob)


def test_a_bias_bans_and_invites_but_does_not_lift_a_mask():
    """-100 keeps a token away, +100 brings it, and neither gets past a grammar."""
    both = {ord("a"): -100.0, ord("x"): 100.0}

    assert "a" not in _run("aaa", bias={ord("a"): -100.0}, limit=3).text
    assert "xxx" == _run("aaa", bias=both, limit=3).text
    assert "bbb" == _run("aaa", bias=both, grammar=Grammar("regex", "[ab]{3}")).text


def test_the_numbers_are_those_of_the_models_own_softmax(starter_model):
    """Against a log-softmax of the starter's row in float64: the drawn token's value and the five likeliest."""
    backend = LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=512, slots=1))
    backend.facts = replace(backend.facts, can_run=False)  # so that each step's row is seen here
    rows = []
    decode = backend.decode

    def kept(entries):
        found = decode(entries)
        rows.extend(row.astype(np.float64) for row in found if row is not None)
        return found

    backend.decode = kept
    engine = Engine(backend)
    engine.submit(sequence(backend, "s", "Name a colour.", temperature=1.5, seed=3, limit=6, top_logprobs=5))
    outcome = finish(engine)["s"]
    backend.close()

    assert outcome.text == "".join(token.text for token in outcome.logprobs)
    for token, row in zip(outcome.logprobs, rows, strict=True):
        logprobs = row - row.max() - np.log(np.exp(row - row.max()).sum())
        best = np.argsort(-logprobs, kind="stable")[:5]
        # 1e-6 of max(1, |value|): the bound between the extension and its twin, see hybrid/native/README.md.
        assert pytest.approx(logprobs[best].tolist(), rel=1e-6, abs=1e-6) == [other.logprob for other in token.top]
        assert [backend.piece(int(other)) or None for other in best] == [other.raw for other in token.top]
        assert token.logprob <= token.top[0].logprob + 1e-6
