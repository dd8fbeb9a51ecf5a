"""How does one request travel end to end? The only place that sees decisions and effects together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from hybrid.admission import Admission
from hybrid.attempt import Attempt, Item
from hybrid.audit import Auditor
from hybrid.budgets import Budgets
from hybrid.clouds import Clouds
from hybrid.embed import Embedder
from hybrid.engine.checker import Checker
from hybrid.engine.fleet import Fleet
from hybrid.engine.supervisor import Supervisor, WorkerState
from hybrid.errors import HybridError, InvalidRequest, LocalError, ModelNotFound, StoreError
from hybrid.ids import new_id
from hybrid.journal import Journal, Recorded
from hybrid.local_request import GREEDY, LocalRequest
from hybrid.lora import join_name, split_name
from hybrid.policy.model import CloudOption, Limits, Reject, RunLocal, Signals
from hybrid.policy.route import route
from hybrid.promise_book import PromiseBook
from hybrid.promised import promised
from hybrid.rejection import rejection
from hybrid.runtime_options import RuntimeOptions
from hybrid.speeds import SpeedBook
from hybrid.store.keys import ClientKeys
from hybrid.store.ledger import Ledger
from hybrid.types import (
    Capability,
    ChatRequest,
    EmbeddingRequest,
    Embeddings,
    Json,
    Outcome,
    PolicyChoice,
    ServedModel,
    Tail,
)

_POLICIES = {"hybrid": PolicyChoice.AUTO, "local": PolicyChoice.LOCAL_ONLY, "cloud": PolicyChoice.CLOUD_ONLY}
"""What the first part of a client's model name says."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a client's model name means."""

    policy: PolicyChoice
    is_pinned: bool
    cloud_name: str | None = None
    local_name: str | None = None
    adapter: int | None = None


class Runtime:
    """Answers chat requests locally or from a cloud, as the policy decides, and writes down what it did.

    It owns nothing it did not get: `hybrid.wiring` makes the parts and closes them.
    """

    def __init__(
        self,
        options: RuntimeOptions,
        *,
        fleet: Fleet,
        checker: Checker,
        clouds: Clouds,
        ledger: Ledger,
        keys: ClientKeys,
        admission: Admission,
        budgets: Budgets,
        audits: Auditor,
        speeds: SpeedBook | None = None,
        promises: PromiseBook | None = None,
    ) -> None:
        self._options = options
        self._admission, self._budgets = admission, budgets
        self._speeds = speeds or SpeedBook()
        self._promises = promises or PromiseBook()
        self._fleet = fleet
        self._checker = checker
        self._clouds = clouds
        self._ledger = ledger
        self._keys = keys
        self._audits = audits
        self._started_unix_s = int(time.time())
        self._embedder = Embedder(
            fleet=fleet,
            ledger=ledger,
            admission=admission,
            aliases=options.aliases,
            model=options.embedding_model or fleet.default,
        )

    @property
    def has_cloud(self) -> bool:
        """Whether any cloud model is configured."""
        return bool(self._clouds.models)

    # ---- what the server asks for

    async def stream(self, request: ChatRequest, *, dialect: str, arrived_s: float) -> AsyncGenerator[Item, None]:
        """Answer one request; see `server.gateway.Gateway.stream` for the promise."""
        journal = self._journal(dialect, request.model, arrived_s)
        with Recorded(self._ledger, journal, request), self._admission.admitted(request, journal):
            target = self._resolve(request)
            local = await self._acquire(request, target, journal)
            attempt: Attempt | None = None
            try:
                attempt, items = await self._decided(request, target, local, journal)
                async with aclosing(items):
                    async for item in items:
                        if isinstance(item, Tail):
                            journal.outcome = Outcome.OK
                        yield item
            finally:
                self._ended(journal, attempt, local)

    async def embed(self, request: EmbeddingRequest, *, dialect: str, arrived_s: float) -> Embeddings:
        """Answer one request for embeddings; see `server.gateway.Gateway.embed`."""
        return await self._embedder.embed(request, self._journal(dialect, request.model, arrived_s))

    def refuse(self, error: HybridError, *, dialect: str, model: str | None, arrived_s: float) -> str:
        """Record a request that never parsed; return its id. Raises: StoreError if it cannot be recorded."""
        journal = self._journal(dialect, model or "", arrived_s)
        try:
            with Recorded(self._ledger, journal, ChatRequest(model=model or "", messages=())):
                raise error
        except HybridError as raised:
            if raised is not error:
                raise
        return journal.id

    def models(self, client_key: str | None = None) -> tuple[ServedModel, ...]:
        """Every name a client with this key may send, the most general first."""
        context = self._limits(self._fleet.peek()).local_context_tokens
        names: dict[str, ServedModel] = {}

        def add(name: str, owner: str, context_tokens: int | None = None) -> None:
            names.setdefault(name, ServedModel(name, owner, self._started_unix_s, context_tokens))

        add("hybrid", "hybrid", context)
        for name in self._fleet.names:
            is_default = name == self._fleet.default
            if is_default:
                add("local", "local", context)
            add(f"local/{name}", "local", context if is_default else None)
        for adapter in self._options.adapters if self._fleet.default is not None else ():
            add(f"local/{self._fleet.default}+{adapter}", "local", context)
        if self._clouds.models:
            add("cloud", "cloud")
        for cloud in self._clouds.models:
            add(f"cloud/{cloud.provider.name}", cloud.provider.name, cloud.context_tokens)
            add(f"cloud/{cloud.model}", cloud.provider.name, cloud.context_tokens)
        for alias, target in self._options.aliases.items():
            add(alias, target)
        return tuple(model for name, model in names.items() if self._admission.may_name(client_key, name))

    def readiness(self) -> tuple[bool, dict[str, Json]]:
        """Say whether some route can answer now, and the state of each."""
        circuits = self._clouds.health.circuits()
        state: dict[str, Json] = {"local": None, "clouds": len(self._clouds.models), "circuits": circuits}
        is_ready = bool(self._clouds.models)
        local = self._fleet.peek()
        if local is not None:
            load, facts, options = local.load, local.facts, local.options
            state["local"] = {
                "state": local.state.value,
                "problem": local.problem,
                "tuned": options.tuned or None,
                "untuned": options.untuned or None,
                "multiplier": facts.multiplier if facts else None,
                "running": load.running,
                "waiting": load.waiting,
                "free_slots": load.free_slots,
                "free_cells": load.free_cells,
                "kv_cells": facts.kv_cells if facts else None,
                "threads": load.threads,
                "slowdown": load.slowdown,
                "others_cores": load.others_cores,
                "restarts": local.restarts,
                "promises": [] if facts is None else self._promises.in_words(facts),
            }
            is_ready = is_ready or local.state is WorkerState.READY
        elif self._fleet.default is not None:
            # Unloaded because nobody asked for a while: the next request loads it again.
            state["local"] = {"state": "unloaded", "problem": None, "running": 0, "waiting": 0, "restarts": 0}
            is_ready = True
        health = self._ledger.health()
        state["ledger"] = "ok" if health.is_ok else health.error
        state["audit"] = self._audits.facts()
        return is_ready, state

    def authenticate(self, presented: str | None) -> str | None:
        """Name the client key that was presented; None where none is required.

        Raises: Unauthorized if one is required and this is none.
        """
        # Whoever made a key wants it asked for, on loopback too; off loopback one is asked for in any case.
        try:
            is_required = self._options.requires_key or self._keys.has_any()
            return self._keys.authenticate(presented, is_required=is_required)
        except StoreError:
            if self._options.requires_key:
                raise
            # On loopback local answers go on without the store; the cloud stays shut, for nothing can be reserved.
            return None

    # ---- facts

    def _journal(self, dialect: str, model: str, arrived_s: float) -> Journal:
        return Journal(id=new_id("req_"), dialect=dialect, arrived_s=arrived_s, requested_model=model)

    def _limits(self, local: Supervisor | None) -> Limits:
        if local is None or local.facts is None:
            return self._options.limits
        return replace(self._options.limits, local_context_tokens=local.facts.context_tokens)

    def _resolve(self, request: ChatRequest) -> _Target:
        """Find out what the client's model name and policy header mean together.

        Raises: ModelNotFound for a name nobody answers to, InvalidRequest if name and header contradict.
        """
        name = self._options.aliases.get(request.model, request.model)
        kind, _, rest = name.partition("/")
        rest, adapter = split_name(rest, self._fleet.default, self._options.adapters if kind == "local" else ())
        is_known = (
            name == "hybrid"
            or (name == "local" and self._fleet.default is not None)
            or (kind == "local" and rest in self._fleet.names)
            or (kind == "cloud" and self._clouds.has(rest or None) and not name.endswith("/"))
        )
        if not is_known:
            raise ModelNotFound(request.model, [model.name for model in self.models()])
        policy = _POLICIES[kind]
        if request.policy is not PolicyChoice.AUTO and policy not in (PolicyChoice.AUTO, request.policy):
            raise InvalidRequest(
                f"model {request.model!r} means {policy.value}, the x-hybrid-policy header says {request.policy.value}",
                param="model",
            )
        is_pinned = policy is not PolicyChoice.AUTO
        return _Target(
            policy if is_pinned else request.policy,
            is_pinned,
            cloud_name=(rest or None) if kind == "cloud" else None,
            local_name=(rest or None) if kind == "local" else None,
            adapter=adapter,
        )

    def _local_name(self, target: _Target) -> str:
        return join_name(target.local_name or self._fleet.default or "local", target.adapter, self._options.adapters)

    async def _acquire(self, request: ChatRequest, target: _Target, journal: Journal) -> Supervisor | None:
        """Get the local model ready, loading it if need be; None where none may answer, or none can, which is noted."""
        if target.policy is PolicyChoice.CLOUD_ONLY or self._fleet.default is None:
            return None
        wait_s = None if request.deadline_s is None else max(0.0, request.deadline_s - journal.elapsed_s)
        try:
            with journal.waiting():
                return await self._fleet.acquire(target.local_name, wait_s=wait_s)
        except HybridError as not_ready:
            journal.local_problem = str(not_ready)
            journal.note(f"no local model: {not_ready}")
            return None

    async def observe(
        self, request: ChatRequest, target: _Target, local: Supervisor | None, journal: Journal
    ) -> Signals:
        """Gather everything the decision may know: the one place that reads clock, queue, speeds and ledger."""
        is_private = journal.is_private or (request.tag or "").casefold() in self._options.private_tags
        prompt_tokens, refusal = (None, None) if local is None else await self._count_prompt(request, local, journal)
        options = () if is_private else await self._cloud_options(request, target, prompt_tokens)
        load, name = local.load if local is not None else None, self._local_name(target)
        money = await self._budgets.look(request, options, journal)
        speeds = self._speeds.look_up(load, local.facts if local is not None else None, prompt_tokens)
        return Signals(
            policy=target.policy,
            is_pinned=target.is_pinned,
            is_private=is_private,
            needs=request.needs,
            prompt_tokens=prompt_tokens,
            max_output_tokens=request.max_output_tokens or self._options.max_output_tokens,
            is_local_configured=self._fleet.default is not None,
            is_local_ready=local is not None and local.state is WorkerState.READY and journal.local_problem is None,
            local_problem=journal.local_problem,
            local_refusal=None if refusal is None else str(refusal),
            local_refusal_param=None if refusal is None else refusal.param,
            local_refusal_code=None if refusal is None else refusal.code,
            local_capabilities=self._in_local_terms(request, local).capabilities,
            queue_wait_s=local.queue_wait_s(prompt_tokens) if local is not None else None,
            prefill_tok_s=speeds.prefill_tok_s,
            decode_tok_s=speeds.decode_tok_s,
            speeds_from=speeds.speeds_from,
            local_threads=load.threads if load else None,
            local_slowdown=load.slowdown if load else None,
            clouds=options,
            budget_left_usd=money.left_usd,
            budget_lambda=money.lambda_,
            deadline_s=None if request.deadline_s is None else request.deadline_s - journal.elapsed_s,
            max_cost_usd=request.max_cost_usd,
            min_quality=request.min_quality,
            is_stream=request.is_stream,
            elapsed_s=journal.elapsed_s,
            errors=self._clouds.latencies.local(name, request.tag),
            cached_tokens=self._clouds.latencies.prefixes.expected_tokens(request, name, prompt_tokens),
        )

    async def _cloud_options(
        self, request: ChatRequest, target: _Target, prompt_tokens: int | None
    ) -> tuple[CloudOption, ...]:
        """Describe the cloud models that may answer to the policy."""
        clouds = () if target.policy is PolicyChoice.LOCAL_ONLY else self._clouds.named(target.cloud_name)
        bounds = await self._clouds.bounds(request, clouds)
        options = tuple(self._clouds.option(cloud, request, prompt_tokens, bounds) for cloud in clouds)
        if Capability.LOGIT_BIAS in request.needs and target.policy is PolicyChoice.AUTO and self._fleet.default:
            # The token ids are the local vocabulary's: at a cloud the same numbers are other words.
            return tuple(replace(one, missing=one.missing | {str(Capability.LOGIT_BIAS)}) for one in options)
        return options

    def _in_local_terms(self, request: ChatRequest, local: Supervisor | None) -> LocalRequest:
        facts = local.facts if local is not None else None
        return LocalRequest(request=request, facts=facts, max_reasoning_tokens=self._options.max_reasoning_tokens)

    async def _count_prompt(
        self, request: ChatRequest, local: Supervisor, journal: Journal
    ) -> tuple[int | None, InvalidRequest | None]:
        """Tokenize in the worker. Gives the count, or why the local model refuses the request, or neither.

        That the worker failed at it is noted as the local model's problem: another route may answer.
        """
        asked = self._in_local_terms(request, local)
        if request.needs - asked.capabilities:
            return None, None
        left_s = None if request.deadline_s is None else request.deadline_s - journal.elapsed_s
        try:
            with journal.waiting():
                async with asyncio.timeout(left_s):
                    prompt_tokens = await asked.prepare(local, journal.id)
                    await asked.check(self._checker, is_thinking=local.is_thinking(journal.id))
                    return prompt_tokens, None
        except InvalidRequest as refused:
            journal.note(f"local cannot take the request: {refused}")
            return None, refused
        except (LocalError, TimeoutError) as failed:
            journal.local_problem = str(failed) or "it did not take the prompt within the request's deadline"
            journal.note(f"local failed at the prompt: {journal.local_problem}")
            return None, None

    # ---- the path

    def _ended(self, journal: Journal, attempt: Attempt | None, local: Supervisor | None) -> None:
        """Have an answer that is out compared with the cloud's, and give the local model free."""
        if attempt is not None and journal.outcome is Outcome.OK and (answered := attempt.answered()) is not None:
            self._audits.answered(answered, journal)
        if local is not None:
            local.release(journal.id)

    async def _decided(
        self, request: ChatRequest, target: _Target, local: Supervisor | None, journal: Journal
    ) -> tuple[Attempt, AsyncGenerator[Item, None]]:
        """Decide, and give what carries the decision out, with its answer. Raises: HybridError for one to reject."""
        signals = await self.observe(request, target, local, journal)
        limits = promised(
            self._limits(local), request, local, self._promises, self._audits, has_adapter=target.adapter is not None
        )
        decision = route(signals, limits)
        journal.decide(signals, limits, decision)
        if isinstance(decision, Reject):
            raise rejection(decision, signals, limits, request)
        options = self._options
        may_ask = isinstance(decision, RunLocal) and decision.fallback is not None
        if may_ask and self._audits.is_for_calibration(journal.id, request, limits):
            options = replace(options, defaults=GREEDY)
        attempt = Attempt(
            request,
            signals,
            limits,
            journal,
            local=local,
            local_name=self._local_name(target),
            adapter=target.adapter,
            checker=self._checker,
            clouds=self._clouds,
            options=options,
        )
        return attempt, attempt.local(decision) if isinstance(decision, RunLocal) else attempt.cloud(decision)
