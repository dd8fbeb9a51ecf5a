"""Runs of steps on the starter: what is heard meanwhile is what single steps give, however it ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from hybrid.backends.base import BackendOptions, BatchEntry
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.native import IS_NATIVE, RowDraw, Sampled, SampleParams, sample_rows

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="runs exist in the extension alone")

WARM = SampleParams(temperature=0.8, top_p=0.95)
TEXTS = ("One two three four five six seven", "It was a dark and stormy night when", "The sea is")
STEPS = 12


class Heard:
    """Notes what it hears, and in which thread; ends the run after so many calls."""

    def __init__(self, *, end_after: int | None = None) -> None:
        self.bundles: list[int] = []
        self.tokens: list[list[int]] = []
        self.threads: set[int] = set()
        self.is_over = False
        self._end_after = end_after

    def __call__(self, steps: Sequence[Sequence[Sampled | ValueError]], *, is_last: bool) -> bool:
        assert not self.is_over
        self.bundles.append(len(steps))
        self.tokens += [[sampled.token for sampled in rows if isinstance(sampled, Sampled)] for rows in steps]
        self.threads.add(threading.get_ident())
        self.is_over = is_last
        return len(self.bundles) != self._end_after


@pytest.fixture(scope="module")
def backend(starter_model):
    """The starter, loaded once for this file."""
    loaded = LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=512, slots=4))
    yield loaded
    loaded.close()


def _begin(backend: LlamaCppBackend) -> tuple[list[BatchEntry], list[RowDraw]]:
    """Take the texts in but for their last token; give what the first step of a run takes."""
    entries, draws = [], []
    for slot, text in enumerate(TEXTS):
        backend.forget(slot)
        tokens = backend.tokenize(text)
        backend.decode([BatchEntry(slot, tokens[:-1], 0)])
        entries.append(BatchEntry(slot, tokens[-1:], len(tokens) - 1, logits=1))
        draws.append(RowDraw(params=WARM, seed=slot, position=len(tokens)))
    return entries, draws


def _one_by_one(backend: LlamaCppBackend, steps: int) -> list[list[int]]:
    entries, draws = _begin(backend)
    found = []
    for step in range(steps):
        here = [RowDraw(params=WARM, seed=draw.seed, position=draw.position + step) for draw in draws]
        found.append([sampled.token for sampled in sample_rows(backend.decode(entries), here)])
        entries = [
            BatchEntry(entry.slot, [token], entry.position + 1, logits=1)
            for entry, token in zip(entries, found[-1], strict=True)
        ]
    return found


@pytest.mark.parametrize("bundle", [1, 5, STEPS])
def test_heard_is_what_single_steps_give(backend, bundle):
    """Token for token; in bundles while the run goes on, in another thread than the one that computes."""
    expected = _one_by_one(backend, STEPS)
    entries, draws = _begin(backend)
    heard = Heard()
    assert STEPS == backend.run(entries, draws, steps=STEPS, bundle=bundle, hear=heard)
    assert heard.is_over
    assert expected == heard.tokens
    assert all(size >= bundle for size in heard.bundles[:-1])
    assert (threading.get_ident() in heard.threads) is (bundle >= STEPS)


def test_a_run_ends_as_asked_and_holds_what_was_heard(backend):
    """Every step that was computed is heard, so the cache can be cut back to any of them and goes on from there."""
    expected = _one_by_one(backend, STEPS)
    entries, draws = _begin(backend)
    heard = Heard(end_after=2)
    done = backend.run(entries, draws, steps=STEPS, bundle=1, hear=heard)
    assert done == len(heard.tokens) < STEPS
    assert expected[:done] == heard.tokens
    backend.truncate(0, entries[0].position + 1)
    # As it was after the first step: the second one's token gives the third's.
    row = backend.decode([BatchEntry(0, [expected[0][0]], entries[0].position + 1, logits=1)])
    [again] = sample_rows(row, [RowDraw(params=SampleParams(temperature=0), seed=0, position=0, top_logprobs=5)])
    assert expected[1][0] in {token for token, _ in again.top} | {again.token}


def test_threads_change_after_a_run(backend):
    """Who hears may ask for other threads; the run that computes is left alone, and no token is another one."""
    expected = _one_by_one(backend, STEPS)
    entries, draws = _begin(backend)
    heard = Heard()

    def hear(steps: Sequence[Sequence[Sampled | ValueError]], *, is_last: bool) -> bool:
        backend.set_threads(1, 1)
        return heard(steps, is_last=is_last)

    backend.run(entries, draws, steps=STEPS, bundle=1, hear=hear)
    backend.set_threads(backend.facts.threads, backend.facts.threads)
    assert expected == heard.tokens


def test_a_failing_listener_ends_the_run(backend):
    """What it raises is raised where the run was asked for, long before all steps were computed; the next run works."""
    entries, draws = _begin(backend)

    def fail(_: Sequence[Sequence[Sampled | ValueError]], *, is_last: bool) -> bool:
        raise OSError(f"nobody listens, last: {is_last}")

    with pytest.raises(OSError, match="nobody listens, last: False"):
        backend.run(entries, draws, steps=100, bundle=1, hear=fail)
    entries, draws = _begin(backend)
    assert 3 == backend.run(entries, draws, steps=3, bundle=1, hear=Heard())


@pytest.mark.parametrize(("steps", "bundle"), [(0, 1), (4, 0)])
def test_hostile_lengths_are_refused(backend, steps, bundle):
    """Nothing native is called."""
    entries, draws = _begin(backend)
    with pytest.raises(ValueError, match="run of steps"):
        backend.run(entries, draws, steps=steps, bundle=bundle, hear=Heard())
