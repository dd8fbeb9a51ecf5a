"""Guessed tokens change nothing but the speed: with the text as guide, with a draft model, and with neither."""

import os

import pytest

from tests.e2e.forks import run
from tests.e2e.serving import HYBRID, Serving

QUESTION = "Repeat this sentence five times: The quick brown fox jumps over the lazy dog."
# Another batch shape rounds otherwise, so two runs may part at a near-tie; up to here they agree on all machines seen.
SAME_CHARS = 60


def _answer(folder, config: str) -> str:
    with Serving(folder, config) as server:
        answer = server.ask(QUESTION, model="local", temperature=0, max_tokens=60)
    assert answer.status_code == 200
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("drafts", ["", 'draft_model = "{path}"\n'], ids=["text", "model"])
def test_greedy_answers_are_the_same_with_drafts_and_without(tmp_path, starter_model, drafts):
    """The real starter, alone, guessing from the text and by a draft model (itself), says what it says without."""
    config = f'[local]\nmodel = "{starter_model}"\ncontext_tokens = 1024\n'
    plain = _answer(tmp_path / "plain", config + 'speculation = "off"\n')
    drafted = _answer(tmp_path / "drafted", config + drafts.format(path=starter_model))

    assert plain[:SAME_CHARS] == drafted[:SAME_CHARS]


def test_a_draft_model_that_is_not_there_is_told_before_anything_loads(tmp_path):
    """The name is in the error, and nothing is served."""
    config = tmp_path / "hybrid.toml"
    config.write_text('[local]\nbackend = "fake"\nmodel = ""\ndraft_model = "no-such-model"\n')
    command = [*HYBRID, "serve", "--port", "0", "--config", str(config)]
    done = run(command, os.environ)

    assert 1 == done.returncode
    assert "no-such-model" in done.stderr
