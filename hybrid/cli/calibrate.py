"""What does `hybrid calibrate` do and print? An artefact that `serve` reads, and an account of what it may promise."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hybrid import __version__
from hybrid.artefact import Artefact, add_tasks
from hybrid.calibration.calibrate import Calibrated, Goal, calibrate
from hybrid.calibration.datasets import Dataset, load
from hybrid.calibration.recipes import REASONED, RECIPES
from hybrid.calibration.session import Asked, Model, fixed
from hybrid.calibration.table import tabulate
from hybrid.cli.calibrate_ledger import DatasetOption, LedgerOption, check_source, from_ledger
from hybrid.cli.calibration import (
    CloudOption,
    ConfigOption,
    LimitOption,
    ModelOption,
    SamplesOption,
    SeedOption,
    answered,
    configured,
    recorded_name,
    shown,
)
from hybrid.cli.cloud_answers import with_cloud
from hybrid.config import Config
from hybrid.errors import CommandError
from hybrid.types import Json
from hybrid.wiring import calibration_dir

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("calibrate")
def calibrate_model(
    dataset: DatasetOption = None,
    is_ledger: LedgerOption = False,  # noqa: FBT002
    model: ModelOption = None,
    cloud: CloudOption = None,
    max_regret: Annotated[
        float | None, typer.Option("--max-regret", metavar="SHARE", help="Promise this; default: policy.max_regret.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", metavar="SHARE", help="With this chance to fail; default: policy.delta.")
    ] = None,
    limit: LimitOption = None,
    samples: SamplesOption = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="NAME", help="Its name, which x-hybrid-tag may give; default: task.")
    ] = None,
    seed: SeedOption = 0,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the artefact there instead of the data folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON for programs.")] = False,  # noqa: FBT002
    config_path: ConfigOption = None,
) -> None:
    """Learn when this model's answers are right, and which share of them may stay local under a promise."""
    check_source(dataset, limit, samples, is_ledger=is_ledger)
    config, path = configured(config_path, model)
    goal = _goal(config, task=task, max_regret=max_regret, delta=delta, seed=seed)
    if dataset is None:
        found, made = from_ledger(config, path, replace(goal, cloud=cloud))
    else:
        found, questions, asked = answered(config, path, dataset, limit=limit, seed=seed, samples=fixed(samples))
        name, asked = with_cloud(cloud, recorded_name(cloud, questions), config, questions, asked)
        made = [_calibrated(one, questions, replace(goal, cloud=name)) for one in asked]
    written = _written(out_dir or calibration_dir(os.environ), found, made)
    if as_json:
        print(json.dumps([_facts(one) for one in made], indent=2))
    else:
        print("\n".join(line for one in made for line in _lines(one, goal)))
    print(f"written: {written}; `hybrid serve` reads it at its next start", file=sys.stderr)


def _goal(config: Config, *, task: str | None, max_regret: float | None, delta: float | None, seed: int) -> Goal:
    policy = config.policy
    goal = Goal(
        task=task or "",
        max_regret=policy.max_regret if max_regret is None else max_regret,
        delta=policy.delta if delta is None else delta,
        seed=seed,
    )
    if not 0 < goal.max_regret < 1 or not 0 < goal.delta < 1:
        what = f"got {goal.max_regret:g} and {goal.delta:g}"
        raise CommandError(f"--max-regret and --delta are shares between 0 and 1; {what}")
    return goal


def _calibrated(asked: Asked, dataset: Dataset, goal: Goal) -> Calibrated:
    with shown("marking", len(asked.questions)) as on_row:
        table = tabulate(
            asked.questions,
            asked.file,
            samples=asked.samples,
            votes=asked.votes,
            cloud=goal.cloud,
            on_row=lambda: on_row(1),
        )
    for why, count in table.skipped.items():
        print(f"{count} questions left out: {why}", file=sys.stderr)
    name = goal.task or asked.questions[0].task or dataset.path.stem
    votes = "" if asked.votes is None else REASONED.digest
    goal = replace(goal, task=name, samples=asked.samples, votes=votes)
    # What the cloud did with the questions that --limit leaves out tells of it all the same.
    beside = load(dataset.path).questions if goal.cloud else ()
    return calibrate(table, dataset, asked.scorer, RECIPES[asked.scorer], goal, beside)


def _written(folder: Path, model: Model, made: list[Calibrated]) -> Path:
    """Put the tasks into the model's artefact, beside those calibrated before."""
    artefact = Artefact(
        model=model.name,
        format=model.format,
        fingerprint=model.fingerprint,
        template_fingerprint=model.template_fingerprint,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )
    path, dropped = add_tasks(folder, artefact, [one.task for one in made])
    if dropped is not None:
        print(f"the calibration that was there is replaced: {dropped}", file=sys.stderr)
    return path


def _facts(made: Calibrated) -> dict[str, Json]:
    """The figures of one task, without what only programs apply."""
    task, certified = made.task, made.certified
    promise = {
        "is_feasible": certified.local_share > 0,
        "threshold": certified.threshold if certified.local_share > 0 else None,
        "local_share": certified.local_share,
        "bound": certified.bound,
        "why": certified.why,
    }
    return {
        "task": task.task,
        "kind": task.kind.value,
        "rows": task.rows,
        "labels": task.labels,
        "cloud": task.cloud_model,
        "accuracy_local": task.base_rate,
        "accuracy_cloud": task.cloud_rate,
        "samples": task.samples,
        "is_voted": bool(task.votes),
        "is_at_chance": task.is_at_chance,
        "ranks_by_gain": task.ranks_by_gain,
        "looks_tokens": [look.tokens for look in task.looks],
        "report": dict(task.report),
        "promise": promise,
    }


def _lines(made: Calibrated, goal: Goal) -> Iterator[str]:
    max_regret, delta = goal.max_regret, goal.delta
    task, report, certified = made.task, made.local.report, made.certified
    yield f"{task.task} ({task.kind.value}): {task.rows} questions, labels: {task.labels}"
    cloud = "" if task.cloud_rate is None else f", the cloud in {task.cloud_rate:.1%}"
    yield f"  local is right in {task.base_rate:.1%}{cloud}"
    yield f"  fitted: {report.method} on {', '.join(report.features)}"
    if made.idle_votes:
        yield f"  the {made.idle_votes} votes tell no more than the letter, so `serve` asks for none"
    yield f"    {report.why}"
    low, high = report.auroc_ci95
    floor = f"chance alone {report.ece_floor:.3f}"
    yield f"  AUROC {report.auroc:.3f} ({low:.3f} to {high:.3f}), ECE {report.ece:.3f} ({floor})"
    yield f"  Brier {report.brier:.4f}; always saying {task.base_rate:.1%} has {report.base_brier:.4f}"
    if made.cloud is not None:
        told = made.cloud.report
        by = "the gain that it leaves" if task.ranks_by_gain else "local's chance alone, for that adds nothing"
        yield f"  whether the cloud is right: {told.method} on {', '.join(told.features)}, AUROC {told.auroc:.3f}"
        yield f"    thresholds are set on {by}"
    if task.is_at_chance:
        yield "  local adds nothing here: its drafts do not tell right from wrong"
    if certified.local_share > 0:
        yield (
            f"  promise: regret <= {max_regret:g} with confidence {1 - delta:g} holds with "
            f"{certified.local_share:.1%} answered locally ({certified.why})"
        )
    else:
        yield f"  promise: regret <= {max_regret:g} with confidence {1 - delta:g} cannot be kept: {certified.why}"
        yield "  so `serve` escalates this kind, or answers it without a promise where no cloud may be paid"
    if task.labels == "gold" and task.cloud_rate is None:
        yield "  no cloud was compared with, so each wrong answer counts as one the cloud would have had right"
    if task.kind.value == "text":
        yield "  free text is marked by equal wording, which is strict"
    for look in task.looks:
        line = f"its chance to be accepted is under {look.threshold:.3f}"
        yield f"  a draft is given up after {look.tokens} tokens if {line}"
