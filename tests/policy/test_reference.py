"""Is drift told from chance? The index of known shifts, and how often unchanged values would alarm."""

import random

import pytest

from hybrid.policy.reference import Reference, psi, psi_by_chance, reference_of


def test_the_same_values_have_not_drifted():
    """Values against their own reference have index 0, whatever their number of ties."""
    values = [float(at % 7) for at in range(700)]
    reference = reference_of(values)

    assert reference is not None
    assert pytest.approx(0.0, abs=1e-12) == psi(reference, values)


def test_a_known_shift():
    """Half the mass moved out of one of two equal bins: 0.25 * ln(0.25 / 0.5) + ... = 0.2747."""
    reference = Reference(cuts=(0.5,), shares=(0.5, 0.5), n=1_000)

    assert pytest.approx(0.27465, abs=1e-5) == psi(reference, [0.1] + [0.9] * 3)


def test_what_never_varies_has_no_reference():
    """Equal values, none, or only such as are no numbers cannot be told from others."""
    assert [None] * 3 == [reference_of([1.0] * 9), reference_of([]), reference_of([float("nan")])]


def test_a_lone_outlier_is_no_bin_of_its_own():
    """Where all but the largest are equal, the largest opens the second bin."""
    assert Reference(cuts=(1.0,), shares=(0.9, 0.1), n=10) == reference_of([1.0] * 9 + [2.0])


@pytest.mark.parametrize(
    ("cuts", "shares"), [((1.0, 1.0), (0.5, 0.3, 0.2)), ((1.0,), (0.5, 0.6)), ((), ()), ((float("nan"),), (0.5, 0.5))]
)
def test_a_broken_reference_is_no_reference(cuts, shares):
    """Cuts that do not ascend and shares that are none are an error where they are read."""
    with pytest.raises(ValueError, match=r"cuts|shares"):
        Reference(cuts=cuts, shares=shares, n=5)


def test_chance_alone_stays_under_its_limit():
    """Of 300 unchanged batches at most 3 pass the limit of 1 in 1,000: P(Binomial(300, 0.001) > 3) < 0.001."""
    rng = random.Random(5)  # noqa: S311 - a simulation
    reference = reference_of([rng.random() for _ in range(1_000)])
    assert reference is not None
    limit = psi_by_chance(reference, 400)
    passed = sum(psi(reference, [rng.random() for _ in range(400)]) > limit for _ in range(300))

    assert passed <= 3
    assert limit < 0.2
