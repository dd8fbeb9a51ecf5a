"""What does `hybrid report` say beyond sums: the month's end, the price of a dollar, and where the next one goes?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from hybrid.budgets import budget_zone
from hybrid.cli.printable import printable
from hybrid.config import load
from hybrid.errors import ConfigError
from hybrid.forecast import INTERVAL, Forecast, forecast
from hybrid.standing import Standing, read_standing
from hybrid.store.insights import DoubtOfTag, Insights, ReasonCost, read_insights
from hybrid.types import Json

_DAYS_READ = timedelta(days=62)  # a month, and the days before it that a forecast draws from
LEAST_DOUBTS = 5
"""So few of a tag prove nothing."""


@dataclass(frozen=True, slots=True)
class Money:
    """Where money went, what the month will cost (None: too little history), and how the budgets stand."""

    found: Insights
    ahead: Forecast | None
    caps: Sequence[Standing]


def read_money(
    path: Path, *, since: datetime | None, tag: str | None, now: datetime, config_path: Path | None
) -> Money:
    """Read it from the ledger's file. Raises: StoreError; ConfigError if the file that was named is wrong."""
    found = read_insights(path, since=since, days_since=now - _DAYS_READ, tag=tag) or Insights()
    return Money(found, forecast(found.days, found.first_day, now.astimezone()), _standing(path, config_path, now))


def _standing(path: Path, config_path: Path | None, now: datetime) -> Sequence[Standing]:
    """How the configured budgets stand. A report does not fail over a configuration that nobody named here."""
    try:
        config = load(config_path, os.environ).config
    except ConfigError as wrong:
        if config_path is not None:
            raise
        print(f"hybrid: warning: budgets are not told: {wrong}", file=sys.stderr)
        return ()
    return read_standing(path, config, budget_zone(config), now)


def money_facts(money: Money) -> dict[str, Json]:
    """The same for programs."""
    found, ahead = money.found, money.ahead
    return {
        "budgets": [{name: getattr(cap, name) for name in Standing.__slots__} for cap in money.caps],
        "lambda": found.lambda_,
        "forecast": None if ahead is None else _forecast_facts(ahead),
        "next_dollar": {
            "costliest_reasons": [_reason_facts(reason) for reason in found.reasons],
            "save_on_tags": [_tag_facts(tag) for tag in _to_save(found.tags)],
            "spend_on_tags": [_tag_facts(tag) for tag in _to_spend(found.tags)],
        },
    }


def money_lines(money: Money, spent_usd: Decimal) -> Iterator[str]:
    """What is known, a line each. spent_usd: of all that is reported, also what no request's row stands for."""
    found, ahead = money.found, money.ahead
    for cap in money.caps:
        used_usd = cap.spent_usd + cap.reserved_usd
        used = f" ({used_usd / cap.limit_usd:.0%})" if cap.limit_usd else ""
        yield f"cap        {printable(cap.name)}: ${used_usd:.6f} of ${cap.limit_usd:f}{used}"
    if ahead is not None:
        yield (
            f"forecast   ${ahead.expected_usd:.4f} for {ahead.month} (${ahead.low_usd:.4f} to ${ahead.high_usd:.4f}: "
            f"{INTERVAL:.0%} of draws from {ahead.from_days} days)"
        )
    if found.lambda_ is not None:
        yield f"lambda     {found.lambda_:.3f} at the last decision: a dollar had to be worth ${1 + found.lambda_:.2f}"
    if found.reasons and spent_usd:
        most = found.reasons[0]
        reason = "-" if most.reason is None else printable(most.reason)
        share = most.spent_usd / spent_usd
        yield f"costliest  {reason}: ${most.spent_usd:.6f} in {most.requests} requests, {share:.0%} of it all"
    if save := _to_save(found.tags):
        yield f"to save    {_tagged(save[0])}, nearest to good"
    if spend := _to_spend(found.tags):
        yield f"to spend   {_tagged(spend[0])}, the worst"


def _to_save(tags: Sequence[DoubtOfTag]) -> list[DoubtOfTag]:
    """Tags that were paid for, those that would tolerate local answers best first."""
    paid = [tag for tag in tags if tag.is_paid and tag.requests >= LEAST_DOUBTS]
    return sorted(paid, key=lambda tag: (-tag.confidence, tag.tag or ""))


def _to_spend(tags: Sequence[DoubtOfTag]) -> list[DoubtOfTag]:
    """Tags whose drafts stayed for want of money, those that needed it most first."""
    kept = [tag for tag in tags if not tag.is_paid and tag.requests >= LEAST_DOUBTS]
    return sorted(kept, key=lambda tag: (tag.confidence, tag.tag or ""))


def _forecast_facts(ahead: Forecast) -> dict[str, Json]:
    return {
        "month": ahead.month,
        "spent_usd": ahead.spent_usd,
        "expected_usd": ahead.expected_usd,
        "low_usd": ahead.low_usd,
        "high_usd": ahead.high_usd,
        "interval": INTERVAL,
        "from_days": ahead.from_days,
    }


def _reason_facts(reason: ReasonCost) -> dict[str, Json]:
    return {"reason": reason.reason, "requests": reason.requests, "spent_usd": reason.spent_usd}


def _tag_facts(tag: DoubtOfTag) -> dict[str, Json]:
    return {
        "tag": tag.tag,
        "requests": tag.requests,
        "confidence": round(tag.confidence, 4),
        "spent_usd": tag.spent_usd,
    }


def _tagged(doubt: DoubtOfTag) -> str:
    whose = "without a tag" if doubt.tag is None else f"tag {printable(doubt.tag)}"
    kind = "paid" if doubt.is_paid else "unpaid"
    return f"{whose}: {doubt.requests} {kind} drafts scored {doubt.confidence:.2f} on average"
