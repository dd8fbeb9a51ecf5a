"""What may be promised of local answers to one kind of task, and what does that say of one draft?

A calibration measured how often the local model is right, given a draft's features, and counted on labelled rows how
many answers each threshold would have been sorry for. From that count the threshold for any promise follows here, so
that a change of `policy.max_regret` needs no new calibration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from hybrid.policy.bounds import allowed_errors, upper_bound
from hybrid.policy.calibrated import LinearModel, probability
from hybrid.policy.features import SAMPLE_FEATURES, VOTE_FEATURES, features, prior_features
from hybrid.policy.model import Draft, beginning
from hybrid.policy.reference import Reference
from hybrid.policy.tasks import TaskKind
from hybrid.policy.votes import agreement_of, ballot_features, unanimous
from hybrid.policy.wording import CLOUD_WORDS

LEAST_LOCAL_SHARE = 0.02
"""A promise that is kept by answering less than this locally is kept by not being there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What each threshold would have cost on labelled rows, the strictest first.

    thresholds: falling scores. kept, regretted: how many of the n rows stay local at each, and how many of those are
    wrong where the cloud is right (or just wrong, where the cloud's labels are not known). All of one length.
    """

    thresholds: tuple[float, ...]
    kept: tuple[int, ...]
    regretted: tuple[int, ...]
    n: int

    def __post_init__(self) -> None:
        if not len(self.thresholds) == len(self.kept) == len(self.regretted):
            raise ValueError("need as many counts as thresholds")
        rows = list(zip(self.thresholds, self.kept, self.regretted, strict=True))
        for (high, few, less), (low, many, more) in pairwise(rows):
            if not (high > low and few <= many and less <= more):
                raise ValueError("thresholds must fall, and what they keep must grow")
        if rows and not (all(map(math.isfinite, self.thresholds)) and self.kept[-1] <= self.n):
            raise ValueError("thresholds must be finite, and keep no more than there is")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A point of a growing draft at which it is judged: after so many tokens it is given up below `threshold`."""

    tokens: int
    threshold: float
    model: LinearModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which calibration a promise is of: the model's file and chat template, the labelled rows, and when.

    fingerprint, template_fingerprint, dataset_digest, recipe_digest: hex digests. made_at: ISO 8601.
    schema, feature_version: of the artefact. program: the version that made it.
    """

    model: str
    fingerprint: str
    template_fingerprint: str
    dataset: str
    dataset_digest: str
    recipe_digest: str
    made_at: str
    schema: int
    feature_version: int
    program: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One kind of task that was calibrated for the model that serves.

    task: the dataset's name of it; a request names it by its tag, else `kind` decides.
    local: gives the chance that a local draft is right. cloud: the same of the cloud's answer, by the local draft's
    features; None takes `cloud_rate` for all. ranks_by_gain: thresholds are on p_local - p_cloud, else on p_local.
    option_prior: mean log-share of each option's letter, which is the model's habit and no knowledge.
    threshold: a draft that scores lower is escalated; infinite where nothing can be promised. bound: of the regret.
    base_rate, cloud_rate: share of right answers, local's and the cloud's; the latter None where it is not known.
    cloud_model: which cloud that is, as provider, model or both; None where local was compared with gold labels alone.
    is_at_chance: whether nothing about a draft tells if it is right. samples: answers drawn to each prompt.
    votes: digest of the words in which further answers are asked for their reasons; empty: they are of the same prompt.
    vote_floor: no votes are asked for where all of them together would not bring the score to it; None: always.
    looks: where a growing draft is given up, in order. origin: None where it is of no artefact.
    id: of the calibration it comes from. reference: how p_local and the features were spread there.
    alarm: what the labels since then say against it, and what is in force because of that; empty where nothing.
    is_withdrawn: whether nothing certifies it now. Drafts are still made and judged, so that labels may.
    cloud_words: what the request's words say of the cloud, a logit; None where no calibration asks for that.
    """

    task: str
    kind: TaskKind
    local: LinearModel
    cloud: LinearModel | None = None
    ranks_by_gain: bool = False
    option_prior: tuple[float, ...] = ()
    threshold: float
    max_regret: float
    delta: float
    local_share: float
    bound: float
    base_rate: float
    cloud_rate: float | None = None
    cloud_model: str | None = None
    is_at_chance: bool = False
    samples: int = 1
    votes: str = ""
    vote_floor: float | None = None
    looks: tuple[Look, ...] = ()
    origin: Origin | None = None
    id: str = ""
    reference: Mapping[str, Reference] = field(default_factory=dict)
    alarm: str = ""
    is_withdrawn: bool = False
    cloud_words: float | None = None

    @property
    def is_feasible(self) -> bool:
        """Whether any local answer keeps it."""
        return math.isfinite(self.threshold)

    def score_of(self, p_local: float, p_cloud: float) -> float:
        """What is compared with its threshold."""
        return p_local - p_cloud if self.ranks_by_gain else p_local


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a promise says of a draft: the chances that local and cloud are right, and the score to compare."""

    p_local: float
    p_cloud: float
    score: float


def judge(promise: Promise, draft: Draft) -> Judgement | None:
    """Judge a draft; None where it has none of the features that the calibration used.

    Raises: ValueError for a draft without tokens or with numbers that are not finite.
    """
    return judge_by(promise, draft_features(draft, promise.option_prior))


def judge_by(promise: Promise, found: Mapping[str, float]) -> Judgement | None:
    """Judge a draft by its features; None where it has none of those that the calibration used.

    One that was not compared with others is no answer of a calibration that picks among several.

    Args:
        found: as `draft_features` gives them.
    Raises: ValueError if one is infinite, or so large that the score is.
    """
    if promise.samples > 1 and found.keys().isdisjoint(SAMPLE_FEATURES):
        return None
    p_local = probability(promise.local, found)
    if p_local is None:
        return None
    p_cloud = None if promise.cloud is None else probability(promise.cloud, of_cloud(promise, found))
    if p_cloud is None:
        p_cloud = 1.0 if promise.cloud_rate is None else promise.cloud_rate
    return Judgement(p_local, p_cloud, promise.score_of(p_local, p_cloud))


def of_cloud(promise: Promise, found: Mapping[str, float]) -> Mapping[str, float]:
    """What the chance of the cloud is told by: a draft's features, and what the request's words say."""
    return found if promise.cloud_words is None else {**found, CLOUD_WORDS: promise.cloud_words}


def at_most(promise: Promise, draft: Draft) -> Judgement | None:
    """Judge a letter as if all votes were for it: no ballot scores higher, where votes count for an answer."""
    ballot = unanimous(draft.options)
    agreement = agreement_of(ballot, promise.samples)
    return judge(promise, replace(draft, ballot=ballot, agreement=agreement))


def is_worth_votes(promise: Promise, draft: Draft) -> bool:
    """Whether votes could bring a letter's score to the floor; else it goes to the cloud without them."""
    if promise.vote_floor is None or len(draft.options) < 2:
        return True
    judgement = at_most(promise, draft)
    return judgement is None or judgement.score >= promise.vote_floor


def grows_with_votes(model: LinearModel) -> bool:
    """Whether a vote more for the letter never lowers the chance that the model states."""
    counted = zip(model.features, model.coefficients, strict=True)
    return all(weight >= 0 for name, weight in counted if name in (*VOTE_FEATURES, *SAMPLE_FEATURES))


def draft_features(draft: Draft, option_prior: Sequence[float] = ()) -> dict[str, float]:
    """Give a draft's features, those against the options' prior where it fits, and of votes where there were some."""
    found = features(draft)
    if draft.options and len(option_prior) == len(draft.options):
        found.update(prior_features(draft.options, option_prior))
    if draft.options and draft.ballot is not None:
        found.update(ballot_features(draft.options, draft.ballot))
    return found


def given_up_at(draft: Draft, looks: Sequence[Look], option_prior: Sequence[float] = ()) -> int | None:
    """Say after how many tokens a look would have ended this draft as it grew; None where it grows to its end."""
    for look in looks:
        if len(draft.logprobs) <= look.tokens:
            continue
        try:
            chance = probability(look.model, draft_features(beginning(draft, look.tokens), option_prior))
        except ValueError:
            # Numbers that are none: nothing was given up for them.
            continue
        if chance is not None and chance < look.threshold:
            return look.tokens
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """The loosest threshold that keeps a promise, or an infinite one. bound: of the true regret, at its confidence."""

    threshold: float
    local_share: float
    bound: float
    why: str


def certify(counted: Counted, max_regret: float, delta: float, *, is_at_chance: bool = False) -> Certified:
    """Find the loosest threshold at which P(regret > max_regret) <= delta: the one rule that `serve` is bound by.

    Thresholds are tested from the strictest down, and the last before the first that fails is certified, which keeps
    the chance of any mistake at delta without a price for their number. Regret is the true share as well as the one
    that shows in as many requests to come as there are rows.

    Args:
        is_at_chance: nothing about a draft tells if it is right. A few that passed by luck are no reason to answer.
    Raises: ValueError if max_regret or delta are not in (0, 1).
    Source: fixed-sequence testing: Angelopoulos et al., arXiv:2110.01052; exact bounds: Clopper and Pearson 1934.
    """
    if not 0 < max_regret < 1 or not 0 < delta < 1:
        raise ValueError(f"max_regret and delta lie in (0, 1); got {max_regret} and {delta}")
    if is_at_chance:
        return Certified(threshold=math.inf, local_share=0.0, bound=0.0, why="its drafts do not tell right from wrong")
    allowed = allowed_errors(counted.n, max_regret, delta) if counted.n else -1
    place = -1
    for count in counted.regretted:
        if count > allowed:
            break
        place += 1
    share = counted.kept[place] / counted.n if place >= 0 else 0.0
    if share < LEAST_LOCAL_SHARE:
        why = f"of {counted.n} rows no threshold answers anything locally and keeps regret <= {max_regret:g}"
        return Certified(threshold=math.inf, local_share=0.0, bound=0.0, why=why)
    errors = counted.regretted[place]
    bound = upper_bound(errors, counted.n, delta)
    why = f"{errors} of {counted.n} rows regretted; at most {bound:.4f} with confidence {1 - delta:g}"
    return Certified(threshold=counted.thresholds[place], local_share=share, bound=bound, why=why)
