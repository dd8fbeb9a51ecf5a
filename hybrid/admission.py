"""May this client key do what it asks, and may it now? Its models, its privacy and its rates, before anything runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from hybrid.budgets import key_allowance
from hybrid.errors import Forbidden, ModelNotAllowed, RateLimited, Unauthorized
from hybrid.journal import Journal
from hybrid.policy.budget import Allowance
from hybrid.policy.limits import Held, KeyUsage, admit, ended, rate_limits
from hybrid.store.keys import ClientKeys
from hybrid.types import ChatRequest, EmbeddingRequest, KeyRules, PolicyChoice

UNKNOWN_ANSWER_TOKENS = 256
"""Charged for an answer whose client gives no bound, until its real length is known."""

BYTES_PER_TOKEN = 4
"""Of English prose: what a prompt is charged by until it is counted, as others do."""


class Admission:
    """Keeps each key to its rules. Rates are counted in memory, from what each key did before this process on.

    usage: by the key's name, on the clock of `clock_s`.
    """

    def __init__(
        self,
        keys: ClientKeys,
        aliases: Mapping[str, str],
        *,
        usage: Mapping[str, KeyUsage] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys, self._aliases, self._clock_s = keys, aliases, clock_s
        self._usage: dict[str, KeyUsage] = dict(usage or {})
        self._rules: dict[str, KeyRules] = {}

    def admitted(self, request: ChatRequest | EmbeddingRequest, journal: Journal) -> AbstractContextManager[None]:
        """Let a request run, and count what it took when it is over, however it ends.

        Raises: where it is entered: ModelNotAllowed, Forbidden, RateLimited; Unauthorized if the key was revoked just
            now; StoreError if the keys could never be read.
        """
        return nullcontext() if request.client_key is None else self._admitted(request.client_key, request, journal)

    @contextmanager
    def _admitted(self, name: str, request: ChatRequest | EmbeddingRequest, journal: Journal) -> Iterator[None]:
        rules = self._keys.rules_of(name)
        if rules is None:
            raise Unauthorized("the client key was revoked")
        self._rules[name], journal.is_private = rules, rules.is_private
        self._check(name, rules, request)
        admitted_s = self._clock_s()
        usage = self._usage.get(name, KeyUsage())
        verdict = admit(rules, usage, admitted_s, tokens=expected_tokens(request))
        if isinstance(verdict, Held):
            journal.rate_limits = rate_limits(rules, usage, admitted_s)
            raise RateLimited(name, verdict.limit, _limit(rules, verdict.limit), verdict.retry_after_s)
        self._usage[name] = verdict.usage
        journal.rate_limits = rate_limits(rules, verdict.usage, admitted_s)
        try:
            yield
        finally:
            self._usage[name] = ended(
                self._usage[name],
                self._clock_s(),
                admitted_s=admitted_s,
                charged_tokens=verdict.charged_tokens,
                used_tokens=_used_tokens(journal, verdict.charged_tokens),
            )

    def allowance(self, name: str) -> Allowance | None:
        """The budget of a key; of one that was revoked while its request runs, the last. None: it never came in.

        Raises: StoreError if keys could never be read.
        """
        rules = self._keys.rules_of(name) or self._rules.get(name)
        if rules is None:
            return None
        return key_allowance(name, rules)

    def may_name(self, name: str | None, model: str) -> bool:
        """Whether a key may send this model name at all; without keys anybody may send any."""
        rules = None if name is None else self._keys.rules_of(name)
        return rules is None or self._fault(rules, model) is None

    def _check(self, name: str, rules: KeyRules, request: ChatRequest | EmbeddingRequest) -> None:
        fault = self._fault(rules, request.model)
        if fault == "model":
            raise ModelNotAllowed(name, request.model, rules.models)
        if fault == "cloud" or (rules.is_private and request.policy is PolicyChoice.CLOUD_ONLY):
            raise Forbidden(f"what comes with the key {name!r} never leaves this machine, so no cloud can be asked for")

    def _fault(self, rules: KeyRules, model: str) -> Literal["model", "cloud"] | None:
        target = self._aliases.get(model, model)
        if rules.models and not {model, target} & set(rules.models):
            return "model"
        return "cloud" if rules.is_private and target.partition("/")[0] == "cloud" else None


def expected_tokens(request: ChatRequest | EmbeddingRequest) -> int:
    """What a request is charged until its tokens are counted: its text by length, and the longest answer it allows."""
    if isinstance(request, EmbeddingRequest):
        return sum(_text_tokens(part) if isinstance(part, str) else len(part) for part in request.inputs)
    prompt = sum(_text_tokens(message.text) for message in request.messages)
    answers = request.extra.get("n") or 1
    return prompt + (request.max_output_tokens or UNKNOWN_ANSWER_TOKENS) * answers


def _text_tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def _used_tokens(journal: Journal, charged_tokens: int) -> int:
    """The tokens of the answer; of one that broke off, those that were counted; else the charge, if it was paid for."""
    if journal.usage is not None:
        return journal.usage.prompt_tokens + journal.usage.completion_tokens
    local = journal.local_prompt_tokens + journal.local_completion_tokens
    cloud = journal.cloud_prompt_tokens + journal.cloud_completion_tokens
    return max(local, cloud) or (charged_tokens if journal.cost_usd else 0)


def _limit(rules: KeyRules, name: str) -> int:
    limits = {
        "requests": rules.requests_per_minute,
        "tokens": rules.tokens_per_minute,
        "concurrency": rules.concurrency,
    }
    return limits[name] or 0
