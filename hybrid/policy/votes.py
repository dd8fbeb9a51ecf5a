"""What do reasoned answers to a choice say beside the letter that came at once? Both together, as a share an option."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.policy.features import option_shares
from hybrid.policy.model import Agreement, Ballot

VOTE_FLOOR, SHARE_FLOOR = 0.1, 0.02
"""Added to the share of votes and to the letter's own: an option that nobody voted for is not impossible."""


def together(options: Sequence[float], votes: Sequence[float]) -> list[float]:
    """Give each option's share by its votes and by the letter's own probability, multiplied; they sum to 1.

    Args:
        options: natural log-probability of each option's letter, said at once, shape (n_options,).
        votes: of the reasoned answers, the share that says each option, same shape; those that say none are missing.
    Source: votes of reasoned answers: Wang et al., ICLR 2023, arXiv:2203.11171. The product with the answer without
    reasons, and both floors, are ours: chosen once, by hand, on 108 questions of MMLU, and fitted to nothing.
    """
    shares = option_shares(options)
    weights = [(vote + VOTE_FLOOR) * (share + SHARE_FLOOR) for vote, share in zip(votes, shares, strict=True)]
    whole = sum(weights)
    return [weight / whole for weight in weights]


def count(options: Sequence[float], said: Sequence[int | None], kept: int | None = None) -> Ballot:
    """Count the votes, and elect the option that both kinds of answer together speak for.

    Args:
        options: as for `together`. said: which option each reasoned answer names; None where it names none.
        kept: the option that is released whatever they say, because the answer that names it cannot be replaced.
    """
    votes = tuple(said.count(place) / len(said) if said else 0.0 for place in range(len(options)))
    shares = together(options, votes)
    return Ballot(votes, max(range(len(shares)), key=shares.__getitem__) if kept is None else kept)


def unanimous(options: Sequence[float]) -> Ballot:
    """Give the ballot that speaks most for any option: all votes are for the likeliest letter."""
    likeliest = max(range(len(options)), key=options.__getitem__)
    return Ballot(tuple(float(place == likeliest) for place in range(len(options))), likeliest)


def agreement_of(ballot: Ballot, answers: int, *, was_said: bool) -> Agreement:
    """Describe a ballot as other samples are.

    Args:
        answers: all of them, the letter's among them. was_said: whether the one that is released came at once.
    """
    return Agreement(ballot.votes[ballot.said], answers, is_majority=was_said)


def ballot_features(options: Sequence[float], ballot: Ballot) -> dict[str, float]:
    """Describe the option that is released: its share by both, how far that is above the best other's, and each."""
    shares = together(options, ballot.votes)
    others = max(share for place, share in enumerate(shares) if place != ballot.said)
    return {
        "vote_top": shares[ballot.said],
        "vote_margin": shares[ballot.said] - others,
        "vote_share": ballot.votes[ballot.said],
        "said_share": option_shares(options)[ballot.said],
    }
