"""Does a promise give way when the traffic changes, and come back? Simulated streams, with the chances worked out."""

import math
import random
from dataclasses import dataclass, field

import pytest

from hybrid.policy.calibrated import LinearModel, Platt
from hybrid.policy.drift import Labelled
from hybrid.policy.model import Draft, Limits, Reason
from hybrid.policy.promise import Promise
from hybrid.policy.reference import reference_of
from hybrid.policy.review import review
from hybrid.policy.tasks import TaskKind
from hybrid.policy.watch import PSI_EVERY, Watch
from hybrid.types import FinishReason

SHARE = 0.25
THRESHOLD = 0.4
RUNS = 20


def promise(**changes) -> Promise:
    """Give a promise of regret <= 5 %, delta 10 %, that keeps scores from 0.4 on local."""
    model = LinearModel(
        features=("option_margin",),
        means=(0.0,),
        scales=(1.0,),
        coefficients=(1.0,),
        intercept=0.0,
        calibration=Platt(4.0, -2.0),
    )
    facts = {
        "task": "quiz",
        "kind": TaskKind.CHOICE,
        "local": model,
        "threshold": THRESHOLD,
        "max_regret": 0.05,
        "delta": 0.1,
        "local_share": 0.6,
        "bound": 0.04,
        "base_rate": 0.8,
        "cloud_rate": 1.0,
    }
    return Promise(**(facts | changes))


@dataclass
class Stream:
    """Requests that are served under a watched promise: reviewed, escalated or answered, audited, labelled."""

    seed: int
    local: int = 0
    regretted: int = 0
    requests: int = 0
    audits: int = 0
    rng: random.Random = field(init=False)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - a simulation
        self.watch = Watch(promise())

    def serve(self, *, is_changed: bool) -> None:
        """Serve one request whose score is uniform.

        Before the change local agrees in 97 % from 0.4 on, so the regret is 0.6 * 0.03 = 0.018. After it, in half from
        0.4 to 0.8 and in 99 % above: a regret of 0.4 * 0.5 + 0.2 * 0.01 = 0.202.
        """
        score = self.rng.random()
        stated = 0.97 if score >= THRESHOLD else 0.6
        after = 0.99 if score >= 0.8 else 0.5
        agrees = self.rng.random() < (after if is_changed and score >= THRESHOLD else stated)
        threshold = self.watch.in_force().threshold
        is_local = score >= threshold
        self.requests += 1
        self.local += is_local
        self.regretted += is_local and not agrees
        is_audited = is_local and self.rng.random() < SHARE
        self.audits += is_audited
        draw = self.rng.random()
        if is_audited or not is_local:
            weight, rate = (1 / SHARE if is_local else 1.0), (SHARE if math.isfinite(threshold) else 1.0)
            facts = {"score": score, "p_local": stated, "p_cloud": 1.0, "agrees": agrees}
            self.watch.take(Labelled(**facts, weight=weight, rate=rate, draw=draw))

    def alarms_within(self, requests: int, *, is_changed: bool) -> int | None:
        """Serve until an alarm, or so many; give how many audits it took."""
        self.audits = 0
        for _ in range(requests):
            self.serve(is_changed=is_changed)
            if self.watch.is_alarmed:
                return self.audits
        return None

    def regret_of(self, requests: int, *, is_changed: bool) -> float:
        """Serve so many, and give the share of them that was answered locally and regretted."""
        before = self.regretted
        for _ in range(requests):
            self.serve(is_changed=is_changed)
        return (self.regretted - before) / requests


def test_without_a_change_most_runs_never_alarm():
    """4,000 requests at a quarter are 1,000 rows: each run alarms with chance <= 0.1, P(Bin(20, 0.1) > 6) = 0.0024."""
    alarmed = [Stream(seed).alarms_within(4_000, is_changed=False) is not None for seed in range(RUNS)]

    assert sum(alarmed) <= 6


def test_a_change_is_noticed_within_its_audits_and_the_regret_comes_back():
    """The alarm takes 205 audits at most, and what is served after it keeps the promise.

    At a regret of 0.202 the bet on four times 0.05 grows by 0.202 ln 4 + 0.798 ln 0.842 = 0.143 nats a row (variance
    0.39) and alarms at ln(3 * 1,000 / 0.1) = 10.3: after 300 rows in 99.8 % of cases, of which 0.6 are audits, 205
    with three standard deviations. After it nothing stays local that 59 rows or more do not certify with
    confidence 0.9: of 20 runs at most 6 may fail, as above.
    """
    broken = 0
    for seed in range(RUNS):
        stream = Stream(seed)
        stream.alarms_within(1_000, is_changed=False)
        took = stream.alarms_within(2_000, is_changed=True)
        assert took is not None
        assert took <= 205
        broken += stream.regret_of(3_000, is_changed=True) > 0.05
        assert not stream.watch.standing.is_certified or stream.watch.in_force().threshold >= THRESHOLD

    assert broken <= 6


def test_the_threshold_is_tightened_by_what_is_certified_then():
    """Above 0.8 local is still right, so labels certify a threshold there, and that promise is calibrated again."""
    stream = Stream(7)
    stream.alarms_within(2_000, is_changed=True)
    at_first = stream.watch.in_force()
    stream.regret_of(3_000, is_changed=True)
    later = stream.watch.in_force()

    assert (True, math.inf) == (at_first.is_withdrawn, at_first.threshold)
    assert not later.is_withdrawn
    assert 0.7 <= later.threshold <= 0.95
    assert "rows since then certify the threshold" in later.alarm


def test_good_labels_end_the_alarm():
    """When the traffic is as calibrated again, labels certify the calibration's own threshold, and it is in force."""
    stream = Stream(11)
    stream.alarms_within(2_000, is_changed=True)
    stream.regret_of(6_000, is_changed=False)

    assert () == stream.watch.standing.alarms
    assert stream.watch.promise == stream.watch.in_force()


def test_the_same_labels_give_the_same_standing():
    """A watch replays: nothing in it depends on more than what it was given."""
    one, other = Stream(5), Stream(5)
    for stream in (one, other):
        stream.regret_of(1_500, is_changed=True)

    assert one.watch.standing == other.watch.standing


def _drafted(watch: Watch, margins: list[float]) -> None:
    for margin in margins:
        watch.saw({"option_margin": margin}, 0.9)


def test_drafts_of_another_kind_withdraw_the_promise_until_labels_certify_it():
    """A feature that moves by its whole spread alarms after 200 drafts, and its return ends that."""
    rng = random.Random(2)  # noqa: S311 - a simulation
    reference = reference_of([rng.random() for _ in range(1_000)])
    assert reference is not None
    watch = Watch(promise(reference={"option_margin": reference}))
    _drafted(watch, [rng.random() for _ in range(400)])
    assert () == watch.standing.alarms
    _drafted(watch, [1 + rng.random() for _ in range(200)])
    assert "PSI" in watch.in_force().alarm
    assert watch.in_force().is_withdrawn
    _drafted(watch, [rng.random() for _ in range(400 + PSI_EVERY)])

    assert () == watch.standing.alarms


def test_what_keeps_nothing_local_is_not_withdrawn():
    """A kind at chance goes straight to the cloud, whatever drafts that may not leave look like; no label breaks it."""
    rng = random.Random(0)  # noqa: S311 - a simulation
    uniform = reference_of([rng.random() for _ in range(500)])
    watch = Watch(promise(threshold=math.inf, is_at_chance=True, reference={"p_local": uniform}))
    for _ in range(400):
        watch.saw({}, rng.random() ** 3)
    assert watch.is_alarmed
    for _ in range(500):
        score = rng.random()
        watch.take(Labelled(score=score, p_local=0.5, p_cloud=1.0, agrees=rng.random() < 0.5))

    in_force = watch.in_force()
    assert (False, True) == (in_force.is_withdrawn, in_force.is_at_chance)


def test_stated_chances_that_are_off_alarm():
    """0.9 stated and a third observed, over 125 labels of drafts that are escalated anyway."""
    watch = Watch(promise(threshold=0.95))
    for at in range(125):
        watch.take(Labelled(score=0.9, p_local=0.9, p_cloud=1.0, agrees=at % 3 == 0, rate=0.0, draw=0.5))

    assert "stated chances are" in watch.standing.alarms[0]


def _draft(margin: float) -> Draft:
    peak = math.log(0.5 + margin / 2)
    return Draft(logprobs=(peak,), options=(peak, math.log(0.5 - margin / 2)), finish_reason=FinishReason.STOP)


def test_a_review_says_what_it_stands_on():
    """A withdrawn promise accepts nothing, calls nothing calibrated, and gives its reason."""
    stream = Stream(7)
    stream.alarms_within(2_000, is_changed=True)
    verdict = review(_draft(0.98), Limits(promise=stream.watch.in_force(), kind=TaskKind.CHOICE))

    assert (False, False, Reason.CONFIDENCE) == (verdict.is_accepted, verdict.is_calibrated, verdict.reason)
    assert "no promise; alarm: local and cloud disagreed" in verdict.checks[-1].detail


@pytest.mark.parametrize("numbers", [{}, {"option_margin": math.nan}])
def test_missing_numbers_are_no_drift(numbers):
    """A draft without a watched feature, or with one that is no number, changes nothing."""
    watch = Watch(promise())
    for _ in range(PSI_EVERY):
        watch.saw(numbers, 0.5)

    assert watch.standing.psi is None


def test_audits_that_the_cloud_did_not_answer_raise_no_alarm_and_certify_nothing():
    """A cloud that fails is no regret; but what it did not say cannot speak for a threshold either."""
    silent = Labelled(score=0.9, p_local=0.9, p_cloud=1.0, agrees=False, is_answered=False)
    good = Labelled(score=0.9, p_local=0.97, p_cloud=1.0, agrees=True)
    watch = Watch(promise())
    for _ in range(500):
        watch.take(silent)
    assert (False, 0) == (watch.is_alarmed, watch.standing.rows)

    certified = []
    for others in ([], [silent] * 100):
        watch = Watch(promise())
        watch.resume("another population")
        for label in [*others, *[good] * 150]:
            watch.take(label)
        certified.append(watch.standing.is_certified)
    assert [True, False] == certified
