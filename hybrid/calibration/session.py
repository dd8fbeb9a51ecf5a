"""How does a dataset get its answers from the model that would serve? Only what is not kept yet loads and asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import msgspec

from hybrid.calibration.datasets import Dataset, Question, Scorer
from hybrid.calibration.drafts import DraftFile, Wish, draft_all, missing, missing_votes
from hybrid.calibration.recipes import REASONED, RECIPES, Recipe
from hybrid.config import Config
from hybrid.engine.process import SupervisorOptions
from hybrid.engine.supervisor import Supervisor, WorkerState
from hybrid.errors import ModelNotReady
from hybrid.fingerprints import model_fingerprint, template_fingerprint
from hybrid.gguf import read_header
from hybrid.gguf_format import FILE_TYPES
from hybrid.wiring import local_options

SLOTS = 16
"""Questions answered together: what a machine of two cores computes best, and no more than the cache holds."""
CONTEXT_TOKENS = 8192
SAMPLES: Mapping[Scorer, int] = {"choice": 1, "number": 5, "python": 1, "text": 1}
"""Answers drawn to each question where nobody says otherwise: agreement tells most where an answer is worked out.

More than one of a choice are the letter and votes for reasons, which take ten times as long.
"""


@dataclass(frozen=True, slots=True)
class Model:
    """The model that answers, named before it is loaded. `fingerprint` and `template_fingerprint` as it will tell."""

    name: str
    format: str
    fingerprint: str
    template_fingerprint: str
    options: SupervisorOptions


def find_model(config: Config, model_path: Path | None, environ: Mapping[str, str]) -> Model:
    """Name the model as `hybrid serve` would run it, tuned if it was tuned.

    Raises: ModelFileError if it is no sound file or does not fit into memory.
    """
    local = msgspec.structs.replace(config.local, slots=SLOTS, context_tokens=CONTEXT_TOKENS, kv_layout="unified")
    options = local_options(msgspec.structs.replace(config, local=local, lora=()), model_path, environ)
    options = replace(options, max_queue=SLOTS * 16)
    if not options.model_path or options.backend == "fake":
        return Model("fake", "none", "fake", template_fingerprint(None), options)
    path = Path(options.model_path)
    header = read_header(path)
    number = header.metadata.get("general.file_type")
    return Model(
        name=path.stem,
        format=FILE_TYPES.get(number, "unknown") if isinstance(number, int) else "unknown",
        fingerprint=model_fingerprint(path, options.kv_type, options.kv_type),
        template_fingerprint=template_fingerprint(header.chat_template),
        options=options,
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers to the questions of one scorer.

    votes: of those after the first, where they are asked for their reasons; None: they are of the same prompt.
    """

    scorer: Scorer
    questions: tuple[Question, ...]
    file: DraftFile
    samples: int
    votes: DraftFile | None = None

    def wishes(self) -> list[tuple[Recipe, DraftFile, list[Wish]]]:
        """What is not answered yet, by the words it is asked in."""
        recipe = RECIPES[self.scorer]
        if self.votes is None:
            return [(recipe, self.file, missing(self.questions, self.file, self.samples))]
        voting = [question for question in self.questions if self.file.can_go_on(question)]
        return [
            (recipe, self.file, missing(self.questions, self.file, 1)),
            (REASONED, self.votes, missing_votes(voting, self.votes, self.samples)),
        ]


Samples: TypeAlias = Callable[[Model, Dataset, Scorer], int]
"""How many answers are drawn to each question of a kind."""


def fixed(samples: int | None) -> Samples:
    """So many, or as many as are usual for the kind."""
    return lambda _model, _dataset, scorer: samples or SAMPLES[scorer]


def by_scorer(dataset: Dataset, model: Model, folder: Path, samples: Samples) -> list[Asked]:
    """Open the kept answers of each kind of question in a dataset."""
    found = []
    for scorer in dataset.scorers:
        questions = tuple(question for question in dataset.questions if question.scorer == scorer)
        count = samples(model, dataset, scorer)
        file = DraftFile(folder, model.fingerprint, RECIPES[scorer])
        votes = DraftFile(folder, model.fingerprint, REASONED) if scorer == "choice" and count > 1 else None
        found.append(Asked(scorer, questions, file, count, votes))
    return found


def count_missing(asked: Sequence[Asked]) -> int:
    """How many answers are still to be drawn."""
    return sum(len(wish.numbers) for one in asked for _, _, wishes in one.wishes() for wish in wishes)


def draw(model: Model, asked: Sequence[Asked], on_done: Callable[[int], None]) -> None:
    """Draw what is missing. Interrupted at any point, what came is kept.

    Raises: ModelNotReady if the model cannot be loaded, LocalError if it breaks, DatasetError if nothing can be kept.
    """
    if count_missing(asked):
        asyncio.run(_draw(model, asked, on_done))


async def _draw(model: Model, asked: Sequence[Asked], on_done: Callable[[int], None]) -> None:
    local = Supervisor(model.options)
    local.start()
    try:
        if await local.wait_settled() is not WorkerState.READY:
            raise ModelNotReady(f"{model.name} cannot be loaded: {local.problem}")
        for one in asked:
            for recipe, file, wishes in one.wishes():
                await draft_all(local, wishes, recipe, file, concurrency=SLOTS, on_done=on_done)
    finally:
        await local.stop()
