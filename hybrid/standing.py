"""How much of each configured budget is spent now? Read-only, from the file, beside a running server or without."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, tzinfo
from decimal import Decimal
from pathlib import Path

from hybrid.budgets import allowance_of, key_allowance
from hybrid.config import Config
from hybrid.policy.budget import Allowance, caps
from hybrid.store.db import connect_reader, store_errors
from hybrid.store.keys import ClientKeys
from hybrid.store.money import balances


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One cap: where it is from, its limit, and what its window counts now, settled and set aside."""

    name: str
    limit_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal


def read_standing(path: Path, config: Config, zone: tzinfo, now: datetime) -> tuple[Standing, ...]:
    """Each cap of the runtime, of tags and of valid client keys, in this order.

    Raises: StoreError if the ledger cannot be read.
    """
    allowances: list[tuple[str, Allowance]] = [("budget", allowance_of(config.budget))]
    allowances += [(f"tag {name}", allowance_of(tag, tag=name)) for name, tag in config.tags.items()]
    allowances += [
        (f"key {key.name}", key_allowance(key.name, key.rules))
        for key in ClientKeys(path).list()
        if key.revoked_at is None
    ]
    held = tuple(cap for name, allowance in allowances for cap in caps(allowance, now, zone, name=name))
    connection = connect_reader(path) if held else None
    if connection is None:
        return ()
    with closing(connection), store_errors(path, "read"):
        counted = balances(connection, held)
    return tuple(
        Standing(name=cap.name, limit_usd=cap.limit_usd, spent_usd=balance.spent_usd, reserved_usd=balance.reserved_usd)
        for cap, balance in zip(held, counted, strict=True)
    )
