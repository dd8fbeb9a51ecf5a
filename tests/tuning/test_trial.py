"""The starter, measured for real: nothing diverges from itself, Q8_0 a little, and a trial that dies is a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybrid.backends.quantize import requantise
from hybrid.catalog.tuned import Settings
from hybrid.errors import ModelFileError
from hybrid.gguf import read_header
from hybrid.tuning.jobs import Measure, Outcome, Quantise, Reference, run_job
from tests.tuning.candidates import TINY

SAME_NATS = 1e-4
"""The same numbers in other portions: threads and batches take other kernels for the last rows at most."""


@pytest.fixture(scope="module")
def reference(starter_model, tmp_path_factory) -> Path:
    """The starter's logits of one chunk of the text."""
    target = tmp_path_factory.mktemp("reference") / "rows.f32"
    job = Reference(model=str(starter_model), target=str(target), chunks=1)
    assert Outcome() == run_job(job, os.environ)
    return target


def compare(model: Path, reference: Path, **settings) -> Outcome:
    """Measure only divergence, on one chunk."""
    job = Measure(
        model=str(model),
        settings=Settings(**settings),
        reference=str(reference),
        chunks=1,
        prompt_tokens=0,
        answer_tokens=0,
        runs=1,
    )
    return run_job(job, os.environ)


def test_nothing_diverges_from_itself(starter_model, reference):
    """A file against itself in another process: no distance, full agreement. (512 - 16) / 2 tokens are compared."""
    found = compare(starter_model, reference).divergence
    assert found is not None
    assert (248, 1.0) == (found.tokens, found.top1_agreement)
    assert found.mean_nats < SAME_NATS


def test_eight_bits_diverge_a_little_and_four_more(starter_model, reference, tmp_path):
    """F16 is nearest to the source, Q8_0 near and Q4_0 far: between these the default bound lies."""
    made = {name: tmp_path / f"{name}.gguf" for name in ("F16", "Q8_0", "Q4_0")}
    for name, path in made.items():
        requantise(starter_model, path, name)
    same, near, far = (compare(path, reference).divergence for path in made.values())
    assert same is not None
    assert near is not None
    assert far is not None
    assert same.mean_nats < near.mean_nats < 0.02 < far.mean_nats
    kinds = {tensor.name: tensor.type_name for tensor in read_header(made["F16"]).tensors}
    assert ("Q8_0", "F16") == (kinds["token_embd.weight"], kinds["blk.0.ffn_down.weight"])
    assert near.top1_agreement > far.top1_agreement
    assert "Q8_0" == read_header(made["Q8_0"]).quantisation
    assert read_header(made["Q8_0"]).chat_template == read_header(starter_model).chat_template


def test_settings_llama_cpp_refuses_are_a_sentence(starter_model, reference):
    """A quantised cache without flash attention: the outcome says so, and nothing hangs."""
    problem = compare(starter_model, reference, flash_attention=False, kv_type="q8_0").problem
    assert "could not make a context" in (problem or "")


def test_logits_of_another_model_are_refused(starter_model, tmp_path):
    """A reference that is cut off or empty is no reference."""
    for size in (0, 1000):
        (tmp_path / "rows.f32").write_bytes(bytes(size))
        assert "not there, or of another vocabulary" in (compare(starter_model, tmp_path / "rows.f32").problem or "")


def test_a_crash_of_native_code_is_an_outcome(tmp_path):
    """A sound header with no sound model behind it: the process may die, we go on."""
    (tmp_path / "tiny.gguf").write_bytes(TINY)
    job = Quantise(source=str(tmp_path / "tiny.gguf"), target=str(tmp_path / "nowhere" / "x.gguf"), format="Q8_0")
    assert run_job(job, os.environ).problem


def test_a_process_that_cannot_start_is_an_outcome(tmp_path):
    """Its last words are told."""
    job = Quantise(source="x.gguf", target="y.gguf", format="Q8_0")
    problem = run_job(job, {**os.environ, "PYTHONHOME": str(tmp_path)}).problem
    assert problem is not None
    assert "its process exited with status 1" in problem


@pytest.mark.parametrize("format_name", ["Q9_0", "", "../x"])
def test_an_unknown_format_is_named(starter_model, tmp_path, format_name):
    """Refused before native code, with what there is."""
    with pytest.raises(ModelFileError, match=r"is no format; there is: .*Q8_0"):
        requantise(starter_model, tmp_path / "out.gguf", format_name)
    assert not (tmp_path / "out.gguf").exists()
