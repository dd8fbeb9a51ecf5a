"""What does `hybrid calibrate --from-ledger` read, and what does it say of labels that are no plain sample?"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hybrid.calibration.calibrate import Calibrated, Goal
from hybrid.calibration.from_ledger import Group, calibrate_labels, groups_of, is_compared
from hybrid.calibration.session import Model, find_model
from hybrid.config import Config, data_dir
from hybrid.errors import CommandError
from hybrid.store.db import DATABASE_NAME
from hybrid.store.labels import read_labels

DatasetOption = Annotated[
    Path | None, typer.Option("--dataset", metavar="FILE", help="Labelled questions, one JSON a line.")
]
LedgerOption = Annotated[
    bool, typer.Option("--from-ledger", help="Use what was served: escalated drafts and audited answers.")
]


def from_ledger(config: Config, path: Path | None, goal: Goal) -> tuple[Model, list[Calibrated]]:
    """Calibrate on the ledger's labels of the model, each task that has enough; no model is loaded.

    Raises: CommandError if no task has labels enough, of both kinds.
    """
    model = find_model(config, path, os.environ)
    labels = read_labels(data_dir(os.environ) / DATABASE_NAME, fingerprint=model.fingerprint)
    labels = tuple(label for label in labels if label.template_fingerprint == model.template_fingerprint)
    compared = sum(map(is_compared, labels))
    if compared:
        print(f"left out: {compared} labels of answers that were picked among several samples", file=sys.stderr)
    groups = groups_of(labels, cloud=goal.cloud, task=goal.task or None)
    made, failed = [], []
    for group in groups:
        try:
            one = calibrate_labels(group, replace(goal, task=group.task, cloud=group.cloud))
        except CommandError as unusable:
            failed.append(f"{group.task}: {unusable}")
            continue
        _say(group, one)
        made.append(one)
    if not made:
        raise CommandError("; ".join(failed))
    for why in failed:
        print(f"left out: {why}", file=sys.stderr)
    return model, made


def check_source(dataset: Path | None, limit: int | None, samples: int | None, *, is_ledger: bool) -> None:
    """See that one source is named, and no option that means nothing to it. Raises: CommandError."""
    if is_ledger == (dataset is not None):
        raise CommandError("name one source of labels: --dataset FILE, or --from-ledger")
    if is_ledger and (limit is not None or samples is not None):
        raise CommandError("--limit and --samples are about a dataset's questions; --from-ledger asks none")


def _say(group: Group, made: Calibrated) -> None:
    report = made.task.report
    print(
        f"{group.task}: {report['escalations']} labels of escalated drafts, which are a selected sample, and "
        f"{group.audits} of audited answers, each for all that were not audited; {report['plain_rows']} of them "
        "are a plain sample, on which the promise is certified",
        file=sys.stderr,
    )
    if group.unanswered:
        print(
            f"{group.task}: the cloud did not answer {len(group.unanswered)} further audits, which count as regretted",
            file=sys.stderr,
        )
    if not group.audits:
        print(
            f"{group.task}: no accepted answer was audited, so nothing is known of those; set policy.audit_share",
            file=sys.stderr,
        )
