"""With what chance was a draft compared with the cloud? The labels of its time are weighed by it."""

import math
from dataclasses import replace
from decimal import Decimal

import pytest

from hybrid.audit import Answered, Auditor, least_chance
from hybrid.journal import Journal
from hybrid.labelling import Said
from hybrid.policy.model import Draft, Limits, Signals
from hybrid.types import ChatRequest, FinishReason, Route
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
    assert chance == least_chance(limits, price, 0.2)


class Book:
    """Notes which promises' drafts it saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def saw(self, watched, _draft, _features, _p_local) -> None:
        """Take a draft's numbers."""
        self.seen.append(watched.id)


@pytest.mark.parametrize("is_early", [False, True], ids=["at-its-end", "before-its-end"])
def test_drift_is_told_by_all_drafts_that_have_an_end(is_early):
    """A stream judged early has no promise any more, and counts: the long ones are among what was calibrated."""
    decided = Limits(promise=promise(id="c1"))
    draft = Draft(
        logprobs=(-0.1,), entropies=(0.2,), margins=(0.9,), finish_reason=FinishReason.STOP, options=(-0.1, -2.4)
    )
    answered = Answered(
        request=ChatRequest(model="hybrid", messages=()),
        signals=Signals(),
        limits=replace(decided, promise=None, no_promise="early") if is_early else decided,
        loaded=Loaded(),
        draft=draft,
        local=Said("A"),
        cloud=(),
    )
    journal = Journal(id="req_1", dialect="openai", arrived_s=0.0, requested_model="hybrid", route=Route.LOCAL)
    journal.limits = decided
    book = Book()
    Auditor(None, None, book, share=0.0).answered(answered, journal)

    assert ["c1"] == book.seen
