"""How is a model file loaded here? Joins its header, the machine and the configuration; `placement` decides."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil

from hybrid.config_schema import LocalConfig
from hybrid.devices.host import Host
from hybrid.devices.needs import predict
from hybrid.devices.placement import Placement, Refusal, Wanted, is_worth_separating, place
from hybrid.devices.profile import Profile
from hybrid.devices.shape import shape_of_header
from hybrid.devices.snapshot import take_memory, take_snapshot
from hybrid.engine.process import SupervisorOptions
from hybrid.errors import ModelFileError
from hybrid.gguf import read_header
from hybrid.speeds import measured_speed, roofs

log = logging.getLogger(__name__)

START_LIMIT_S = 3.0
"""How long a start waits for drivers that do not answer; what is silent then counts as unknown."""


@cache
def this_host() -> Host:
    """Look at this machine once in a process's life."""
    return take_snapshot(limit_s=START_LIMIT_S)


def host_now() -> Host:
    """Give this machine with the memory that is free now; its GPUs' too, which is why those are asked again."""
    is_fresh = this_host.cache_info().currsize == 0
    if this_host().gpus and not is_fresh:
        this_host.cache_clear()
    return replace(this_host(), memory=take_memory())


def placement_of(
    model_path: Path, local: LocalConfig, host: Host, profile: Profile | None = None
) -> Placement | Refusal:
    """Decide how a file is loaded: what the configuration leaves open is taken from the machine.

    profile: what was measured here; speeds are predicted from that where there is one.

    Raises: ModelFileError if the file is no sound GGUF.
    """
    shape = shape_of_header(read_header(model_path))
    wanted = Wanted(context_tokens=local.context_tokens, slots=local.slots, threads=local.threads)
    return place(host, shape, wanted, roofs(profile))


def placed(
    options: SupervisorOptions,
    local: LocalConfig,
    *,
    others_may_leave: bool,
    host: Host | None = None,
    profile: Profile | None = None,
) -> tuple[SupervisorOptions, int]:
    """Fill in how a worker loads its file with the memory that is free now; the number is the bytes it will take.

    others_may_leave: models of ours could be unloaded to make room, so only what the whole machine cannot hold is
    refused here, and whoever loads it looks for the room. profile: what was measured on this machine.

    Raises: ModelFileError if it does not fit, or the file is no sound GGUF.
    """
    if not options.model_path or options.backend == "fake":
        return options, 0
    path = Path(options.model_path)
    host = host_now() if host is None else host
    draft_bytes = _draft_bytes(options, host)
    host = without(host, draft_bytes)
    decided = placement_of(path, local, host, profile)
    if isinstance(decided, Refusal) and others_may_leave and not decided.is_for_good:
        decided = placement_of(path, local, emptied(host), profile)
    if isinstance(decided, Refusal):
        raise ModelFileError(decided.message)
    for warning in decided.warnings:
        log.warning("%s", warning)
    # Where ggml could not be asked, the library puts on a GPU what it can, as it does by itself.
    layers = decided.gpu_layers if host.engine.is_known else None
    # A number that was configured or tuned goes before what the machine suggests.
    threads = options.threads or decided.threads
    filled = replace(options, slots=decided.slots, threads=threads, gpu_layers=layers)
    log.info("%s: %s; %s", path.name, "; ".join(decided.reasons), speed_words(filled, decided, profile))
    separate_bytes = _separate_bytes(filled, local, host)
    if separate_bytes is None:
        return filled, decided.host_bytes + draft_bytes
    return replace(filled, has_one_pool=False), decided.host_bytes + draft_bytes + separate_bytes


def speed_words(options: SupervisorOptions, decided: Placement, profile: Profile | None) -> str:
    """Say how fast a model will be, and how that is known: measured with these threads, or predicted."""
    path, kv_type, threads = Path(options.model_path), options.kv_type, options.threads
    measured, predicted = measured_speed(profile, path, kv_type=kv_type, threads=threads), decided.prediction
    if measured is not None:
        prefill, decode, how = measured.prefill_tok_s, measured.decode_tok_s, f"measured by {measured.measured_by}"
    elif predicted is not None:
        prefill, decode, how = predicted.prefill_tok_s, predicted.decode_tok_s, f"predicted, {predicted.basis} rates"
    else:
        return "how fast it will be is not known"
    return f"prompts at about {prefill:.0f} and an answer at {decode:.1f} tok/s ({how})"


def _separate_bytes(options: SupervisorOptions, local: LocalConfig, host: Host) -> int | None:
    """Give what a cache for each slot takes beyond a common pool; None where the common pool is to be used.

    On a GPU a common pool was not measured against separate ones. Saved prompts need the pool.
    """
    if options.is_embedder or options.prompt_bytes or options.slots < 2 or local.kv_layout == "unified":
        return None
    shape = shape_of_header(read_header(Path(options.model_path)))
    needs = predict(shape, context_tokens=options.context_tokens, isa=host.cpu.isa, kv_type=options.kv_type)
    pool_bytes = needs.host.kv_bytes
    if local.kv_layout == "auto" and not is_worth_separating(
        pool_bytes * options.slots, host.memory.usable_bytes, has_gpu=bool(options.gpu_layers)
    ):
        return None
    return pool_bytes * (options.slots - 1)


def _draft_bytes(options: SupervisorOptions, host: Host) -> int:
    """Give what a second, guessing model takes in the same worker: all of it but Python, one sequence a slot."""
    if not options.draft_model_path or not options.drafts:
        return 0
    shape = shape_of_header(read_header(Path(options.draft_model_path)))
    needs = predict(shape, context_tokens=options.context_tokens, isa=host.cpu.isa, sequences=options.slots)
    return needs.host.needed_bytes - needs.host.process_bytes


def without(host: Host, taken_bytes: int) -> Host:
    """The same machine with less memory."""
    memory = host.memory
    free, total = memory.available_bytes, memory.total_bytes
    memory = replace(
        memory,
        available_bytes=None if free is None else max(0, free - taken_bytes),
        total_bytes=None if total is None else max(0, total - taken_bytes),
        limit_bytes=None if memory.limit_bytes is None else max(0, memory.limit_bytes - taken_bytes),
    )
    return replace(host, memory=memory)


def free_bytes() -> int:
    """Memory that a model may take now, within a control group's limit."""
    usable = take_memory().usable_bytes
    return int(psutil.virtual_memory().available) if usable is None else usable


def emptied(host: Host) -> Host:
    """The same machine if nothing else ran on it."""
    memory = replace(host.memory, available_bytes=host.memory.total_bytes, limit_used_bytes=0)
    return replace(host, memory=memory)
