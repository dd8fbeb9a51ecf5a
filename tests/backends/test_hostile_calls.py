"""Nothing that would abort llama.cpp, or write past its arrays, gets that far: the seam refuses each such call."""

import pytest

from hybrid.backends.base import BackendOptions, BatchEntry
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.errors import LocalFailure
from hybrid.native import RowDraw, SampleParams

LARGE = 2**31
DRAW = RowDraw(params=SampleParams(), seed=1, position=0)


@pytest.fixture(scope="module")
def backend(starter_model):
    """The starter with eight cells in slot 0 and two in slot 1; what a call breaks, the last line here notices."""
    loaded = LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=1024, slots=4))
    loaded.decode([BatchEntry(0, [1] * 8, 0), BatchEntry(1, [1] * 2, 0)])
    yield loaded
    assert loaded.decode([BatchEntry(0, [1], 8, logits=1)]).shape == (1, loaded.facts.vocab_tokens)
    loaded.close()


def unheard(steps: object, *, is_last: bool) -> bool:
    """Nobody is to hear of a run that is refused."""
    raise AssertionError(f"heard {steps}, last: {is_last}")


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda b: b.copy(0, 0, 4), id="copy-onto-itself"),
        pytest.param(lambda b: b.copy(0, 1, 4), id="copy-into-a-held-slot"),
        pytest.param(lambda b: b.copy(-1, 2, 4), id="copy-from-minus-one"),
        pytest.param(lambda b: b.copy(0, LARGE, 4), id="copy-to-a-large-slot"),
        pytest.param(lambda b: b.copy(0, b.facts.sequence_ids, 4), id="copy-one-past-the-last"),
        pytest.param(lambda b: b.copy(0, 2, -1), id="copy-a-negative-count"),
        pytest.param(lambda b: b.copy(0, 2, 0), id="copy-nothing"),
        pytest.param(lambda b: b.copy(0, 2, 9), id="copy-more-than-is-held"),
        pytest.param(lambda b: b.copy(3, 2, 1), id="copy-from-an-empty-slot"),
        pytest.param(lambda b: b.forget(-1), id="forget-every-slot"),
        pytest.param(lambda b: b.forget(LARGE), id="forget-a-large-slot"),
        pytest.param(lambda b: b.truncate(-1, 0), id="truncate-every-slot"),
        pytest.param(lambda b: b.truncate(0, -1), id="truncate-to-a-negative-length"),
        pytest.param(lambda b: b.truncate(0, 9), id="truncate-to-more-than-is-held"),
        pytest.param(lambda b: b.save(-1), id="save-every-slot"),
        pytest.param(lambda b: b.restore(0, b"x", 1), id="restore-into-a-held-slot"),
        pytest.param(lambda b: b.restore(2, b"x", -1), id="restore-a-negative-count"),
        pytest.param(lambda b: b.restore(2, b"x", LARGE), id="restore-more-than-there-are-cells"),
        pytest.param(lambda b: b.decode([]), id="decode-nothing"),
        pytest.param(lambda b: b.decode([BatchEntry(2, [], 0)]), id="decode-no-tokens"),
        pytest.param(lambda b: b.decode([BatchEntry(2, [1] * 513, 0)]), id="decode-more-than-a-batch"),
        pytest.param(lambda b: b.decode([BatchEntry(-1, [1], 0)]), id="decode-into-minus-one"),
        pytest.param(lambda b: b.decode([BatchEntry(LARGE, [1], 0)]), id="decode-into-a-large-slot"),
        pytest.param(lambda b: b.decode([BatchEntry(2, [1], -1)]), id="decode-at-a-negative-position"),
        pytest.param(lambda b: b.decode([BatchEntry(2, [-1], 0)]), id="decode-a-negative-token"),
        pytest.param(lambda b: b.decode([BatchEntry(2, [b.facts.vocab_tokens], 0)]), id="decode-an-unknown-token"),
        pytest.param(lambda b: b.decode([BatchEntry(2, [LARGE], 0)]), id="decode-a-token-of-33-bits"),
        pytest.param(lambda b: b.decode([BatchEntry(2, [1], 0, logits=2)]), id="more-rows-than-tokens"),
        pytest.param(lambda b: b.decode([BatchEntry(2, [1], 0, logits=-1)]), id="a-negative-count-of-rows"),
        pytest.param(lambda b: b.run([], [], steps=1, bundle=1, hear=unheard), id="run-nothing"),
        pytest.param(
            lambda b: b.run([BatchEntry(2, [1], 0, logits=1)], [DRAW], steps=0, bundle=1, hear=unheard),
            id="run-no-steps",
        ),
        pytest.param(
            lambda b: b.run([BatchEntry(2, [1, 1], 0, logits=1)], [DRAW], steps=2, bundle=1, hear=unheard),
            id="run-a-prompt",
        ),
        pytest.param(
            lambda b: b.run([BatchEntry(2, [1], 0)], [DRAW], steps=2, bundle=1, hear=unheard), id="run-without-a-row"
        ),
        pytest.param(
            lambda b: b.run([BatchEntry(2, [1], 0, logits=1)], [], steps=2, bundle=1, hear=unheard),
            id="run-without-a-draw",
        ),
        pytest.param(
            lambda b: b.run([BatchEntry(2, [1], 0, logits=1)] * 2, [DRAW] * 2, steps=2, bundle=1, hear=unheard),
            id="run-one-twice",
        ),
        pytest.param(
            lambda b: b.run([BatchEntry(-1, [1], 0, logits=1)], [DRAW], steps=2, bundle=1, hear=unheard),
            id="run-minus-one",
        ),
    ],
)
def test_a_hostile_call_is_a_value_error(backend, call):
    """ValueError before the native call; the process lives and the slots hold what they held."""
    with pytest.raises(ValueError):  # noqa: PT011 - each call has its own words
        call(backend)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda state: b"", id="empty"),
        pytest.param(lambda state: state[: len(state) // 2], id="half"),
        pytest.param(lambda state: b"\xff" * len(state), id="noise"),
        pytest.param(lambda state: state[:12] + b"\xff\xff\xff\x7f" + state[16:], id="absurd-count"),
        pytest.param(lambda state: state + b"more", id="too-long"),
    ],
)
def test_foreign_cells_are_not_taken(backend, damage):
    """LocalFailure, the slot is empty afterwards, and takes the sound ones then."""
    state = bytes(backend.save(0))
    with pytest.raises(LocalFailure):
        backend.restore(2, damage(state), 8)
    backend.restore(2, state, 8)
    backend.forget(2)


def test_restored_cells_continue_as_the_saved_ones(backend):
    """A restored slot gives the row that the slot it was saved from gives."""
    backend.restore(2, backend.save(0), 8)
    saved, restored = (backend.decode([BatchEntry(slot, [1], 8, logits=1)])[0].copy() for slot in (0, 2))
    backend.truncate(0, 8)
    backend.forget(2)

    # The cells are the same to the bit; attention over another number of cells in use sums in another order.
    assert int(saved.argmax()) == int(restored.argmax())
