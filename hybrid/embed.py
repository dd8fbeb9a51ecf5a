"""How is one request for embeddings answered end to end? By a local model, written down like any other request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from hybrid.admission import Admission
from hybrid.engine.fleet import Fleet
from hybrid.engine.supervisor import Supervisor
from hybrid.errors import DeadlineExceeded, InvalidRequest, ModelNotFound
from hybrid.journal import Journal, Recorded
from hybrid.policy.model import Reason
from hybrid.store.ledger import Ledger
from hybrid.types import ChatRequest, EmbeddingRequest, Embeddings, Outcome, PolicyChoice, Route, Usage


class Embedder:
    """Answers requests for embeddings.

    Args:
        model: what `hybrid` and `local` mean here; None: there is no local model.
    """

    def __init__(
        self, *, fleet: Fleet, ledger: Ledger, admission: Admission, aliases: Mapping[str, str], model: str | None
    ) -> None:
        self._fleet = fleet
        self._admission = admission
        self._ledger = ledger
        self._aliases = aliases
        self._model = model

    async def embed(self, request: EmbeddingRequest, journal: Journal) -> Embeddings:
        """Answer one request, within its deadline; what happened goes to the ledger, also when it is cancelled."""
        asked = ChatRequest(model=request.model, messages=(), tag=request.tag, client_key=request.client_key)
        with Recorded(self._ledger, journal, asked), self._admission.admitted(request, journal):
            journal.note(f"embeddings of {len(request.inputs)} inputs")
            name, journal.reason = self._resolve(request)
            try:
                async with asyncio.timeout(request.deadline_s and request.deadline_s - journal.elapsed_s):
                    return await self._embed(request, name, journal)
            except TimeoutError as late:
                limit = f"the request's deadline of {request.deadline_s:g} s"
                raise DeadlineExceeded(f"no embeddings within {limit}") from late

    def _resolve(self, request: EmbeddingRequest) -> tuple[str, Reason]:
        """Name the local model that the client's model name means, and why it is that one.

        Raises: ModelNotFound, or InvalidRequest where only a cloud may answer.
        """
        name = self._aliases.get(request.model, request.model)
        kind, _, rest = name.partition("/")
        if kind == "cloud" or request.policy is PolicyChoice.CLOUD_ONLY:
            what = "embeddings come from a local model only; no cloud is asked for them"
            raise InvalidRequest(what, param="model", code="unsupported_parameter")
        if name in ("hybrid", "local") and self._model is not None:
            return self._model, Reason.DEFAULT if name == "hybrid" else Reason.PINNED
        if name == self._model:
            return name, Reason.PINNED
        if kind == "local" and rest in self._fleet.names:
            return rest, Reason.PINNED
        valid = ["hybrid", "local", self._model] if self._model is not None else []
        raise ModelNotFound(
            request.model, [*filter(None, valid), *(f"local/{model}" for model in self._fleet.names), *self._aliases]
        )

    async def _embed(self, request: EmbeddingRequest, name: str, journal: Journal) -> Embeddings:
        with journal.waiting():
            local = await self._fleet.acquire(name)
        _check_dimensions(request, name, local)
        with journal.waiting():
            found = await local.embed(journal.id, request.inputs)
        journal.usage = usage = Usage(prompt_tokens=found.prompt_tokens, completion_tokens=0)
        journal.local_prompt_tokens = found.prompt_tokens
        head = journal.released(Route.LOCAL, name)
        journal.outcome = Outcome.OK
        return Embeddings(head=head, usage=usage, vectors=found.values)


def _check_dimensions(request: EmbeddingRequest, name: str, local: Supervisor) -> None:
    """Refuse to cut vectors: that only makes sense for a model trained so, and no GGUF says whether it was."""
    given = local.facts.dimensions if local.facts is not None else None
    if request.dimensions is not None and request.dimensions != given:
        what = f"{name} gives {given} dimensions, and nothing says that they may be cut to {request.dimensions}"
        raise InvalidRequest(f"{what}; leave `dimensions` out", param="dimensions", code="unsupported_parameter")
