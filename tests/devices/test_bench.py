"""Does a bench put measured speeds under the right roofs, keep what predictions need, and survive what fails?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import msgspec
import pytest

from hybrid.devices.bench import (
    BenchReport,
    BenchTask,
    benched,
    memory_problem,
    plan_for,
    report_schema,
    to_profile,
)
from hybrid.devices.host import Host, Memory
from hybrid.devices.profile import load_profile, merge, save_profile
from hybrid.devices.roofline import model_work
from hybrid.gguf import read_header
from tests.devices.hosts import GB, host
from tests.devices.reports import FAST, MACHINE, SMALL, report, speed
from tests.tiny_gguf import TinyGguf


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A file whose header can be read."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(TinyGguf().build())
    return path


def test_a_report_comes_back_from_json():
    """Every field, numbers as keys too."""
    made = report(SMALL, FAST)
    assert made == msgspec.json.decode(msgspec.json.encode(made), type=BenchReport)


def test_a_report_keeps_to_its_schema():
    """The schema is one, takes a real report, and refuses one whose figure lacks its spread."""
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    plain = msgspec.json.decode(msgspec.json.encode(report(SMALL, machine=None)))
    assert [] == [error.message for error in validator.iter_errors(plain)]
    del plain["models"][0]["speed"]["ttft_s"]["low"]
    assert not validator.is_valid(plain)


def test_speeds_are_put_under_the_roof_of_their_kind(tiny):
    """The share is measured over bound; the bound is the read bandwidth over the bytes of a step."""
    measured = speed("tiny", prefill={128: 200.0}, decode={1: 60.0})
    found = benched(measured, tiny, MACHINE)
    work = model_work(read_header(tiny))
    roof = found.decode_roof[1]
    bound = MACHINE.read_bytes_s / (work.weight_bytes + 64 * (work.cell_bytes or 0))
    assert "bandwidth" == roof.limit
    assert bound == pytest.approx(roof.roof_tok_s, rel=1e-3)
    assert 60.0 / bound == pytest.approx(roof.share, rel=1e-3)
    assert (work.weight_bytes, work.ops) == (found.weight_bytes, found.ops_per_token)


@pytest.mark.parametrize(
    ("device", "machine", "expected"),
    [("gpu", MACHINE, "it runs on a GPU"), ("cpu", None, "the processor was not measured")],
    ids=["gpu", "no-machine"],
)
def test_without_a_roof_the_reason_is_told(tiny, device, machine, expected):
    """A GPU is not put under the CPU's roof, nor anything under one that was not measured."""
    found = benched(speed(device=device), tiny, machine)
    assert ({}, {}) == (found.decode_roof, found.prefill_roof)
    assert found.roof_note is not None
    assert expected in found.roof_note


def test_a_model_larger_than_memory_is_not_measured(starter_model):
    """How much it needs and how much is free, in words; with a GPU that holds it, it is measured."""

    def never() -> Host:
        pytest.fail("nobody need look for GPUs")

    enough = Memory(total_bytes=2 * GB, available_bytes=GB)
    little = Memory(total_bytes=2 * GB, available_bytes=100_000_000)
    assert memory_problem(starter_model, 2048, memory=enough, look=never) is None
    assert memory_problem(starter_model, 2048, memory=Memory(), look=never) is None
    cpu = host(memory=2 * GB, free=100_000_000)
    problem = memory_problem(starter_model, 2048, memory=little, look=lambda: cpu)
    assert problem is not None
    assert re.search(r"needs about 0\.\d GB with a context of 2048, and 0\.1 GB are free", problem)
    limited = Memory(total_bytes=16 * GB, available_bytes=8 * GB, limit_bytes=200_000_000, limit_used_bytes=0)
    of_group = memory_problem(starter_model, 2048, memory=limited, look=lambda: replace(cpu, memory=limited))
    assert "control group's limit" in (of_group or "")


def test_the_quick_plan_is_a_part_of_the_whole_one():
    """Fewer lengths, steps and seconds; threads and context are those of the configuration."""
    task = BenchTask(models=[], context_tokens=4096, threads=3)
    whole, quick = (plan_for(Path("x"), replace(task, is_quick=is_quick), cores=8) for is_quick in (False, True))
    assert set(quick.prefill_tokens) < set(whole.prefill_tokens)
    assert (quick.budget_s, quick.decode_steps, quick.rounds) < (whole.budget_s, whole.decode_steps, whole.rounds)
    assert ((1, 2, 4, 8), (1, 8)) == (whole.thread_counts, quick.thread_counts)
    assert (3, 4096) == (quick.threads, quick.context_tokens)
    assert ("fake", "llama_cpp") == (plan_for(None, task, cores=1).backend, whole.backend)


def test_a_profile_keeps_what_predictions_need(tmp_path):
    """Medians by length and number, the roofs; it can be saved, found again, and joined with the next bench's."""
    profile = to_profile(report(SMALL))
    kept = profile.models["fingerprint of small"]
    assert ({32: 200.0, 128: 240.0, 512: 230.0, 2048: 190.0}, 60.0) == (kept.prefill_tok_s, kept.decode_tok_s[1])
    assert (2, 2, 0.8, 383_983_616) == (kept.threads, kept.best_threads, kept.ttft_s, kept.rss_bytes)
    assert (3.5e10, 9.2e11) == (profile.read_bytes_s, profile.int8_ops_s)
    quick = to_profile(report(SMALL, is_quick=True))
    assert ("bench", "bench") == (kept.source, profile.roofs_source)
    assert ("quick bench", "quick bench") == (quick.models["fingerprint of small"].source, quick.roofs_source)
    in_cache = to_profile(report(SMALL, machine=msgspec.structs.replace(MACHINE, is_beyond_cache=False)))
    assert (None, {"fingerprint of small"}) == (in_cache.read_bytes_s, in_cache.models.keys())
    save_profile(tmp_path, profile)
    found = load_profile(tmp_path, profile.hardware_fingerprint, versions=profile.versions)
    assert profile == found
    both = merge(found, to_profile(report(FAST, machine=None)))
    assert ({"fingerprint of small", "fingerprint of fast"}, 3.5e10) == (both.models.keys(), both.read_bytes_s)
