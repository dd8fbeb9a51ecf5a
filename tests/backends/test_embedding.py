"""The real embedder: on the starter, which generates, and on a random BERT, which must see its inputs whole."""

import itertools

import numpy as np
import pytest

from hybrid.backends.base import BackendOptions, BatchEntry
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.engine.embedding import Embedding, EmbeddingJob
from hybrid.engine.frames import Embedded
from hybrid.errors import UnsupportedCapability
from tests.tiny_bert import CLS, CONTEXT_TOKENS, LAST, MEAN, RANK, WIDTH, write_bert

TEXTS = ["The cat sat on the mat.", "Stocks fell.", "word " * 300, "The cat sat on the mat.", "x"]
# Other batch shapes take other matrix kernels, which sum in another order. Smallest cosine seen between a text in a
# batch and the same text alone, on an AVX-512 machine with Q4_1 weights: 0.9994; with room for other machines.
BATCHING_COSINE = 0.998


@pytest.fixture(scope="module")
def starter(starter_model):
    """The starter, loaded once for this file."""
    loaded = LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=2048, slots=2, idle_sequences=2))
    yield loaded
    loaded.close()


def _bert(tmp_path, pooling: int = MEAN) -> LlamaCppBackend:
    return LlamaCppBackend(
        BackendOptions(model_path=write_bert(tmp_path / "bert.gguf", pooling=pooling), is_embedder=True)
    )


def _embed(backend: LlamaCppBackend, inputs: list[list[int]]) -> list[np.ndarray]:
    sent = []
    embedding = Embedding(backend, sent.append)
    embedding.submit(EmbeddingJob("r", [np.asarray(tokens, dtype=np.int32) for tokens in inputs]))
    while embedding.has_work:
        embedding.step(decoding=0, decode_step_s=None)
    assert all(isinstance(frame, Embedded) for frame in sent)
    values = {vector.index: np.frombuffer(vector.values, dtype="<f4") for frame in sent for vector in frame.vectors}
    return [values[index] for index in range(len(inputs))]


def test_a_batch_gives_what_each_text_alone_gives(starter):
    """Vectors have length 1 and the model's width, and neither company nor pieces change where they point."""
    inputs = [starter.tokenize_input(text) for text in TEXTS]
    together = _embed(starter, inputs)
    alone = [_embed(starter, [tokens])[0] for tokens in inputs]

    assert [1.0] * len(TEXTS) == pytest.approx([float(np.linalg.norm(vector)) for vector in together], abs=1e-5)
    assert {(starter.facts.dimensions,)} == {vector.shape for vector in together}
    assert all(float(a @ b) >= BATCHING_COSINE for a, b in zip(together, alone, strict=True))
    assert float(together[0] @ together[1]) < BATCHING_COSINE


def test_the_vector_is_the_mean_of_the_hidden_states(starter):
    """The starter declares no pooling: its vector of a text is the mean of the states at all places.

    What a place of a causal model holds depends on the places before it only, so each state is known by a difference.
    """
    tokens = starter.tokenize_input("The cat sat on the mat.")
    embedder = starter.embedder()
    means = []
    for end in range(1, len(tokens) + 1):
        (vector,) = embedder.compute([BatchEntry(0, tokens[:end], 0, logits=1)])
        means.append(vector.astype(np.float64))
    states = [mean * (n + 1) - (means[n - 1] * n if n else 0) for n, mean in enumerate(means)]
    whole = embedder.compute([BatchEntry(1, tokens, 0, logits=1)])[0]
    embedder.close()

    expected = np.mean(states, axis=0)
    cosine = float(expected @ whole / np.linalg.norm(expected) / np.linalg.norm(whole))
    assert cosine >= BATCHING_COSINE


def test_embedding_leaves_the_chat_alone(starter):
    """A row of logits is the same, bit for bit, whether or not texts are embedded between two decodes."""
    tokens = starter.tokenize("The capital of France is")
    rows = []
    for is_embedding in (False, True):
        starter.decode([BatchEntry(0, tokens[:-1], 0)])
        if is_embedding:
            _embed(starter, [starter.tokenize_input(text) for text in TEXTS])
        rows.append(starter.decode([BatchEntry(0, tokens[-1:], len(tokens) - 1, logits=1)])[0].copy())
        starter.forget(0)
    assert np.array_equal(*rows)


def test_a_long_input_grows_the_context_and_gives_it_back(starter):
    """The context for embeddings is small until an input needs more, and small again when all is done."""
    sent = []
    embedding = Embedding(starter, sent.append)
    embedding.submit(EmbeddingJob("r", [np.arange(100, 2100, dtype=np.int32)]))
    embedding.step(decoding=0, decode_step_s=None)
    grown = embedding._embedder.cells
    embedding.cancel("r")
    embedding.submit(EmbeddingJob("s", [np.arange(100, 110, dtype=np.int32)]))
    embedding.step(decoding=0, decode_step_s=None)

    assert (2048, 1024) == (grown, embedding._embedder.cells)


@pytest.mark.parametrize("pooling", [MEAN, CLS, LAST])
def test_an_encoder_sees_its_inputs_whole(tmp_path, pooling):
    """A BERT embeds a batch as it embeds each text alone, up to the very last token of its context."""
    backend = _bert(tmp_path, pooling)
    inputs = [backend.tokenize_input("the cat sat"), [2, *[6] * (CONTEXT_TOKENS - 2), 3], [2, 7, 3]] * 5
    together = _embed(backend, inputs)
    alone = [_embed(backend, [tokens])[0] for tokens in inputs[:3]]
    backend.close()

    assert [2, 10, 6, 8, 3] == inputs[0]
    assert (WIDTH, False) == (backend.facts.dimensions, backend.facts.can_generate)
    # 32-bit weights: only the order of sums differs.
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(together, alone * 5, strict=True))


def test_poolings_differ(tmp_path):
    """The file's declared pooling is what is used: mean, first and last token give different vectors."""
    found = []
    for pooling in (MEAN, CLS, LAST):
        backend = _bert(tmp_path, pooling)
        found.append(_embed(backend, [[2, 6, 7, 8, 3]])[0])
        backend.close()
    assert all(float(a @ b) < BATCHING_COSINE for a, b in itertools.combinations(found, 2))


def test_a_reranker_gives_no_embeddings(tmp_path):
    """A model that ranks is refused by name, not loaded into an assert."""
    backend = _bert(tmp_path, RANK)
    with pytest.raises(UnsupportedCapability, match="ranks texts"):
        backend.embedder()
    backend.close()
