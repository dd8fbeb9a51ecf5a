"""Whose answers are compared with? Recorded ones, or those of a configured cloud, asked within its budget and kept."""

from __future__ import annotations

import asyncio
import hashlib
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
from hybrid.calibration.recipes import RECIPES, Recipe, ask
from hybrid.calibration.session import Asked
from hybrid.calibration.table import has_gold, is_good
from hybrid.cli import INTERRUPTED
from hybrid.cli.calibration import shown
from hybrid.config import Config, data_dir
from hybrid.config_schema import CloudConfig
from hybrid.errors import BudgetExhausted, CommandError, DatasetError, HybridError
from hybrid.labelling import Said, is_whole
from hybrid.runtime import Runtime
from hybrid.types import Finished, FinishReason, PolicyChoice, Tail, TextDelta
from hybrid.wiring import running

AT_ONCE = 4
"""Calls that are out at the same time: a dataset is no reason to meet a provider's limits."""
MOST_FAILED = 5
ROOM_TOKENS = 2048
"""What a cloud may say beyond the recipe's limit, which is the local model's: it may think first, or use more words.

A thought over an exam question takes some hundred tokens to two thousand. With every recipe it stays below 4,096, the
least that clouds allow; at 10 USD per million it reserves 2 cents a call, and only what is used is billed.
"""


class Kept(msgspec.Struct, frozen=True):
    """One answer of a cloud, as it is kept. usd: what it cost. finish: why it ended. model: which one answered."""

    key: str
    text: str
    usd: str
    finish: FinishReason
    model: str


def with_cloud(
    cloud: str | None, recorded: str | None, config: Config, dataset: Dataset, asked: list[Asked]
) -> tuple[str | None, list[Asked]]:
    """Name who is compared with, and give the questions with that cloud's answers in their records.

    Raises: CommandError for a cloud that is not configured, or whose answers the budget does not reach for.
    """
    if cloud is None or recorded is not None:
        return recorded, asked
    configured = next((one for one in config.cloud if one.name == cloud), None)
    if configured is None:
        known = ", ".join(one.name for one in config.cloud) or "none"
        raise CommandError(f"--cloud {cloud}: no such cloud; configured: {known}; or recorded:NAME of the dataset")
    kept = _CloudFile(data_dir() / "drafts" / f"cloud-{cloud}.jsonl")
    wanted = [question for question in dataset.questions if _key(question, configured) not in kept.answers]
    try:
        with shown(f"{cloud} answers", len(wanted)) as on_done:
            asyncio.run(_ask_all(config, configured, wanted, kept, on_done))
    except KeyboardInterrupt:
        print("interrupted: what the cloud has answered is kept", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    return cloud, [replace(one, questions=tuple(_marked(q, configured, kept) for q in one.questions)) for one in asked]


def _limit_tokens(recipe: Recipe) -> int:
    """The longest answer that is asked for, thoughts included."""
    return recipe.max_output_tokens + ROOM_TOKENS


def _key(question: Question, cloud: CloudConfig) -> str:
    """Name an answer by all it depends on: the question, who is asked where, in which words, and its limit."""
    recipe = RECIPES[question.scorer]
    named = [key_of(question), cloud.base_url, cloud.models, recipe.digest, _limit_tokens(recipe)]
    return hashlib.sha256(msgspec.json.encode(named)).hexdigest()[:32]


class _CloudFile:
    """Answers of one cloud, a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Kept] = {}
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
                continue  # cut off by a death, or kept without its end by an earlier version; it is asked again
            self.answers[answer.key] = answer

    def append(self, answer: Kept) -> None:
        """Keep one. Raises: DatasetError if it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(b"\n" + msgspec.json.encode(answer) + b"\n")
        except OSError as failed:
            raise DatasetError(f"{self.path}: {failed.strerror or failed}") from failed
        self.answers[answer.key] = answer


def _marked(question: Question, cloud: CloudConfig, kept: _CloudFile) -> Question:
    """Put what the cloud said into the question's records: nothing where its answer was cut off or empty.

    Such an answer does not show that the cloud would have been wrong, and counted so it would excuse local's mistakes.
    """
    answer = kept.answers.get(_key(question, cloud))
    if answer is None:
        raise CommandError(f"{cloud.name} has not answered question {question.id}; run again to go on")
    recorded = Recorded()
    if is_whole(Said(answer.text, is_cut=answer.finish is FinishReason.LENGTH), question.choices):
        mark = is_good(question, answer.text) if has_gold(question) else True
        recorded = Recorded(correct=mark, text=answer.text)
    return msgspec.structs.replace(question, recorded={**question.recorded, cloud.name: recorded})


async def _ask_all(
    config: Config, cloud: CloudConfig, wanted: Sequence[Question], kept: _CloudFile, on_done: Callable[[int], None]
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


async def _ask(runtime: Runtime, cloud: CloudConfig, question: Question) -> Kept:
    recipe = RECIPES[question.scorer]
    request = replace(
        ask(question, recipe).request,
        model=f"cloud/{cloud.name}",
        max_output_tokens=_limit_tokens(recipe),
        policy=PolicyChoice.CLOUD_ONLY,
        tag="calibration",
    )
    text, finish, usd, model = [], FinishReason.STOP, "0", ""
    async with aclosing(runtime.stream(request, dialect="openai", arrived_s=time.monotonic())) as items:
        async for item in items:
            if isinstance(item, TextDelta):
                text.append(item.text)
            elif isinstance(item, Finished):
                finish = item.reason
            elif isinstance(item, Tail):
                usd, model = str(item.head.cost_usd), item.head.model
    return Kept(_key(question, cloud), "".join(text), usd, finish, model)
