"""Whose budgets does a request draw on, and what is left of them? All its caps are checked in one reservation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

from hybrid.config import BudgetConfig, Config, TagConfig
from hybrid.errors import StoreError
from hybrid.glance import Glances
from hybrid.journal import Journal
from hybrid.pacer import Pacer
from hybrid.policy.budget import Allowance, caps, left_usd
from hybrid.policy.model import CloudOption
from hybrid.store.history import standing
from hybrid.store.ledger import Balance, Ledger
from hybrid.types import Cap, ChatRequest, KeyRules, Window

LOCALTIME = Path("/etc/localtime")

MAX_KEPT = 1024
"""Allowances whose caps are remembered."""

PLENTY = 1000
"""How many requests' worst cases must be left in a budget for a recent figure of it to do."""


@dataclass(frozen=True, slots=True)
class BudgetView:
    """How the money stands for one request.

    left_usd: what a call may still reserve; None where no budget is configured.
    lambda_: the budget's shadow price; None where nothing is paced.
    """

    left_usd: Decimal | None = None
    lambda_: float | None = None


class Budgets:
    """The runtime's allowance, those of tags, and those of client keys.

    Args:
        runtime: without any cap of its own nothing is paid, whatever keys and tags may have.
        tags: by case-folded tag.
        of_key: the allowance of the client key of that name; None where it has none.
        is_paced: whether the runtime's spending is spread by a shadow price.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        runtime: Allowance,
        zone: tzinfo,
        tags: Mapping[str, Allowance] | None = None,
        of_key: Callable[[str], Allowance | None] = lambda _name: None,
        is_paced: bool = False,
    ) -> None:
        self._ledger = ledger
        self._glances: Glances[BudgetView] = Glances()
        self._pacer = Pacer(ledger, self._own, zone) if is_paced else None
        self._runtime, self._tags, self._of_key, self._zone = runtime, dict(tags or {}), of_key, zone
        self._made: dict[str, tuple[Allowance, tuple[Cap, ...]]] = {}

    def caps(self, now: datetime, request: ChatRequest) -> tuple[Cap, ...]:
        """Every cap that must have room for a call of this request; none at all where no budget is configured."""
        runtime = self._own(now)
        if not runtime:
            return ()
        tag = None if request.tag is None else self._tags.get(request.tag.casefold())
        key = None if request.client_key is None else self._of_key(request.client_key)
        return (
            *runtime,
            *(self._caps_of(tag, now, f"tags.{tag.tag}") if tag is not None else ()),
            *(self._caps_of(key, now, f"key {key.client_key}") if key is not None else ()),
        )

    async def look(self, request: ChatRequest, options: Sequence[CloudOption], journal: Journal) -> BudgetView:
        """See how the money stands for a request; what cannot be read cannot be spent, and local answers go on.

        Where many times is left what the dearest option can cost, what was read a moment ago will do.
        """
        if not options:
            return BudgetView()
        most_usd = max([option.reserve_usd or Decimal(0) for option in options])
        whose = (request.client_key, None if request.tag is None else request.tag.casefold())
        try:
            return await self._glances.look(
                whose,
                lambda: self._look(request),
                is_plenty=lambda view: view.left_usd is None or view.left_usd > PLENTY * most_usd,
            )
        except StoreError as unreadable:
            journal.note(f"no money can be spent: {unreadable}")
            return BudgetView(left_usd=Decimal(0))

    async def _look(self, request: ChatRequest) -> BudgetView:
        now = datetime.now(UTC)
        held = self.caps(now, request)
        if not held:
            return BudgetView()
        step = Window(now, now) if self._pacer is None else await self._pacer.catch_up(now)
        balances, step_usd = await self._ledger.read(
            lambda connection: standing(connection, held, step), empty=((Balance(),) * len(held), Decimal(0))
        )
        counted = dict(zip(held, balances, strict=True))
        own = {cap: balance for cap, balance in counted.items() if cap.client_key is None and cap.tag is None}
        return BudgetView(
            left_usd=min(left_usd(cap, balance.spent_usd, balance.reserved_usd) for cap, balance in counted.items()),
            lambda_=None if self._pacer is None else self._pacer.price(now, own, step_usd),
        )

    def _own(self, now: datetime) -> tuple[Cap, ...]:
        return self._caps_of(self._runtime, now, "budget")

    def _caps_of(self, allowance: Allowance, now: datetime, name: str) -> tuple[Cap, ...]:
        """The caps of an allowance as they hold now: those made before, while their days and months last."""
        known = self._made.get(name)
        if known is not None and known[0] == allowance and all(_is_within(cap, now) for cap in known[1]):
            return known[1]
        made = caps(allowance, now, self._zone, name=name)
        if len(self._made) >= MAX_KEPT:
            self._made.clear()
        self._made[name] = allowance, made
        return made


def _is_within(cap: Cap, now: datetime) -> bool:
    """Whether a cap that was made before holds now as it is; a rolling one moves with the time."""
    return not cap.is_rolling and cap.window.start <= now < cap.window.end


def budgets_of(
    config: Config, ledger: Ledger, zone: tzinfo, *, of_key: Callable[[str], Allowance | None] = lambda _name: None
) -> Budgets:
    """Make the budgets that a configuration sets, beside those of client keys."""
    tags = {name.casefold(): allowance_of(tag, tag=name) for name, tag in config.tags.items()}
    return Budgets(
        ledger,
        runtime=allowance_of(config.budget),
        zone=zone,
        tags=tags,
        of_key=of_key,
        is_paced=config.budget.pace == "even",
    )


def key_allowance(name: str, rules: KeyRules) -> Allowance:
    """The caps of a client key."""
    return Allowance(usd_per_day=rules.usd_per_day, usd_per_month=rules.usd_per_month, client_key=name)


def allowance_of(given: BudgetConfig | TagConfig, *, tag: str | None = None) -> Allowance:
    """The caps of one table of the configuration."""
    return Allowance(
        usd_per_day=given.usd_per_day,
        usd_per_month=given.usd_per_month,
        usd_per_window=given.usd_per_window,
        window_hours=given.window_hours,
        tag=tag,
    )


def budget_zone(config: Config) -> tzinfo:
    """The time zone whose midnight begins a budget's day, with its daylight saving where that can be known."""
    if config.budget.timezone != "local":
        return ZoneInfo(config.budget.timezone)
    try:
        with LOCALTIME.open("rb") as file:
            return ZoneInfo.from_file(file, key="local")
    except (OSError, ValueError):
        return datetime.now().astimezone().tzinfo or UTC
