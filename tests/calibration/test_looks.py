"""Does the promise survive repeated looks at a draft, and does aborting lose no more than it says?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.calibration.certify import certify
from hybrid.calibration.looks import NEVER, certify_abort, certify_looks, first_reached

LOOKS = 4
NAN = float("nan")


def drafts(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that sharpen from look to look around the chance to be right; a cloud right in 90 %."""
    rng = np.random.default_rng(seed)
    chance = rng.random(n)
    noise = rng.standard_normal((n, LOOKS)) * np.array([0.4, 0.3, 0.2, 0.1])
    return chance[:, None] + noise, rng.random(n) < chance, rng.random(n) < 0.9


def test_first_reached_by_hand():
    """The first look that reaches its threshold releases; NaN and None release nothing."""
    scores = [[0.9, 0.1], [0.1, 0.9], [NAN, 0.9], [0.1, 0.1], [0.5, NAN]]
    assert [0, 1, 1, NEVER, 0] == list(first_reached(scores, (0.5, 0.6)))
    assert [NEVER, 1, 1, NEVER, NEVER] == list(first_reached(scores, (None, 0.6)))


def test_one_look_is_a_plain_threshold():
    """With the whole draft as its only look a schedule is certified as a threshold is."""
    scores, local, cloud = drafts(500, 1)
    found = certify_looks(scores[:, -1:], local, cloud, 0.05, 0.1)
    assert certify(scores[:, -1], local, cloud, 0.05, 0.1) == found.certificate
    assert (found.certificate.threshold,) == found.thresholds
    split = certify_looks(scores[:, -1:], local, cloud, 0.05, 0.1, spending="split")
    assert found.thresholds == split.thresholds
    assert pytest.approx(found.certificate.bound) == split.certificate.bound


@pytest.mark.parametrize("spending", ["joint", "split"])
def test_the_certificate_counts_what_is_released(spending):
    """Errors, share and looks are those of releasing at the first look that passes."""
    scores, local, cloud = drafts(2_000, 2)
    found = certify_looks(scores, local, cloud, 0.1, 0.1, spending=spending)
    at = first_reached(scores, found.thresholds)
    bad = ~local & cloud & (at != NEVER)
    assert bad.sum() == found.certificate.errors
    assert pytest.approx(np.mean(at != NEVER)) == found.certificate.local_share
    assert pytest.approx([np.mean(at == look) for look in range(LOOKS)]) == list(found.released)
    assert found.certificate.bound <= 0.1
    assert found.certificate.is_feasible


def true_regret(thresholds: tuple[float | None, ...], big: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Regret of a schedule on 50,000 rows, known to about 0.001."""
    scores, local, cloud = big
    return float((~local & cloud & (first_reached(scores, thresholds) != NEVER)).mean())


def test_looking_often_does_not_break_the_promise():
    """Over 200 calibration sets regret is above the limit in at most delta of them, within 4 standard errors.

    Certifying each look by itself at the whole limit, which is what peeking does, breaks it nearly always.
    """
    big, limit = drafts(50_000, 99), 0.08
    broken = {"joint": 0, "split": 0, "peeking": 0}
    for seed in range(200):
        scores, local, cloud = drafts(500, seed)
        joint = certify_looks(scores, local, cloud, limit, 0.1).thresholds
        split = certify_looks(scores, local, cloud, limit, 0.1, spending="split").thresholds
        peeking = tuple(certify(scores[:, at], local, cloud, limit, 0.1).threshold for at in range(LOOKS))
        for name, thresholds in (("joint", joint), ("split", split), ("peeking", peeking)):
            broken[name] += true_regret(thresholds, big) > limit + 0.003
    allowed = 200 * 0.1 + 4 * np.sqrt(200 * 0.1 * 0.9)
    assert broken["joint"] <= allowed
    assert broken["split"] <= allowed
    assert broken["peeking"] > 150


def test_joint_wastes_less_than_split():
    """Dividing the limit among looks that mostly agree answers less locally."""
    scores, local, cloud = drafts(1_500, 4)
    joint, split = (certify_looks(scores, local, cloud, 0.08, 0.1, spending=way) for way in ("joint", "split"))
    assert joint.certificate.local_share > split.certificate.local_share


@pytest.mark.parametrize("spending", ["joint", "split"])
def test_a_batch_promise_releases_less(spending):
    """To keep to the limit also as observed in the next rows, fewer drafts are released."""
    scores, local, cloud = drafts(1_500, 4)
    plain, batch = (
        certify_looks(scores, local, cloud, 0.08, 0.1, spending=spending, batch=many).certificate.local_share
        for many in (None, 500)
    )
    assert batch < plain


def test_offsets_make_early_looks_stricter():
    """An early look that is trusted less releases later, and what is told is what the thresholds do."""
    scores, local, cloud = drafts(1_500, 5)
    found = certify_looks(scores, local, cloud, 0.08, 0.1, offsets=(0.3, 0.2, 0.1, 0.0))
    plain = certify_looks(scores, local, cloud, 0.08, 0.1)
    assert found.released[0] < plain.released[0]
    at = first_reached(scores, found.thresholds)
    assert (~local & cloud & (at != NEVER)).sum() == found.certificate.errors
    assert pytest.approx(np.mean(at != NEVER)) == found.certificate.local_share


def test_the_shares_of_a_look_decide_what_it_releases():
    """Where the end has nearly the whole limit, the early looks release next to nothing."""
    scores, local, cloud = drafts(3_000, 6)
    even = certify_looks(scores, local, cloud, 0.08, 0.1, spending="split")
    late = certify_looks(scores, local, cloud, 0.08, 0.1, spending="split", shares=(0.05, 0.05, 0.05, 0.85))
    assert late.released[0] < even.released[0]
    assert late.thresholds[-1] < even.thresholds[-1]


def test_short_drafts_have_fewer_looks():
    """A draft that ended before a look is judged at the others."""
    scores = np.array([[NAN, 0.9]] * 100 + [[0.8, NAN]] * 100)
    found = certify_looks(scores, np.ones(200), None, 0.05, 0.1)
    assert (0.5, 0.5) == found.released


@pytest.mark.parametrize("spending", ["joint", "split"])
def test_what_cannot_be_promised_is_not(spending):
    """With a cloud that is always right and a local model that never is, no look releases."""
    scores, _, _ = drafts(300, 7)
    found = certify_looks(scores, np.zeros(300), np.ones(300), 0.01, 0.1, spending=spending)
    assert (None,) * LOOKS == found.thresholds
    assert (0.0,) * LOOKS == found.released
    assert not found.certificate.is_feasible


def test_abort_by_hand():
    """Of 60 drafts released at the end ten scored 0.2 early; losing them would be too many, so the cut is 0.2."""
    scores = np.array([[0.2, 1.0]] * 10 + [[0.5, 1.0]] * 50 + [[0.1, 0.0]] * 30 + [[0.6, 0.0]] * 10)
    found = certify_abort(scores, (None, 0.9), 0.1, 0.1, tokens=[100] * 100, look_tokens=[16])
    assert (0.2,) == found.thresholds
    assert (60, 0.0) == (found.n_released, found.lost)
    assert 0.75 == found.caught
    assert (30 * 84, 40 * 100) == (found.saved_tokens, found.wasted_tokens)
    assert found.bound <= 0.1


def test_a_larger_loss_aborts_more():
    """Where a third may be lost, the ten are."""
    scores = np.array([[0.2, 1.0]] * 10 + [[0.5, 1.0]] * 50 + [[0.3, 0.0]] * 40)
    found = certify_abort(scores, (None, 0.9), 0.33, 0.1)
    assert (0.5,) == found.thresholds
    assert pytest.approx(1 / 6) == found.lost
    assert 1.0 == found.caught
    assert found.lost < found.bound <= 0.33
    assert found.saved_tokens is None


def test_a_released_draft_is_not_aborted_later():
    """After its release a draft has no more looks; before it, it has."""
    released_first = np.array([[0.9, 0.0, 0.9]] * 100 + [[0.2, 0.1, 0.1]] * 50)
    found = certify_abort(released_first, (0.8, 0.8, 0.8), 0.05, 0.1)
    assert (0.0, 1.0) == (found.lost, found.caught)


@given(st.integers(0, 10_000), st.floats(0.02, 0.4), st.booleans())
def test_an_abort_keeps_to_its_share(seed, max_lost, has_offsets):
    """On its own rows the lost share and its bound are what the thresholds do, and the bound keeps to the limit."""
    scores, _, _ = drafts(400, seed)
    thresholds = (1.2, 1.1, 0.9, 0.6)
    offsets = (-0.3, -0.2, -0.1) if has_offsets else None
    found = certify_abort(scores, thresholds, max_lost, 0.1, offsets=offsets)
    at = first_reached(scores, thresholds)
    lost = 0
    for row, release in zip(scores, at, strict=True):
        seen = row[: LOOKS - 1 if release == NEVER else release]
        limits = found.thresholds[: len(seen)]
        is_aborted = any(limit is not None and s < limit for s, limit in zip(seen, limits, strict=False))
        lost += is_aborted and release != NEVER
    assert (at != NEVER).sum() == found.n_released
    assert pytest.approx(lost / found.n_released) == found.lost
    assert found.bound <= max_lost or (None,) * (LOOKS - 1) == found.thresholds


def test_the_abort_promise_holds():
    """Over 200 calibration sets more than 10 % are truly lost in at most delta of them, within 4 standard errors."""
    thresholds = (None, None, None, 0.6)
    big, _, _ = drafts(50_000, 98)
    kept = first_reached(big, thresholds) != NEVER
    broken = 0
    for seed in range(200):
        found = certify_abort(drafts(500, seed)[0], thresholds, 0.1, 0.1)
        below = (big[:, :3] < np.array(found.thresholds, dtype=float)).any(axis=1)
        broken += below[kept].mean() > 0.1 + 0.003
    assert broken <= 200 * 0.1 + 4 * np.sqrt(200 * 0.1 * 0.9)


def test_too_few_released_drafts_prove_nothing():
    """With none or a handful released, nothing is aborted, and the bound says that nothing is known."""
    nothing = certify_abort([[0.1, 0.2]] * 50, (None, 0.9), 0.05, 0.1)
    assert ((None,), 0, 1.0) == (nothing.thresholds, nothing.n_released, nothing.bound)
    assert (None,) == certify_abort([[0.1, 0.9]] * 20, (None, 0.9), 0.05, 0.1).thresholds


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: certify_looks([0.5], [1], None, 0.05, 0.1), "shape", id="flat"),
        pytest.param(lambda: certify_looks([[]], [1], None, 0.05, 0.1), "shape", id="no-looks"),
        pytest.param(
            lambda: certify_looks([[0.5]], [1], None, 0.05, 0.1, offsets=(0.1, 0.2)), "each of 1 looks", id="offsets"
        ),
        pytest.param(
            lambda: certify_looks([[0.5]], [1], None, 0.05, 0.1, offsets=(NAN,)), "finite offset", id="nan-offset"
        ),
        pytest.param(
            lambda: certify_looks([[0.5, 0.5]], [1], None, 0.05, 0.1, spending="split", shares=(0.9, 0.2)),
            "at most 1 in sum",
            id="more-than-all",
        ),
        pytest.param(
            lambda: certify_looks([[0.5, 0.5]], [1], None, 0.05, 0.1, spending="split", shares=(1.0, 0.0)),
            "positive share",
            id="empty-share",
        ),
        pytest.param(lambda: first_reached([[0.5]], (0.1, 0.2)), "shape", id="thresholds"),
        pytest.param(
            lambda: certify_abort([[0.1, 0.9]] * 99, (None, 0.9), 0.05, 0.1, tokens=[1], look_tokens=[16]),
            "lengths",
            id="lengths",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    """What does not fit together is told, and promises nothing."""
    with pytest.raises(ValueError, match=message):
        call()
