"""Is a request that never parsed in the ledger, and is somebody told where it cannot be?"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from hybrid.config import load
from hybrid.errors import InvalidRequest, StoreError
from hybrid.wiring import running


def refused(folder, *, is_closed):
    """Refuse a request before the ledger was closed, or after; give its id and the rows that are kept."""
    environ = {"HYBRID_DATA_DIR": str(folder)}
    config = load(None, environ).config

    async def scenario():
        async with running(config, environ, local=None) as runtime:
            if not is_closed:
                return runtime.refuse(InvalidRequest("no JSON"), dialect="openai", model="m", arrived_s=0.0)
        return runtime.refuse(InvalidRequest("no JSON"), dialect="openai", model="m", arrived_s=0.0)

    request_id = asyncio.run(scenario())
    with closing(sqlite3.connect(folder / "hybrid.sqlite3")) as connection:
        return request_id, connection.execute("SELECT id, outcome, error_code FROM requests").fetchall()


def test_it_is_recorded(tmp_path):
    """As the client's fault, under the id that the client is told."""
    request_id, rows = refused(tmp_path, is_closed=False)
    assert [(request_id, "rejected", "invalid_request")] == rows


def test_that_it_cannot_be_recorded_is_told(tmp_path):
    """Whoever answers the client logs it; nothing is said to be on record that is not."""
    with pytest.raises(StoreError, match="is closed"):
        refused(tmp_path, is_closed=True)
