"""Which API key does a call take? The first that is neither refused nor throttled, and when are those tried again?"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hybrid.errors import ProviderError, ProviderRejected, ProviderThrottled
from hybrid.providers.breaker import Breaker, BreakerRules

log = logging.getLogger(__name__)

THROTTLED = BreakerRules(failures_in_row=1, rest_s=1.0, max_rest_s=60.0, probe_s=0.25)
"""A key's circuit: one 429 opens it, for as long as the provider says, or 1, 2, 4 ... 60 s where it says nothing."""


class Credential:
    """An API key: sent in one header, cut out of every text, and shown by no repr."""

    __slots__ = ("_header", "_key", "_prefix")

    def __init__(self, key: str | None, *, header: str = "authorization", prefix: str = "Bearer ") -> None:
        """Hold `key`; None is an API that asks for none.

        Raises: ValueError, without the key in it, for one that no header can carry (an HTTP library would quote it
            in its own error).
        """
        if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
            raise ValueError("the API key is empty or holds a blank, a line end or a character that is not ASCII")
        self._key, self._header, self._prefix = key, header, prefix

    def __repr__(self) -> str:
        return f"Credential({'none' if self._key is None else 'hidden'})"

    def headers(self) -> dict[str, str]:
        """Give the one header that carries the key, or none."""
        return {} if self._key is None else {self._header: f"{self._prefix}{self._key}"}

    def fingerprint(self, salt: str) -> str:
        """Tell this key from others without giving it away; see `fingerprint`."""
        return fingerprint(self._key or "", salt)

    def redact(self, text: str) -> str:
        """Cut the key out of a text from elsewhere."""
        return text if self._key is None else text.replace(self._key, "[redacted]")


def fingerprint(secret: str, salt: str) -> str:
    """Tell whether a secret is still the same without keeping it: SHA-256 with a salt of its own."""
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A key that was refused with this HTTP status. left_s: how long it is still not used; of a new one unknown."""

    salt: str
    fingerprint: str
    status: int
    left_s: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The API keys of one cloud, the preferred first.

    refused_rest_s: how long a key that was refused (401, 402, 403) is not used; None: until this process ends.
    refused: those that were, before this process began. on_refused: told each that is from now on.
    """

    values: tuple[str, ...]
    refused_rest_s: float | None = None
    refused: tuple[Refusal, ...] = ()
    on_refused: Callable[[Refusal], None] = field(default=lambda _refusal: None)


ApiKey: TypeAlias = str | Keys | None
"""What a provider is given: one key, several, or None for an API that asks for none."""


class KeyRing:
    """The credentials of one provider, and which of them may be used now.

    A refused key is out for all calls. A throttled one rests for calls to the model that throttled it: limits are
    counted for each model. Times are seconds of `now_s`, which does not step back.
    """

    def __init__(
        self,
        credentials: Sequence[Credential],
        *,
        refused_rest_s: float | None = None,
        refused: Sequence[Refusal] = (),
        on_refused: Callable[[Refusal], None] = lambda _refusal: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = tuple(credentials)
        self._refused_rest_s, self._on_refused, self._now_s = refused_rest_s, on_refused, now_s
        self._refused_until_s: dict[int, float] = {
            number: now_s() + known.left_s
            for number, credential in enumerate(self._credentials)
            for known in refused
            if credential.fingerprint(known.salt) == known.fingerprint
        }
        self._circuits: defaultdict[tuple[int, str], Breaker] = defaultdict(lambda: Breaker(THROTTLED))

    def __repr__(self) -> str:
        return f"KeyRing({len(self._credentials)} hidden)"

    def redact(self, text: str) -> str:
        """Cut every key out of a text from elsewhere."""
        for credential in self._credentials:
            text = credential.redact(text)
        return text

    def take(self, model: str) -> Lease | None:
        """Give the first key that a call to this model may use now; None if there is none."""
        now_s = self._now_s()
        for number in range(len(self._credentials)):
            if self._refused_s(number, now_s) is not None:
                continue
            ticket = self._circuits[number, model].admit(now_s)
            if ticket is not None:
                return Lease(self, number, model, ticket)
        return None

    @property
    def are_refused(self) -> bool:
        """Whether every key was refused, so that none may be used for whatever model."""
        now_s = self._now_s()
        return all(self._refused_s(number, now_s) is not None for number in range(len(self._credentials)))

    def rest_s(self, model: str) -> float | None:
        """How long until `take` may give one again; None: no key that was refused is used again in this process."""
        now_s = self._now_s()
        rests = []
        for number in range(len(self._credentials)):
            refused_s, throttled_s = self._refused_s(number, now_s), self._circuits[number, model].rest_s(now_s)
            rests.append(max(refused_s or 0.0, throttled_s or 0.0))
        shortest_s = min(rests)
        return None if shortest_s == float("inf") else shortest_s

    def _refused_s(self, number: int, now_s: float) -> float | None:
        left_s = self._refused_until_s.get(number, now_s) - now_s
        return left_s if left_s > 0 else None

    def _refuse(self, number: int, error: ProviderRejected) -> None:
        now_s = self._now_s()
        if self._refused_s(number, now_s) is not None:
            return
        rest_s = float("inf") if self._refused_rest_s is None else self._refused_rest_s
        self._refused_until_s[number] = now_s + rest_s
        until = "until the next start" if self._refused_rest_s is None else f"for {rest_s:g} s"
        which = f"its API key number {number + 1} of {len(self._credentials)}"
        log.warning("cloud %s: %s is not used %s: HTTP %d", error.provider, which, until, error.upstream_status)
        salt = secrets.token_hex(16)
        told = self._credentials[number].fingerprint(salt)
        self._on_refused(Refusal(salt=salt, fingerprint=told, status=error.upstream_status))


class Lease:
    """A key in use by one call, and how the provider took it, which is told once."""

    __slots__ = ("_is_told", "_model", "_number", "_ring", "_ticket")

    def __init__(self, ring: KeyRing, number: int, model: str, ticket: int) -> None:
        self._ring, self._number, self._model, self._ticket = ring, number, model, ticket
        self._is_told = False

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever ends a call before its answer began says nothing of the key."""
        if not self._is_told:
            self._circuit.abandoned(self._ticket)

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries the key."""
        return self._ring._credentials[self._number].headers()

    def accepted(self) -> None:
        """The provider began to answer."""
        self._is_told = True
        self._circuit.succeeded(self._ticket, self._ring._now_s())

    def is_to_blame(self, error: ProviderError) -> bool:
        """Take note of a refusal. True: it was for the key or its limits, so that another key may be taken."""
        if isinstance(error, ProviderThrottled):
            self._is_told = True
            # A wait of nothing is no wait that was told: the circuit's own keeps us from asking again and again.
            self._circuit.failed(self._ticket, self._ring._now_s(), error.retry_after_s or None)
            return True
        if isinstance(error, ProviderRejected) and error.is_key_fault:
            self._ring._refuse(self._number, error)
            return True
        return False

    @property
    def _circuit(self) -> Breaker:
        return self._ring._circuits[self._number, self._model]


def ring_of(api_key: ApiKey, credential: Callable[[str | None], Credential]) -> KeyRing:
    """Put each key into the header its API reads. Raises: ValueError for a key that no header can carry."""
    if not isinstance(api_key, Keys):
        return KeyRing([credential(api_key)])
    if not api_key.values:
        return KeyRing([credential(None)])
    return KeyRing(
        [credential(key) for key in api_key.values],
        refused_rest_s=api_key.refused_rest_s,
        refused=api_key.refused,
        on_refused=api_key.on_refused,
    )
