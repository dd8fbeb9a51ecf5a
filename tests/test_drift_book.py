"""Does what labels said outlive the process, and is it told once?"""

from __future__ import annotations

import asyncio
import logging

from hybrid.cli.promises import promise_lines
from hybrid.drift_book import DriftBook, draw
from hybrid.store.labels import read_standings
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
