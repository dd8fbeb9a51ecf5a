"""Does the fit choose what pays, tell how well it does on rows it never saw, and refuse what cannot be fitted?"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hybrid.calibration.fit import fit, matrix, predict
from hybrid.calibration.reliability import auroc, brier, ece
from hybrid.errors import CommandError
from hybrid.policy.calibrated import Isotonic, Platt, probability

NAN = float("nan")


def drafts(
    n: int, seed: int, weights: tuple[float, ...] = (1.5, 0.0, 0.0, 0.0)
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Features of which some move the chance to be right, and right answers by that chance."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, len(weights)))
    correct = rng.random(n) < 1 / (1 + np.exp(-(values @ np.array(weights))))
    return [f"f{at}" for at in range(len(weights))], values, correct


@pytest.fixture(scope="module")
def one_pays():
    """600 drafts of which only f0 tells anything."""
    return fit(*drafts(600, 4), groups={"pair": ["f0", "f1"]})


@pytest.fixture(scope="module")
def two_pay():
    """1,200 drafts of which f0 and f1 tell alike."""
    return fit(*drafts(1_200, 2, (1.2, 1.2, 0.0, 0.0)), groups={"pair": ["f0", "f1"]})


def test_the_bare_feature_is_kept_where_nothing_beats_it(one_pays):
    """Noise beside it does not make it into the model, and the report says why."""
    report = one_pays.report
    assert ("f0",) == report.features == one_pays.model.features
    assert report.method in ("logistic+platt", "logistic+isotonic")
    assert "f0 has" in report.why
    assert {"f0", "f1", "f2", "f3", "pair", "all features"} == {choice.name for choice in report.choices}
    assert not report.is_at_chance
    assert (600, 0, ()) == (report.n, report.n_unknown, report.dropped)


def test_features_that_pay_together_are_taken_together(two_pay):
    """A group whose two members both tell wins over either, and over all, which adds only noise."""
    assert ("f0", "f1") == two_pay.report.features
    single = next(choice for choice in two_pay.report.choices if choice.name == "f0")
    assert two_pay.report.auroc > single.auroc


def test_the_report_is_of_rows_that_took_no_part(two_pay):
    """Its numbers are those of the out-of-fold probabilities, and hold on fresh drafts."""
    names, values, correct = drafts(20_000, 3, (1.2, 1.2, 0.0, 0.0))
    fresh = predict(two_pay.model, values, names)
    report = two_pay.report
    assert pytest.approx(brier(two_pay.out_of_fold, drafts(1_200, 2, (1.2, 1.2, 0.0, 0.0))[2])) == report.brier
    # 4 standard errors of 1,200 rows: the AUROC's own, and 0.006 for the Brier score.
    error = (report.auroc_ci95[1] - report.auroc) / 1.96
    assert pytest.approx(auroc(fresh, correct), abs=4 * error) == report.auroc
    assert pytest.approx(brier(fresh, correct), abs=0.024) == report.brier
    assert ece(fresh, correct) < 0.04
    assert report.ece < 3 * report.ece_floor
    assert report.brier < report.base_brier


def test_noise_is_found_to_be_noise():
    """Of 12 samples without any signal at most 2 pass as better than chance; the best of 8 features does not fool it.

    An interval above 0.5 is luck in one of 40 samples; three such in 12 have a chance of 0.3 %.
    """
    at_chance = [fit(*drafts(200, seed, (0.0,) * 8)).report.is_at_chance for seed in range(12)]
    assert sum(at_chance) >= 10
    assert fit(*drafts(400, 1, (0.0,) * 8)).report.is_at_chance


def test_few_labels_take_one_feature_and_platt():
    """Below 300 labels more would fit the noise, and the report says which was done."""
    found = fit(*drafts(299, 5, (1.2, 1.2, 0.0, 0.0)), groups={"pair": ["f0", "f1"]})
    assert "platt on one feature" == found.report.method
    assert 1 == len(found.model.features)
    assert isinstance(found.model.calibration, Platt)
    assert "299 labels are fewer than 300" in found.report.why
    assert {1} == {len(choice.features) for choice in found.report.choices}


def test_the_bare_feature_wins_a_draw():
    """Of two features that are the same but for a trace of noise the one named `bare` is kept."""
    names, values, correct = drafts(400, 6)
    values[:, 3] = values[:, 0] + 1e-3 * values[:, 3]
    for bare in ("f0", "f3"):
        assert (bare,) == fit(names, values, correct, bare=bare).report.features


def test_only_what_may_stand_alone_is_tried_alone():
    """A probe's dimensions are tried together only; where no such feature is left, all are tried."""
    names, values, correct = drafts(60, 6)
    found = fit(names, values, correct, alone=["f0", "f2", "gone"])
    assert {"f0", "f2"} == {choice.name for choice in found.report.choices}
    assert 4 == len(fit(names, values, correct, alone=["gone"]).report.choices)


def test_a_feature_that_falls_with_being_right_is_used_the_other_way():
    """Entropy is high where answers are wrong: its coefficient is negative and p still rises with the score."""
    names, values, correct = drafts(400, 7, (-2.0, 0.0))
    found = fit(names, values, correct)
    assert found.model.coefficients[0] < 0
    assert auroc(found.out_of_fold, correct) > 0.75


def test_a_curved_score_gets_isotonic():
    """Where right is a step of the score, a straight logit is worse than the rising step function."""
    rng = np.random.default_rng(8)
    values = rng.exponential(size=(2_000, 1)) ** 3
    correct = rng.random(2_000) < np.where(values[:, 0] > 0.2, 0.85, 0.1)
    found = fit(["x"], values, correct)
    assert "logistic+isotonic" == found.report.method
    assert isinstance(found.model.calibration, Isotonic)
    assert found.report.ece < 0.04


def test_plain_numbers_predict_what_scikit_learn_predicts(two_pay):
    """The model applied in pure Python equals scikit-learn's pipeline of the same parts to 1e-9."""
    names, values, correct = drafts(1_200, 2, (1.2, 1.2, 0.0, 0.0))
    columns = values[:, :2]
    scaled = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    inner = LogisticRegression(C=two_pay.report.strength, solver="newton-cholesky", max_iter=200, tol=1e-7)
    logits = inner.fit(scaled, correct).decision_function(scaled)
    calibration = two_pay.model.calibration
    assert isinstance(calibration, Platt)
    expected = 1 / (1 + np.exp(-(calibration.slope * logits + calibration.offset)))
    assert np.allclose(expected, predict(two_pay.model, values, names), atol=1e-9, rtol=0)


def test_a_missing_value_moves_nothing():
    """It counts as the mean; a row without any feature of the model has no probability, and is left out of the fit."""
    names, values, correct = drafts(600, 9, (1.2, 1.2))
    values[::7, 1] = NAN
    values[::50] = NAN
    found = fit(names, values, correct)
    assert 12 == found.report.n_unknown
    assert 588 == found.report.n
    assert np.isnan(found.out_of_fold[::50]).all()
    assert 12 == np.isnan(found.out_of_fold).sum()
    assert pytest.approx(np.isnan(values[:, 1]).mean()) == dict(found.report.missing)["f1"]
    mean = found.model.means[found.model.features.index("f1")]
    assert probability(found.model, {"f0": 0.3, "f1": mean}) == probability(found.model, {"f0": 0.3, "f1": None})


def test_useless_features_are_dropped_with_a_reason():
    """Mostly missing and constant ones are named."""
    names, values, correct = drafts(100, 10)
    values[:60, 1] = NAN
    values[:, 2] = 7.0
    report = fit(names, values, correct).report
    assert (("f1", "missing in 60% of the rows"), ("f2", "the same in every row")) == report.dropped
    assert ("f0",) == report.features


def test_the_same_seed_fits_the_same():
    """A calibration can be repeated."""
    one, other = (fit(*drafts(320, 11)) for _ in range(2))
    assert one.model == other.model
    assert one.report == other.report
    assert np.array_equal(one.out_of_fold, other.out_of_fold)


def test_ten_rows_are_enough_to_say_that_nothing_is_known():
    """The least that can be fitted is fitted, carefully: no p is 0 or 1, and separation does not diverge."""
    found = fit(["x"], [[float(at)] for at in range(10)], [False] * 5 + [True] * 5)
    p = predict(found.model, [[-1e6], [1e6]], ["x"])
    assert 0.0 <= p[0] < 0.5 < p[1] <= 1.0
    assert "platt on one feature" == found.report.method


def test_matrix_reads_rows_of_features():
    """Absent and None are missing; the order of names is the order of columns."""
    table = matrix([{"a": 1.0, "b": None}, {"b": 2}], ["b", "a"])
    assert np.array_equal([[NAN, 1.0], [2.0, NAN]], table, equal_nan=True)
    assert (0, 2) == matrix([], ["b", "a"]).shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda n, v, c: (n, v[:9], c[:9]), "9 labelled rows are too few", id="nine-rows"),
        pytest.param(lambda n, v, c: (n, v, np.ones(50)), "all 50 answers are right", id="all-right"),
        pytest.param(lambda n, v, c: (n, v, np.zeros(50)), "all 50 answers are wrong", id="all-wrong"),
        pytest.param(lambda n, v, c: (n, v, np.arange(50) < 2), "2 answers are right and 48 wrong", id="two-right"),
        pytest.param(
            lambda n, v, c: (n, np.where(v == v[3, 1], np.inf, v), c), "f1 of row 4 is infinite", id="infinite"
        ),
        pytest.param(lambda n, v, c: (n, np.full_like(v, NAN), c), "f0: missing in 100%", id="all-missing"),
        pytest.param(lambda n, v, c: (n, np.ones_like(v), c), "no feature can tell", id="all-constant"),
        pytest.param(
            lambda n, v, c: (n[:1], np.where(np.arange(50) % 2, v[:, 0], v[:, 0])[:, None] * _known(50, 30), c),
            None,
            id="some-missing-is-fine",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    """Each says what is wrong with the rows and what to bring."""
    arguments = change(*drafts(50, 12))
    if message is None:
        assert 30 == fit(*arguments).report.n
        return
    with pytest.raises(CommandError, match=message):
        fit(*arguments)


def _known(n: int, known: int) -> np.ndarray:
    return np.where(np.arange(n) < known, 1.0, NAN)[:, None]


@pytest.mark.parametrize(
    ("names", "values", "correct", "message"),
    [
        pytest.param([], np.ones((20, 0)), np.ones(20), "at least one feature", id="no-names"),
        pytest.param(["a", "a"], np.ones((20, 2)), np.ones(20), "no name twice", id="twice"),
        pytest.param(["a"], np.ones((20, 2)), np.ones(20), "one row of 1 features", id="columns"),
        pytest.param(["a"], np.ones((20, 1)), np.ones(19), "a label", id="rows"),
        pytest.param(["a"], np.ones((20, 1)), np.full(20, 0.5), "true and false", id="half-right"),
    ],
)
def test_what_does_not_fit_together_is_refused(names, values, correct, message):
    """A caller's mistake is a ValueError."""
    with pytest.raises(ValueError, match=message):
        fit(names, values, correct)
