"""With what chance was a draft compared with the cloud? The labels of its time are weighed by it."""

import asyncio
import math
from dataclasses import replace
from decimal import Decimal

import pytest

from hybrid.audit import MOST_WAITING, Answered, Auditor, least_chance
from hybrid.calibration.from_ledger import is_compared
from hybrid.errors import ProviderThrottled
from hybrid.journal import Journal
from hybrid.labelling import Said
from hybrid.local_request import GREEDY
from hybrid.policy.model import CloudOption, Draft, Limits, Reason, Review, RunLocal, Signals
from hybrid.store.labels import Label, Origin
from hybrid.types import ChatRequest, Finished, FinishReason, Route, Sampling, TextDelta
from tests.policy.test_watch import promise
from tests.test_artefact import Loaded

HELD = Limits(promise=promise())
WITHDRAWN = Limits(promise=promise(threshold=math.inf, is_withdrawn=True))


@pytest.mark.parametrize(
    ("limits", "price", "chance"),
    [
        pytest.param(HELD, 0.0, 0.2, id="the-share-that-is-audited"),
        pytest.param(HELD, 3.0, 0.2, id="at-any-price"),
        pytest.param(Limits(), 0.0, 0.2, id="without-a-promise"),
        pytest.param(Limits(), 0.1, 0.0, id="what-was-doubted-and-stays-for-want-of-money-is-never-asked-about"),
        pytest.param(WITHDRAWN, 0.0, 1.0, id="all-are-asked"),
        pytest.param(WITHDRAWN, None, 1.0, id="nothing-is-paced"),
        pytest.param(WITHDRAWN, 0.1, 0.0, id="the-least-doubtful-stay-while-money-is-scarce"),
        pytest.param(replace(WITHDRAWN, value_usd=Decimal(1)), 0.0, 0.0, id="those-that-do-not-pay-stay"),
    ],
)
def test_no_draft_is_counted_as_asked_that_might_have_stayed(limits, price, chance):
    """A sample that lacks the high scores would certify them for nothing."""
    assert chance == least_chance(limits, Signals(budget_lambda=price), 0.2)


def test_a_stream_without_a_promise_is_no_sample_of_all():
    """What is doubted of it is ended at once and sent on, so only what was sure of its beginning is ever compared."""
    assert 0.0 == least_chance(Limits(), Signals(is_stream=True), 0.2)
    assert 0.2 == least_chance(HELD, Signals(is_stream=True), 0.2)


class Book:
    """Notes which promises' drafts it saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def saw(self, watched, _draft, _features, _p_local) -> None:
        """Take a draft's numbers."""
        self.seen.append(watched.id)


class Labels:
    """A ledger and a book that keep the labels they are given."""

    def __init__(self) -> None:
        self.kept: list[Label] = []

    def keep_label(self, label: Label) -> None:
        """Keep it, in the place of one without an answer."""
        self.drop_label(label.request_id)
        self.kept.append(label)

    def drop_label(self, request_id: str) -> None:
        """Forget one without an answer."""
        self.kept = [one for one in self.kept if one.request_id != request_id or one.is_answered]

    def take(self, _label: Label) -> None:
        """It is kept already."""

    def facts(self) -> list[object]:
        """Nothing is watched."""
        return []


@pytest.mark.parametrize("is_early", [False, True], ids=["at-its-end", "before-its-end"])
def test_drift_is_told_by_all_drafts_that_have_an_end(is_early):
    """A stream judged early has no promise any more, and counts: the long ones are among what was calibrated."""
    decided = Limits(promise=promise(id="c1"))
    early = replace(decided, promise=None, no_promise="early")

    assert ["c1"] == seen(decided, judged_by=early if is_early else decided)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"sampling": Sampling(temperature=1.0)}, id="temperature"),
        pytest.param({"sampling": Sampling(presence_penalty=1.0)}, id="penalties"),
        pytest.param({"extra": {"logit_bias": {"5": 10.0}}}, id="bias"),
    ],
)
def test_an_answer_that_is_drawn_otherwise_tells_nothing_of_a_withdrawn_promise(changes):
    """Its draft goes to the cloud all the same; as a label or for drift it would be of another population."""
    withdrawn = Limits(promise=promise(id="c1", threshold=math.inf, is_withdrawn=True))

    assert ["c1"] == seen(withdrawn)
    assert [] == seen(withdrawn, **changes)


def seen(decided, *, judged_by=None, **changes) -> list[str]:
    """Which promises saw the draft of a request that was answered."""
    draft = Draft(
        logprobs=(-0.1,), entropies=(0.2,), margins=(0.9,), finish_reason=FinishReason.STOP, options=(-0.1, -2.4)
    )
    answered = Answered(
        request=replace(ChatRequest(model="hybrid", messages=()), **changes),
        signals=Signals(),
        limits=decided if judged_by is None else judged_by,
        loaded=Loaded(),
        draft=draft,
        local=Said("A"),
        cloud=(),
    )
    journal = Journal(id="req_1", dialect="openai", arrived_s=0.0, requested_model="hybrid", route=Route.LOCAL)
    journal.limits = decided
    book = Book()
    Auditor(None, None, book, share=0.0).answered(answered, journal)
    return book.seen


def agreed(request: ChatRequest) -> Answered:
    """Both sides said the same, and nothing was promised."""
    return Answered(
        request=request,
        signals=Signals(),
        limits=Limits(),
        loaded=Loaded(),
        draft=Draft(logprobs=(-0.1,), finish_reason=FinishReason.STOP),
        local=Said("yes"),
        cloud=(TextDelta("yes"), Finished(FinishReason.STOP, None)),
    )


@pytest.mark.parametrize("changes", [{}, {"sampling": Sampling(temperature=1.0)}], ids=["greedily", "at-temperature-1"])
def test_only_what_is_drawn_as_calibrations_are_is_labelled(changes):
    """Labels of others among them let a promise be certified that what it speaks of does not keep."""
    answered = agreed(replace(ChatRequest(model="hybrid", messages=()), **changes))
    journal = Journal(id="req_1", dialect="openai", arrived_s=0.0, requested_model="hybrid", route=Route.CLOUD)
    labels = Labels()

    async def scenario() -> None:
        auditor = Auditor(None, labels, labels, share=0.2)
        auditor.answered(answered, journal)
        for _ in range(100):  # turns of the loop, of which comparing two short answers takes a few
            await asyncio.sleep(0)
        assert auditor.facts()["running"] == 0

    asyncio.run(scenario())
    assert len(labels.kept) == (0 if changes else 1)


def test_a_letter_without_its_votes_is_labelled_as_nothing_to_learn_from():
    """Its calibration judges letters with votes, and it went to the cloud without: only doubtful ones do."""
    voted = promise(samples=6, votes="words", vote_floor=0.9)
    alone = replace(agreed(ChatRequest(model="hybrid", messages=())), limits=Limits(promise=voted))
    journal = Journal(id="req_1", dialect="openai", arrived_s=0.0, requested_model="hybrid", route=Route.CLOUD)
    labels = Labels()

    async def scenario() -> None:
        Auditor(None, labels, labels, share=0.2).answered(alone, journal)
        for _ in range(100):
            await asyncio.sleep(0)

    asyncio.run(scenario())
    [label] = labels.kept
    assert ({}, None) == (label.features, label.p_local)
    assert is_compared(label)


class Refusing:
    """Clouds of which none answers."""

    def find(self, option: CloudOption) -> CloudOption:
        """It is asked as it is."""
        return option

    async def call(self, *_: object):
        """Fail before the first event."""
        if self:
            raise ProviderThrottled("big", None)
        yield


class Rows(Labels):
    """A ledger that takes rows of requests too."""

    def open_request(self, _row: object) -> None:
        """Taken."""

    def close_request(self, _row: object) -> None:
        """Taken."""


ACCEPTED = Review(is_accepted=True, reason=Reason.CONFIDENCE, confidence=0.9, is_calibrated=False, checks=())


def audited(clouds: object, waiting: int = 0, turns: int = 100) -> list[Label]:
    """The labels that come of one accepted answer that is drawn to be audited, after so many turns of the loop."""
    fallback = CloudOption(provider="big", model="m")
    answered = Answered(
        request=ChatRequest(model="hybrid", messages=()),
        signals=Signals(),
        limits=Limits(),
        loaded=Loaded(),
        draft=Draft(logprobs=(-0.1,), finish_reason=FinishReason.STOP),
        local=Said("yes"),
        cloud=(),
    )
    journal = Journal(id="req_1", dialect="openai", arrived_s=0.0, requested_model="hybrid", route=Route.LOCAL)
    journal.decision = RunLocal(reason=Reason.DEFAULT, fallback=fallback)
    journal.review = ACCEPTED
    rows = Rows()

    async def scenario() -> None:
        auditor = Auditor(clouds, rows, rows, share=1.0)
        auditor._waiting = waiting
        auditor.answered(answered, journal)
        for _ in range(turns):
            await asyncio.sleep(0)
        found.extend(rows.kept)
        await auditor.aclose()

    found: list[Label] = []
    asyncio.run(scenario())
    return found


class Saying(Refusing):
    """Clouds that answer with a text, or with a refusal that says nothing to compare with."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def call(self, *_: object):
        """Answer."""
        if self._text:
            yield TextDelta(self._text)
        yield Finished(FinishReason.STOP, None)


def test_an_audit_is_written_down_before_the_cloud_is_asked():
    """A process that is killed meanwhile leaves a label without an answer, and not one audit less."""
    (label,) = audited(Saying("yes"), turns=0)
    assert (Origin.AUDIT, False, False) == (label.origin, label.is_answered, label.agrees)

    (label,) = audited(Saying("yes"), turns=3000)
    assert (Origin.AUDIT, True, True) == (label.origin, label.is_answered, label.agrees)


def test_an_answer_that_says_nothing_leaves_no_label():
    """Neither for nor against: the one that waited for it is taken back."""
    assert [] == audited(Saying(""), turns=3000)


@pytest.mark.parametrize("waiting", [0, MOST_WAITING], ids=["refused", "too-many-wait"])
def test_an_audit_without_an_answer_is_counted(waiting):
    """Were it left out, fewer accepted answers would stand for all of them, and perhaps the hard ones not at all."""
    (label,) = audited(Refusing(), waiting)

    assert (Origin.AUDIT, False, False) == (label.origin, label.is_answered, label.agrees)


@pytest.mark.parametrize(
    ("request_id", "defaults", "route", "rate"),
    [
        pytest.param("req_drawn", GREEDY, Route.CLOUD, 0.5, id="greedy-by-configuration"),
        pytest.param("req_drawn", replace(GREEDY, temperature=0.7), Route.CLOUD, 1.0, id="of-those-drawn-to-teach"),
        pytest.param("req_other", replace(GREEDY, temperature=0.7), Route.CLOUD, 0.0, id="at-the-temperature-set"),
    ],
)
def test_without_a_promise_only_what_is_drawn_greedily_certifies(request_id, defaults, route, rate):
    """Of answers drawn at temperature 0.7 fewer keep a high score than of the likeliest ones."""
    request = ChatRequest(model="hybrid", messages=())
    answered = agreed(request)
    journal = Journal(id=request_id, dialect="openai", arrived_s=0.0, requested_model="hybrid", route=route)
    labels = Labels()

    async def scenario() -> None:
        auditor = Auditor(None, labels, labels, share=0.5, defaults=defaults)
        assert auditor.is_for_calibration(request_id, request, Limits()) == (request_id == "req_drawn")
        auditor.answered(answered, journal)
        for _ in range(100):
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert [rate] == [label.rate for label in labels.kept]
