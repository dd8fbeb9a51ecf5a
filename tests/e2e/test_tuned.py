"""Does `serve` run what tuning made, and the model as it is where that cannot be loaded? Real workers, the starter."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.catalog import STARTER
from hybrid.catalog.tuned import tuned_path
from hybrid.config import Config, load
from hybrid.tuning.apply import find_tuned
from hybrid.wiring import as_it_is, fall_back, local_options
from tests.e2e.serving import Serving
from tests.tiny_gguf import TinyGguf
from tests.tuning.tuning_world import Trials, tune_with

CONFIG = f'[local]\nmodel = "{STARTER}"\ncontext_tokens = 1024\nthreads = 1\n'
SOUND_HEADER = TinyGguf().build()
"""Our own reader takes it; llama.cpp does not."""


def tuned(folder: Path, starter: Path, made: bytes) -> Path:
    """Put the starter into a data folder, with a tuned file of this content whose hash its record names."""
    source = folder / "models" / f"{STARTER}.gguf"
    source.parent.mkdir()
    source.symlink_to(starter)
    tune_with(source, Trials(made=made))
    assert find_tuned(source) is not None
    return source


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(SOUND_HEADER, "has a sound header, but", id="llama.cpp-refuses-it"),
        pytest.param(b"no model at all", "is not a GGUF", id="no-gguf"),
    ],
)
def test_a_tuned_file_that_cannot_be_loaded_gives_way_to_its_source(tmp_path, starter_model, made, expected):
    """The model answers all the same; the log, the banner and /readyz say that it runs untuned, and why."""
    source = tuned(tmp_path, starter_model, made)
    made_file = tuned_path(source, "Q8_0").name
    with Serving(tmp_path, CONFIG) as server:
        answer = server.ask("Hello", max_tokens=4)
        state = server.local_state()
    assert 200 == answer.status_code, answer.text
    assert ("ready", None, 0, None) == tuple(state[key] for key in ("state", "problem", "restarts", "tuned"))
    assert f"{made_file} cannot be loaded" in state["untuned"]
    [logged] = [line for line in server.said if f"{source.name} runs untuned" in line]
    [shown] = [line for line in server.said if line.startswith("          untuned: ")]
    for told in (logged, shown, state["untuned"]):
        assert made_file in told
        assert expected in told
    assert "`hybrid models tune` makes it anew" in logged


def test_a_model_as_it_is_keeps_nothing_of_its_tuning(tmp_path, starter_model, caplog):
    """The source's file, the configured threads and the usual settings, placed anew; where nothing was tuned, none."""
    source = tuned(tmp_path, starter_model, SOUND_HEADER)
    config = _config(tmp_path)
    options = local_options(config, source, {"HYBRID_DATA_DIR": str(tmp_path)})
    assert (str(tuned_path(source, "Q8_0")), "Q8_0", "") == (options.model_path, options.tuned, options.untuned)
    strange = replace(options, threads=9, kv_type="q8_0", batch_tokens=64, flash_attention=False, has_one_pool=False)
    with caplog.at_level(logging.WARNING):
        plain = as_it_is(config, strange, "why not")
    assert (str(source), "", 1) == (plain.model_path, plain.tuned, plain.threads)
    assert ("f16", 512, None, True) == (plain.kv_type, plain.batch_tokens, plain.flash_attention, plain.has_one_pool)
    assert plain.untuned.endswith("cannot be loaded: why not")
    assert fall_back(config, plain) is None
    assert 1 == len(caplog.messages)


def _config(folder: Path) -> Config:
    path = folder / "hybrid.toml"
    path.write_text(CONFIG)
    return load(path, {}).config
