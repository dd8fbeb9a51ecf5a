"""Are budgets, tags and prices checked, and is what makes no sense together told of?"""

from __future__ import annotations

import pytest

from hybrid.config import load
from hybrid.errors import ConfigError

CLOUD = '[[cloud]]\nname = "openai"\nbase_url = "https://api.example.com/v1"\nmodels = ["m-1"]\n'


def loaded(tmp_path, text):
    """Load `text` as a hybrid.toml."""
    path = tmp_path / "hybrid.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(CLOUD + "[budget]\nusd_per_month = 1", [], id="cloud-with-a-month"),
        pytest.param(CLOUD + "[budget]\nusd_per_window = 1", [], id="cloud-with-a-window"),
        pytest.param(
            CLOUD + "[budget]\nusd_per_month = 1\nusd_per_day = 0",
            ["no cloud is called: a cap of [budget] is 0"],
            id="nothing-today",
        ),
        pytest.param(
            "[budget]\nwindow_hours = 5\n[tags.'a b']\nwindow_hours = 5",
            [
                "budget.window_hours has no effect without budget.usd_per_window",
                'tags."a b".window_hours has no effect without tags."a b".usd_per_window',
            ],
            id="window-without-money",
        ),
    ],
)
def test_warnings(tmp_path, text, expected):
    """What is allowed but probably not meant is one sentence."""
    assert tuple(expected) == loaded(tmp_path, text).warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('[prices]\n"a/b" = [1]', 'prices."a/b" lists what is no table', id="prices-not-tables"),
        pytest.param('[[prices."a/b"]]\ninput_usd_per_mtok = 1', 'prices."a/b"[0] lacks output', id="half-a-price"),
        pytest.param('[tags."a b"]\nusd_per_day = -1', "tags.usd_per_day: expected an amount", id="negative-tag"),
        pytest.param('[tags."a b"]\nrpm = 1', "unknown key tags.rpm", id="unknown-key"),
        pytest.param('[tags."a\\nb"]\nusd_per_day = 1', "printable characters", id="unprintable"),
        pytest.param("[tags.A]\n[tags.a]", "tags.\"a\": is the tag 'A' in other letters", id="one-tag-twice"),
        pytest.param(
            "[budget]\nwindow_hours = 0", "budget.window_hours: expected a number above 0 and at most", id="no-window"
        ),
        pytest.param('[budget]\npace = "slow"', "budget.pace: expected one of even, off", id="no-such-pace"),
    ],
)
def test_complaints(tmp_path, text, expected):
    """What cannot be meant is an error that names the key."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert expected in str(caught.value)


def test_caps_are_told_in_words(tmp_path):
    """What is said of a budget at the start names each cap and its span."""
    budget = loaded(tmp_path, "[budget]\nusd_per_day = 5\nusd_per_window = 2.50\nwindow_hours = 5").config.budget
    assert "$5 a day, $2.50 in 5 hours" == str(budget)
