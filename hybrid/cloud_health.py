"""How are the clouds doing: which circuits are open, and how long are answers usually?"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from hybrid.errors import (
    CloudResting,
    HybridError,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from hybrid.providers.breaker import Breaker, BreakerRules, Circuit

NEW_SHARE = 0.2
"""The weight of the newest answer in the usual length; half of what is known is from the last three."""

NO_KEY_REST_S = 3600.0
"""How long a provider rests that refused all keys, where they are not to be used again before the next start."""

CALLERS_FAULT = frozenset({400, 405, 411, 413, 414, 415, 422, 431})
"""Statuses that say the request itself is wrong: another provider would refuse it as well, and nobody is ill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHealth:
    """What is known of a model now: see `policy.model.CloudOption`.

    answer_tokens: how long cloud answers usually are, whichever model gives them. The lengths of each model's own would
        compare the questions they got, and a model that once said "yes" would look cheap for ever.
    """

    resting: str | None = None
    rest_s: float | None = None
    answer_tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A circuit that opened, or closed again (rest_s: None). model: "" is the provider as a whole.

    is_asked: whether the provider named the time. openings: in a row. why: the code of the failure.
    """

    provider: str
    model: str
    rest_s: float | None
    is_asked: bool = False
    openings: int = 0
    why: str = ""


class CloudHealth:
    """One circuit a provider and one a model of it. How long they take is learned elsewhere: `latencies`.

    A provider that cannot be reached, or takes none of our keys, rests as a whole; whatever else fails is the model's.
    Keys have circuits of their own, where they are: `providers.keys`.

    on_change: told each circuit that opens or closes, for a later process to `resume`. That no key is taken is not
    told: the next process may have others, and which were refused is kept with the keys.
    """

    def __init__(
        self,
        rules: BreakerRules | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
        on_change: Callable[[Rest], None] = lambda _rest: None,
    ) -> None:
        self._now_s, self._on_change = now_s, on_change
        self._told_changes: dict[tuple[str, str], int] = {}
        self._providers: defaultdict[str, Breaker] = defaultdict(lambda: Breaker(rules))
        self._models: defaultdict[tuple[str, str], Breaker] = defaultdict(lambda: Breaker(rules))
        self._answer_tokens: float | None = None
        self._last: dict[str, str] = {}

    def look_up(self, provider: str, model: str) -> ModelHealth:
        """Tell how a model is doing at this moment."""
        resting, rest_s = self._rest(provider, model)
        return ModelHealth(resting=resting, rest_s=rest_s, answer_tokens=self._answer_tokens)

    def resume(self, rest: Rest) -> None:
        """Take up a rest of an earlier process: one that the provider asked for is kept to.

        Of one that we chose ourselves only a probe is left, which may go at once: whoever started anew may have mended
        what was wrong, and one call finds out where five would have to fail.
        """
        breaker = self._models[rest.provider, rest.model] if rest.model else self._providers[rest.provider]
        left_s = rest.rest_s if rest.is_asked and rest.rest_s is not None else 0.0
        breaker.resume(self._now_s() + left_s, rest.openings)
        self._told_changes[rest.provider, rest.model] = breaker.changes
        self._last[f"{rest.provider}/{rest.model}" if rest.model else rest.provider] = rest.why

    def circuits(self) -> dict[str, str]:
        """The circuits that are not closed, by the name of their provider or model: for people to read."""
        named = [*self._providers.items(), *((f"{name}/{model}", one) for (name, model), one in self._models.items())]
        states = {name: breaker.circuit(self._now_s()) for name, breaker in named}
        return {name: state.value for name, state in states.items() if state is not Circuit.CLOSED}

    def admit(self, provider: str, model: str) -> Trial:
        """Let a call through. Its end must be told to what this gives, which is used as a context manager.

        Raises: CloudResting if a circuit is open, or its one probe is out already.
        """
        resting, rest_s = self._rest(provider, model)
        if resting is not None:
            raise CloudResting(provider, resting, rest_s)
        now_s = self._now_s()
        of_provider, of_model = self._providers[provider].admit(now_s), self._models[provider, model].admit(now_s)
        assert of_provider is not None
        assert of_model is not None
        return Trial(self, provider, model, (of_provider, of_model))

    def _rest(self, provider: str, model: str) -> tuple[str | None, float | None]:
        now_s = self._now_s()
        own_s, all_s = self._models[provider, model].rest_s(now_s), self._providers[provider].rest_s(now_s)
        if own_s is None and all_s is None:
            return None, None
        rest_s = max(s for s in (own_s, all_s) if s is not None)
        who = provider if all_s is not None else f"{provider}/{model}"
        why = f" after {self._last[who]}" if who in self._last else ""
        return f"{who} rests{why}, {rest_s:.1f} s more", rest_s

    def _told(self, trial: Trial, failure: ProviderError | None) -> None:
        """Move both circuits by how a call ended: well (None), or with a failure."""
        now_s, (provider, model) = self._now_s(), (trial.provider, trial.model)
        of_provider, of_model = self._providers[provider], self._models[provider, model]
        provider_ticket, model_ticket = trial.tickets
        if failure is None or is_callers_fault(failure) or _is_of_input(failure):
            of_provider.succeeded(provider_ticket, now_s)
            of_model.succeeded(model_ticket, now_s)
        elif never_connected(failure) or is_key_fault(failure):
            self._last[provider] = failure.code
            # Without a key there is no use in trying: it rests until the first is used again, or as long as may be.
            hint_s = failure.retry_after_s or (NO_KEY_REST_S if is_key_fault(failure) else None)
            of_provider.failed(provider_ticket, now_s, hint_s)
            of_model.abandoned(model_ticket)
        else:
            self._last[f"{provider}/{model}"] = failure.code
            of_provider.succeeded(provider_ticket, now_s)
            of_model.failed(model_ticket, now_s, failure.retry_after_s or None)
        self._tell_changes(trial, failure)

    def _began(self, trial: Trial) -> None:
        """Close the circuits that this call was the probe of."""
        now_s = self._now_s()
        both = (self._providers[trial.provider], self._models[trial.provider, trial.model])
        is_probe = False
        for breaker, ticket in zip(both, trial.tickets, strict=True):
            if breaker.circuit(now_s) is not Circuit.CLOSED:
                is_probe = True
                breaker.succeeded(ticket, now_s)
        if is_probe:
            self._tell_changes(trial, None)

    def _tell_changes(self, trial: Trial, failure: ProviderError | None) -> None:
        """Tell which circuits this call opened or closed."""
        provider, model = trial.provider, trial.model
        for name, breaker in (("", self._providers[provider]), (model, self._models[provider, model])):
            if breaker.changes == self._told_changes.get((provider, name), 0):
                continue
            self._told_changes[provider, name] = breaker.changes
            rest_s = breaker.rest_s(self._now_s())
            if rest_s is None or failure is None:
                self._on_change(Rest(provider=provider, model=name, rest_s=None))
            elif not is_key_fault(failure):
                is_asked, openings = bool(failure.retry_after_s), breaker.openings
                self._on_change(
                    Rest(
                        provider=provider,
                        model=name,
                        rest_s=rest_s,
                        is_asked=is_asked,
                        openings=openings,
                        why=failure.code,
                    )
                )

    def _abandoned(self, trial: Trial) -> None:
        self._providers[trial.provider].abandoned(trial.tickets[0])
        self._models[trial.provider, trial.model].abandoned(trial.tickets[1])


class Trial:
    """One call's part in the circuits: how it ended, which is told once."""

    __slots__ = ("_has_begun", "_health", "_is_told", "model", "provider", "tickets")

    def __init__(self, health: CloudHealth, provider: str, model: str, tickets: tuple[int, int]) -> None:
        self.provider, self.model, self.tickets = provider, model, tickets
        self._health = health
        self._has_begun = False
        self._is_told = False

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """A failure of the provider moves the circuits; any other end that was not told says nothing of it."""
        if self._is_told:
            return
        self._is_told = True
        if isinstance(error, ProviderError):
            self._health._told(self, error)
            return
        self._health._abandoned(self)

    def heard(self) -> None:
        """An event of the answer is there. The first one of a probe is enough to let others through again."""
        if self._has_begun:
            return
        self._has_begun = True
        self._health._began(self)

    def ended(self, answer_tokens: int | None) -> None:
        """The answer is there to its end."""
        self._is_told = True
        if answer_tokens is not None:
            self._health._answer_tokens = _moved(self._health._answer_tokens, answer_tokens)
        self._health._told(self, None)


def never_connected(error: HybridError) -> bool:
    """Whether a call failed before there was a connection: then every model of that provider would fail so."""
    if isinstance(error, CloudResting):
        return False
    return isinstance(error, ProviderUnavailable | ProviderTimeout) and not error.may_have_billed


def is_key_fault(error: HybridError) -> bool:
    """Whether a provider takes none of our keys."""
    return isinstance(error, ProviderRejected) and error.is_key_fault


def is_callers_fault(error: HybridError) -> bool:
    """Whether a provider says that the request itself is wrong: it is well, and so would every other one say."""
    return isinstance(error, ProviderRejected) and error.upstream_status in CALLERS_FAULT and not error.is_key_fault


def _is_of_input(error: HybridError) -> bool:
    """Whether this one cloud will not have this input: another may, and its circuit is not concerned."""
    return isinstance(error, ProviderRejected) and error.upstream_status == 403 and not error.is_key_fault


def _moved(known: float | None, new: float) -> float:
    return new if known is None else known + NEW_SHARE * (new - known)
