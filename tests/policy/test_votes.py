"""What votes for reasons say of the letter that came at once, and what is made of both."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.policy.features import VOTE_FEATURES
from hybrid.policy.model import Ballot, Draft
from hybrid.policy.promise import draft_features
from hybrid.policy.votes import agreement_of, ballot_features, count, together

OPTIONS = tuple(map(math.log, (0.5, 0.3, 0.1, 0.05)))
"""Shares 10/19, 6/19, 2/19, 1/19."""
LOGPROBS = st.lists(st.floats(-30.0, 0.0), min_size=2, max_size=10)


def test_both_are_multiplied_each_above_its_floor():
    """By hand: (votes + 0.6) times (share + 0.02), as shares of their sum."""
    weights = [0.6 * (10 / 19 + 0.02), 1.4 * (6 / 19 + 0.02), 0.8 * (2 / 19 + 0.02), 0.6 * (1 / 19 + 0.02)]

    assert together(OPTIONS, (0.0, 0.8, 0.2, 0.0)) == pytest.approx([one / sum(weights) for one in weights])


@pytest.mark.parametrize(
    ("voted", "votes"),
    [
        pytest.param([1, 1, 1, 2, 1], (0.0, 0.8, 0.2, 0.0), id="all-name-one"),
        pytest.param([3, 2, 1, 0, None], (0.2, 0.2, 0.2, 0.2), id="one-names-none"),
        pytest.param([None, None], (0.0, 0.0, 0.0, 0.0), id="nobody-names-any"),
        pytest.param([], (0.0, 0.0, 0.0, 0.0), id="no-votes"),
    ],
)
def test_votes_are_counted(voted, votes):
    """One that names no option is one less for all of them."""
    assert Ballot(votes, 2) == count(4, voted, 2)


@given(LOGPROBS, st.data())
def test_a_vote_more_never_harms_its_option(options, data):
    """Shares sum to 1, and grow with an option's votes, however unlikely the others are."""
    places = st.lists(st.sampled_from([None, *range(len(options))]), min_size=1, max_size=9)
    voted, place = data.draw(places), data.draw(st.integers(0, len(options) - 1))
    before = together(options, count(len(options), voted, place).votes)
    more = [place if one is None else one for one in voted]
    after = together(options, count(len(options), more, place).votes)

    assert sum(before) == pytest.approx(1.0)
    assert after[place] >= before[place] - 1e-12


def test_the_letter_is_described():
    """Its share by both, its lead over the best other, its votes."""
    votes = (0.0, 0.8, 0.2, 0.0)
    shares = together(OPTIONS, votes)
    found = ballot_features(OPTIONS, Ballot(votes, 1))

    assert list(VOTE_FEATURES) == list(found)
    assert (shares[1], shares[1] - shares[0], 0.8) == pytest.approx(tuple(found.values()))


def test_one_that_stands_against_the_votes_has_a_negative_lead():
    """So it is doubted, whatever its own likelihood."""
    assert ballot_features(OPTIONS, Ballot((0.0, 1.0, 0.0, 0.0), 0))["vote_margin"] < 0


@pytest.mark.parametrize(("said", "share", "is_majority"), [(1, 0.8, True), (2, 0.2, False), (0, 0.0, False)])
def test_a_draft_has_features_of_votes_only_where_there_were_some(said, share, is_majority):
    """And those of samples with them, by which a calibration knows that it was compared."""
    ballot = Ballot((0.0, 0.8, 0.2, 0.0), said)
    alone = Draft(logprobs=(-0.7,), options=OPTIONS)
    voted = Draft(logprobs=(-0.7,), options=OPTIONS, ballot=ballot, agreement=agreement_of(ballot, 6))

    assert set(VOTE_FEATURES).isdisjoint(draft_features(alone))
    found = draft_features(voted)
    assert set(VOTE_FEATURES) < set(found)
    assert (share, float(is_majority)) == (found["agreement"], found["is_majority"])
