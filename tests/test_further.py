"""Further samples of a prompt: how far they agree, which answer is released, and that nothing is left behind."""

import asyncio
import math
from dataclasses import replace

import pytest

from hybrid.calibration.recipes import REASONED
from hybrid.engine.process import SupervisorOptions
from hybrid.engine.supervisor import Supervisor
from hybrid.further import FurtherSamples, Sample, pick, vote
from hybrid.local_request import LocalRequest
from hybrid.policy.model import Draft
from hybrid.policy.tasks import TaskKind
from hybrid.types import ChatRequest, Finished, FinishReason, Message, Sampling, TextDelta, TextPart, TokenSignal
from tests.policy.test_counterfactual import PROMISE

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


ASKED = "Which?\nA. x\nB. y"


def _letter(text: str = "A") -> Sample:
    """An answer that begins with the options' likelihoods."""
    signal = TokenSignal(-0.1, 0.2, 0.9, (math.log(0.6), math.log(0.4)))
    return Sample((TextDelta(text, (signal,)), Finished(FinishReason.LENGTH, None)), (signal,))


@pytest.mark.parametrize(
    ("draft", "votes", "shares", "is_majority"),
    [
        pytest.param("A", ["so: the answer is B.", "The answer is B."], (0.0, 1.0), False, id="all-against-it"),
        pytest.param("A. It is x.", ["The answer is A.", "The answer is B."], (0.5, 0.5), True, id="undecided"),
        pytest.param("A", ["who knows", "The answer is C."], (0.0, 0.0), True, id="for-no-option"),
    ],
)
def test_votes_are_counted_and_the_letter_stays(draft, votes, shares, is_majority):
    """They say how sure it is, and never replace it."""
    found = vote(_letter(draft), [_sample(one) for one in votes], ASKED)

    assert found.instead is None
    assert (shares, 0) == (found.ballot.votes, found.ballot.said)
    assert (shares[0], 3, is_majority) == (
        found.agreement.share,
        found.agreement.samples,
        found.agreement.is_majority,
    )


@pytest.mark.parametrize(
    ("draft", "votes"),
    [
        pytest.param(_letter(), [], id="no-votes"),
        pytest.param(_sample("A", tokens=1), [_sample("The answer is B.")], id="no-likelihoods"),
        pytest.param(_letter("It depends."), [_sample("B")], id="it-names-no-option"),
    ],
)
def test_nothing_is_counted_without_a_letter_or_votes(draft, votes):
    """Then the calibration has nothing to say of the answer."""
    assert vote(draft, votes, ASKED) is None


LETTER = Draft(logprobs=(-0.5,), options=(-0.5, -0.9))


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


async def _begin(
    local: Supervisor, text: str, *, is_voting: bool = False, floor: float | None = None
) -> FurtherSamples:
    request = ChatRequest(model="local", messages=(Message("user", (TextPart(text),)),), max_output_tokens=500)
    terms = LocalRequest(request=request, facts=local.facts)
    await terms.prepare(local, "r")
    order = terms.submit("r", defaults=DEFAULTS, max_output_tokens=500, is_thinking=False)
    promise = replace(PROMISE, samples=3, votes="words" if is_voting else "", vote_floor=floor)
    return FurtherSamples(local, terms, order, promise, TaskKind.TEXT)


def test_samples_come_whole_each_as_the_only_answer_there_is():
    """Two echoes, with the signals of every token, and their events belong to choice 0."""

    async def scenario(local: Supervisor) -> None:
        further = await _begin(local, "say 12")
        found = await further.result(None)

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

        assert [] == await further.result(None)
        # Three slots: with the endless ones still in theirs, two more would wait for ever.
        assert ["ok", "ok"] == [sample.text for sample in await (await _begin(local, "ok")).result(None)]

    _with_worker(scenario)


def test_votes_are_asked_for_their_reasons():
    """The echo gives the question back as it was put: without the client's form of an answer, in the recipe's."""

    async def scenario(local: Supervisor) -> None:
        further = await _begin(local, f"{ASKED}\nAnswer with the letter only.", is_voting=True)
        found = await further.result(LETTER)

        assert [f"{ASKED}\n{REASONED.closing}"] * 2 == [sample.text for sample in found]

    _with_worker(scenario)


@pytest.mark.parametrize(
    ("question", "draft", "floor", "why"),
    [
        pytest.param("say 12", LETTER, None, "nothing to compare it with", id="no-options"),
        pytest.param(f"{'long ' * 800}\n{ASKED}", LETTER, None, "nothing to compare it with", id="no-room"),
        pytest.param(ASKED, None, None, "nothing to compare it with", id="no-whole-draft"),
        pytest.param(ASKED, replace(LETTER, options=()), None, "nothing to compare it with", id="no-likelihoods"),
        pytest.param(ASKED, LETTER, 0.99, "all votes would not lift it", id="hopeless"),
    ],
)
def test_where_votes_cannot_be_asked_for_or_decide_there_are_none(question, draft, floor, why):
    """Nothing is drawn, nothing is compared, and it is told why."""

    async def scenario(local: Supervisor) -> None:
        further = await _begin(local, question, is_voting=True, floor=floor)
        found = await further.result(draft)

        assert ([], 0) == (found, further.cancel())
        assert why in further.compare(_letter(), found)

    _with_worker(scenario)
