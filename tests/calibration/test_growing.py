"""What does giving growing drafts up save, and what does it lose?"""

import numpy as np
import pytest

from hybrid.calibration.growing import GivenUp, give_up
from hybrid.policy.calibrated import LinearModel, Platt
from hybrid.policy.model import Draft
from hybrid.policy.promise import Look
from hybrid.types import FinishReason

BY_MEAN = LinearModel(
    features=("mean_logprob",),
    means=(0.0,),
    scales=(1.0,),
    coefficients=(1.0,),
    intercept=1.0,  # even chances at a mean of -1
    calibration=Platt(1.0, 0.0),
)
LOOKS = (Look(tokens=4, threshold=0.5, model=BY_MEAN), Look(tokens=8, threshold=0.5, model=BY_MEAN))


def _draft(*logprobs: float) -> Draft:
    return Draft(
        logprobs=logprobs,
        entropies=(1.0,) * len(logprobs),
        margins=(0.5,) * len(logprobs),
        finish_reason=FinishReason.STOP,
    )


SURE, DOUBTED, LATE = _draft(*[-0.1] * 20), _draft(*[-2.0] * 20), _draft(*[-0.9] * 4, *[-2.0] * 16)
SHORT = _draft(*[-3.0] * 4)


@pytest.mark.parametrize(
    ("drafts", "stays", "expected"),
    [
        pytest.param([SURE, DOUBTED], [True, False], GivenUp(0.5, 16 / 20, 0.0), id="at-the-first-look"),
        pytest.param([SURE, LATE], [True, False], GivenUp(0.5, 12 / 20, 0.0), id="at-a-later-look"),
        pytest.param([SURE, DOUBTED], [True, True], GivenUp(0.5, 0.0, 0.5), id="one-that-would-have-been-accepted"),
        pytest.param([SHORT, DOUBTED], [False, False], GivenUp(0.5, 16 / 24, 0.0), id="ended-before-it-was-looked-at"),
        pytest.param([SURE], [True], GivenUp(0.0, 0.0, 0.0), id="nothing-to-save"),
    ],
)
def test_giving_up(drafts, stays, expected):
    """Tokens are saved only of what would not have been accepted; what is lost is told of what would."""
    found = give_up(drafts, LOOKS, (), np.array(stays))
    assert expected == GivenUp(*map(pytest.approx, (found.share, found.saved_share, found.lost_share)))
