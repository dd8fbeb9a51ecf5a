"""What do reasoned answers to a choice say of the letter that came at once? Their votes, and a share of both."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.policy.features import option_shares
from hybrid.policy.model import Agreement, Ballot

VOTE_FLOOR, SHARE_FLOOR = 0.6, 0.02
"""Added to the share of votes and to the letter's own: all votes together speak 2.7 times for an option, no more."""


def together(options: Sequence[float], votes: Sequence[float]) -> list[float]:
    """Give each option's share by its votes and by the letter's own probability, multiplied; they sum to 1.

    Args:
        options: natural log-probability of each option's letter, said at once, shape (n_options,).
        votes: of the reasoned answers, the share that says each option, same shape; those that say none are missing.
    Source: votes of reasoned answers: Wang et al., ICLR 2023, arXiv:2203.11171. The product and both floors are ours,
    chosen by hand on 272 questions of MMLU.
    """
    shares = option_shares(options)
    weights = [(vote + VOTE_FLOOR) * (share + SHARE_FLOOR) for vote, share in zip(votes, shares, strict=True)]
    whole = sum(weights)
    return [weight / whole for weight in weights]


def count(options: int, voted: Sequence[int | None], said: int) -> Ballot:
    """Count the votes.

    Args:
        options: how many there are. voted: which of them each reasoned answer names; None where it names none.
        said: the option that was said at once.
    """
    return Ballot(tuple(voted.count(place) / len(voted) if voted else 0.0 for place in range(options)), said)


def unanimous(options: Sequence[float]) -> Ballot:
    """Give the ballot that speaks most for the letter: all votes are for it, and it is the likeliest."""
    likeliest = max(range(len(options)), key=options.__getitem__)
    return Ballot(tuple(float(place == likeliest) for place in range(len(options))), likeliest)


def agreement_of(ballot: Ballot, answers: int) -> Agreement:
    """Describe a ballot as other samples are.

    Args:
        answers: all of them, the letter's among them.
    """
    share = ballot.votes[ballot.said]
    return Agreement(share, answers, is_majority=share >= max(ballot.votes))


def ballot_features(options: Sequence[float], ballot: Ballot) -> dict[str, float]:
    """Describe the letter by its votes: its share by both, how far that is above the best other's, its votes."""
    shares = together(options, ballot.votes)
    others = max(share for place, share in enumerate(shares) if place != ballot.said)
    return {
        "vote_top": shares[ballot.said],
        "vote_margin": shares[ballot.said] - others,
        "vote_share": ballot.votes[ballot.said],
    }
