"""What do a question's words say of the cloud: the same number wherever it is asked, for any text?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.wording import TEXT_CHARS, Wording, buckets_of, logit_of

COUNT = 64
EVEN = Wording(tuple(bucket / COUNT - 0.5 for bucket in range(COUNT)), 0.25)


def test_words_and_pairs_are_read_whatever_their_case():
    """Two words are two terms and a pair; signs are words of their own."""
    assert buckets_of("Prove it", 1 << 30) == buckets_of("pROVE  it", 1 << 30)
    assert 3 == len(buckets_of("prove it", 1 << 30))
    assert 5 == len(buckets_of("x = 1", 1 << 30))
    assert buckets_of("it prove", 1 << 30) != buckets_of("prove it", 1 << 30)


def test_the_buckets_are_those_of_any_other_process():
    """An artefact is made in one and used in others, so no hash that is salted."""
    assert {1, 52, 63} == buckets_of("prove it", COUNT)


def test_a_logit_is_the_mean_pull_of_its_words():
    """Of length 1, however long the text; without words what is true of all."""
    found = buckets_of("prove it", COUNT)
    pull = sum(EVEN.weights[bucket] for bucket in found)
    assert 0.25 + pull / math.sqrt(len(found)) == pytest.approx(logit_of(EVEN, "prove it"))
    assert logit_of(EVEN, "prove it " * 50) == pytest.approx(logit_of(EVEN, "prove it prove it"))
    assert 0.25 == logit_of(EVEN, " \n")


@given(st.text())
def test_any_text_has_a_finite_logit(text):
    """Also one that no encoding holds."""
    assert math.isfinite(logit_of(EVEN, text))
    assert math.isfinite(logit_of(EVEN, text + "\ud800"))


def test_of_a_long_text_the_beginning_is_read():
    """So that a hostile one costs no more."""
    assert logit_of(EVEN, "a b " * TEXT_CHARS) == logit_of(EVEN, ("a b " * TEXT_CHARS)[:TEXT_CHARS])


@pytest.mark.parametrize("numbers", [((), 0.0), ((math.nan,), 0.0), ((1.0,), math.inf)])
def test_a_broken_one_refuses_to_exist(numbers):
    """Where it is read and not where it is used."""
    with pytest.raises(ValueError, match="words"):
        Wording(*numbers)
