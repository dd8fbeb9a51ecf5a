"""What inputs may a decision have? Strategies that fill every field by its type, so that new ones are tried too."""

from __future__ import annotations

import math
from dataclasses import fields
from decimal import Decimal
from typing import Any, get_type_hints

from hypothesis import strategies as st

from hybrid.policy.calibrated import Isotonic, LinearModel, Platt
from hybrid.policy.features import OPTION_FEATURES, PRIOR_FEATURES, SAMPLE_FEATURES, TOKEN_FEATURES
from hybrid.policy.model import Agreement, CloudOption, Draft, Limits, Signals
from hybrid.policy.promise import Look, Origin, Promise
from hybrid.policy.spread import LEVELS, Spread
from hybrid.policy.tasks import TaskKind
from hybrid.types import FinishReason

NAMES = (*TOKEN_FEATURES, *OPTION_FEATURES, *PRIOR_FEATURES, *SAMPLE_FEATURES, "unheard_of")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
POSITIVE = st.floats(1e-6, 1e6)
SHARES = st.floats(0, 1)
MONEY = st.decimals(0, 1000, places=9)

st.register_type_strategy(float, POSITIVE)
st.register_type_strategy(int, st.integers(0, 10**6))
st.register_type_strategy(str, TEXTS)
SPREADS = st.lists(st.floats(1e-3, 1e3), min_size=len(LEVELS), max_size=len(LEVELS))
st.register_type_strategy(Spread, SPREADS.map(lambda values: Spread(tuple(sorted(values)))))
st.register_type_strategy(Decimal, MONEY)


def filled(kind: type, **given: Any) -> st.SearchStrategy[Any]:
    """Draw each field by its type, but for those that are given."""
    hints = get_type_hints(kind, localns={"Promise": Promise, "Look": Look})
    free = {field.name: st.from_type(hints[field.name]) for field in fields(kind) if field.name not in given}
    return st.builds(kind, **free, **given)


@st.composite
def isotonic(draw: st.DrawFn) -> Isotonic:
    """Knots that ascend."""
    x = sorted(draw(st.sets(st.floats(-5, 5), min_size=1, max_size=40)))
    y = sorted(draw(st.lists(SHARES, min_size=len(x), max_size=len(x))))
    return Isotonic(tuple(x), tuple(y))


@st.composite
def models(draw: st.DrawFn) -> LinearModel:
    """A fitted model on some of the features there are."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    each = {"min_size": len(names), "max_size": len(names)}
    return LinearModel(
        features=tuple(names),
        means=tuple(draw(st.lists(st.floats(-9, 9), **each))),
        scales=tuple(draw(st.lists(st.floats(0.01, 9), **each))),
        coefficients=tuple(draw(st.lists(st.floats(-3, 3), **each))),
        intercept=draw(st.floats(-3, 3)),
        calibration=draw(isotonic() | st.builds(Platt, slope=st.floats(0, 3), offset=st.floats(-3, 3))),
    )


LOOKS = st.lists(
    st.builds(Look, tokens=st.integers(1, 12), threshold=SHARES, model=models()),
    max_size=3,
    unique_by=lambda x: x.tokens,
).map(lambda looks: tuple(sorted(looks, key=lambda look: look.tokens)))
PROMISES = st.builds(
    Promise,
    task=TEXTS,
    kind=st.sampled_from(TaskKind),
    local=models(),
    cloud=st.none() | models(),
    ranks_by_gain=st.booleans(),
    option_prior=st.sampled_from([(), (-1.2, -1.1, -1.4, -1.9)]),
    threshold=st.floats(-1, 1) | st.just(math.inf),
    max_regret=st.floats(0.01, 0.5),
    delta=st.floats(0.01, 0.5),
    local_share=SHARES,
    bound=SHARES,
    base_rate=SHARES,
    cloud_rate=st.none() | SHARES,
    cloud_model=st.none() | TEXTS,
    is_at_chance=st.booleans(),
    looks=LOOKS,
    origin=st.none() | filled(Origin),
)
SIGNALS = filled(Signals, clouds=st.lists(filled(CloudOption), max_size=3).map(tuple))
LIMITS = filled(Limits, promise=st.none() | PROMISES, min_confidence=SHARES)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """A draft with its numbers; now and then the model broke, and they are none."""
    logprobs = st.floats(-30, 0) | st.sampled_from([-math.inf, math.nan]) if draw(st.booleans()) else st.floats(-30, 0)
    tokens = draw(st.integers(0, 15))
    each = {"min_size": tokens, "max_size": tokens}
    agreements = st.builds(Agreement, share=st.floats(0.2, 1), samples=st.integers(1, 5), is_majority=st.booleans())
    options = draw(st.sampled_from([0, 1, 4]))
    return Draft(
        logprobs=tuple(draw(st.lists(logprobs, **each))),
        entropies=tuple(draw(st.lists(st.floats(0, 9), **each))),
        margins=tuple(draw(st.lists(SHARES, **each))),
        finish_reason=draw(st.none() | st.sampled_from(FinishReason)),
        flaw=draw(st.none() | TEXTS),
        options=tuple(draw(st.lists(st.floats(-30, 0), min_size=options, max_size=options))),
        agreement=draw(st.none() | agreements),
    )
