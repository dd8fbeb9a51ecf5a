"""Is a picture written, of any evaluation that has rows, and is a folder that is not there an error?"""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.calibration.plots import Picture, draw
from hybrid.errors import CommandError

PNG = b"\x89PNG\r\n\x1a\n"


def picture(n: int, **changes: object) -> Picture:
    """A calibrated local model beside a better cloud."""
    rng = np.random.default_rng(0)
    p = rng.random(n)
    facts = {"title": "synthetic", "score": p, "local_correct": rng.random(n) < p, "cloud_correct": rng.random(n) < 0.9}
    return Picture(**{**facts, **changes})


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(picture(300, p=picture(300).score, others={"noise": np.arange(300.0)}), id="everything"),
        pytest.param(picture(300, threshold_calls=0.4), id="threshold"),
        pytest.param(picture(1), id="one-row"),
        pytest.param(picture(5, cloud_correct=np.zeros(5, dtype=bool)), id="no-gap"),
        pytest.param(picture(5, local_correct=np.ones(5, dtype=bool), p=np.ones(5)), id="one-class"),
        pytest.param(picture(5, p=np.full(5, np.nan)), id="no-probability-known"),
        pytest.param(picture(5, others={"unknown": np.full(5, np.nan)}), id="nan-signal"),
    ],
)
def test_a_png_is_written(tmp_path, shown):
    """Also of evaluations that have little to show."""
    path = tmp_path / "plot.png"
    draw(shown, path, rounds=20)
    assert PNG == path.read_bytes()[:8]
    assert path.stat().st_size > 10_000


def test_a_folder_that_is_not_there_is_told(tmp_path):
    """The message names the file."""
    with pytest.raises(CommandError, match=r"cannot be written to .*nowhere"):
        draw(picture(5), tmp_path / "nowhere" / "plot.png", rounds=2)
