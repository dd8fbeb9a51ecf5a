"""How does a table of marked answers become a calibration? Fitted, counted out of fold, and told how good it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from hybrid.artefact import Counts, LookAt, Spread, Task, Words, spreads_of, weights_of, words_of
from hybrid.calibration.certify import counts_of, regrets
from hybrid.calibration.curves import deferral
from hybrid.calibration.datasets import Dataset, Question, Scorer
from hybrid.calibration.fit import Fit, fit, matrix
from hybrid.calibration.growing import fit_looks, given_up
from hybrid.calibration.recipes import KINDS, Recipe
from hybrid.calibration.resample import bootstrap
from hybrid.calibration.table import Table, has_gold, taught
from hybrid.calibration.wordings import Worded, fit_wording
from hybrid.errors import CommandError
from hybrid.policy.calibrated import probability
from hybrid.policy.features import OPTION_FEATURES, PRIOR_FEATURES, SAMPLE_FEATURES, TOKEN_FEATURES, VOTE_FEATURES
from hybrid.policy.promise import Certified, Promise, certify, grows_with_votes, is_worth_votes
from hybrid.policy.watch import P_LOCAL
from hybrid.policy.wording import CLOUD_WORDS

BARE: Mapping[Scorer, str] = {
    "choice": "option_margin",
    "number": "agreement",
    "python": "weak_quarter_logprob",
    "text": "weak_quarter_logprob",
}
"""The one feature that is kept where nothing beats it."""


UNBOUNDED = frozenset({"option_mass"})
"""Features that hardly vary where questions are put as calibrated, and by far elsewhere."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """What came of one calibration.

    local: the fit of P(local right); cloud: of P(cloud right), where the cloud's labels are known.
    score: by which thresholds are set, out of fold, shape (n,); minus infinity where there is none.
    certified: the threshold for the promise. idle_votes: how many were drawn of which nothing is used.
    """

    task: Task
    local: Fit
    cloud: Fit | None
    score: NDArray[np.float64]
    certified: Certified
    idle_votes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a calibration is for.

    task: its name. cloud: who is compared with; None: gold labels only. votes: digest of the recipe that the answers
    after the first are asked by; empty: they are of the same prompt.
    """

    task: str
    samples: int = 1
    votes: str = ""
    cloud: str | None = None
    max_regret: float = 0.05
    delta: float = 0.1
    seed: int = 0


def calibrate(
    table: Table,
    dataset: Dataset,
    scorer: Scorer,
    recipe: Recipe,
    goal: Goal,
    beside: Sequence[Question] = (),
) -> Calibrated:
    """Fit, choose the score, count what each threshold would cost, and certify.

    Thresholds are set on the gain, p_local - p_cloud, where that ranks clearly better out of fold by the area under
    the deferral curve, else on p_local: the cloud's own model is worth its noise only if it pays.

    beside: questions that are no rows, of which the cloud's record teaches what words say of it.
    Raises: CommandError if there are too few rows or only one label.
    """
    prior = table.option_prior()
    rows = table.features(prior)
    local = fit_rows(rows, table.local_right, BARE[scorer], goal.seed)
    worded = _fit_words(table, recipe, goal, beside)
    cloud = _fit_cloud(_with_words(rows, worded), table.cloud_right, BARE[scorer], goal.seed)
    drawn, goal = goal.samples, _as_used(goal, local, cloud)
    score, ranks_by_gain = _score(table, local, cloud)
    counts = counts_of(score, regrets(table.local_right, table.cloud_right))
    certified = certify(counts.counted(), goal.max_regret, goal.delta, is_at_chance=local.report.is_at_chance)
    looks = fit_looks(table, prior, score >= certified.threshold, goal.seed)
    task = _task(table, dataset, scorer, recipe, goal, local)
    task = structs.replace(
        task,
        cloud=None if cloud is None else weights_of(cloud.model),
        ranks_by_gain=ranks_by_gain,
        option_prior=prior,
        counts=counts,
        words=_words(cloud, worded),
        looks=tuple(
            LookAt(tokens=look.tokens, threshold=look.threshold, local=weights_of(look.model)) for look in looks
        ),
        vote_floor=_vote_floor(goal, local, certified, ranks_by_gain=ranks_by_gain),
    )
    judged = judged_online(table, task.promise(goal.max_regret, goal.delta))
    task = structs.replace(
        task, reference=reference(local, [row for row, is_one in zip(rows, judged, strict=True) if is_one])
    )
    return Calibrated(task, local, cloud, score, certified, drawn - goal.samples)


def _task(table: Table, dataset: Dataset, scorer: Scorer, recipe: Recipe, goal: Goal, local: Fit) -> Task:
    """What of it does not depend on the score."""
    is_gold = all(has_gold(row.question) for row in table.rows)
    cloud_right = table.cloud_right
    return Task(
        task=goal.task,
        kind=KINDS[scorer],
        dataset=dataset.path.name,
        dataset_digest=dataset.digest,
        recipe_digest=recipe.digest,
        rows=len(table.rows),
        labels="gold" if is_gold or goal.cloud is None else goal.cloud,
        cloud_model=goal.cloud,
        local=weights_of(local.model),
        counts=Counts(thresholds=(), kept=(), regretted=(), n=0),
        base_rate=float(table.local_right.mean()),
        cloud_rate=None if cloud_right is None else float(cloud_right.mean()),
        is_at_chance=local.report.is_at_chance,
        samples=goal.samples,
        votes=goal.votes,
        report=asdict(local.report) | {"is_at_chance": local.report.is_at_chance},
    )


def _as_used(goal: Goal, local: Fit, cloud: Fit | None) -> Goal:
    """Ask for no votes online that no fit uses: the letter is the same without."""
    used = {*local.model.features, *(() if cloud is None else cloud.model.features)}
    if not goal.votes or not used.isdisjoint((*VOTE_FEATURES, *SAMPLE_FEATURES)):
        return goal
    return replace(goal, samples=1, votes="")


def _vote_floor(goal: Goal, local: Fit, certified: Certified, *, ranks_by_gain: bool) -> float | None:
    """Below which score votes are not asked for, where more of them never lower it."""
    is_certified = math.isfinite(certified.threshold)
    if not goal.votes or ranks_by_gain or not is_certified or not grows_with_votes(local.model):
        return None
    return certified.threshold


def judged_online(table: Table, promise: Promise) -> list[bool]:
    """Which drafts are judged whole: neither given up at a look, nor beyond what votes could lift.

    Drift is told against them, for of the others there is nothing to be told.
    """
    drafts = [row.draft for row in table.rows]
    is_lost = given_up(drafts, promise.looks, promise.option_prior)
    return [not lost and is_worth_votes(promise, draft) for draft, lost in zip(drafts, is_lost, strict=True)]


def reference(local: Fit, rows: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Keep how the model's probability and its features are spread over the rows, for drift to be told against."""
    told = [probability(local.model, row) for row in rows]
    return spreads_of(
        {P_LOCAL: [p for p in told if p is not None]}
        | {name: [row[name] for row in rows if name in row] for name in local.model.features}
    )


def fit_rows(
    rows: Sequence[Mapping[str, float]],
    right: NDArray[np.bool_],
    bare: str,
    seed: int,
    weights: NDArray[np.float64] | None = None,
) -> Fit:
    """Fit on rows of features, of which those that belong together are tried together."""
    names = sorted({name for row in rows for name in row})
    wanted = {
        "tokens": TOKEN_FEATURES,
        "options": OPTION_FEATURES + PRIOR_FEATURES,
        "votes": VOTE_FEATURES,
        "votes and options": VOTE_FEATURES + OPTION_FEATURES,
        "samples": (*SAMPLE_FEATURES, "is_cut", "log_tokens"),
        "samples and tokens": SAMPLE_FEATURES + TOKEN_FEATURES,
        "words and options": (CLOUD_WORDS, *OPTION_FEATURES, *PRIOR_FEATURES),
        "words and tokens": (CLOUD_WORDS, *TOKEN_FEATURES),
    }
    groups = {name: [one for one in group if one in names] for name, group in wanted.items()}
    groups = {name: group for name, group in groups.items() if len(group) > 1}
    bare_name = bare if bare in names else None
    return fit(names, matrix(rows, names), right, groups=groups, bare=bare_name, weights=weights, seed=seed)


def _fit_cloud(
    rows: Sequence[Mapping[str, float]], right: NDArray[np.bool_] | None, bare: str, seed: int
) -> Fit | None:
    """Fit P(cloud right); None without labels, or with too few mistakes of the cloud to learn from.

    Not by what has no bounds: a client's question may be put so that the model says no letter at once, and a mass a
    thousand deviations off would have the cloud for wrong, so that a doubtful answer stayed.
    """
    if right is None:
        return None
    rows = [{name: value for name, value in row.items() if name not in UNBOUNDED} for row in rows]
    try:
        return fit_rows(rows, right, bare, seed)
    except CommandError:
        return None


def _fit_words(table: Table, recipe: Recipe, goal: Goal, beside: Sequence[Question]) -> Worded | None:
    right = table.cloud_right
    if right is None:
        return None
    return fit_wording(table.texts(recipe), right, *taught(beside, table, recipe, goal.cloud), seed=goal.seed)


def _with_words(rows: Sequence[Mapping[str, float]], worded: Worded | None) -> Sequence[Mapping[str, float]]:
    if worded is None:
        return rows
    return [{**row, CLOUD_WORDS: float(logit)} for row, logit in zip(rows, worded.out_of_fold, strict=True)]


def _words(cloud: Fit | None, worded: Worded | None) -> Words | None:
    """The words as the artefact keeps them, where the cloud's fit found them worth it."""
    if worded is None or cloud is None or CLOUD_WORDS not in cloud.model.features:
        return None
    return words_of(worded.wording)


def _score(table: Table, local: Fit, cloud: Fit | None) -> tuple[NDArray[np.float64], bool]:
    """Choose what thresholds are set on.

    The choice is made on the rows that certify, so the gain must be better by more than chance: the 95 % interval of
    the paired difference lies above 0. A choice between two that look alike would cost the promise its confidence.
    """
    cloud_right = table.cloud_right
    plain = np.where(np.isnan(local.out_of_fold), -np.inf, local.out_of_fold)
    if cloud is None or cloud_right is None:
        return plain, False
    gain = plain - np.where(np.isnan(cloud.out_of_fold), cloud_right.mean(), cloud.out_of_fold)

    def better(rows: NDArray[np.intp]) -> float:
        marks = table.local_right[rows], cloud_right[rows]
        return deferral(gain[rows], *marks).auc_df() - deferral(plain[rows], *marks).auc_df()

    interval = bootstrap(better, len(plain))
    return (gain, True) if interval is not None and interval.low > 0 else (plain, False)
