"""Are tokens guessed where it pays, and does what comes out stay what it was without?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.drafting import Drafter, ModelDrafts, check_vocabulary
from hybrid.engine.engine import Engine
from hybrid.engine.scheduler import Plan, Work
from hybrid.engine.sequence import Sequence
from hybrid.engine.speculation import PRIOR_ACCEPTANCE, Repeats, draft_lengths, learned
from hybrid.errors import ModelFileError
from hybrid.native import SampleParams
from hybrid.types import FinishReason


def _tokens(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        pytest.param("abcdef abc", 4, "def ", id="what-followed-before"),
        pytest.param("abcX abcY abc", 1, "Y", id="the-latest-of-equals"),
        pytest.param("long-abcX mid-abcY long-abc", 1, "X", id="the-one-that-agrees-further-back"),
        pytest.param("abcdef abc", 0, "", id="no-room"),
        pytest.param("abcdef xbc", 4, "", id="too-short-a-repeat"),
        pytest.param("aaaaaaaa", 3, "a", id="up-to-the-end-of-what-is-known"),
        pytest.param("ab", 4, "", id="too-short-a-text"),
        pytest.param("", 4, "", id="nothing"),
    ],
)
def test_a_repeat_is_found(text, limit, expected):
    """The guess is what followed the last words when they came before."""
    repeats = Repeats()
    repeats.extend(text.encode())
    assert expected == bytes(repeats.find(limit)).decode()


@given(text=st.text("ab", max_size=60), limit=st.integers(0, 8), cut=st.integers(0, 60))
def test_a_repeat_is_always_one(text, limit, cut):
    """Whatever the text, in one piece or two, a guess stands in it behind a copy of the text's last three tokens."""
    repeats = Repeats()
    repeats.extend(text[:cut].encode())
    repeats.extend(text[cut:].encode())
    guess = bytes(repeats.find(limit)).decode()
    assert len(guess) <= limit
    assert not guess or text[-3:] + guess in text


FLAT = dict.fromkeys(range(1, 200), 0.01)
LINEAR = {size: 0.01 * size for size in range(1, 200)}


@pytest.mark.parametrize(
    ("acceptances", "available", "step_s", "round_s", "expected"),
    [
        pytest.param([0.8], [5], FLAT, 0.0, [5], id="free-tokens-are-taken"),
        pytest.param([0.8], [5], LINEAR, 0.0, [0], id="tokens-that-cost-a-step-each-are-not"),
        pytest.param([0.0], [5], FLAT, 0.0, [0], id="nobody-drafts-what-is-never-taken"),
        pytest.param([0.9, 0.1], [2, 2], {1: 1, 2: 1, 3: 1.1, 4: 1.2, 5: 2, 6: 2}, 0.0, [2, 0], id="the-surer-first"),
        pytest.param([0.9], [3], FLAT, 0.02, [0], id="a-draft-model-slower-than-the-model"),
        pytest.param([0.9], [3], FLAT, 0.001, [3], id="a-fast-draft-model"),
        pytest.param([0.9], [9], {**LINEAR, 8: 0.011, 9: 0.09}, 0.0, [7], id="a-batch-size-that-is-cheap-by-nature"),
        pytest.param([], [], FLAT, 0.0, [], id="nobody"),
    ],
)
def test_draft_lengths(acceptances, available, step_s, round_s, expected):
    """So many tokens are drafted as promise most tokens a second, by the times that steps of that size took."""
    assert expected == draft_lengths(acceptances, available, step_s.__getitem__, most_tokens=100, round_s=round_s)


@pytest.mark.parametrize(
    ("step_s", "others", "expected"),
    [
        pytest.param({size: 0.02 + 0.005 * size for size in range(1, 99)}, 0, 10, id="alone-it-pays"),
        pytest.param({size: 0.02 + 0.005 * size for size in range(1, 99)}, 7, 0, id="beside-seven-they-would-lose"),
        pytest.param({size: 0.01 + 0.0005 * size for size in range(1, 99)}, 1, 16, id="where-they-cost-little"),
        pytest.param(
            {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.2, **dict.fromkeys(range(5, 99), 2.1)}, 1, 2, id="nobody-waits-twice"
        ),
    ],
)
def test_drafts_must_pay_for_those_without(step_s, others, expected):
    """Who has no drafts waits for the step all the same: its token counts, and it waits at most twice as long."""
    assert [expected] == draft_lengths([0.95], [16], step_s.__getitem__, most_tokens=16, others=others)


def test_the_room_of_the_step_bounds_all_drafts_together():
    """Three sequences that could draft five each share the four tokens that are left."""
    assert 4 == sum(draft_lengths([0.9] * 3, [5] * 3, FLAT.__getitem__, most_tokens=4))


@pytest.mark.parametrize(
    ("drafted", "accepted", "is_higher"), [(4, 4, True), (4, 0, False), (1, 1, True), (8, 1, False)]
)
def test_verdicts_move_the_acceptance(drafted, accepted, is_higher):
    """Drafts that were right raise it, wrong ones lower it, and it stays a share."""
    after = learned(PRIOR_ACCEPTANCE, drafted=drafted, accepted=accepted)
    assert is_higher == (after > PRIOR_ACCEPTANCE)
    assert 0.0 <= after < 1.0


def test_a_sequence_that_gave_up_tries_again():
    """Without drafts the acceptance goes back to the prior, so that a text that turns repetitive is noticed."""
    acceptance = 0.05
    for _ in range(100):
        acceptance = learned(acceptance, drafted=0, accepted=0)
    assert acceptance > 0.5


# ---- in the steps of a run, in which nobody looks


def _step(*texts: str) -> Plan:
    """A step in which each text's next token is drawn."""
    sequences = [_sequence(text, name=text) for text in texts]
    for sequence in sequences:
        sequence.prompt = _tokens(sequence.id)
    return Plan(work=[Work(sequence, 1, is_decode=True) for sequence in sequences])


def test_a_draft_model_that_catches_up_is_looked_at_in_each_step():
    """It takes a long prompt in chunks, one a look: no look of these is in vain, and the first draft comes at once."""
    small = _Counting(context_tokens=8192, slots=1)
    drafter, step = Drafter(ModelDrafts(small, clock=lambda: 0.0)), _step("a long text, " * 100 + "!?")
    looks = 0
    while not step.work[0].draft:
        drafter.draft(step, lambda _sequences, _drafted: 0.01, most_tokens=100)
        looks += 1
        assert 1 == drafter.quiet_steps(step)
    assert -(-step.work[0].sequence.length // small.facts.batch_tokens) == looks


@pytest.mark.parametrize(
    ("texts", "looks"),
    [
        pytest.param(("all new, all new",), 16, id="alone-as-if-each-step-had-looked"),
        pytest.param(("all new, all new", "and other, and other"), 1, id="beside-others-nobody-would-have"),
        pytest.param(("nothing twice",), 0, id="nothing-to-guess"),
    ],
)
def test_a_sequence_that_gave_up_tries_again_after_as_many_steps_of_runs(texts, looks):
    """Where a look found no guess worth its time, the steps that follow it in a run count as such looks."""
    drafter, step = Drafter(), _step(*texts)
    for work in step.work:
        work.sequence.acceptance = 0.05
    drafter.draft(step, lambda sequences, drafted: 0.01 * (sequences + drafted), most_tokens=100)
    drafter.skip(step, 15)
    acceptance = 0.05
    for _ in range(looks):
        acceptance = learned(acceptance, drafted=0, accepted=0)
    assert [pytest.approx(acceptance)] * len(texts) == [work.sequence.acceptance for work in step.work]


# ---- in the engine

PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
REPETITIVE = "the cat sat on the mat, the cat sat on the mat, the cat sat on the hat"
WARM = SampleParams(temperature=0.9)


class _Counting(FakeBackend):
    """Counts steps, and lets the engine's clock stand still but for a fixed time a step."""

    def __init__(self, *, context_tokens: int = 4096, slots: int = 4) -> None:
        super().__init__(BackendOptions(model_path=Path("unused"), context_tokens=context_tokens, slots=slots))
        self.steps = 0

    def decode(self, entries):
        self.steps += 1
        return super().decode(entries)

    def clock(self) -> float:
        return self.steps * 0.01


def _sequence(text: str, *, name: str = "s", params: SampleParams = WARM, limit: int = 500, stop=()) -> Sequence:
    return Sequence(
        id=name,
        prompt=_tokens(PROMPT.format(text)),
        params=params,
        seed=7,
        max_output_tokens=limit,
        detokenizer=Detokenizer(stop),
    )


def _run(backend: FakeBackend, sequences: list[Sequence], drafter: Drafter, clock) -> dict[str, tuple]:
    engine = Engine(backend, drafter=drafter, clock=clock)
    texts: dict[str, str] = {}
    ends = {}
    for sequence in sequences:
        engine.submit(sequence)
    while engine.has_work:
        for delta in engine.step().deltas:
            texts[delta.id] = texts.get(delta.id, "") + delta.text
            if delta.finish or delta.failure:
                ends[delta.id] = (delta.finish, delta.failure, delta.completion_tokens)
    assert backend.cells_held() == engine.cache.pool.total - engine.cache.pool.free
    assert engine.free_cells == backend.facts.kv_cells
    return {name: (texts[name], *end) for name, end in ends.items()}


@pytest.mark.parametrize("drafts", ["text", "model"])
@pytest.mark.parametrize(
    ("text", "params", "limit", "stop"),
    [
        pytest.param(REPETITIVE, SampleParams(temperature=0), 500, (), id="greedy"),
        pytest.param(f"[doubt] {REPETITIVE}", SampleParams(temperature=0.4), 500, (), id="drawn"),
        pytest.param(REPETITIVE, WARM, 37, (), id="cut-by-its-limit"),
        pytest.param(REPETITIVE, WARM, 500, ("on the hat",), id="ended-by-a-stop-string"),
        pytest.param(REPETITIVE, SampleParams(temperature=1.0, frequency_penalty=0.4), 500, (), id="penalties"),
    ],
)
def test_what_comes_out_is_what_came_out_without(text, params, limit, stop, drafts):
    """Tokens, text, end and count are the same with drafts as without, and there are fewer steps."""
    plain, drafting = _Counting(), _Counting()
    model = ModelDrafts(_Counting(), clock=lambda: 0.0) if drafts == "model" else None
    one, other = (_sequence(text, params=params, limit=limit, stop=stop) for _ in range(2))
    without = _run(plain, [one], Drafter(is_on=False), plain.clock)
    with_drafts = _run(drafting, [other], Drafter(model), drafting.clock)

    assert without == with_drafts
    assert one.output == other.output
    assert drafting.steps < plain.steps


def test_sequences_beside_each_other_each_keep_their_own():
    """Four sequences, some repetitive and some not, all come out as they do alone."""
    texts = {"a": REPETITIVE, "b": "qwertyuiop", "c": "xyzxyzxyzxyzxyzxyz", "d": "one two three one two four"}
    backend = _Counting()
    together = _run(backend, [_sequence(text, name=name) for name, text in texts.items()], Drafter(), backend.clock)
    alone = {}
    for name, text in texts.items():
        single = _Counting()
        alone |= _run(single, [_sequence(text, name=name)], Drafter(is_on=False), single.clock)

    assert alone == together


def test_a_full_cache_leaves_no_room_for_drafts():
    """Where the cells only just hold the answer, drafts never make a sequence fail or start over."""
    text = "abcd" * 20
    backend = _Counting(context_tokens=len(PROMPT.format(text)) + len(text) + 2, slots=1)

    assert {"s": (text, FinishReason.STOP, None, len(text) + 1)} == _run(
        backend, [_sequence(text)], Drafter(), backend.clock
    )


def test_a_draft_model_whose_cache_is_too_small_is_left_out():
    """The answer is whole though the small model's context ends before it."""
    backend = _Counting()
    text = "no repeat here: qwertyuiopasdfghjklzxcvbnm"
    small = ModelDrafts(_Counting(context_tokens=80, slots=1), clock=lambda: 0.0)

    assert text == _run(backend, [_sequence(text)], Drafter(small), backend.clock)["s"][0]


def test_a_draft_is_never_longer_than_what_may_still_be_said():
    """With three tokens of an answer left two are guessed at most: the last one is drawn, not computed."""
    longest = 0

    class Watched(_Counting):
        def decode(self, entries):
            nonlocal longest
            longest = max(longest, *(entry.logits for entry in entries))
            return super().decode(entries)

    backend = Watched()
    _run(backend, [_sequence("abcabcabcabcabcabc", limit=5)], Drafter(), backend.clock)

    assert 3 == longest


def test_a_model_of_other_words_cannot_draft():
    """Another vocabulary is refused when it is loaded, with what differs."""

    class Other(_Counting):
        def piece(self, token: int) -> bytes:
            return super().piece(token).upper()

    check_vocabulary(_Counting(), _Counting())
    with pytest.raises(ModelFileError, match="token 97 is another in each"):
        check_vocabulary(Other(), _Counting())
