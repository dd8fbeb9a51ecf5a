"""LoRA on the real model: an adapter that adds nothing changes nothing, others do, and neighbours do not notice."""

import itertools

import numpy as np
import pytest

from hybrid.backends.base import Adapter, BackendOptions, BatchEntry
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.engine import Engine
from hybrid.engine.sequence import Sequence
from hybrid.errors import ModelFileError
from hybrid.native import SampleParams
from tests.tiny_lora import write_lora

ZERO, ONE, TWO, OFF = 0, 1, 2, 3
PROMPT = "The three colours of the flag are"
ANSWER_TOKENS = 16


@pytest.fixture(scope="module")
def backend(starter_model, tmp_path_factory):
    """The starter with four adapters: B of zeros, two random ones, and the first of those at strength 0."""
    folder = tmp_path_factory.mktemp("lora")
    zero = write_lora(folder / "zero.gguf", starter_model)
    one, two = (write_lora(folder / f"{n}.gguf", starter_model, seed=n, strength=0.05) for n in (1, 2))
    adapters = (Adapter(zero), Adapter(one), Adapter(two), Adapter(one, scale=0.0))
    options = BackendOptions(model_path=starter_model, context_tokens=1024, slots=4, adapters=adapters)
    loaded = LlamaCppBackend(options)
    yield loaded
    loaded.close()


def _sequence(backend: LlamaCppBackend, adapter: int | None) -> Sequence:
    return Sequence(
        id=str(adapter),
        prompt=np.asarray(backend.tokenize(PROMPT), dtype=np.int32),
        params=SampleParams(temperature=0.0),
        seed=0,
        max_output_tokens=ANSWER_TOKENS,
        detokenizer=Detokenizer(),
        isolation=str(adapter),
        adapter=adapter,
    )


def _generate(backend: LlamaCppBackend, *adapters: int | None) -> dict[int | None, tuple[list[int], list[float]]]:
    """Run one request an adapter, all at once; give the tokens and log-probabilities of each."""
    # A clock that always advances alike, so that prompts are divided into steps alike and rounding is the same.
    engine = Engine(backend, clock=itertools.count(step=0.001).__next__)
    sequences = [_sequence(backend, adapter) for adapter in adapters]
    logprobs: dict[str, list[float]] = {sequence.id: [] for sequence in sequences}
    for sequence in sequences:
        engine.submit(sequence)
    while engine.has_work:
        for delta in engine.step().deltas:
            assert delta.failure is None
            logprobs[delta.id].append(delta.signal.logprob)
    engine.cache.clear()
    return {sequence.adapter: (sequence.output, logprobs[sequence.id]) for sequence in sequences}


def test_an_adapter_that_adds_nothing_changes_nothing(backend):
    """With B of zeros, or at strength 0, the answer is the base model's, token for token."""
    base = _generate(backend, None)[None]

    assert base[0] == _generate(backend, ZERO)[ZERO][0]
    assert base[0] == _generate(backend, OFF)[OFF][0]


def test_adapters_change_what_the_model_says(backend):
    """Two random adapters move the logits of the next token, each its own way; without one they are as before."""
    rows = []
    for adapter in (None, ONE, TWO, None):
        backend.use_adapter(adapter)
        tokens = backend.tokenize(PROMPT)
        rows.append(backend.decode([BatchEntry(0, tokens, 0, logits=1)])[0].copy())
        backend.forget(0)
    base, one, two, again = rows

    assert np.array_equal(base, again)
    assert all(np.abs(a - b).max() > 0.5 for a, b in itertools.combinations((base, one, two), 2))


def test_adapters_at_once_each_get_what_they_get_alone(backend):
    """Four requests at once, each with another adapter or none: the same tokens and probabilities as alone.

    Their steps have the same shapes as alone, for no two of them may share one. Only the places of their cells differ,
    which attention sums in another order: seen up to 0.00 nats, with room for other machines.
    """
    together = _generate(backend, None, ZERO, ONE, TWO)
    for adapter in (None, ZERO, ONE, TWO):
        tokens, logprobs = _generate(backend, adapter)[adapter]
        assert tokens == together[adapter][0]
        assert logprobs == pytest.approx(together[adapter][1], abs=0.05)


def test_embeddings_know_no_adapter(backend):
    """What was applied for a chat does not reach the context that embeds."""
    tokens = backend.tokenize_input(PROMPT)
    vectors = []
    for adapter in (None, ONE):
        backend.use_adapter(adapter)
        embedder = backend.embedder()
        vectors += embedder.compute([BatchEntry(0, tokens, 0, logits=1)])
        embedder.close()
    assert np.array_equal(*vectors)


def test_an_adapter_llama_cpp_refuses_is_named(starter_model, tmp_path):
    """A file that is no adapter for the model ends the load with its name, not the process."""
    wrong = write_lora(tmp_path / "wrong.gguf", starter_model, general__architecture="qwen2")
    with pytest.raises(ModelFileError, match=r"wrong\.gguf has a sound header, but llama\.cpp cannot apply it"):
        LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=256, adapters=(Adapter(wrong),)))
