"""How do labels of what was served become a calibration? Weighted by how likely each was looked at.

Escalated drafts are labelled whatever they are, so they are a selected sample: the doubtful ones. What was accepted is
known from audits alone, and each of these stands for all that were not audited. The fit weighs both; thresholds are
certified only on rows that are a plain sample of all drafts, so without audits nothing is promised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.artefact import Counts, Task, weights_of
from hybrid.calibration.calibrate import Calibrated, Goal, fit_rows, reference
from hybrid.calibration.certify import counts_of
from hybrid.calibration.fit import LEAST_ROWS
from hybrid.drift_book import draw
from hybrid.errors import CommandError
from hybrid.policy.calibrated import LinearModel, probability
from hybrid.policy.drift import Labelled, StatedError, stated_error
from hybrid.policy.features import PRIOR_FEATURES, SAMPLE_FEATURES
from hybrid.policy.promise import certify
from hybrid.policy.tasks import TaskKind
from hybrid.store.labels import Label, Origin

SOURCE = "ledger"
NO_COUNTS = Counts(thresholds=(), kept=(), regretted=(), n=0)


@dataclass(frozen=True, slots=True)
class Group:
    """The labels of one task: its name, its kind, and from which cloud they are.

    unanswered: audits that the cloud did not answer. Were they left out, fewer of what was accepted would be counted
    than were, and perhaps the worst not at all.
    """

    task: str
    kind: TaskKind
    cloud: str
    labels: tuple[Label, ...]
    unanswered: tuple[Label, ...] = ()

    @property
    def audits(self) -> int:
        """Those of drafts that had been accepted, and that the cloud answered."""
        return sum(label.origin is Origin.AUDIT for label in self.labels)


def groups_of(labels: Sequence[Label], *, cloud: str | None = None, task: str | None = None) -> list[Group]:
    """Part labels by kind and task; another cloud is another truth, so each group keeps that of most of its labels.

    Raises: CommandError where there are none, or too few of any task.
    """
    parts: dict[tuple[str, str], list[Label]] = {}
    for label in labels:
        if is_compared(label):
            continue
        name = label.task or label.kind
        if task is None or task in (name, label.kind):
            parts.setdefault((task or name, label.kind), []).append(label)
    found = [_of_one_cloud(name, TaskKind(kind), part, cloud) for (name, kind), part in parts.items()]
    enough = [group for group in found if len(group.labels) >= LEAST_ROWS]
    if not enough:
        counts = ", ".join(f"{len(group.labels)} of {group.task}" for group in found if group.labels) or "none"
        raise CommandError(
            f"a calibration needs {LEAST_ROWS} labels of one task; the ledger has {counts} for this model. Labels come "
            "from escalated drafts, and from accepted ones where policy.audit_share is set"
        )
    return enough


def is_compared(label: Label) -> bool:
    """Whether it is of an answer that was picked among several: one answer alone is right less often.

    Or of one that should have been, and went to the cloud without: such are the doubtful ones.
    """
    is_left_alone = label.calibration is not None and not label.features
    return is_left_alone or not label.features.keys().isdisjoint(SAMPLE_FEATURES)


def calibrate_labels(group: Group, goal: Goal) -> Calibrated:
    """Fit P(local agrees with the cloud) on the labels, weighted, and certify on a plain sample of them.

    Raises: CommandError if there are too few labels, or only one kind of them.
    """
    labels = group.labels
    rows = _rows(labels)
    right = np.array([label.agrees for label in labels], dtype=np.bool_)
    weights = np.array([label.weight for label in labels])
    bare = "option_margin" if group.kind is TaskKind.CHOICE else "weak_quarter_logprob"
    local = fit_rows(rows, right, bare, goal.seed, weights)
    score = np.where(np.isnan(local.out_of_fold), -np.inf, local.out_of_fold)
    # What a verifier found flawed is escalated at any threshold.
    kept = np.where([label.is_flawed for label in labels], -np.inf, score)
    plain = _plain_sample((*labels, *group.unanswered))
    counts = _counts(group, local.model, kept, plain)
    stated = _stated(labels, score)
    task = Task(
        task=group.task,
        kind=group.kind,
        dataset=SOURCE,
        dataset_digest=hashlib.sha256("\n".join(label.request_id for label in labels).encode()).hexdigest(),
        recipe_digest=SOURCE,
        rows=len(labels),
        labels=group.cloud,
        cloud_model=group.cloud,
        local=weights_of(local.model),
        counts=counts,
        base_rate=float(np.average(right, weights=weights)),
        cloud_rate=1.0,
        is_at_chance=local.report.is_at_chance,
        report=asdict(local.report)
        | {
            "is_at_chance": local.report.is_at_chance,
            "audits": group.audits,
            "unanswered": len(group.unanswered),
            "escalations": len(labels) - group.audits,
            "plain_rows": int(plain.sum()),
            "stated": None if stated is None else asdict(stated),
        },
        reference=reference(local, [row for row, is_plain in zip(rows, plain[: len(rows)], strict=True) if is_plain]),
    )
    certified = certify(counts.counted(), goal.max_regret, goal.delta, is_at_chance=local.report.is_at_chance)
    return Calibrated(task, local, None, score, certified)


def _rows(labels: Sequence[Label]) -> list[dict[str, float]]:
    """Their features, without those that are measured against what another calibration found or asked for."""
    left_out = {*PRIOR_FEATURES, *SAMPLE_FEATURES}
    return [{name: value for name, value in one.features.items() if name not in left_out} for one in labels]


def _counts(group: Group, model: LinearModel, score: NDArray[np.float64], plain: NDArray[np.bool_]) -> Counts:
    """Count what thresholds cost on the plain sample. What nobody knows counts as regretted."""
    if not plain.any():
        return NO_COUNTS
    scores = np.concatenate([score, _scores(model, group.unanswered)])
    regretted = np.array([not label.agrees for label in (*group.labels, *group.unanswered)], dtype=np.bool_)
    return counts_of(scores[plain], regretted[plain])


def _scores(model: LinearModel, labels: Sequence[Label]) -> NDArray[np.float64]:
    """The chances that drafts are right which took no part in the fit; minus infinity where there is none."""
    chances = [probability(model, row) for row in _rows(labels)]
    return np.array([-np.inf if chance is None else chance for chance in chances], dtype=np.float64)


def _of_one_cloud(task: str, kind: TaskKind, labels: Sequence[Label], cloud: str | None) -> Group:
    named = [(f"{label.provider}/{label.model}", label) for label in labels]
    names = [name for name, label in named if label.is_answered]
    usable = [name for name in names if cloud is None or cloud in (name, *name.split("/", 1))]
    if not usable:
        return Group(task, kind, cloud or "", ())
    chosen = max(dict.fromkeys(usable), key=usable.count)
    of_it = [label for name, label in named if name == chosen]
    answered = tuple(label for label in of_it if label.is_answered)
    return Group(task, kind, chosen, answered, tuple(label for label in of_it if not label.is_answered))


def _plain_sample(labels: Sequence[Label]) -> NDArray[np.bool_]:
    """Which labels a sample of all drafts with one chance each holds; none where accepted ones were not audited."""
    kept = [draw(label.request_id, "certify") < label.rate * label.weight for label in labels]
    has_audits = any(label.origin is Origin.AUDIT for label in labels)
    # Without a promise all of those that may be audited are asked about, but for those that stay.
    are_all = all(label.rate == 1.0 and label.calibration is not None for label in labels)
    return np.array(kept, dtype=np.bool_) & (has_audits or are_all)


def _stated(labels: Sequence[Label], score: NDArray[np.float64]) -> StatedError | None:
    """The weighted calibration error out of fold."""
    return stated_error(
        [
            Labelled(score=float(p), p_local=float(p), p_cloud=1.0, agrees=label.agrees, weight=label.weight)
            for label, p in zip(labels, score, strict=True)
            if np.isfinite(p)
        ]
    )
