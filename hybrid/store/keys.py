"""Which client is calling? Keys that are shown once, kept as hashes, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeAlias

from hybrid.errors import CommandError, StoreError, Unauthorized
from hybrid.store.db import connect_reader, connect_writer, from_us, store_errors, to_us
from hybrid.store.money import limit_nusd, usd_of
from hybrid.types import KeyRules

_LOG = logging.getLogger(__name__)

PREFIX = "hyb_"
"""What every key begins with, so that a leaked one can be told from other vendors' and searched for."""

SqlValue: TypeAlias = str | int | None

_RULES = (
    "usd_per_day_nusd", "usd_per_month_nusd", "requests_per_minute", "tokens_per_minute", "concurrency", "models",
    "is_private",
)  # fmt: skip
"""The columns of a key's rules, in the order of `_stored`."""

_THE_VALID = "WHERE name = ? AND revoked_at_us IS NULL"

_SECRET_BYTES = 32
_LONGEST_KEY_CHARS = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ClientKey:
    """What is kept of a key, less its hash. `revoked_at` is None while it is valid."""

    name: str
    created_at: datetime
    revoked_at: datetime | None
    rules: KeyRules = field(default_factory=KeyRules)


class ClientKeys:
    """The client keys in the store. Adding and revoking touch the file; telling a caller's key reads memory.

    Another process may add and revoke: the set in memory is read anew when it is older than `refresh_after_s`.
    Any thread may call.
    """

    def __init__(
        self, path: Path, *, refresh_after_s: float = 1.0, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._refresh_after_s, self._monotonic_s = path, refresh_after_s, monotonic_s
        self._keys_by_hash: dict[str, ClientKey] | None = None
        self._read_at_s = 0.0
        self._lock = threading.Lock()

    def add(self, name: str, rules: KeyRules | None = None) -> str:
        """Make a key and return its secret, which is kept nowhere.

        Kept is its SHA-256. A slow, salted hash is for secrets people choose: these are 256 random bits, which
        nobody guesses at any speed, and every request pays for the comparison.

        Raises: CommandError if the name is malformed or a valid key has it; StoreError; ValueError.
        """
        if not _NAME.fullmatch(name):
            raise CommandError(
                f"a key's name is 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit; got {name!r}"
            )
        secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        values = (name, _sha256(secret), to_us(datetime.now(UTC)), *_stored(rules or KeyRules()))
        with closing(connect_writer(self._path)) as connection, store_errors(self._path, "write"):
            try:
                connection.execute(
                    f"INSERT INTO client_keys (name, secret_sha256, created_at_us, {', '.join(_RULES)})"  # noqa: S608
                    f" VALUES ({', '.join('?' * len(values))})",
                    values,
                )
            except sqlite3.IntegrityError as exc:
                raise CommandError(f"there is a key {name!r} already; revoke it first, or choose another name") from exc
        self._forget()
        return secret

    def list(self) -> tuple[ClientKey, ...]:
        """All keys there ever were, oldest first. Raises: StoreError."""
        return tuple(_key(row) for row in self._select("SELECT * FROM client_keys ORDER BY id"))

    def change(self, name: str, amend: Callable[[KeyRules], KeyRules]) -> KeyRules:
        """Give a valid key the rules that `amend` makes of those it has; running servers follow in their refresh time.

        Both in one transaction, so that of two who change different rules at once neither undoes the other's.

        Returns: the rules it has now.
        Raises: CommandError, naming the valid ones, if there is no such valid key; StoreError; ValueError; what `amend`
            raises, and nothing is changed.
        """
        changed = None
        with closing(connect_writer(self._path)) as connection, store_errors(self._path, "write"):
            connection.execute("BEGIN IMMEDIATE")  # closed without its COMMIT it changes nothing
            row = connection.execute(f"SELECT * FROM client_keys {_THE_VALID}", (name,)).fetchone()  # noqa: S608
            if row is not None:
                changed = amend(_key(row).rules)
                columns = ", ".join(f"{column} = ?" for column in _RULES)
                connection.execute(
                    f"UPDATE client_keys SET {columns} {_THE_VALID}",  # noqa: S608 - fixed texts
                    (*_stored(changed), name),
                )
            connection.execute("COMMIT")
        self._forget()
        if changed is None:
            self._unknown(name)
        return changed

    def revoke(self, name: str) -> None:
        """End a key's validity; running servers notice within their refresh time. The name becomes free.

        Raises: CommandError, naming the valid ones, if there is no such valid key; StoreError.
        """
        with closing(connect_writer(self._path)) as connection, store_errors(self._path, "write"):
            done = connection.execute(
                f"UPDATE client_keys SET revoked_at_us = ? {_THE_VALID}",  # noqa: S608 - fixed texts
                (to_us(datetime.now(UTC)), name),
            )
        self._forget()
        if done.rowcount == 0:
            self._unknown(name)

    def has_any(self) -> bool:
        """Whether any key is valid. Raises: StoreError if the file could never be read."""
        return bool(self._valid())

    def verify(self, presented: str) -> str | None:
        """The name of the valid key that was presented, or None.

        Every kept hash is compared in constant time, so that neither the answer's time nor the order of keys tells
        how near a guess came.

        Raises: StoreError if the file could never be read.
        """
        if len(presented) > _LONGEST_KEY_CHARS:
            return None
        presented_hash, found = _sha256(presented), None
        for kept_hash, key in self._valid().items():
            if hmac.compare_digest(kept_hash, presented_hash):
                found = key.name
        return found

    def rules_of(self, name: str) -> KeyRules | None:
        """What the valid key of that name may do; None if there is none (any more).

        Raises: StoreError if the file could never be read.
        """
        return next((key.rules for key in self._valid().values() if key.name == name), None)

    def authenticate(self, presented: str | None, *, is_required: bool) -> str | None:
        """The name of the presented key; None where none is required and none of ours was shown.

        Clients that must send something (the OpenAI SDK) may send any other text where no key is required. One of
        our own form is checked everywhere: a revoked key stops working on loopback too.

        Raises: Unauthorized if the key is missing, unknown or revoked; StoreError if the file could never be read.
        """
        if presented is None:
            if is_required:
                raise Unauthorized("a client key is required: send `Authorization: Bearer hyb_...`")
            return None
        if not is_required and not presented.startswith(PREFIX):
            return None
        name = self.verify(presented)
        if name is None:
            raise Unauthorized("the client key is unknown or revoked; `hybrid keys add NAME` makes one")
        return name

    def _unknown(self, name: str) -> NoReturn:
        valid = ", ".join(key.name for key in self.list() if key.revoked_at is None)
        raise CommandError(f"no valid key {name!r}; there are: {valid or 'none'}")

    def _valid(self) -> dict[str, ClientKey]:
        with self._lock:
            now_s = self._monotonic_s()
            if self._keys_by_hash is None or now_s - self._read_at_s >= self._refresh_after_s:
                self._refresh()
                self._read_at_s = now_s
            assert self._keys_by_hash is not None
            return self._keys_by_hash

    def _refresh(self) -> None:
        try:
            rows = self._select("SELECT * FROM client_keys WHERE revoked_at_us IS NULL")
        except StoreError as exc:
            # With nothing known, to let nobody in is the only safe answer; with a set known, it stays.
            if self._keys_by_hash is None:
                raise
            _LOG.warning("client keys could not be read again, those known stay valid: %s", exc)
            return
        self._keys_by_hash = {row["secret_sha256"]: _key(row) for row in rows}

    def _forget(self) -> None:
        with self._lock:
            self._keys_by_hash = None

    def _select(self, statement: str) -> tuple[sqlite3.Row, ...]:
        connection = connect_reader(self._path)
        if connection is None:
            return ()
        with closing(connection), store_errors(self._path, "read"):
            return tuple(connection.execute(statement))


def _stored(rules: KeyRules) -> tuple[SqlValue, ...]:
    """The rules as `_RULES` has them. Raises: ValueError if an amount is no amount."""
    day, month = (None if usd is None else limit_nusd(usd) for usd in (rules.usd_per_day, rules.usd_per_month))
    rates = (rules.requests_per_minute, rules.tokens_per_minute, rules.concurrency)
    return (day, month, *rates, "\n".join(rules.models), int(rules.is_private))


def _key(row: sqlite3.Row) -> ClientKey:
    day, month = (None if row[name] is None else usd_of(row[name]) for name in _RULES[:2])
    return ClientKey(
        row["name"],
        from_us(row["created_at_us"]),
        None if row["revoked_at_us"] is None else from_us(row["revoked_at_us"]),
        KeyRules(
            usd_per_day=day,
            usd_per_month=month,
            requests_per_minute=row["requests_per_minute"],
            tokens_per_minute=row["tokens_per_minute"],
            concurrency=row["concurrency"],
            models=tuple(filter(None, row["models"].split("\n"))),
            is_private=bool(row["is_private"]),
        ),
    )


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
