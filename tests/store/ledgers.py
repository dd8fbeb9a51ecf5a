"""How do the tests of the ledger open one, fill it and look into its file?"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from hybrid.store.db import connect_reader
from hybrid.store.ledger import Ledger, RequestOpened, Reservation
from hybrid.types import Cap, Window

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = Window(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 6, 2, tzinfo=UTC))
CAP = Cap("usd_per_day", DAY, Decimal(1))
TENTH = Decimal("0.1")


@asynccontextmanager
async def ledger_at(path: Path, *, max_pending_writes: int = 10_000) -> AsyncIterator[Ledger]:
    """A started ledger, closed at the end."""
    ledger = Ledger(path, clock=lambda: NOW, max_pending_writes=max_pending_writes)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.aclose()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process' long transaction: nobody else can write meanwhile."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def until_taken(ledger: Ledger) -> None:
    """Let the writer take what is in line."""
    while ledger.health().pending_writes:  # noqa: ASYNC110 - a thread empties the line, there is no event to await
        await asyncio.sleep(0)


def wish(name: str, amount_usd: Decimal = TENTH, *, caps: tuple[Cap, ...] = (CAP,)) -> Reservation:
    """A reservation by its id."""
    return Reservation(
        id=name, request_id="req_1", provider="openai", model="gpt", amount_usd=amount_usd, now=NOW, caps=caps
    )


def opened(name: str, **more: object) -> RequestOpened:
    """A request's arrival by its id."""
    return RequestOpened(**{"id": name, "created_at": NOW, "dialect": "openai", "requested_model": "hybrid", **more})


def rows_of(path: Path, table: str = "requests") -> list[dict[str, object]]:
    """All rows of a table, oldest first."""
    with closing(connect_reader(path)) as reader:
        return [dict(row) for row in reader.execute(f"SELECT * FROM {table} ORDER BY 1")]  # noqa: S608
