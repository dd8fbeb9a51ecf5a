"""How does a worker load what it was told to run: the model, and a small one that drafts for it?"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hybrid.backends.base import Adapter, Backend, BackendOptions
from hybrid.backends.matmul import Matmul
from hybrid.engine.drafting import Drafter, ModelDrafts, check_vocabulary
from hybrid.errors import LocalFailure

IDLE_SEQUENCES = 32
"""Finished sequences that may stay in the cache beside the running ones."""


class WorkerOptions(msgspec.Struct, frozen=True):
    """What the supervisor tells a worker on its command line."""

    backend: str
    model_path: str
    context_tokens: int
    slots: int
    threads: int
    drafts: bool = True
    draft_model_path: str = ""
    nice: int = 0
    is_adaptive: bool = True
    prompt_folder: str = ""
    prompt_bytes: int = 0
    is_embedder: bool = False
    adapters: tuple[tuple[str, float], ...] = ()
    gpu_layers: int | None = None
    flash_attention: bool | None = None
    kv_type: str = "f16"
    batch_tokens: int = 512
    has_one_pool: bool = True
    matmul: Matmul = "auto"


def load_backend(options: WorkerOptions, *, idle_sequences: int = IDLE_SEQUENCES) -> Backend:
    """Load the configured backend; imports only the one that is used, for each is heavy.

    Raises: LocalError if the file or the backend cannot be used.
    """
    wanted = BackendOptions(
        model_path=Path(options.model_path),
        context_tokens=options.context_tokens,
        slots=options.slots,
        idle_sequences=idle_sequences,
        threads=options.threads,
        is_embedder=options.is_embedder,
        adapters=tuple(Adapter(Path(path), scale) for path, scale in options.adapters),
        gpu_layers=options.gpu_layers,
        flash_attention=options.flash_attention,
        key_cache=options.kv_type,
        value_cache=options.kv_type,
        batch_tokens=options.batch_tokens,
        has_one_pool=options.has_one_pool,
        matmul=options.matmul,
    )
    if options.backend == "fake":
        from hybrid.backends.fake import FakeBackend

        return FakeBackend(wanted)
    from hybrid.backends.llama_cpp import LlamaCppBackend

    return LlamaCppBackend(wanted)


def load_drafter(options: WorkerOptions, target: Backend) -> Drafter:
    """Load the draft model, if there is one, with the sequences of the model it drafts for.

    Raises: LocalError if it cannot be loaded, or its tokens are not the other's.
    """
    if not options.drafts or not options.draft_model_path or not target.facts.can_truncate:
        return Drafter(is_on=options.drafts)
    small = msgspec.structs.replace(options, model_path=options.draft_model_path, adapters=(), has_one_pool=True)
    draft = load_backend(small, idle_sequences=0)
    check_vocabulary(draft, target)
    if not draft.facts.can_truncate:
        raise LocalFailure(f"{draft.facts.name} cannot draft: its cache gives back no single tokens")
    return Drafter(ModelDrafts(draft))
