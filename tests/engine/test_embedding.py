"""Embedding in the worker: every input gets its vector, long ones in pieces, and no one waits for a neighbour."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend, FakeEmbedder
from hybrid.engine.embedding import Embedding, EmbeddingJob, Unfinished, plan, unit
from hybrid.engine.frames import Embedded, Frame, Refused
from hybrid.errors import LocalFailure

CONTEXT_TOKENS = 4096


def _embedding(tmp_path) -> tuple[Embedding, list[Frame]]:
    sent: list[Frame] = []
    return Embedding(FakeBackend(BackendOptions(model_path=tmp_path, context_tokens=CONTEXT_TOKENS)), sent.append), sent


def _job(name: str, *texts: str) -> EmbeddingJob:
    return EmbeddingJob(name, [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) for text in texts])


def _step(embedding: Embedding) -> None:
    embedding.step(decoding=0, decode_step_s=None)


def _finish(embedding: Embedding, sent: list[Frame], max_steps: int = 1000) -> list[tuple[str, int]]:
    """Step to the end; give the requests and inputs in the order in which they were done."""
    for _ in range(max_steps):
        if not embedding.has_work:
            return [(v.id, v.index) for frame in sent if isinstance(frame, Embedded) for v in frame.vectors]
        _step(embedding)
    raise AssertionError("it never ends")


def _vectors(sent: list[Frame]) -> dict[tuple[str, int], np.ndarray]:
    frames = [frame for frame in sent if isinstance(frame, Embedded)]
    return {(v.id, v.index): np.frombuffer(v.values, dtype="<f4") for frame in frames for v in frame.vectors}


def test_every_input_gets_its_own_vector(tmp_path):
    """A request of short and long inputs, more than fit at once, gives for each what the input alone gives."""
    texts = ["a", "long " * 100, "bb", "x" * 3000, "cc", "dd", "ee"]
    embedding, sent = _embedding(tmp_path)
    embedding.submit(_job("r", *texts))
    _finish(embedding, sent)

    expected = {
        ("r", n): unit(np.bincount(np.frombuffer(t.encode(), np.uint8), minlength=256).astype(np.float32))
        for n, t in enumerate(texts)
    }
    assert expected.keys() == _vectors(sent).keys()
    assert all(np.array_equal(expected[key], value) for key, value in _vectors(sent).items())


def test_a_large_request_does_not_delay_a_small_one(tmp_path):
    """One input of each request in turn: a single text that comes after a hundred is done among the first."""
    embedding, sent = _embedding(tmp_path)
    embedding.submit(_job("large", *["some text of the large one"] * 100))
    embedding.submit(_job("small", "hello"))

    assert _finish(embedding, sent).index(("small", 0)) < 10


def test_a_cancelled_request_leaves_at_once(tmp_path):
    """Cancelled between two steps its inputs are gone, begun or not, and the others go on."""
    embedding, sent = _embedding(tmp_path)
    embedding.submit(_job("gone", "x" * 200, "y" * 200))
    embedding.submit(_job("stays", "z" * 100))
    _step(embedding)
    embedding.cancel("gone")

    assert [("stays", 0)] == _finish(embedding, sent)


def test_a_failed_step_fails_only_the_requests_in_it(tmp_path):
    """The request whose step failed is told so; the next one is served."""
    embedding, sent = _embedding(tmp_path)
    embedding.submit(_job("bad", "[fail]"))
    _finish(embedding, sent)
    embedding.submit(_job("good", "text"))
    done = _finish(embedding, sent)

    refused = [(frame.id, frame.is_caller) for frame in sent if isinstance(frame, Refused)]
    assert ([("bad", False)], [("good", 0)]) == (refused, done)


def test_an_input_without_memory_fails_only_its_request(tmp_path):
    """What cannot be made room for is told so; a short one that came with it is served."""

    class SmallEmbedder(FakeEmbedder):
        def resize(self, cells: int) -> None:
            if cells > 1000:
                raise LocalFailure("there is no memory")
            super().resize(cells)

    class SmallBackend(FakeBackend):
        def embedder(self) -> FakeEmbedder:
            return SmallEmbedder(CONTEXT_TOKENS)

    sent: list[Frame] = []
    embedding = Embedding(SmallBackend(BackendOptions(model_path=tmp_path, context_tokens=CONTEXT_TOKENS)), sent.append)
    embedding.submit(_job("long", "x" * 2000))
    embedding.submit(_job("short", "hello"))

    assert [("short", 0)] == _finish(embedding, sent)
    assert ["long"] == [frame.id for frame in sent if isinstance(frame, Refused)]


def test_a_vector_without_a_direction_is_a_failure():
    """Zeros and NaN cannot be scaled to length 1; nobody gets them for an embedding."""
    for values in ([0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(LocalFailure, match="no usable vector"):
            unit(np.array(values, dtype=np.float32))
    assert [0.6, 0.8] == pytest.approx(unit(np.array([3.0, 4.0], dtype=np.float32)).tolist())


@pytest.mark.parametrize(
    ("lengths", "budget", "is_whole", "expected"),
    [
        pytest.param((10, 10, 10), 25, False, [10, 10, 5], id="pieces-fill-the-budget"),
        pytest.param((10, 10, 10), 25, True, [10, 10], id="whole-inputs-only"),
        pytest.param((100,), 25, True, [100], id="a-long-whole-input-alone"),
        pytest.param((5, 100), 25, True, [5], id="no-long-one-behind-another"),
    ],
)
def test_plan(lengths, budget, is_whole, expected):
    """A step keeps to its budget, but for one input that cannot be divided."""
    waiting = [Unfinished(_job("r", "x" * length), 0, slot) for slot, length in enumerate(lengths)]
    assert expected == [count for _, count in plan(waiting, budget_tokens=budget, is_whole=is_whole)]


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 900), min_size=1, max_size=6), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), max_size=4),
)
def test_whatever_comes_and_goes_all_others_are_served(tmp_path_factory, requests, cancels):
    """Random requests and cancels: who was not cancelled gets all its vectors, each once, and nothing is left."""
    embedding, sent = _embedding(tmp_path_factory.getbasetemp())
    for name, lengths in enumerate(requests):
        embedding.submit(_job(str(name), *["a" * length for length in lengths]))
    gone: set[str] = set()
    for after_steps, name in sorted(cancels):
        for _ in range(after_steps):
            if embedding.has_work:
                _step(embedding)
        embedding.cancel(str(name))
        gone.add(str(name))
    done = _finish(embedding, sent)

    wanted = [(str(n), index) for n, lengths in enumerate(requests) for index in range(len(lengths))]
    assert sorted(set(done)) == sorted(done)
    assert {key for key in wanted if key[0] not in gone} <= set(done)
