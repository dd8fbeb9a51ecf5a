"""What may be promised of the loaded model? Its calibrations, found by a request's tag, else by its kind of task."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hybrid.artefact import Artefact, Loaded, mismatch, origin_of, path_of, read_artefact
from hybrid.calibration.recipes import REASONED
from hybrid.errors import DatasetError
from hybrid.policy.promise import Promise
from hybrid.policy.tasks import TaskKind
from hybrid.policy.wording import Wording, logit_of
from hybrid.types import Json

log = logging.getLogger(__name__)

OTHER_WORDS = "a calibration of %s counts votes that are asked for in other words; run `hybrid calibrate` again"


@dataclass(frozen=True, slots=True)
class Found:
    """The promise for a request, or why there is none. wording: what a request's words say of the promise's cloud."""

    promise: Promise | None
    why: str | None = None
    wording: Wording | None = None

    def of(self, text: str) -> Promise | None:
        """The promise for a request of these words."""
        if self.promise is None or self.wording is None:
            return self.promise
        return replace(self.promise, cloud_words=logit_of(self.wording, text))


class _Book(NamedTuple):
    """What may be promised of one model: all that was calibrated, what speaks of untagged requests, and why no more.

    wordings: by the promise's id.
    """

    made: Sequence[Promise]
    by_kind: Mapping[TaskKind, Promise]
    why: str
    wordings: Mapping[str, Wording]


class PromiseBook:
    """Finds what may be promised for the loaded model. Files are read once a model; a broken one promises nothing.

    Args:
        folders: where artefacts lie; of two for one model the first counts.
        shipped: where those lie that came with the program, looked at last. They were made with somebody's exam
            questions, so they speak of a request only where its tag says that it is such a question; of any other of
            the kind they are only believed that local is at chance.
    """

    def __init__(
        self,
        folders: Sequence[Path] = (),
        *,
        shipped: Path | None = None,
        max_regret: float = 0.05,
        delta: float = 0.1,
    ) -> None:
        self._folders = (*folders, *((shipped,) if shipped else ()))
        self._shipped = shipped
        self._max_regret, self._delta = max_regret, delta
        self._known: dict[tuple[str, str], _Book] = {}

    def find(self, loaded: Loaded | None, kind: TaskKind, tag: str | None) -> Found:
        """Find the promise for a task: the calibration that the request's tag names, else its kind's.

        A tag that names calibrations of several kinds means the one of the request's kind; one that names a single
        calibration means that.
        """
        if loaded is None:
            return Found(None, "no local model is loaded")
        book = self._book_of(loaded)
        tagged = [promise for promise in book.made if promise.task == tag]
        of_kind = next((promise for promise in tagged if promise.kind is kind), None)
        promise = of_kind or (tagged[0] if len(tagged) == 1 else book.by_kind.get(kind))
        if promise is not None:
            return Found(promise, wording=book.wordings.get(promise.id))
        return Found(None, book.why or f"tasks of kind {kind.value} were not calibrated for this model")

    def in_words(self, loaded: Loaded) -> list[Json]:
        """All that may be promised for a model, for whoever watches the server."""
        return [
            {
                "task": promise.task,
                "kind": promise.kind.value,
                "max_regret": promise.max_regret,
                "delta": promise.delta,
                "is_kept": promise.is_feasible,
                "local_share": promise.local_share,
            }
            for promise in self._book_of(loaded).made
        ]

    def _book_of(self, loaded: Loaded) -> _Book:
        key = loaded.fingerprint, loaded.template_fingerprint
        if key not in self._known:
            self._known[key] = self._read(loaded)
        return self._known[key]

    def _read(self, loaded: Loaded) -> _Book:
        problem = "this model was not calibrated"
        for artefact, trouble, is_shipped in self._artefacts(loaded.fingerprint):
            problem = trouble or mismatch(artefact, loaded) or ""
            if artefact is not None and not problem:
                made = [
                    replace(task.promise(self._max_regret, self._delta), origin=origin_of(artefact, task))
                    for task in artefact.tasks
                    if task.votes in ("", REASONED.digest)
                ]
                wordings = {task.id: words for task in artefact.tasks if (words := task.wording()) is not None}
                if len(made) < len(artefact.tasks):
                    log.warning(OTHER_WORDS, artefact.model)
                if is_shipped:
                    tags = ", ".join(sorted({promise.task for promise in made}))
                    why = f"the calibrations that ship with the program are of requests tagged {tags}; make your own"
                    at_chance = {promise.kind: promise for promise in made if promise.is_at_chance}
                    return _Book(made, at_chance, why, wordings)
                return _Book(made, {promise.kind: promise for promise in made}, "", wordings)
            log.warning("no promise for local answers: %s", problem)
        return _Book([], {}, problem, {})

    def _artefacts(self, fingerprint: str) -> Iterator[tuple[Artefact | None, str | None, bool]]:
        for folder in self._folders:
            try:
                yield read_artefact(path_of(folder, fingerprint)), None, folder == self._shipped
            except FileNotFoundError:
                continue
            except DatasetError as broken:
                yield None, str(broken), folder == self._shipped
