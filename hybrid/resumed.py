"""What goes on over a restart? Which clouds rest, which keys they refused, what client keys did in the last minute."""

from __future__ import annotations

import hashlib
import logging
import secrets
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from hybrid.cloud_health import NO_KEY_REST_S, CloudHealth, Rest
from hybrid.config import CloudConfig
from hybrid.errors import StoreError
from hybrid.policy.limits import WINDOW_S, KeyUsage, resumed
from hybrid.providers.breaker import BreakerRules
from hybrid.providers.keys import Keys, Refusal, fingerprint
from hybrid.store.history import KeyRequest, requests_of_keys
from hybrid.store.ledger import Ledger
from hybrid.store.rests import (
    KeptRefusal,
    KeptRest,
    delete_rest,
    insert_refusal,
    read_refusals,
    read_rests,
    upsert_rest,
)

log = logging.getLogger(__name__)

WRONG_KEY = frozenset({400, 401})
"""Say of a key that its value is wrong, which a restart does not mend. Of 402, 403 and 429 the cause is the account:
whoever starts anew may have filled it, so they are kept only where `key_rest_s` says how long."""

REST_IS_NEWS = timedelta(hours=1)
"""How long after its end an open circuit is still a reason to send one probe ahead of everybody."""

LONGEST_ANSWER = timedelta(minutes=15)
"""How long before the last minute a request may have come whose tokens became known within it."""


class Keeper(Protocol):
    """Who writes down what a later process takes up: the ledger."""

    def write(self, apply: Callable[[sqlite3.Connection], Any], what: str) -> None:
        """Have it written soon and in order."""


class CloudMemory:
    """What earlier processes learned of clouds and keys, and where this one's changes go.

    What cannot be kept holds all the same, until this process ends.
    """

    def __init__(
        self,
        keeper: Keeper,
        rests: Sequence[KeptRest] = (),
        refusals: Sequence[KeptRefusal] = (),
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keeper, self._rests, self._refusals, self._now = keeper, tuple(rests), tuple(refusals), now
        self._accounts: dict[str, str] = {}

    def keys(self, cloud: CloudConfig, values: tuple[str, ...]) -> Keys:
        """The keys of a cloud, with those that it refused before, and for how long they are still not used."""
        self._accounts[cloud.name] = hashlib.sha256("\n".join((cloud.base_url, *values)).encode()).hexdigest()
        now = self._now()
        refused = []
        for kept in self._refusals:
            # A clock that was ahead and has been set back since must not keep a key out for longer than any refusal.
            rest_s = cloud.key_rest_s or NO_KEY_REST_S
            left_s = min(rest_s, (kept.refused_at - now).total_seconds() + rest_s)
            if kept.provider == cloud.name and left_s > 0 and (kept.status in WRONG_KEY or cloud.key_rest_s):
                refused.append(Refusal(salt=kept.salt, fingerprint=kept.fingerprint, status=kept.status, left_s=left_s))
        known = [key for key in values for one in refused if fingerprint(key, one.salt) == one.fingerprint]
        if known:
            log.warning(
                "cloud %s: %d of its %d API keys were refused before this start, and rest %.0f s more at most;"
                " another value is used at once",
                cloud.name,
                len(set(known)),
                len(values),
                max(one.left_s for one in refused),
            )

        def on_refused(refusal: Refusal) -> None:
            kept = KeptRefusal(
                provider=cloud.name,
                salt=refusal.salt,
                fingerprint=refusal.fingerprint,
                status=refusal.status,
                refused_at=self._now(),
            )
            self._keep(lambda connection: insert_refusal(connection, kept), f"a refusal by {cloud.name}")

        return Keys(values, refused_rest_s=cloud.key_rest_s, refused=tuple(refused), on_refused=on_refused)

    def health(self, rules: BreakerRules | None = None, now_s: Callable[[], float] = time.monotonic) -> CloudHealth:
        """How the clouds do, as far as it is known, once `keys` was asked for each that there is.

        A cloud whose address or keys have changed since begins afresh, and so does one that is not configured now.
        """
        health = CloudHealth(rules, now_s=now_s, on_change=self._changed)
        now, longest_s = self._now(), (rules or BreakerRules()).max_hint_s
        for kept in self._rests:
            account = self._accounts.get(kept.provider)
            if account is None or fingerprint(account, kept.salt) != kept.fingerprint:
                continue
            if kept.until + REST_IS_NEWS > now:
                left_s = min(longest_s, max(0.0, (kept.until - now).total_seconds()))
                health.resume(
                    Rest(
                        provider=kept.provider,
                        model=kept.model,
                        rest_s=left_s,
                        is_asked=kept.is_asked,
                        openings=kept.openings,
                        why=kept.why,
                    )
                )
        return health

    def _changed(self, rest: Rest) -> None:
        """Keep a circuit that opened, and forget one that closed."""
        if rest.rest_s is None:
            self._keep(lambda connection: delete_rest(connection, rest.provider, rest.model), "the end of a rest")
            return
        salt = secrets.token_hex(16)
        kept = KeptRest(
            provider=rest.provider,
            model=rest.model,
            until=self._now() + timedelta(seconds=rest.rest_s),
            is_asked=rest.is_asked,
            openings=rest.openings,
            why=rest.why,
            salt=salt,
            fingerprint=fingerprint(self._accounts.get(rest.provider, ""), salt),
        )
        self._keep(lambda connection: upsert_rest(connection, kept), f"the rest of {rest.provider}")

    def _keep(self, apply: Callable[[sqlite3.Connection], None], what: str) -> None:
        try:
            self._keeper.write(apply, what)
        except StoreError as closed:
            log.warning("what was learned of a cloud is not kept: %s", closed)


async def cloud_memory(ledger: Ledger) -> CloudMemory:
    """Read what is kept of clouds; nothing, where it cannot be read."""
    none: tuple[tuple[KeptRest, ...], tuple[KeptRefusal, ...]] = ((), ())
    try:
        rests, refusals = await ledger.read(lambda reader: (read_rests(reader), read_refusals(reader)), empty=none)
        return CloudMemory(ledger, rests, refusals)
    except StoreError:
        return CloudMemory(ledger)


async def key_usage(ledger: Ledger, *, now_s: float) -> dict[str, KeyUsage]:
    """What each client key did in the last minute, from the rows of its requests; nothing, where they cannot be read.

    Args:
        now_s: the same moment as now, on the clock that the rates are counted by.
    """
    now = datetime.now(UTC)
    since = now - timedelta(seconds=WINDOW_S + 1) - LONGEST_ANSWER
    none: tuple[KeyRequest, ...] = ()
    try:
        served = await ledger.read(lambda connection: requests_of_keys(connection, since), empty=none)
    except StoreError:
        return {}
    return usage_of(served, now=now, now_s=now_s)


def usage_of(served: Sequence[KeyRequest], *, now: datetime, now_s: float) -> dict[str, KeyUsage]:
    """Count again what was served. Tokens count from a request's end: those beyond its charge did, and are not told."""
    by_key: defaultdict[str, list[KeyRequest]] = defaultdict(list)
    for one in served:
        by_key[one.client_key].append(one)

    def at_s(moment: datetime) -> float:
        return now_s + (moment - now).total_seconds()

    return {
        name: resumed(
            [at_s(one.arrived_at) for one in requests],
            [(at_s(one.ended_at), one.tokens) for one in requests if one.ended_at is not None],
            now_s,
        )
        for name, requests in by_key.items()
    }
