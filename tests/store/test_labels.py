"""Are labels kept as numbers, once a request, in their order, and can they be read while a server writes?"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from hybrid.store.labels import KeptStanding, Label, Origin, read_labels, read_standings
from tests.store.ledgers import ledger_at

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)


def label(number: int, **more) -> Label:
    """Give a label by its number."""
    facts = {
        "request_id": f"req_{number}", "made_at": AT, "origin": Origin.AUDIT, "weight": 50.0, "rate": 0.02,
        "kind": "choice", "task": "quiz", "calibration": "c1", "fingerprint": "f1", "template_fingerprint": "t",
        "provider": "big", "model": "m", "p_local": 0.9, "p_cloud": 1.0, "score": 0.9, "is_accepted": True,
        "is_flawed": False, "agrees": True, "features": {"option_margin": 0.5},
    }  # fmt: skip
    return Label(**(facts | more))


@pytest.fixture
def path(tmp_path):
    """Where the ledger lies."""
    return tmp_path / "hybrid.sqlite3"


def _keep(path, *labels: Label, standings: tuple[KeptStanding, ...] = ()) -> None:
    async def write() -> None:
        async with ledger_at(path) as ledger:
            for one in labels:
                ledger.keep_label(one)
            for standing in standings:
                ledger.keep_standing(standing)

    asyncio.run(write())


def test_a_label_is_kept_whole(path):
    """What goes in comes out, unknown numbers as None."""
    unknown = label(2, task=None, calibration=None, p_local=None, p_cloud=None, score=None, origin=Origin.HEDGE)
    _keep(path, label(1), unknown)

    assert (label(1), unknown) == read_labels(path)


def test_the_last_labels_of_one_calibration_in_their_order(path):
    """Others are left out, and of more than wanted the first."""
    _keep(path, *(label(at, calibration=f"c{at % 2}", fingerprint=f"f{at % 3}") for at in range(8)))

    assert ["req_5", "req_7"] == [one.request_id for one in read_labels(path, calibration="c1", most=2)]
    assert ["req_1", "req_4", "req_7"] == [one.request_id for one in read_labels(path, fingerprint="f1")]


def test_an_answer_takes_the_place_of_none(path):
    """Of an audit that was asked, and then answered; what was taken back is gone, and what has an answer stays."""
    waiting = label(1, agrees=False, is_answered=False)

    async def write() -> None:
        async with ledger_at(path) as ledger:
            for one in (waiting, label(1), label(2, agrees=False, is_answered=False), label(3)):
                ledger.keep_label(one)
            for number in (2, 3):
                ledger.drop_label(f"req_{number}")

    asyncio.run(write())
    assert (label(1), label(3)) == read_labels(path)


def test_a_request_has_one_label(path):
    """A second one of the same request is not taken, and takes nothing along."""
    _keep(path, label(1), label(1, agrees=False), label(2))

    assert [(True, "req_1"), (True, "req_2")] == [(one.agrees, one.request_id) for one in read_labels(path)]


def test_what_is_known_of_a_promise_replaces_what_was(path):
    """One row a calibration, the last that was written."""
    old, new = (KeptStanding(calibration="c1", task="quiz", at=AT, facts={"labels": count}) for count in (1, 2))
    _keep(path, standings=(old, new))

    assert (new,) == read_standings(path)


def test_without_a_ledger_there_are_none(path):
    """Nothing was served yet."""
    assert ((), ()) == (read_labels(path), read_standings(path))
