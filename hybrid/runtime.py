"""How does one request travel end to end? The only place that sees decisions and effects together."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from hybrid.attempt import Attempt, Item, RuntimeOptions, rejection, template_messages
from hybrid.clouds import Clouds
from hybrid.engine.supervisor import Supervisor, WorkerState
from hybrid.errors import HybridError, InvalidRequest, LocalError, ModelNotFound, ModelNotReady
from hybrid.journal import Journal
from hybrid.policy.model import Limits, Reject, RunLocal, Signals
from hybrid.policy.route import route
from hybrid.store.keys import ClientKeys
from hybrid.store.ledger import Ledger
from hybrid.types import Capability, ChatRequest, Json, Outcome, PolicyChoice, ServedModel, Tail

log = logging.getLogger(__name__)

LOCAL_CAPABILITIES: frozenset[Capability] = frozenset()
"""What the local engine can do besides plain chat; grows with the engine."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a client's model name means."""

    policy: PolicyChoice
    is_pinned: bool
    cloud_name: str | None = None


class Runtime:
    """Answers chat requests locally or from a cloud, as the policy decides, and writes down what it did.

    It owns nothing it did not get: `hybrid.wiring` makes the parts and closes them.
    """

    def __init__(
        self, options: RuntimeOptions, *, local: Supervisor | None, clouds: Clouds, ledger: Ledger, keys: ClientKeys
    ) -> None:
        self._options = options
        self._local = local
        self._clouds = clouds
        self._ledger = ledger
        self._keys = keys
        self._started_unix_s = int(time.time())

    @property
    def has_cloud(self) -> bool:
        """Whether any cloud model is configured."""
        return bool(self._clouds.models)

    # ---- what the server asks for

    async def stream(self, request: ChatRequest, *, dialect: str, arrived_s: float) -> AsyncGenerator[Item, None]:
        """Answer one request; see `server.gateway.Gateway.stream` for the promise."""
        journal = self._journal(dialect, request.model, arrived_s)
        self._ledger.open_request(journal.opened(request))
        try:
            async with aclosing(self._answer(request, journal)) as items:
                async for item in items:
                    if isinstance(item, Tail):
                        journal.outcome = Outcome.OK
                    yield item
        except HybridError as error:
            journal.fail(error)
            error.request_id = journal.id
            raise
        except Exception as bug:
            journal.outcome, journal.error_code = Outcome.FAILED, "internal_error"
            log.exception("%s failed unexpectedly", journal.id)
            failure = HybridError("an internal error; the server's log has the details")
            failure.request_id = journal.id
            raise failure from bug
        finally:
            if self._local is not None:
                self._local.release(journal.id)
            if journal.outcome is Outcome.CANCELLED:
                journal.note("cancelled: the client went away")
            self._ledger.close_request(journal.closed())

    def refuse(self, error: HybridError, *, dialect: str, model: str | None, arrived_s: float) -> str:
        """Record a request that never parsed; return its id."""
        journal = self._journal(dialect, model or "", arrived_s)
        self._ledger.open_request(journal.opened(ChatRequest(model=model or "", messages=())))
        journal.fail(error)
        self._ledger.close_request(journal.closed())
        return journal.id

    def models(self) -> tuple[ServedModel, ...]:
        """Every name a client may send, the most general first."""
        context = self._limits().local_context_tokens if self._local is not None else None
        names: dict[str, ServedModel] = {}

        def add(name: str, owner: str, context_tokens: int | None = None) -> None:
            names.setdefault(name, ServedModel(name, owner, self._started_unix_s, context_tokens))

        add("hybrid", "hybrid", context)
        if self._local is not None:
            add("local", "local", context)
            add(f"local/{self._options.local_name}", "local", context)
        if self._clouds.models:
            add("cloud", "cloud")
        for cloud in self._clouds.models:
            add(f"cloud/{cloud.provider.name}", cloud.provider.name, cloud.context_tokens)
            add(f"cloud/{cloud.model}", cloud.provider.name, cloud.context_tokens)
        for alias, target in self._options.aliases.items():
            add(alias, target)
        return tuple(names.values())

    def readiness(self) -> tuple[bool, dict[str, Json]]:
        """Say whether some route can answer now, and the state of each."""
        state: dict[str, Json] = {"local": None, "clouds": len(self._clouds.models)}
        is_ready = bool(self._clouds.models)
        if self._local is not None:
            load, facts = self._local.load, self._local.facts
            state["local"] = {
                "state": self._local.state.value,
                "problem": self._local.problem,
                "running": load.running,
                "waiting": load.waiting,
                "free_slots": load.free_slots,
                "free_cells": load.free_cells,
                "kv_cells": facts.kv_cells if facts else None,
                "restarts": self._local.restarts,
            }
            is_ready = is_ready or self._local.state is WorkerState.READY
        health = self._ledger.health()
        state["ledger"] = "ok" if health.is_ok else health.error
        return is_ready, state

    def authenticate(self, presented: str | None) -> str | None:
        """Name the client key that was presented; None where none is required.

        Raises: Unauthorized if one is required and this is none.
        """
        # Whoever made a key wants it asked for, on loopback too; off loopback one is asked for in any case.
        is_required = self._options.requires_key or self._keys.has_any()
        return self._keys.authenticate(presented, is_required=is_required)

    # ---- facts

    def _journal(self, dialect: str, model: str, arrived_s: float) -> Journal:
        return Journal(id=f"req_{secrets.token_hex(12)}", dialect=dialect, arrived_s=arrived_s, requested_model=model)

    def _limits(self) -> Limits:
        facts = self._local.facts if self._local is not None else None
        if facts is None:
            return self._options.limits
        return replace(self._options.limits, local_context_tokens=facts.context_tokens)

    def _resolve(self, request: ChatRequest) -> _Target:
        """Find out what the client's model name and policy header mean together.

        Raises: ModelNotFound for a name nobody answers to, InvalidRequest if name and header contradict.
        """
        name = self._options.aliases.get(request.model, request.model)
        kind, _, rest = name.partition("/")
        wanted = {"hybrid": PolicyChoice.AUTO, "local": PolicyChoice.LOCAL_ONLY, "cloud": PolicyChoice.CLOUD_ONLY}
        is_known = (
            name == "hybrid"
            or (kind == "local" and self._local is not None and rest in ("", self._options.local_name))
            or (kind == "cloud" and bool(self._clouds.named(rest or None)) and not name.endswith("/"))
        )
        if not is_known:
            raise ModelNotFound(request.model, [model.name for model in self.models()])
        policy = wanted[kind]
        if request.policy is not PolicyChoice.AUTO and policy not in (PolicyChoice.AUTO, request.policy):
            raise InvalidRequest(
                f"model {request.model!r} means {policy.value}, the x-hybrid-policy header says {request.policy.value}",
                param="model",
            )
        is_pinned = policy is not PolicyChoice.AUTO
        return _Target(policy if is_pinned else request.policy, is_pinned, rest or None if kind == "cloud" else None)

    async def observe(self, request: ChatRequest, target: _Target, journal: Journal) -> Signals:
        """Gather everything the decision may know: the one place that reads clock, queue, speeds and ledger."""
        is_private = request.tag is not None and request.tag in self._options.private_tags
        may_pay = target.policy is not PolicyChoice.LOCAL_ONLY and not is_private
        clouds = self._clouds.named(target.cloud_name) if may_pay else ()
        prompt_tokens, refusal = await self._count_prompt(request, target, journal)
        load = self._local.load if self._local is not None else None
        is_ready = self._local is not None and self._local.state is WorkerState.READY
        return Signals(
            policy=target.policy,
            is_pinned=target.is_pinned,
            is_private=is_private,
            needs=request.needs,
            prompt_tokens=prompt_tokens,
            max_output_tokens=request.max_output_tokens or self._options.max_output_tokens,
            is_local_configured=self._local is not None,
            is_local_ready=is_ready,
            local_refusal=refusal,
            local_capabilities=LOCAL_CAPABILITIES,
            queue_wait_s=self._local.queue_wait_s() if self._local is not None else None,
            prefill_tok_s=load.prefill_tok_s if load else None,
            decode_tok_s=load.decode_tok_s if load else None,
            clouds=tuple(cloud.option(request) for cloud in clouds),
            budget_left_usd=await self._clouds.left_usd() if clouds else None,
            deadline_s=None if request.deadline_s is None else request.deadline_s - journal.elapsed_s,
            max_cost_usd=request.max_cost_usd,
        )

    async def _count_prompt(
        self, request: ChatRequest, target: _Target, journal: Journal
    ) -> tuple[int | None, str | None]:
        """Tokenize in the worker. Gives the count, or why the local model refuses the conversation, or neither."""
        if self._local is None or target.policy is PolicyChoice.CLOUD_ONLY or request.needs - LOCAL_CAPABILITIES:
            return None, None
        try:
            with journal.waiting():
                return await self._local.prepare(journal.id, template_messages(request)), None
        except ModelNotReady:
            return None, None
        except (InvalidRequest, LocalError) as refused:
            journal.note(f"local cannot take the prompt: {refused}")
            return None, str(refused)

    # ---- the path

    async def _answer(self, request: ChatRequest, journal: Journal) -> AsyncGenerator[Item, None]:
        target = self._resolve(request)
        signals = await self.observe(request, target, journal)
        limits = self._limits()
        decision = route(signals, limits)
        journal.decide(signals, decision)
        if isinstance(decision, Reject):
            raise rejection(decision, signals, limits, request)
        attempt = Attempt(
            request, signals, limits, journal, local=self._local, clouds=self._clouds, options=self._options
        )
        items = attempt.local(decision) if isinstance(decision, RunLocal) else attempt.cloud(decision)
        async with aclosing(items):
            async for item in items:
                yield item
