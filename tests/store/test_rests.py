"""Are open circuits and refused keys kept whole, replaced, and forgotten in time?"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from hybrid.store.history import KeyRequest, requests_of_keys
from hybrid.store.ledger import RequestClosed
from hybrid.store.rests import (
    KeptRefusal,
    KeptRest,
    delete_rest,
    insert_refusal,
    read_refusals,
    read_rests,
    upsert_rest,
)
from hybrid.types import Outcome
from tests.store.ledgers import NOW, ledger_at, opened

REST = KeptRest(
    provider="big", model="m", until=NOW, is_asked=True, openings=2, why="provider_throttled", salt="s", fingerprint="f"
)
REFUSAL = KeptRefusal(provider="big", salt="s", fingerprint="f", status=401, refused_at=NOW)


@pytest.fixture
def path(tmp_path):
    """Where the ledger lies."""
    return tmp_path / "hybrid.sqlite3"


def test_a_circuit_is_kept_until_it_closes(path):
    """The newest state of each is there; a provider as a whole is another than one of its models."""
    whole, later = replace(REST, model=""), replace(REST, until=NOW + timedelta(hours=1), is_asked=False, openings=3)

    async def scenario():
        async with ledger_at(path) as ledger:
            for rest in (REST, whole, later):
                ledger.write(partial(upsert_rest, rest=rest), "a rest")
            await ledger.flush()
            before = await ledger.read(read_rests, empty=None)
            ledger.write(lambda connection: delete_rest(connection, "big", "m"), "its end")
            await ledger.flush()
            return before, await ledger.read(read_rests, empty=None)

    assert ((whole, later), (whole,)) == asyncio.run(scenario())


def test_a_refusal_is_kept_for_a_month(path):
    """The next one after that takes it out."""
    second = replace(REFUSAL, fingerprint="g", refused_at=NOW + timedelta(days=31, seconds=1))

    async def scenario():
        async with ledger_at(path) as ledger:
            ledger.write(partial(insert_refusal, refusal=REFUSAL), "one")
            await ledger.flush()
            before = await ledger.read(read_refusals, empty=None)
            ledger.write(partial(insert_refusal, refusal=second), "another")
            await ledger.flush()
            return before, await ledger.read(read_refusals, empty=None)

    assert ((REFUSAL,), (second,)) == asyncio.run(scenario())


def test_what_client_keys_did_is_read_from_their_requests(path):
    """What was turned away for a limit never counted, nor did our own audits; tokens are what was told, else seen."""
    ends = {
        "told": {"prompt_tokens": 7, "completion_tokens": 3},
        "seen": {"local_prompt_tokens": 5, "local_completion_tokens": 1, "cloud_prompt_tokens": 4},
        "held": {"error_code": "rate_limit_exceeded"},
        "failed": {"error_code": "local_failure"},
    }

    async def scenario():
        async with ledger_at(path) as ledger:
            ledger.open_request(opened("early", client_key="phone", created_at=NOW - timedelta(minutes=2)))
            ledger.open_request(opened("nobody's"))
            ledger.open_request(opened("ours", client_key="phone", dialect="audit"))
            ledger.open_request(opened("runs", client_key="phone"))
            for name, more in ends.items():
                ledger.open_request(opened(name, client_key="phone"))
                ledger.close_request(RequestClosed(id=name, outcome=Outcome.OK, **more))
            await ledger.flush()
            return await ledger.read(lambda reader: requests_of_keys(reader, NOW - timedelta(minutes=1)), empty=())

    found = asyncio.run(scenario())
    assert sorted([0, 0, 6, 10]) == sorted(one.tokens for one in found)
    assert KeyRequest("phone", NOW, None, 0) in found
    assert {NOW, None} == {one.ended_at for one in found}
