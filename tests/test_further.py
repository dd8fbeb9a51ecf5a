"""Further samples of a prompt: how far they agree, which answer is released, and that nothing is left behind."""

import asyncio

import pytest

from hybrid.engine.process import SupervisorOptions
from hybrid.engine.supervisor import Supervisor
from hybrid.further import FurtherSamples, Sample, pick
from hybrid.local_request import LocalRequest
from hybrid.policy.tasks import TaskKind
from hybrid.types import ChatRequest, Finished, FinishReason, Message, Sampling, TextDelta, TextPart, TokenSignal

TIME_LIMIT_S = 20
DEFAULTS = Sampling(
    temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0
)


def _sample(text: str, finish: FinishReason = FinishReason.STOP, tokens: int = 3) -> Sample:
    signal = TokenSignal(-0.1, 0.2, 0.9)
    return Sample((TextDelta(text, (signal,) * tokens), Finished(finish, None)), (signal,) * tokens)


@pytest.mark.parametrize(
    ("texts", "place", "share", "is_majority"),
    [
        pytest.param(["so #### 7", "#### 7.0", "it is 9"], 0, 2 / 3, True, id="the-draft-is-among-them"),
        pytest.param(["#### 9", "#### 7", "so $7"], 1, 2 / 3, False, id="outvoted-by-the-samples"),
        pytest.param(["#### 1", "#### 2", "#### 3"], 0, 1 / 3, True, id="of-equal-groups-the-draft's"),
        pytest.param(["no idea", "none", "nothing"], 0, 1 / 3, True, id="silence-agrees-with-nobody"),
    ],
)
def test_the_largest_group_is_released(texts, place, share, is_majority):
    """Equal numbers are one answer, however they are written."""
    draft, *others = map(_sample, texts)
    found = pick(draft, others, TaskKind.NUMBER, "How many?")

    released = [draft, *others][place] if place else None
    assert (released, is_majority) == (found.instead, found.agreement.is_majority)
    assert len(texts) == found.agreement.samples
    assert share == pytest.approx(found.agreement.share)


def test_an_answer_that_was_cut_off_agrees_with_nobody():
    """Its number is not the one it was going to end with."""
    draft = _sample("we have 7", FinishReason.LENGTH)
    others = [_sample("#### 7"), _sample("so 7")]
    found = pick(draft, others, TaskKind.NUMBER, "How many?")

    assert (others[0], False) == (found.instead, found.agreement.is_majority)


def test_letters_are_compared_among_the_options_that_were_offered():
    """`(B)` and `B.` are one choice."""
    others = [_sample("(B)"), _sample("B.")]
    found = pick(_sample("A"), others, TaskKind.CHOICE, "Which?\nA. x\nB. y")

    assert others[0] is found.instead


def _with_worker(scenario) -> None:
    async def main() -> None:
        options = SupervisorOptions(backend="fake", model_path="", context_tokens=4096, slots=3, threads=1)
        local = Supervisor(options)
        async with asyncio.timeout(TIME_LIMIT_S):
            local.start()
            await local.wait_settled()
            try:
                await scenario(local)
            finally:
                await local.stop()

    asyncio.run(main())


async def _begin(local: Supervisor, text: str, *, is_voting: bool = False) -> FurtherSamples:
    request = ChatRequest(model="local", messages=(Message("user", (TextPart(text),)),), max_output_tokens=500)
    terms = LocalRequest(request=request, facts=local.facts)
    await terms.prepare(local, "r")
    order = terms.submit("r", defaults=DEFAULTS, max_output_tokens=500, is_thinking=False)
    return FurtherSamples(local, terms, order, 2, TaskKind.TEXT, is_voting=is_voting)


def test_samples_come_whole_each_as_the_only_answer_there_is():
    """Two echoes, with the signals of every token, and their events belong to choice 0."""

    async def scenario(local: Supervisor) -> None:
        further = await _begin(local, "say 12")
        found = await further.result()

        assert ["say 12", "say 12"] == [sample.text for sample in found]
        assert [7, 7] == [len(sample.signals) for sample in found]
        assert 14 == further.tokens
        assert {0} == {event.choice for sample in found for event in sample.events}

    _with_worker(scenario)


def test_cancelled_samples_free_their_slots():
    """Endless ones are gone from the worker, whoever was waiting for them, and the next request is served."""

    async def scenario(local: Supervisor) -> None:
        further = await _begin(local, "[endless]")
        while not further.tokens:  # noqa: ASYNC110 - the worker says when
            await asyncio.sleep(0)
        further.cancel()

        assert [] == await further.result()
        # Three slots: with the endless ones still in theirs, two more would wait for ever.
        assert ["ok", "ok"] == [sample.text for sample in await (await _begin(local, "ok")).result()]

    _with_worker(scenario)
