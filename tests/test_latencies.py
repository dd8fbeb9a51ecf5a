"""Every answer teaches how long the next will take; what is cut off counts as slow, and restarts forget nothing."""

import asyncio

import pytest

from hybrid.engine.generation import Started
from hybrid.errors import ProviderTimeout, StoreError
from hybrid.latencies import ENOUGH_ANSWERS, MAX_TAGS, LatencyBook, LocalRun, Timing
from hybrid.policy.latency import PRIOR_CLOUD_TTFT, cloud_total
from hybrid.policy.model import Signals
from hybrid.policy.spread import constant
from hybrid.store.samples import Sample
from hybrid.types import Finished, FinishReason, TextDelta, TokenSignal, Usage

SIGNALS = Signals(prompt_tokens=100, prefill_tok_s=100.0, decode_tok_s=10.0, queue_wait_s=0.0)
QUEUED = Signals(prompt_tokens=100, prefill_tok_s=100.0, decode_tok_s=10.0, queue_wait_s=5.0)
DONE = LocalRun(submitted_s=0.0, started_s=0.5, first_token_s=2.0, ended_s=7.0, tokens=40)
SURE = (TokenSignal(-0.1, 0.2, 0.9),)


def learned(book: LatencyBook, run: LocalRun, signals: Signals = SIGNALS, *, times: int = 30, **more: object) -> None:
    """Show the book the same run again and again."""
    for _ in range(times):
        book.learn_local("tiny", more.get("tag"), signals, run, decided_s=0.0, cut_s=more.get("cut_s"))


def test_a_run_notes_when_its_parts_came():
    """The first start and the first token count, however often the worker says so; tokens add up."""
    run = LocalRun(submitted_s=0.1)
    for item, at_s in [
        (Started(), 0.2),
        (TextDelta("a", SURE), 0.5),
        (Started(), 0.6),
        (TextDelta("bc", SURE * 2), 0.7),
        (Finished(FinishReason.STOP, None), 0.9),
    ]:
        run.hear(item, at_s)

    assert LocalRun(submitted_s=0.1, started_s=0.2, first_token_s=0.5, ended_s=0.9, tokens=3) == run


def test_nothing_is_known_before_the_first_answer():
    """No error, no length, no cloud: the policy then takes its own first guess."""
    book = LatencyBook()

    assert (None, None, None, None) == (
        book.local("tiny", None).prefill,
        book.local("tiny", None).ttft,
        book.local("tiny", None).total,
        book.local("tiny", None).answer_tokens,
    )
    assert book.cloud("c", "m") is None


def test_errors_are_learned_by_kind():
    """A prompt of 1 s that took 2 s doubles its error; requests that waited have one of their own."""
    book = LatencyBook()
    learned(book, DONE)
    known = book.local("tiny", None)

    # (2 + 0.05) / (1 + 0.05) and (7 + 0.05) / (5 + 0.05), less what is left of the first guess after thirty answers.
    assert known.prefill.at(0.5) == pytest.approx(2.05 / 1.05, rel=0.02)
    assert known.total.at(0.5) == pytest.approx(7.05 / 5.05, rel=0.02)
    assert known.ttft is None

    learned(book, LocalRun(0.0, started_s=2.5, first_token_s=3.0, ended_s=8.0, tokens=40), QUEUED)
    assert book.local("tiny", None).ttft.at(0.5) == pytest.approx(3.05 / 6.05, rel=0.02)


def test_a_draft_that_was_cut_off_in_silence_counts_as_slower_than_that():
    """Who loses a race is the slow one; one whose model failed says nothing."""
    book = LatencyBook()
    silent = LocalRun(submitted_s=0.0)
    learned(book, silent, cut_s=4.0)
    failed = LatencyBook()
    learned(failed, silent)

    assert book.local("tiny", None).prefill.at(0.5) > 4.05 / 1.05
    assert failed.local("tiny", None).prefill is None


def test_lengths_are_learned_by_tag_and_for_all():
    """A few answers are no rule; a tag that is known goes before the model, whatever its letters' case."""
    book = LatencyBook()
    learned(book, DONE, times=ENOUGH_ANSWERS - 1, tag="Short")
    assert book.local("tiny", "short").answer_tokens is None

    learned(book, DONE, times=1, tag="short")
    learned(book, LocalRun(0.0, 0.1, 0.2, 3.0, tokens=400), tag="long")
    assert 40 == book.local("tiny", "SHORT").answer_tokens.at(0.5)
    assert 400 == book.local("tiny", "long").answer_tokens.at(0.5)
    assert 400 == book.local("tiny", None).answer_tokens.at(0.5)
    assert 400 == book.local("tiny", "new").answer_tokens.at(0.5)


def test_tags_are_bounded():
    """Clients invent tags freely; those unheard of the longest are forgotten, the model's own lengths are not."""
    book = LatencyBook()
    for number in range(MAX_TAGS + 10):
        learned(book, DONE, times=ENOUGH_ANSWERS, tag=f"tag-{number}")
    learned(book, LocalRun(0.0, 0.1, 0.2, 3.0, tokens=7), times=200)

    # With its own lengths forgotten, a tag falls back to the model's.
    assert 7 == book.local("tiny", "tag-0").answer_tokens.at(0.5)
    assert 40 == book.local("tiny", f"tag-{MAX_TAGS}").answer_tokens.at(0.5)


def test_what_was_learned_survives_a_restart():
    """A book that is given what another one saved knows the same."""
    kept: list[Sample] = []
    book = LatencyBook(kept.extend)
    learned(book, DONE, tag="short")
    again = LatencyBook(samples=[*kept, Sample("of_a_later_version", "tiny", 1.0)])

    assert book.local("tiny", "short") == again.local("tiny", "short")


def test_a_store_that_fails_costs_only_what_outlives_the_process():
    """Learning goes on."""

    def save(_: object) -> None:
        raise StoreError("full")

    book = LatencyBook(save)
    learned(book, DONE, times=1)
    assert book.local("tiny", None).prefill is not None


# ---- clouds


async def _say(*events: object):
    for event in events:
        if isinstance(event, asyncio.Event):
            await event.wait()
        elif isinstance(event, BaseException):
            raise event
        else:
            yield event


FINISHED = Finished(FinishReason.STOP, Usage(prompt_tokens=9, completion_tokens=3))


def heard(book: LatencyBook, *events: object, is_stream: bool = True) -> list[object]:
    """Pull a call's events through the book."""

    async def pull() -> list[object]:
        said = []
        with book.timing("c", "m", is_stream=is_stream) as timing:
            async for event in _say(*events):
                timing.heard(event)
                said.append(event)
        return said

    return asyncio.run(pull())


def test_a_streamed_call_teaches_both_times():
    """The events pass unchanged; the first one's time and the time of a token are known from then on."""
    book = LatencyBook()
    said = heard(book, TextDelta("a"), TextDelta("b"), FINISHED)

    assert [TextDelta("a"), TextDelta("b"), FINISHED] == said
    assert 1 == book.cloud("c", "m").calls
    # Loopback in one process: far quicker than the first guess, of which one call leaves most.
    assert book.cloud("c", "m").ttft.values[0] < 0.36


def whole(ended_s: float, tokens: int) -> Timing:
    """The times of an answer that was fetched whole."""
    timing = Timing(LatencyBook(), "c/m", is_stream=False)
    timing.first_s = timing.ended_s = ended_s
    timing.answer_tokens = tokens
    return timing


def test_a_whole_answer_teaches_its_tokens_alone():
    """When it began cannot be seen, so what is thought of that stays."""
    saved: list[Sample] = []
    LatencyBook(saved.extend).learn_call("c/m", whole(5.0, 100), was_given_up=False)

    assert ["cloud_tokens", "cloud_token_s"] == [sample.kind for sample in saved]


def test_whole_answers_that_come_sooner_than_thought_are_predicted_so():
    """What a cloud was taken for does not stay where no answer took that long; streams tell for themselves."""
    book = LatencyBook()
    for number in range(400):
        book.learn_call("c/m", whole(0.25 + 0.001 * (number * 37 % 101), 20), was_given_up=False)

    known = book.cloud("c", "m")
    assert known is not None
    total = cloud_total(known, constant(20.0))
    # Split between beginning and tokens by medians: a tenth off at most. All came within 0.35 s, thought of was 6.2.
    assert pytest.approx(0.3, rel=0.1) == total.at(0.5)
    assert total.at(0.99) < 0.5
    assert PRIOR_CLOUD_TTFT == known.ttft


def test_a_call_that_ran_into_its_limits_counts_as_slow_and_a_refused_one_not():
    """A timeout is a time; a refusal is none."""
    saved: list[Sample] = []
    book = LatencyBook(saved.extend)
    with pytest.raises(ProviderTimeout):
        heard(book, ProviderTimeout("c", "too late"))
    assert ["cloud_ttft_s"] == [sample.kind for sample in saved]
    # Given up at once, it is taken for the middle of what is thought of this cloud at all.
    assert saved[0].value == pytest.approx(0.77, rel=0.1)

    with pytest.raises(ZeroDivisionError):
        heard(book, ZeroDivisionError())
    assert 1 == len(saved)


def test_a_call_that_lost_its_race_counts_as_slow():
    """Cancelled before its first event, it was slower than that."""

    async def scenario() -> list[Sample]:
        saved: list[Sample] = []

        async def call() -> None:
            with LatencyBook(saved.extend).timing("c", "m", is_stream=True):
                await asyncio.Event().wait()

        waiting = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        return saved

    (sample,) = asyncio.run(scenario())
    assert sample.value >= 0.36


class Ended(Timing):
    """A call that was ended after so many seconds."""

    after_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """As if that time had gone by."""
        return self.after_s


def given_up(after_s: float) -> Ended:
    """The times of an answer fetched whole that nobody waited for."""
    timing = Ended(LatencyBook(), "c/m", is_stream=False)
    timing.after_s = after_s
    return timing


@pytest.mark.parametrize("cut_s", [1.0, 1.5, 2.0])
def test_whole_calls_that_lose_their_races_count_as_slow(cut_s):
    """Most answers take longer than anybody waits for: learned from the others alone the cloud would be quick."""
    took_s = [0.5 + 0.003 * (number * 337 % 1000) for number in range(1000)]  # 0.5 to 3.5 s, each as often
    learned_from, alone = LatencyBook(), LatencyBook()
    for one_s in took_s:
        if one_s < cut_s:
            for book in (learned_from, alone):
                book.learn_call("c/m", whole(one_s, 50), was_given_up=False)
        else:
            learned_from.learn_call("c/m", given_up(cut_s), was_given_up=True)

    said, flattered = (cloud_total(book.cloud("c", "m"), constant(50.0)) for book in (learned_from, alone))
    # Of those not waited for only that is known, so that it is told to be late as often as it was, within a fifth.
    assert said.chance_above(cut_s) == pytest.approx(sum(one_s >= cut_s for one_s in took_s) / 1000, abs=0.2)
    assert flattered.chance_above(cut_s) < 0.2


def test_a_cloud_that_never_came_in_time_is_known_to_be_slow():
    """Its answers' length is unknown; as long as local's, which is asked the same. Without that nothing is learned."""
    book = LatencyBook()
    book.learn_call("c/m", given_up(20.0), was_given_up=True)
    assert book.cloud("c", "m") is None

    learned(book, DONE)
    for _ in range(30):
        book.learn_call("c/m", given_up(20.0), was_given_up=True)
    known = book.cloud("c", "m")
    assert known is not None
    assert cloud_total(known, constant(40.0)).at(0.5) > 20.0


def test_a_whole_call_that_ran_into_its_limits_counts_as_slow_too():
    """A timeout is a time, however the answer was to come."""
    saved: list[Sample] = []
    book = LatencyBook(saved.extend)
    heard(book, TextDelta("abc"), FINISHED, is_stream=False)
    saved.clear()
    with pytest.raises(ProviderTimeout):
        heard(book, ProviderTimeout("c", "too late"), is_stream=False)

    assert ["cloud_token_s", "cloud_tokens"] == [sample.kind for sample in saved]
