"""Compiling a grammar holds nobody up, and a request that goes away meanwhile is gone."""

import queue
import threading
from pathlib import Path

import pytest

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.engine.compiler import Compiler
from hybrid.engine.frames import Grammar
from hybrid.errors import InvalidRequest, LocalFailure
from tests.engine.constrained import sequence

LIMIT_S = 30
YES = Grammar("regex", "yes")


class Slow(FakeBackend):
    """A backend whose vocabulary takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__(BackendOptions(model_path=Path("unused")))
        self.is_asked, self.may_go_on = threading.Event(), threading.Event()

    def grammar_tokenizer(self):
        self.is_asked.set()
        assert self.may_go_on.wait(LIMIT_S)
        return super().grammar_tokenizer()


@pytest.fixture
def parts():
    """A compiler over a slow backend, and what it passes on: sequences and refusals."""
    backend, passed = Slow(), queue.SimpleQueue()
    compiler = Compiler(backend, submit=passed.put, refuse=lambda name, why: passed.put((name, why)))
    return backend, compiler, passed


def test_a_sequence_is_passed_on_with_its_constraint(parts):
    """What comes out is the sequence that went in, constrained."""
    backend, compiler, passed = parts
    backend.may_go_on.set()
    wanted = sequence(backend, "s", "hi")
    compiler.put(wanted, YES)

    assert wanted is passed.get(timeout=LIMIT_S)
    assert wanted.constraint is not None


def test_a_sequence_cancelled_while_its_grammar_compiles_is_never_passed_on(parts):
    """The cancel is obeyed here, the next sequence is served, and nothing else comes out."""
    backend, compiler, passed = parts
    compiler.put(sequence(backend, "gone", "hi"), YES)
    assert backend.is_asked.wait(LIMIT_S)

    compiler.cancel("gone")
    compiler.cancel("gone")

    compiler.put(sequence(backend, "next", "hi"), YES)
    backend.may_go_on.set()

    assert "next" == passed.get(timeout=LIMIT_S).id
    assert passed.empty()


def test_a_grammar_that_does_not_compile_is_refused(parts):
    """Its sequence does not run; the next one does."""
    backend, compiler, passed = parts
    backend.may_go_on.set()
    compiler.put(sequence(backend, "bad", "hi"), Grammar("regex", "("))
    compiler.put(sequence(backend, "good", "hi"), YES)

    name, why = passed.get(timeout=LIMIT_S)

    assert "bad" == name
    assert isinstance(why, InvalidRequest)
    assert "good" == passed.get(timeout=LIMIT_S).id


def test_a_bug_in_compiling_fails_one_request_and_not_the_thread(parts):
    """Whatever goes wrong, the request hears of it and the thread lives on."""
    backend, compiler, passed = parts
    backend.may_go_on.set()
    broken = backend.facts
    backend.facts = None
    compiler.put(sequence(backend, "unlucky", "hi"), YES)
    _, why = passed.get(timeout=LIMIT_S)
    backend.facts = broken
    compiler.put(sequence(backend, "next", "hi"), YES)

    assert isinstance(why, LocalFailure)
    assert "next" == passed.get(timeout=LIMIT_S).id


def test_of_several_answers_each_gets_a_state_of_its_own_and_a_cancel_takes_all(parts):
    """Answers to one request share its id: each is passed on once, and those that wait go with one cancel."""
    backend, compiler, passed = parts
    for _ in range(2):
        compiler.put(sequence(backend, "gone", "hi"), YES)
    assert backend.is_asked.wait(LIMIT_S)
    compiler.cancel("gone")
    twins = [sequence(backend, "twins", "hi") for _ in range(2)]
    for twin in twins:
        compiler.put(twin, YES)
    backend.may_go_on.set()

    assert twins == [passed.get(timeout=LIMIT_S) for _ in twins]
    assert twins[0].constraint is not twins[1].constraint
    assert passed.empty()
