"""Whose answers are compared with? Recorded ones, or those of a configured cloud, asked within its budget and kept."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import msgspec
import typer

from hybrid.calibration.datasets import Dataset, Question, Recorded
from hybrid.calibration.drafts import key_of
from hybrid.calibration.recipes import RECIPES, ask
from hybrid.calibration.session import Asked
from hybrid.calibration.table import has_gold, is_good
from hybrid.cli.calibration import INTERRUPTED, shown
from hybrid.config import Config, data_dir
from hybrid.errors import BudgetExhausted, CommandError, DatasetError, HybridError
from hybrid.runtime import Runtime
from hybrid.types import PolicyChoice, Tail, TextDelta
from hybrid.wiring import running

AT_ONCE = 4
"""Calls that are out at the same time: a dataset is no reason to meet a provider's limits."""
MOST_FAILED = 5


class Kept(msgspec.Struct, frozen=True):
    """One answer of a cloud, as it is kept. usd: what it cost."""

    key: str
    text: str
    usd: str


def with_cloud(
    cloud: str | None, recorded: str | None, config: Config, dataset: Dataset, asked: list[Asked]
) -> tuple[str | None, list[Asked]]:
    """Name who is compared with, and give the questions with that cloud's answers in their records.

    Raises: CommandError for a cloud that is not configured, or whose answers the budget does not reach for.
    """
    if cloud is None or recorded is not None:
        return recorded, asked
    if cloud not in {one.name for one in config.cloud}:
        known = ", ".join(one.name for one in config.cloud) or "none"
        raise CommandError(f"--cloud {cloud}: no such cloud; configured: {known}; or recorded:NAME of the dataset")
    kept = _CloudFile(data_dir() / "drafts" / f"cloud-{cloud}.jsonl")
    wanted = [question for question in dataset.questions if key_of(question) not in kept.texts]
    try:
        with shown(f"{cloud} answers", len(wanted)) as on_done:
            asyncio.run(_ask_all(config, cloud, wanted, kept, on_done))
    except KeyboardInterrupt:
        print("interrupted: what the cloud has answered is kept", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    return cloud, [replace(one, questions=tuple(_marked(q, cloud, kept) for q in one.questions)) for one in asked]


class _CloudFile:
    """Answers of one cloud, a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as unreadable:
            raise DatasetError(f"{path}: {unreadable.strerror or unreadable}") from unreadable
        for line in lines:
            try:
                answer = msgspec.json.decode(line, type=Kept)
            except msgspec.MsgspecError:
                continue  # cut off by a death; it is asked again
            self.texts[answer.key] = answer.text

    def append(self, answer: Kept) -> None:
        """Keep one. Raises: DatasetError if it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(b"\n" + msgspec.json.encode(answer) + b"\n")
        except OSError as failed:
            raise DatasetError(f"{self.path}: {failed.strerror or failed}") from failed
        self.texts[answer.key] = answer.text


def _marked(question: Question, cloud: str, kept: _CloudFile) -> Question:
    text = kept.texts.get(key_of(question))
    if text is None:
        raise CommandError(f"{cloud} has not answered question {question.id}; run again to go on")
    mark = is_good(question, text) if has_gold(question) else True
    return msgspec.structs.replace(question, recorded={**question.recorded, cloud: Recorded(correct=mark, text=text)})


async def _ask_all(
    config: Config, cloud: str, wanted: Sequence[Question], kept: _CloudFile, on_done: Callable[[int], None]
) -> None:
    """Ask the way a client would: reserved, settled and written into the ledger.

    Raises: BudgetExhausted at the budget's end, or the cloud's failure if it fails again and again.
    """
    left, failed = iter(wanted), 0
    async with running(config, os.environ, local=None) as runtime:

        async def work() -> None:
            nonlocal failed
            for question in left:
                try:
                    answer = await _ask(runtime, cloud, question)
                except BudgetExhausted:
                    raise
                except HybridError:
                    failed += 1
                    if failed >= MOST_FAILED:
                        raise
                    continue
                failed = 0
                kept.append(answer)
                on_done(1)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())
        except ExceptionGroup as broken:
            raise broken.exceptions[0] from None


async def _ask(runtime: Runtime, cloud: str, question: Question) -> Kept:
    request = ask(question, RECIPES[question.scorer]).request
    request = replace(request, model=f"cloud/{cloud}", policy=PolicyChoice.CLOUD_ONLY, tag="calibration")
    text, usd = [], "0"
    async with aclosing(runtime.stream(request, dialect="openai", arrived_s=time.monotonic())) as items:
        async for item in items:
            if isinstance(item, TextDelta):
                text.append(item.text)
            elif isinstance(item, Tail):
                usd = str(item.head.cost_usd)
    return Kept(key_of(question), "".join(text), usd)
