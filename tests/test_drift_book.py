"""Does what labels said outlive the process, and is it told once?"""

from __future__ import annotations

import asyncio
import logging

from hybrid.cli.promises import promise_lines
from hybrid.drift_book import DriftBook, draw
from hybrid.policy.calibrated import LinearModel, Platt
from hybrid.policy.model import Draft
from hybrid.policy.promise import Look
from hybrid.policy.reference import reference_of
from hybrid.policy.watch import PSI_EVERY
from hybrid.store.labels import read_standings
from hybrid.types import FinishReason
from tests.policy.test_watch import promise
from tests.store.ledgers import ledger_at
from tests.store.test_labels import label


def _bad(number: int):
    return label(number, agrees=False, weight=1.0, rate=1.0, p_local=0.97, score=0.97)


def test_an_alarm_is_told_once_and_outlives_the_process(tmp_path, caplog):
    """Forty disagreements withdraw the promise; a new process reads it from the ledger, and the report tells."""
    path, calibrated = tmp_path / "hybrid.sqlite3", promise(id="c1")

    async def serve() -> None:
        async with ledger_at(path) as ledger:
            book = DriftBook(path, ledger)
            assert calibrated == book.in_force(calibrated)
            for number in range(40):
                ledger.keep_label(_bad(number))
                book.take(_bad(number))
            assert book.in_force(calibrated).is_withdrawn
            await ledger.flush()
            assert DriftBook(path, ledger).in_force(calibrated).is_withdrawn

    with caplog.at_level(logging.WARNING):
        asyncio.run(serve())

    assert 1 == sum("quiz: local and cloud disagreed" in record.getMessage() for record in caplog.records)
    lines = list(promise_lines(read_standings(path)))
    assert any("WITHDRAWN" in line for line in lines)
    assert any("alarm: local and cloud disagreed" in line for line in lines)


def test_labels_of_another_calibration_say_nothing(tmp_path):
    """A new calibration begins without a history."""
    path = tmp_path / "hybrid.sqlite3"

    async def serve() -> None:
        async with ledger_at(path) as ledger:
            book = DriftBook(path, ledger)
            for number in range(40):
                ledger.keep_label(_bad(number))
            await ledger.flush()
            assert not book.in_force(promise(id="c2")).is_withdrawn

    asyncio.run(serve())


def test_a_draw_replays_and_purposes_are_independent():
    """The same id gives the same number in [0, 1); of 2,000 ids half are under 0.5, and so for another purpose."""
    ids = [f"req_{number}" for number in range(2_000)]
    draws = [(draw(one, "audit"), draw(one, "thin")) for one in ids]

    assert draw("req_1", "audit") == draw("req_1", "audit")
    # Four standard deviations of Binomial(2_000, 1/2) and (2_000, 1/4).
    assert abs(sum(a < 0.5 for a, _ in draws) - 1_000) < 90
    assert abs(sum(a < 0.5 and b < 0.5 for a, b in draws) - 500) < 78


def test_a_draft_that_a_look_would_have_ended_is_no_drift_where_nobody_looked(tmp_path):
    """Requests that may not leave are drafted to their end; the reference has no such drafts, so they are left out."""
    by_mean = LinearModel(
        features=("mean_logprob",),
        means=(0.0,),
        scales=(1.0,),
        coefficients=(1.0,),
        intercept=1.0,
        calibration=Platt(1.0, 0.0),
    )
    calibrated = promise(
        id="c3",
        looks=(Look(tokens=4, threshold=0.5, model=by_mean),),
        reference={"p_local": reference_of([0.5 + number / 2000 for number in range(1000)])},
    )

    def draft(logprob: float) -> Draft:
        numbers = (1.0,) * 8
        return Draft(logprobs=(logprob,) * 8, entropies=numbers, margins=numbers, finish_reason=FinishReason.STOP)

    async def serve() -> None:
        async with ledger_at(tmp_path / "hybrid.sqlite3") as ledger:
            book = DriftBook(tmp_path / "hybrid.sqlite3", ledger)
            for _ in range(8 * PSI_EVERY):
                book.saw(calibrated, draft(-2.0), {}, 0.1)
            assert not book.in_force(calibrated).is_withdrawn
            for _ in range(8 * PSI_EVERY):
                book.saw(calibrated, draft(-0.1), {}, 0.1)
            assert book.in_force(calibrated).is_withdrawn

    asyncio.run(serve())
