"""Which parts make up a running runtime, and in what order are they started and closed?"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from hybrid.admission import Admission
from hybrid.audit import Auditor
from hybrid.budgets import budget_zone, budgets_of
from hybrid.catalog import installed, resolve
from hybrid.catalog.tuned import Settings
from hybrid.clouds import CloudModel, Clouds
from hybrid.config import Config, LoraConfig, data_dir, is_loopback, read_secrets
from hybrid.drift_book import DriftBook
from hybrid.engine.checker import Checker
from hybrid.engine.fleet import Fleet, ModelPlan
from hybrid.engine.process import FallBack, SupervisorOptions
from hybrid.engine.supervisor import Supervisor
from hybrid.errors import ConfigError, ModelFileError, StoreError
from hybrid.latencies import LatencyBook
from hybrid.lora import check_adapters
from hybrid.placing import free_bytes, placed
from hybrid.policy.model import CloudOrder, Limits
from hybrid.price_book import PriceBook, price_of
from hybrid.promise_book import PromiseBook
from hybrid.resumed import CloudMemory, cloud_memory, key_usage
from hybrid.runtime import Runtime
from hybrid.runtime_options import RuntimeOptions
from hybrid.speeds import open_profile, open_speed_book
from hybrid.store.keys import ClientKeys
from hybrid.store.ledger import Ledger
from hybrid.store.rows import this_boot
from hybrid.tuning.apply import Tuned, find_tuned
from hybrid.types import Sampling

log = logging.getLogger(__name__)

DEFAULT_SLOTS = 8
"""Sequences decoded together where no placement decides: by a backend that is no model file."""
BARRIER_SPINS = "30000"
"""How often a thread of GNU OpenMP, which llama.cpp computes with, looks at a barrier before it sleeps: some 0.5 ms.

By default it spins for milliseconds, and a thread that waits so for one that is not running keeps it from running:
with other busy processes on two cores single steps took 1 to 3 s. A thirtieth of this kept them under 0.1 s, but cost
one stream 10 % on a quiet machine; this value was not measured beside busy processes.
"""


def spawn_local(config: Config, model_path: Path | None, environ: Mapping[str, str]) -> Supervisor | None:
    """Start loading the local model in its worker process; None where none is configured.

    Raises: ModelFileError if it does not fit into this machine's memory.
    """
    if model_path is None and config.local.backend != "fake":
        return None
    options = local_options(config, model_path, environ)
    supervisor = Supervisor(options, fall_back(config, options))
    supervisor.spawn()
    return supervisor


def local_options(config: Config, model_path: Path | None, environ: Mapping[str, str]) -> SupervisorOptions:
    """How the worker of the configured local model is started.

    Raises: ModelFileError if it does not fit into this machine's memory.
    """
    if model_path is not None:
        check_adapters(config.lora, model_path)
    draft_path = resolve(config.local.draft_model, data_dir(environ) / "models") if config.local.draft_model else None
    options = _worker_options(config, model_path, environ, adapters=config.lora)
    options = replace(options, draft_model_path=str(draft_path or ""))
    return _placed(config, options, environ, others_may_leave=False)[0]


def _placed(
    config: Config, options: SupervisorOptions, environ: Mapping[str, str], *, others_may_leave: bool
) -> tuple[SupervisorOptions, int]:
    """Place a worker; where the tuned file is no model or does not fit, the one it was made from."""
    # Why a profile does not hold is told once, where the latency rule opens it.
    profile = open_profile(data_dir(environ), on_note=log.debug) if log.isEnabledFor(logging.INFO) else None
    try:
        return placed(options, config.local, others_may_leave=others_may_leave, profile=profile)
    except ModelFileError as unusable:
        if not options.tuned:
            raise
        options = as_it_is(config, options, str(unusable))
        return placed(options, config.local, others_may_leave=others_may_leave, profile=profile)


def _worker_options(
    config: Config,
    model_path: Path | None,
    environ: Mapping[str, str],
    *,
    adapters: Sequence[LoraConfig] = (),
    is_embedder: bool = False,
) -> SupervisorOptions:
    options = SupervisorOptions(
        backend="llama_cpp" if config.local.backend == "auto" else config.local.backend,
        model_path=str(model_path or ""),
        context_tokens=config.local.context_tokens,
        slots=config.local.slots or DEFAULT_SLOTS,
        threads=config.local.threads,
        drafts=config.local.speculation == "auto",
        max_queue=config.local.max_queue,
        prompt_folder=str(data_dir(environ) / "prompts"),
        prompt_bytes=config.local.prompt_cache_bytes,
        is_embedder=is_embedder,
        adapters=tuple((adapter.path, adapter.scale) for adapter in adapters),
        environment={"GOMP_SPINCOUNT": BARRIER_SPINS, **environ},
        nice=config.local.nice,
        is_adaptive=config.local.adapt_threads,
        matmul=config.local.matmul,
    )
    return _as_tuned(config, options)


def fall_back(config: Config, options: SupervisorOptions) -> FallBack | None:
    """Give what loads a tuned model as it is, for when what tuning made of it cannot be; None where nothing was tuned.

    A tuned file may be sound by its hash and still be refused: by a library that was exchanged, or for lack of memory.
    """
    if not options.tuned:
        return None
    return lambda why: placed(as_it_is(config, options, why), config.local, others_may_leave=False)[0]


def as_it_is(config: Config, options: SupervisorOptions, why: str) -> SupervisorOptions:
    """Give the worker of a tuned model the source with the usual settings, and say so in the log."""
    name, tuned = Path(options.source_path).name, Path(options.model_path).name
    log.warning("%s runs untuned: %s cannot be loaded: %s; `hybrid models tune` makes it anew", name, tuned, why)
    return replace(_with_tuned(config, options, options.source_path, None), untuned=f"{tuned} cannot be loaded: {why}")


def _as_tuned(config: Config, options: SupervisorOptions) -> SupervisorOptions:
    """Run what tuning chose for the model, as its record stands now; the model as it is where none holds."""
    source = options.source_path or options.model_path
    can_be_tuned = bool(source) and config.local.tuned and options.backend == "llama_cpp" and not options.is_embedder
    return _with_tuned(config, options, source, find_tuned(Path(source)) if can_be_tuned else None)


def _with_tuned(config: Config, options: SupervisorOptions, source: str, tuned: Tuned | None) -> SupervisorOptions:
    settings = Settings() if tuned is None else tuned.settings
    return replace(
        options,
        model_path=source if tuned is None else str(tuned.path),
        source_path=source,
        tuned="" if tuned is None else tuned.words,
        untuned="",
        has_one_pool=True,  # until it is placed: a worker of before may have had room for more
        threads=config.local.threads or settings.threads,
        flash_attention=settings.flash_attention,
        kv_type=settings.kv_type,
        batch_tokens=settings.batch_tokens,
    )


def _fleet(config: Config, environ: Mapping[str, str], first: Supervisor | None) -> Fleet:
    """The configured model, and every other one in the models folder, loaded when somebody asks for it by name."""
    default = local_name(config) if first is not None else None
    embedder = embedder_name(config)
    folder = data_dir(environ) / "models"
    is_fake = config.local.backend == "fake"

    def plan(name: str) -> ModelPlan:
        if name == default and first is not None:
            options = _as_tuned(config, first.options)
            if options.model_path and not is_fake:
                check_adapters(config.lora, Path(options.model_path))  # they may have been exchanged since the start
        else:
            is_embedder = name == embedder
            path = None if is_fake else resolve(config.local.embedding_model if is_embedder else name, folder)
            options = _worker_options(config, path, environ, is_embedder=is_embedder)
        options, needed = _placed(config, options, environ, others_may_leave=True)
        needed += sum(Path(path).stat().st_size for path, _ in options.adapters)
        return ModelPlan(options, needed, fall_back(config, options))

    def others() -> tuple[str, ...]:
        own = () if embedder is None else (embedder,)
        if default is None or is_fake:
            return own
        return (*own, *(model.name for model in installed(folder) if model.name != embedder))

    return Fleet(
        default=default,
        first=first,
        others=others,
        plan=plan,
        available_bytes=free_bytes,
        keep_alive_s=config.local.keep_alive_s,
    )


def _requires_key(config: Config, keys: ClientKeys) -> bool:
    """Whether clients need a key for where we listen. Raises: ConfigError if they do and there is none."""
    if is_loopback(config.server.host):
        return False
    try:
        if keys.has_any():
            return True
    except StoreError as unreadable:
        raise ConfigError(f"clients need a key off loopback, and the keys cannot be read: {unreadable}") from unreadable
    raise ConfigError(
        f"server.host {config.server.host} can be reached from other machines, so clients need a key, "
        "and there is none yet. Make one: hybrid keys add NAME"
    )


@asynccontextmanager
async def running(
    config: Config, environ: Mapping[str, str], *, local: Supervisor | None, is_offline: bool = False
) -> AsyncIterator[Runtime]:
    """Give a runtime whose parts are started, and close them all in the reverse order afterwards.

    A ledger that cannot be opened does not stop local answers: cloud calls are refused until it can, and it says so.

    Raises: ConfigError if a cloud's key or price cannot be used, or the host needs a client key and there is none.
    """
    database = data_dir(environ) / "hybrid.sqlite3"
    ledger = Ledger(database, has_escrow=config.budget.power_cut == "escrow", boot_id=this_boot())
    models: list[CloudModel] = []
    fleet = _fleet(config, environ, local)
    checker = Checker(environ)
    try:
        fleet.start()
        memory = await _remembered(ledger)
        models += [] if is_offline else cloud_models(config, environ, memory)
        keys = ClientKeys(database)
        admission = Admission(keys, config.aliases, usage=await key_usage(ledger, now_s=time.monotonic()))
        budgets = budgets_of(config, ledger, budget_zone(config), of_key=admission.allowance)
        latencies = await _latencies(ledger)
        prices, health = PriceBook(config), memory.health()
        clouds = Clouds(models, ledger, budgets.caps, prices=prices, health=health, latencies=latencies)
        options = _options(config, requires_key=_requires_key(config, keys))
        async with aclosing(_auditor(config, clouds, ledger, DriftBook(database, ledger), options)) as audits:
            yield Runtime(
                options,
                fleet=fleet,
                checker=checker,
                clouds=clouds,
                admission=admission,
                budgets=budgets,
                ledger=ledger,
                keys=keys,
                audits=audits,
                speeds=open_speed_book(data_dir(environ)),
                promises=promise_book(config, environ),
            )
    finally:
        for provider in {id(model.provider): model.provider for model in models}.values():
            await provider.aclose()
        await checker.aclose()
        await fleet.stop()
        await ledger.aclose()


async def _remembered(ledger: Ledger) -> CloudMemory:
    """Open the ledger, and remember what earlier processes learned of clouds; nothing, where it cannot be read."""
    try:
        await ledger.start()
    except StoreError as failed:
        log.error("%s; answering locally only until it can be written", failed)
    return await cloud_memory(ledger)


async def _latencies(ledger: Ledger) -> LatencyBook:
    """Remember what earlier processes learned of times; nothing, where it cannot be read."""
    try:
        return LatencyBook(ledger.append_samples, await ledger.recent_samples())
    except StoreError:
        return LatencyBook(ledger.append_samples)


def local_name(config: Config) -> str | None:
    """What `local/NAME` answers to: the catalog name, or a file's name without its ending."""
    if not config.local.model:
        return "fake" if config.local.backend == "fake" else None
    return _name_of(config.local.model)


def embedder_name(config: Config) -> str | None:
    """Name the second model, which only embeds; None where the local model does that too."""
    name = _name_of(config.local.embedding_model) if config.local.embedding_model else None
    return None if name == local_name(config) else name


def _name_of(model: str) -> str:
    return Path(model).stem if model.endswith(".gguf") or os.sep in model else model


def cloud_models(config: Config, environ: Mapping[str, str], memory: CloudMemory | None = None) -> list[CloudModel]:
    """Make a provider for each `[[cloud]]`, and price each of its models. Imports HTTP and prices only if needed.

    memory: of keys that were refused before. Raises: ConfigError if a key cannot be read or an address cannot be used.
    """
    models: list[CloudModel] = []
    for cloud in config.cloud:
        from hybrid.cloud_kinds import keep_vocabularies, provider_of, tokenizer_of

        keep_vocabularies(data_dir(environ) / "tokenizers")
        secrets = tuple(secret.reveal() for secret in read_secrets(cloud, environ))
        try:
            provider = provider_of(cloud, secrets if memory is None else memory.keys(cloud, secrets))
            tokenizers = [tokenizer_of(cloud, model) for model in cloud.models]
        except ValueError as bad:
            raise ConfigError(f"cloud {cloud.name!r}: {bad}") from bad
        models += [
            CloudModel(
                provider=provider,
                model=model,
                price=price_of(config, cloud, model),
                max_output_tokens=cloud.max_output_tokens,
                context_tokens=cloud.context_tokens,
                quality=cloud.quality.get(model),
                patience_s=cloud.first_token_timeout_s,
                max_wait_s=cloud.max_wait_s,
                tokenizer=tokenizer,
            )
            for model, tokenizer in zip(cloud.models, tokenizers, strict=True)
        ]
    return models


def promise_book(config: Config, environ: Mapping[str, str]) -> PromiseBook:
    """The calibrations there are: the user's own first, then those that ship with the program."""
    policy = config.policy
    own = (calibration_dir(environ),)
    return PromiseBook(own, shipped=shipped_calibrations(), max_regret=policy.max_regret, delta=policy.delta)


def calibration_dir(environ: Mapping[str, str]) -> Path:
    """Where `hybrid calibrate` writes."""
    return data_dir(environ) / "calibration"


def shipped_calibrations() -> Path:
    """The artefacts that came with the program: beside its package where installed, else of the source tree."""
    installed = Path(__file__).parent / "calibration" / "artefacts"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "models" / "calibration"


def limits_of(config: Config) -> Limits:
    """The configured limits; what is promised of a request is added when its kind is known."""
    policy = config.policy
    return Limits(
        local_context_tokens=config.local.context_tokens,
        ttft_s=None if policy.ttft_ms is None else policy.ttft_ms / 1000,
        total_s=None if policy.total_ms is None else policy.total_ms / 1000,
        hold_tokens=policy.hold_tokens,
        min_confidence=policy.min_confidence,
        value_usd=policy.value_usd,
        p_cloud=policy.p_cloud,
        cloud_order=CloudOrder(policy.cloud_order),
        late_chance=policy.late_chance,
        hedge_chance=policy.hedge_chance if policy.hedge else None,
    )


def _auditor(config: Config, clouds: Clouds, ledger: Ledger, book: DriftBook, options: RuntimeOptions) -> Auditor:
    return Auditor(clouds, ledger, book, share=config.policy.audit_share, defaults=options.defaults)


def _options(config: Config, *, requires_key: bool) -> RuntimeOptions:
    local = config.local
    return RuntimeOptions(
        limits=limits_of(config),
        defaults=Sampling(
            temperature=local.temperature,
            top_k=local.top_k,
            top_p=local.top_p,
            min_p=local.min_p,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
        ),
        max_output_tokens=local.max_output_tokens,
        max_reasoning_tokens=local.max_reasoning_tokens,
        aliases=config.aliases,
        private_tags=frozenset(tag.casefold() for tag in config.policy.private_tags),
        requires_key=requires_key,
        adapters=tuple(adapter.name for adapter in config.lora),
        embedding_model=embedder_name(config),
    )
