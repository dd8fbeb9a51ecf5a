"""The step loop: who runs, what it draws, and that nothing is ever left behind."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybrid.native import SampleParams
from hybrid.types import FinishReason
from tests.engine.asking import ask, engine_of, finish, sequence_of


def test_requests_that_arrive_together_start_together():
    """The first of a burst draws its first token at once, and its second when the prompts that came with it are in."""
    engine = engine_of()
    for name in "abc":
        engine.submit(sequence_of(name, name * 200))
    order = []
    while len(order) < 9:
        order += [delta.id for delta in engine.step().deltas]

    assert ["a", "b", "c"] == order[:3]
    assert {"a", "b", "c"} == set(order[3:])


@pytest.mark.parametrize(("is_late", "size"), [(True, 200), (False, 2000)], ids=["came-later", "much-longer"])
def test_nobody_waits_for_what_is_no_part_of_its_burst(is_late, size):
    """A prompt that comes after a stream's first token, or is far longer, does not hold the stream up."""
    engine = engine_of()
    short, other = sequence_of("short", "s" * 200), sequence_of("other", "o" * size)
    for sequence in (short,) if is_late else (short, other):
        engine.submit(sequence)
    while not short.output:
        engine.step()
    if is_late:
        engine.submit(other)

    assert "short" in [delta.id for delta in engine.step().deltas]
    assert other.computed > 0


def test_several_sequences_decode_in_one_batch_and_each_gets_its_own_answer():
    """Six requests over four slots all come back right, and the batch really held several at once."""
    engine = engine_of()
    for n in range(6):
        engine.submit(sequence_of(f"s{n}", f"answer number {n}" * 3))
    drawn: list[int] = []

    assert finish(engine, drawn) == {f"s{n}": (f"answer number {n}" * 3, FinishReason.STOP, None) for n in range(6)}
    assert max(drawn) == 4


def test_a_long_prompt_is_prefilled_in_chunks_while_a_stream_goes_on():
    """A running stream draws a token in every step that computes a part of a long prompt."""
    engine = engine_of()
    engine.submit(sequence_of("stream", "x" * 200))
    while not engine.running or engine.running[0].pending > 1:
        engine.step()
    engine.submit(sequence_of("long", "y" * 3000, limit=5))
    steps_with_prefill = 0
    while any(s.id == "long" and s.pending > 1 for s in [*engine.running, *engine.waiting]):
        deltas = engine.step().deltas
        steps_with_prefill += 1
        assert "stream" in [delta.id for delta in deltas]

    assert steps_with_prefill > 1


@pytest.mark.parametrize(
    ("limit", "stop", "expected"),
    [
        pytest.param(4, (), ("abcd", FinishReason.LENGTH, None), id="token-limit"),
        pytest.param(99, ("de",), ("abc", FinishReason.STOP, None), id="stop-string"),
        pytest.param(99, (), ("abcdef", FinishReason.STOP, None), id="end-token"),
    ],
)
def test_how_a_generation_ends(limit, stop, expected):
    """The token limit, a stop string and the model's end token each end it with the right reason."""
    engine = engine_of()
    engine.submit(sequence_of("s", "abcdef", limit=limit, stop=stop))

    assert finish(engine) == {"s": expected}


@pytest.mark.parametrize(("word", "message"), [("[nan]", "unusable logits"), ("[fail]", "told to fail")])
def test_a_broken_step_fails_its_sequences_and_not_the_loop(word, message):
    """NaN logits and a failing decode end the request with an error; the next request is served."""
    engine = engine_of()
    engine.submit(sequence_of("broken", word))
    broken = finish(engine)["broken"]
    engine.submit(sequence_of("next", "fine"))

    assert broken[1] is None
    assert message in broken[2]
    assert finish(engine)["next"] == ("fine", FinishReason.STOP, None)


def test_a_cancelled_sequence_frees_slot_and_cells_at_once():
    """After cancel no slot and no cell is held, whether it waited, was in prefill or decoding."""
    engine = engine_of(slots=1)
    engine.submit(sequence_of("running", "[endless]"))
    engine.submit(sequence_of("waiting", "w"))
    for _ in range(5):
        engine.step()
    engine.cancel("running")
    engine.cancel("waiting")
    engine.cancel("unknown")

    assert not engine.has_work
    assert engine.free_cells == 4096


def test_too_many_tokens_for_the_cache_preempt_the_youngest_and_finish_all():
    """When the cells run out the youngest starts over later, and every answer is still whole and right."""
    engine = engine_of(context_tokens=700, slots=4)
    for n in range(4):
        engine.submit(sequence_of(f"s{n}", f"{n}" * 200))

    assert finish(engine) == {f"s{n}": (f"{n}" * 200, FinishReason.STOP, None) for n in range(4)}
    assert engine.free_cells == 700


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_penalties_reach_the_sampler(penalty):
    """A strong penalty changes what the echo repeats: 'aaaa' does not come back as it is."""
    engine = engine_of()
    sequence = sequence_of("s", "aaaaaaaaaaaa", limit=12)
    sequence.params = SampleParams(temperature=0.0, **{penalty: 100.0})
    engine.submit(sequence)

    assert finish(engine)["s"][0] != "aaaaaaaaaaaa"


def test_a_second_prompt_starts_from_the_longest_common_beginning():
    """What a finished sequence left in the cache is not computed again, and the answer is the same."""
    engine = engine_of()
    first = ask(engine, "first", "a shared beginning, and one ending")
    finish(engine)
    second = ask(engine, "second", "a shared beginning, and another")

    assert finish(engine)["second"][0] == "a shared beginning, and another"
    assert first.cached_tokens == 0
    assert second.cached_tokens == len("<|im_start|>user\na shared beginning, and ")


def test_a_conversation_goes_on_from_its_last_turn():
    """A prompt that begins with a whole earlier prompt and answer takes its place without a copy."""
    engine = engine_of()
    first = ask(engine, "first", "turn one is long enough")
    finish(engine)
    longer = sequence_of("second", "turn two")
    longer.prompt = np.concatenate([first.all_tokens()[:-1], longer.prompt])
    engine.submit(longer)
    finish(engine)

    assert longer.cached_tokens == first.length - 1


def test_prompts_that_arrive_together_compute_their_common_beginning_once():
    """Of four cold prompts with one long beginning the first computes it and the others wait for it."""
    engine = engine_of()
    common = "system " * 60
    sequences = [ask(engine, f"s{n}", f"{common}{n}") for n in range(4)]
    answers = finish(engine)

    assert [sequence.cached_tokens > 400 for sequence in sequences] == [False, True, True, True]
    assert [answers[f"s{n}"][0] for n in range(4)] == [f"{common}{n}" for n in range(4)]


def test_answers_to_one_request_share_one_prefill():
    """Of five answers the first computes the prompt, the others its last token only, and one cancel takes all."""
    engine = engine_of(slots=5)
    computed = 0
    siblings = [sequence_of("s", "a question") for _ in range(5)]
    for choice, sibling in enumerate(siblings):
        sibling.choice = choice
        engine.submit(sibling)
    while any(sibling.computed < len(sibling.prompt) for sibling in siblings):
        before = sum(sibling.computed - sibling.cached_tokens for sibling in siblings)
        deltas = engine.step().deltas
        computed = sum(min(s.computed, len(s.prompt)) - s.cached_tokens for s in siblings)
        assert deltas or computed > before
    engine.cancel("s")

    assert len(siblings[0].prompt) + 4 == computed
    assert [0, *[len(siblings[0].prompt) - 1] * 4] == [sibling.cached_tokens for sibling in siblings]
    assert not engine.has_work
    assert engine.free_cells == 4096


@pytest.mark.parametrize("prompt_tokens", [480, 481, 500, 511])
def test_a_prompt_that_just_fits_the_cache_is_answered(prompt_tokens):
    """No room is kept free for neighbours that are not there: whatever the context admits, the engine answers."""
    engine = engine_of(context_tokens=512)
    ask(engine, "before", "something that stays in the cache")
    finish(engine)
    shell = len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
    engine.submit(sequence_of("s", "x" * (prompt_tokens - shell), limit=1))

    assert finish(engine, max_steps=200)["s"] == ("x", FinishReason.LENGTH, None)


def test_an_urgent_sequence_passes_those_that_can_wait():
    """With one slot, what is due first runs first, whatever came first; equals keep their order."""
    engine = engine_of(slots=1)
    sequences = [sequence_of(name, name) for name in ("early", "later", "urgent")]
    for sequence, due_s in zip(sequences, (60.0, 60.0, 5.0), strict=True):
        sequence.due_s = due_s
        engine.submit(sequence)
    ended = []
    while engine.has_work:
        ended += [delta.id for delta in engine.step().deltas if delta.finish]

    assert ended == ["urgent", "early", "later"]


def test_nothing_is_shared_across_isolation_keys():
    """The same prompt under another key is computed from its first token."""
    engine = engine_of()
    ask(engine, "anns", "the same secret question", isolation="ann")
    finish(engine)
    bobs = ask(engine, "bobs", "the same secret question", isolation="bob")
    anns = ask(engine, "again", "the same secret question", isolation="ann")
    finish(engine)

    assert bobs.cached_tokens == 0
    assert anns.cached_tokens > 0


def test_cells_of_finished_sequences_are_given_up_oldest_first():
    """A new prompt that needs room evicts what was unused longest, and the newer one is still there."""
    engine = engine_of(context_tokens=600, slots=1)
    for name in ("old", "new"):
        ask(engine, name, name * 30)
        finish(engine)
    ask(engine, "large", "L" * 150)
    finish(engine)
    again_new, again_old = sequence_of("n", "new" * 30), sequence_of("o", "old" * 30)

    assert engine.cache.look_up(again_new.prompt, "").length > 90
    assert engine.cache.look_up(again_old.prompt, "").length < 90


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_without_a_common_pool_a_beginning_is_copied_or_its_cache_cut_back(slots):
    """Each slot has its own cache: where one is free the beginning is copied there, else the oldest is gone on with."""
    engine = engine_of(slots=slots, has_one_pool=False)
    ask(engine, "first", "a shared beginning, and one ending")
    finish(engine)
    second = ask(engine, "second", "a shared beginning, and another")
    third = ask(engine, "third", "a shared beginning, and a third")
    answers = finish(engine)

    assert "a shared beginning, and another" == answers["second"][0]
    assert "a shared beginning, and a third" == answers["third"][0]
    assert len("<|im_start|>user\na shared beginning, and ") <= min(second.cached_tokens, third.cached_tokens)
    assert slots * 4096 == engine.free_cells


class Schedules(RuleBasedStateMachine):
    """Random schedules of submit, cancel and step: the backend's own checks and these invariants must hold."""

    has_one_pool, can_run = True, False

    def __init__(self) -> None:
        super().__init__()
        self.engine = engine_of(
            context_tokens=300, slots=3, has_one_pool=self.has_one_pool, can_run=self.can_run, step_s=0.002
        )
        self.names = 0

    @rule(
        text=st.sampled_from(["a", "ab" * 20, "ab" * 20 + "c", "ab" * 40, "x" * 90]),
        limit=st.integers(1, 100),
        isolation=st.sampled_from(["", "", "ann", "bob"]),
        choices=st.sampled_from([1, 1, 1, 3]),
    )
    def submit(self, text: str, limit: int, isolation: str, choices: int) -> None:
        for choice in range(choices):
            sequence = sequence_of(f"s{self.names}", text, limit=min(limit, 300 - len(text) - 60))
            sequence.isolation, sequence.choice = isolation, choice
            self.engine.submit(sequence)
        self.names += 1

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        everyone = [*self.engine.running, *self.engine.waiting]
        if everyone:
            self.engine.cancel(data.draw(st.sampled_from(everyone)).id)

    @rule(count=st.integers(1, 30))
    def step(self, count: int) -> None:
        for _ in range(count):
            if self.engine.has_work:
                self.engine.step()

    @invariant()
    def slots_and_cells_add_up(self) -> None:
        backend, pool, running = self.engine._backend, self.engine.cache.pool, self.engine.running
        held = {slot: [token for _, token in cells] for slot, cells in backend._slots.items()}
        assert len(running) <= 3
        assert len({sequence.slot for sequence in running}) == len(running)
        assert all(held.get(s.slot, []) == s.tokens_at(0, s.computed) for s in running)
        assert pool.total - pool.free == backend.cells_held()
        owners = {slot: entry.isolation for slot, entry in self.engine.cache._held.items()}
        cells = {(cell, owners[slot]) for slot, entries in backend._slots.items() for cell, _ in entries}
        assert len({cell for cell, _ in cells}) == len(cells), "a cell is shared across isolation keys"
        assert 0 <= pool.running_cells <= pool.total - pool.free

    def teardown(self) -> None:
        finish(self.engine)
        assert self.engine.free_cells == (300 if self.has_one_pool else 900)
        self.engine.cache.clear()
        assert self.engine._backend.cells_held() == 0


class SeparateSchedules(Schedules):
    """The same where each slot has a cache of its own: no cell is ever held twice."""

    has_one_pool = False

    @invariant()
    def no_cell_is_held_twice(self) -> None:
        cells = [cell for entries in self.engine._backend._slots.values() for cell, _ in entries]
        assert len(cells) == len(set(cells))
        assert all(len(entries) <= 300 for entries in self.engine._backend._slots.values())


class RunSchedules(Schedules):
    """The same with runs of steps."""

    can_run = True


class SeparateRunSchedules(SeparateSchedules):
    """Both."""

    can_run = True


TestRunSchedules = RunSchedules.TestCase
TestRunSchedules.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSeparateRunSchedules = SeparateRunSchedules.TestCase
TestSeparateRunSchedules.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestSeparateSchedules = SeparateSchedules.TestCase
TestSeparateSchedules.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
