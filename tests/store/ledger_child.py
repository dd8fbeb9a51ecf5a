"""What does a process do to the ledger before it is killed? Run by test_death.py; says how far it came on stdout.

Usage: python ledger_child.py DATABASE STAGE, with STAGE one of STAGES or "storm".
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from hybrid.store.ledger import Ledger, RequestClosed, RequestOpened, Reservation, Reserved
from hybrid.types import Cap, Outcome, Route, Window

STAGES = ("opened", "reserved", "settled", "closed")
NOW = datetime.now(UTC)
ALWAYS = Window(NOW - timedelta(days=2), NOW + timedelta(days=2))  # both sides of a midnight during the test
RESERVED_USD, SETTLED_USD, CAP_USD = Decimal("0.5"), Decimal("0.125"), Decimal(1)


def say(word: str) -> None:
    """Tell the parent, past every buffer."""
    os.write(1, f"{word}\n".encode())


def wish(name: str, amount_usd: Decimal, cap_usd: Decimal) -> Reservation:
    """A reservation under one cap."""
    cap = Cap("usd_per_day", ALWAYS, cap_usd)
    return Reservation(
        id=name, request_id="req_1", provider="openai", model="gpt", amount_usd=amount_usd, now=NOW, caps=(cap,)
    )


async def live(ledger: Ledger, last_stage: str) -> None:
    """Take one request up to a stage, each of its steps written."""
    stages = STAGES[: STAGES.index(last_stage) + 1]
    ledger.open_request(RequestOpened(id="req_1", created_at=NOW, dialect="openai", requested_model="hybrid"))
    if "reserved" in stages:
        assert isinstance(await ledger.reserve(wish("rsv_1", RESERVED_USD, CAP_USD)), Reserved)
    if "settled" in stages:
        await ledger.settle("rsv_1", SETTLED_USD, is_estimated=False)
    if "closed" in stages:
        ledger.close_request(RequestClosed(id="req_1", outcome=Outcome.OK, route=Route.CLOUD))
    await ledger.flush()


async def storm(ledger: Ledger) -> None:
    """Pay for ever on eight lines at once, each call a hundredth of the cap and settled at a tenth of that."""
    numbers = itertools.count()

    async def pay() -> None:
        while True:
            name = f"rsv_{next(numbers)}"
            if isinstance(await ledger.reserve(wish(name, Decimal("0.01"), CAP_USD)), Reserved):
                say(name)
                ledger.settle_soon(name, Decimal("0.001"), is_estimated=False)

    await asyncio.gather(*(pay() for _ in range(8)))


async def main(path: Path, stage: str) -> None:
    """Do as told, then wait to be killed."""
    ledger = Ledger(path)
    await ledger.start()
    if stage == "storm":
        await storm(ledger)
    await live(ledger, stage)
    say("ready")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
