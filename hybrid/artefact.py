"""What does a calibration leave behind, and which holds for the model that serves? Versioned JSON, one file a model."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from hybrid.errors import DatasetError
from hybrid.policy.calibrated import Isotonic, LinearModel, Platt
from hybrid.policy.features import FEATURE_VERSION
from hybrid.policy.promise import Counted, Look, Origin, Promise, certify
from hybrid.policy.reference import Reference, reference_of
from hybrid.policy.tasks import TaskKind
from hybrid.policy.wording import Wording

log = logging.getLogger(__name__)

SCHEMA = 1
"""Counts up when an artefact's meaning changes; one of another schema is not used."""
MOST_BYTES = 32 << 20


class Knots(msgspec.Struct, frozen=True, tag="isotonic", forbid_unknown_fields=True):
    """`policy.calibrated.Isotonic`."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class Sigmoid(msgspec.Struct, frozen=True, tag="platt", forbid_unknown_fields=True):
    """`policy.calibrated.Platt`."""

    slope: float
    offset: float


Map: TypeAlias = Knots | Sigmoid


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`policy.calibrated.LinearModel`."""

    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    calibration: Map

    def model(self) -> LinearModel:
        """It as the policy applies it. Raises: ValueError if the numbers make no model."""
        plain = self.calibration
        return LinearModel(
            features=self.features,
            means=self.means,
            scales=self.scales,
            coefficients=self.coefficients,
            intercept=self.intercept,
            calibration=Isotonic(plain.x, plain.y) if isinstance(plain, Knots) else Platt(plain.slope, plain.offset),
        )


def weights_of(model: LinearModel) -> Weights:
    """Write a fitted model as plain numbers."""
    plain = model.calibration
    return Weights(
        features=model.features,
        means=model.means,
        scales=model.scales,
        coefficients=model.coefficients,
        intercept=model.intercept,
        calibration=Knots(plain.x, plain.y) if isinstance(plain, Isotonic) else Sigmoid(plain.slope, plain.offset),
    )


class LookAt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`policy.promise.Look`."""

    tokens: int
    threshold: float
    local: Weights


class Counts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`policy.promise.Counted`, on scores by models that never saw their rows."""

    thresholds: tuple[float, ...]
    kept: tuple[int, ...]
    regretted: tuple[int, ...]
    n: int

    def counted(self) -> Counted:
        """It as the policy takes it. Raises: ValueError if the counts contradict each other."""
        return Counted(thresholds=self.thresholds, kept=self.kept, regretted=self.regretted, n=self.n)


class Spread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`policy.reference.Reference`."""

    cuts: tuple[float, ...]
    shares: tuple[float, ...]
    n: int


class Words(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`policy.wording.Wording`. weights: numbers of sixteen bits, the lower byte first, in base 64."""

    weights: bytes
    intercept: float

    def wording(self) -> Wording:
        """It as the policy applies it. Raises: ValueError if it makes none."""
        count, rest = divmod(len(self.weights), 2)
        if rest:
            raise ValueError("half a weight of words")
        return Wording(struct.unpack(f"<{count}e", self.weights), self.intercept)


def words_of(wording: Wording) -> Words:
    """Write a model of words as plain bytes. Raises: ValueError if a weight is too large for sixteen bits."""
    try:
        return Words(weights=struct.pack(f"<{len(wording.weights)}e", *wording.weights), intercept=wording.intercept)
    except (OverflowError, struct.error) as large:
        raise ValueError(f"a weight of words is too large: {large}") from large


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of task that was calibrated. Most fields are as in `policy.promise.Promise`.

    dataset, dataset_digest, recipe_digest, rows: what it was measured on. labels: where right and wrong come from:
    `gold`, or a cloud's name. report: the fit's figures, for people and programs.
    reference: how `p_local` and the features in use were spread over the rows, by name; drift is told against it.
    words: what a question's words say of the cloud, a feature of `cloud`; None where that has no such feature.
    made_at, version: as in `Artefact`; empty where they are the artefact's own.
    """

    task: str
    kind: TaskKind
    dataset: str
    dataset_digest: str
    recipe_digest: str
    rows: int
    labels: str
    cloud_model: str | None = None
    local: Weights
    cloud: Weights | None = None
    ranks_by_gain: bool = False
    option_prior: tuple[float, ...] = ()
    counts: Counts
    base_rate: float
    cloud_rate: float | None = None
    is_at_chance: bool = False
    samples: int = 1
    votes: str = ""
    vote_floor: float | None = None
    looks: tuple[LookAt, ...] = ()
    report: Mapping[str, object] = {}
    reference: Mapping[str, Spread] = {}
    words: Words | None = None
    made_at: str = ""
    version: str = ""

    @property
    def id(self) -> str:
        """A digest of what scores and thresholds come from: labels of another one say nothing of this."""
        essence: tuple[object, ...] = self.task, self.kind, self.local, self.cloud, self.ranks_by_gain
        essence += self.option_prior, self.counts
        essence += () if self.words is None else (self.words,)
        return hashlib.sha256(msgspec.json.encode(essence)).hexdigest()[:16]

    def wording(self) -> Wording | None:
        """What a question's words say of the cloud. Raises: ValueError if its numbers make no sense."""
        return None if self.words is None else self.words.wording()

    def promise(self, max_regret: float, delta: float) -> Promise:
        """What it lets one promise. Raises: ValueError if its numbers make no sense."""
        certified = certify(self.counts.counted(), max_regret, delta, is_at_chance=self.is_at_chance)
        return Promise(
            task=self.task,
            kind=self.kind,
            local=self.local.model(),
            cloud=None if self.cloud is None else self.cloud.model(),
            ranks_by_gain=self.ranks_by_gain,
            option_prior=self.option_prior,
            threshold=certified.threshold,
            max_regret=max_regret,
            delta=delta,
            local_share=certified.local_share,
            bound=certified.bound,
            base_rate=self.base_rate,
            cloud_rate=self.cloud_rate,
            cloud_model=self.cloud_model,
            is_at_chance=self.is_at_chance,
            samples=self.samples,
            votes=self.votes,
            vote_floor=self.vote_floor,
            looks=tuple(
                Look(tokens=look.tokens, threshold=look.threshold, model=look.local.model()) for look in self.looks
            ),
            id=self.id,
            reference={name: Reference(one.cuts, one.shares, one.n) for name, one in self.reference.items()},
        )


def spreads_of(rows: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """Keep how each named number is spread; those that never vary are left out."""
    found = ((name, reference_of(values)) for name, values in rows.items())
    return {name: Spread(cuts=one.cuts, shares=one.shares, n=one.n) for name, one in found if one is not None}


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """All calibrations of one model. fingerprint, template_fingerprint: of what must serve for them to hold.

    format: the weights', as the file names it. made_at: ISO 8601. version: of this program.
    """

    schema: int = SCHEMA
    feature_version: int = FEATURE_VERSION
    model: str
    format: str
    fingerprint: str
    template_fingerprint: str
    made_at: str
    version: str
    tasks: tuple[Task, ...] = ()

    def with_task(self, task: Task) -> Artefact:
        """Add a task, in the place of an earlier calibration of the same name and kind."""
        others = tuple(one for one in self.tasks if (one.task, one.kind) != (task.task, task.kind))
        return msgspec.structs.replace(self, tasks=(*others, task))


def origin_of(artefact: Artefact, task: Task) -> Origin:
    """Say which calibration a task's promise is of."""
    return Origin(
        model=artefact.model,
        fingerprint=artefact.fingerprint,
        template_fingerprint=artefact.template_fingerprint,
        dataset=task.dataset,
        dataset_digest=task.dataset_digest,
        recipe_digest=task.recipe_digest,
        made_at=task.made_at or artefact.made_at,
        schema=artefact.schema,
        feature_version=artefact.feature_version,
        program=task.version or artefact.version,
    )


class Loaded(Protocol):
    """What a worker has loaded, as `engine.frames.Ready` tells it."""

    @property
    def fingerprint(self) -> str:
        """Of the model's file."""

    @property
    def template_fingerprint(self) -> str:
        """Of its chat template."""


def path_of(folder: Path, fingerprint: str) -> Path:
    """Where the artefact of a model lies."""
    return folder / f"{fingerprint[:16]}.json"


_decoder = msgspec.json.Decoder(Artefact)


def read_artefact(path: Path) -> Artefact:
    """Read one, and see that every number in it makes sense.

    Raises: DatasetError that says what is wrong; FileNotFoundError if there is none.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DatasetError(f"{path} is larger than any calibration")
        artefact = _decoder.decode(path.read_bytes())
        if artefact.schema == SCHEMA:
            for task in artefact.tasks:
                task.promise(0.05, 0.1)
                task.wording()
    except FileNotFoundError:
        raise
    except OSError as unreadable:
        raise DatasetError(f"{path}: {unreadable.strerror or unreadable}") from unreadable
    except (msgspec.MsgspecError, ValueError) as broken:
        raise DatasetError(f"{path} is no sound calibration: {broken}; run `hybrid calibrate` again") from broken
    return artefact


def write_artefact(folder: Path, artefact: Artefact) -> Path:
    """Put one in its place, whole or not at all. Raises: DatasetError if that cannot be done."""
    path = path_of(folder, artefact.fingerprint)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.format(msgspec.json.encode(artefact), indent=1) + b"\n")
        part.replace(path)
    except OSError as failed:
        with suppress(OSError):
            part.unlink()
        raise DatasetError(f"{path}: {failed.strerror or failed}") from failed
    return path


def add_tasks(folder: Path, artefact: Artefact, tasks: Sequence[Task]) -> tuple[Path, str | None]:
    """Write tasks into a model's artefact, beside those calibrated before that still hold.

    Returns: where it lies, and why an earlier one was dropped, if it was.
    Raises: DatasetError if it cannot be written.
    """
    dropped = None
    try:
        old = read_artefact(path_of(folder, artefact.fingerprint))
        dropped = mismatch(old, artefact)
        for task in () if dropped else old.tasks:
            made_at, version = task.made_at or old.made_at, task.version or old.version
            artefact = artefact.with_task(msgspec.structs.replace(task, made_at=made_at, version=version))
    except FileNotFoundError:
        pass
    except DatasetError as broken:
        dropped = str(broken)
    for task in tasks:
        artefact = artefact.with_task(task)
    return write_artefact(folder, artefact), dropped


def mismatch(artefact: Artefact | None, loaded: Loaded) -> str | None:
    """Why an artefact does not speak of what is loaded; None if it does."""
    if artefact is None:
        return None
    if artefact.schema != SCHEMA or artefact.feature_version != FEATURE_VERSION:
        return f"the calibration of {artefact.model} is of another version of this program; run `hybrid calibrate`"
    if artefact.fingerprint != loaded.fingerprint:
        return f"the calibration is of another file than {artefact.model} as it is loaded"
    if artefact.template_fingerprint != loaded.template_fingerprint:
        return f"{artefact.model} was calibrated with another chat template"
    return None
