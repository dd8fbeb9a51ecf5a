"""What does the ledger take and give? Values: a request as it opens and closes, a reservation and its fate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

import msgspec

from hybrid.types import Cap, Outcome, Route


class RequestOpened(msgspec.Struct, frozen=True, kw_only=True):
    """A request at its arrival. `created_at` knows its zone; texts longer than 500 characters are stored cut."""

    id: str
    created_at: datetime
    dialect: str
    requested_model: str
    client_key: str | None = None
    tag: str | None = None
    is_stream: bool = False


class RequestClosed(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended and what it took.

    route, model, provider, reason, degraded: of the released answer; None where nothing was released.
    prompt_tokens, completion_tokens, cached_tokens: of the released answer, as its maker counted.
    local_*, cloud_*: all that was spent on either side, escalated drafts and lost hedges included.
    cost_usd is kept rounded up, saved_usd rounded down, to 1e-9 USD; None where unknown.
    decision_json: the facts, the checks and the events, for `hybrid explain`.
    hedge: who won where both sides were asked at once, "none" if nobody did; None where only one was asked.
    double_usd: what the cloud cost although local won; None where no cloud was asked in vain.
    """

    id: str
    outcome: Outcome
    route: Route | None = None
    model: str | None = None
    provider: str | None = None
    reason: str | None = None
    degraded: str | None = None
    error_code: str | None = None
    confidence: float | None = None
    is_calibrated: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    local_prompt_tokens: int = 0
    local_completion_tokens: int = 0
    cloud_prompt_tokens: int = 0
    cloud_completion_tokens: int = 0
    cost_usd: Decimal | None = None
    saved_usd: Decimal | None = None
    queue_s: float | None = None
    ttft_s: float | None = None
    total_s: float | None = None
    overhead_s: float | None = None
    decision_json: str | None = None
    hedge: str | None = None
    double_usd: Decimal | None = None


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """The worst case of one cloud call, to be granted before its first byte leaves.

    id: the caller's, unique for ever; the call is settled under it.
    amount_usd: kept rounded up to 1e-9 USD.
    now: what places the spend in time: it counts in the window that holds this moment, whenever it is settled.
    caps: every one must have room. None at all is an error, not freedom.
    client_key, tag: whose spend it is; the tag case-folded, as in the caps.
    """

    id: str
    request_id: str
    provider: str
    model: str
    amount_usd: Decimal
    now: datetime
    caps: tuple[Cap, ...]
    client_key: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """Granted and written, so that not even a power cut makes the cap forget it: the call may leave."""

    amount_usd: Decimal


@dataclass(frozen=True, slots=True)
class Refused:
    """Not granted, nothing was written. `cap` is the one with the least room, `left_usd` the room it has."""

    cap: Cap
    left_usd: Decimal


Grant: TypeAlias = Reserved | Refused


@dataclass(frozen=True, slots=True)
class Balance:
    """Money at one moment: settled within a window, and promised to calls that are still out."""

    spent_usd: Decimal = Decimal(0)
    reserved_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What dead processes had left behind and the start cleaned up; `settled_usd` is at the worst case.

    power_cut_usd: charged beside it for calls whose reservations a power cut took; see `escrow`.
    """

    lost_requests: int
    settled_reservations: int
    settled_usd: Decimal
    power_cut_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Whether the ledger can be written.

    error: what failed last, None while all is well.
    pending_writes: waiting in memory.
    dropped_writes: request rows (an opening or a closing each) that found the memory full, since the start.
    """

    error: str | None
    pending_writes: int
    dropped_writes: int

    @property
    def is_ok(self) -> bool:
        """True while cloud calls may be granted."""
        return self.error is None
