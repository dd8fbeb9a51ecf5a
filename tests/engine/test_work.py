"""Is speed compared between steps of the same kind only?"""

import pytest

from hybrid.engine.work import NO_WORK, Undisturbed, Work, gain, work_of


def _decoding(*steps_s: float, sequences: int = 1) -> Work:
    work = NO_WORK
    for step_s in steps_s:
        work = work.plus(work_of(step_s=step_s, prefill_tokens=0, decode_tokens=sequences))
    return work


def _prefill(step_s: float, tokens: int) -> Work:
    return work_of(step_s=step_s, prefill_tokens=tokens, decode_tokens=0)


@pytest.mark.parametrize(
    ("base", "trial", "expected"),
    [
        pytest.param(_decoding(0.2, 0.2), _decoding(0.1), 2.0, id="twice-as-fast"),
        pytest.param(_prefill(0.1, 50), _prefill(0.1, 100), 2.0, id="prompts-by-their-tokens"),
        pytest.param(
            _decoding(0.2).plus(_decoding(0.9, sequences=8)), _decoding(0.2), 1.0, id="a-larger-batch-does-not-matter"
        ),
        pytest.param(_decoding(0.1).plus(_prefill(0.3, 30)), _decoding(0.1).plus(_prefill(0.1, 30)), 2.0, id="weighed"),
        pytest.param(_decoding(0.1), _decoding(0.1, sequences=2), None, id="nothing-in-common"),
        pytest.param(NO_WORK, _decoding(0.1), None, id="nothing-before"),
    ],
)
def test_gain(base, trial, expected):
    """gain() is the time the trial's steps would have taken before, over the time they took."""
    found = gain(base, trial)
    assert (expected is None and found is None) or expected == pytest.approx(found)


def test_work_says_what_was_in_it():
    """Steps with prompts and steps that only decode are told apart."""
    assert (False, True) == (_decoding(0.1).has(prefill=True), _decoding(0.1).has(prefill=False))
    assert (True, False) == (_prefill(0.1, 5).has(prefill=True), _prefill(0.1, 5).has(prefill=False))
    both = _decoding(0.1, 0.2).plus(_prefill(0.3, 5))
    assert (3, pytest.approx(0.6)) == (both.steps, both.seconds)


def test_the_reference_is_the_fast_part_of_the_past():
    """A slow moment among fast ones does not become the reference, and a single lucky one neither."""
    reference = Undisturbed()
    for step_s in (0.02, 0.03, 0.03, 0.03, 0.03, 0.03, 0.09):
        reference.learn(_decoding(step_s))
    assert 3.0 == pytest.approx(reference.slowdown(_decoding(0.09)))
    assert 1.0 == reference.slowdown(_decoding(0.01))
    assert None is reference.slowdown(_decoding(0.09, sequences=4))


def test_the_reference_forgets():
    """A model that is slower now, as with a longer context, is its own new reference after a while."""
    reference = Undisturbed()
    for step_s in [0.02] * 40 + [0.04] * 40:
        reference.learn(_decoding(step_s))
    assert 1.0 == pytest.approx(reference.slowdown(_decoding(0.04)))
