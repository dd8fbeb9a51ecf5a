"""Is a worker told what placement decides, and a model that does not fit refused in words?"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from hybrid.config_schema import LocalConfig
from hybrid.devices.profile import ModelProfile, Profile
from hybrid.engine.process import SupervisorOptions
from hybrid.errors import ModelFileError
from hybrid.fingerprints import model_fingerprint
from hybrid.placing import free_bytes, placed
from tests.devices.hosts import GB, host, nvidia


def options(path: object, backend: str = "llama_cpp") -> SupervisorOptions:
    """A worker's options as the configuration gives them, slots and threads left open."""
    return SupervisorOptions(backend=backend, model_path=str(path), context_tokens=4096, slots=8, threads=0)


def test_a_worker_is_told_threads_slots_and_layers(starter_model):
    """On a CPU no layer goes to a GPU; with a card all do; what is configured holds."""
    cpu, needed = placed(options(starter_model), LocalConfig(), others_may_leave=False, host=host(cores=6))
    assert (8, 6, 0) == (cpu.slots, cpu.threads, cpu.gpu_layers)
    assert not cpu.has_one_pool
    pool, needed_of_pool = placed(
        options(starter_model), LocalConfig(kv_layout="unified"), others_may_leave=False, host=host(cores=6)
    )
    assert pool.has_one_pool
    assert 300_000_000 < needed_of_pool < 500_000_000
    # 30 blocks of 3 heads with 64 keys and 64 values of 2 bytes, for 4,096 tokens of seven more slots.
    assert needed - needed_of_pool == 7 * 30 * 3 * (64 + 64) * 2 * 4096
    machine = host(gpus=(nvidia("RTX 4090", 24),), backends=("CUDA", "CPU"))
    gpu, _ = placed(options(starter_model), LocalConfig(slots=2, threads=3), others_may_leave=False, host=machine)
    assert (2, 3, 31) == (gpu.slots, gpu.threads, gpu.gpu_layers)


def test_what_does_not_fit_is_refused(starter_model):
    """Full memory refuses the first model; a fleet, which can unload others, is told how much it needs."""
    full = host(memory=8 * GB, free=50_000_000)
    with pytest.raises(ModelFileError, match=r"needs about 0\.\d GB .* and 0\.1 GB are free"):
        placed(options(starter_model), LocalConfig(), others_may_leave=False, host=full)
    _, needed = placed(options(starter_model), LocalConfig(), others_may_leave=True, host=full)
    assert needed > 300_000_000
    with pytest.raises(ModelFileError, match=r"this machine has 0\.1 GB"):
        placed(options(starter_model), LocalConfig(), others_may_leave=True, host=host(memory=100_000_000))


def test_a_model_that_guesses_takes_room_too(starter_model):
    """Its file and cache are in the same worker, so they count; switched off they do not."""
    both = replace(options(starter_model), draft_model_path=str(starter_model))
    _, alone = placed(options(starter_model), LocalConfig(), others_may_leave=False, host=host())
    _, together = placed(both, LocalConfig(), others_may_leave=False, host=host())
    _, off = placed(replace(both, drafts=False), LocalConfig(), others_may_leave=False, host=host())
    assert alone + 150_000_000 < together < 2 * alone
    assert alone == off


def test_a_backend_without_a_file_needs_no_place():
    """The fake backend is left as it is, and takes nothing."""
    assert (options("", "fake"), 0) == placed(options("", "fake"), LocalConfig(), others_may_leave=False)


def test_free_memory_is_known_here():
    """This machine tells how much is free."""
    assert free_bytes() > 0


def test_the_log_says_how_fast_it_will_be_and_how_that_is_known(starter_model, caplog):
    """Measured with these threads; else predicted from what the machine does, or from what is assumed of it."""
    fingerprint = model_fingerprint(starter_model)
    model = ModelProfile(
        model_fingerprint=fingerprint,
        model_name="smollm2-135m",
        measured_at="2026-11-25T04:00:00+00:00",
        threads=6,
        prefill_tok_s={512: 321.0},
        decode_tok_s={1: 65.4},
    )
    other = Profile(hardware_fingerprint="", hardware={}, versions={}, measured_at=model.measured_at, read_bytes_s=3e10)
    profiles = (None, other, replace(other, models={fingerprint: model}))
    with caplog.at_level(logging.INFO):
        for profile in profiles:
            for cores in (6, 4):
                placed(
                    options(starter_model),
                    LocalConfig(),
                    others_may_leave=False,
                    host=host(cores=cores),
                    profile=profile,
                )
    told = [message.rpartition("; ")[2] for message in caplog.messages]
    assert "prompts at about 321 and an answer at 65.4 tok/s (measured by bench)" == told[4]
    expected = ["assumed", "assumed", "measured", "measured", "measured by bench", "measured"]
    assert expected == [
        message.rpartition("(")[2].removeprefix("predicted, ").split(" rates")[0].rstrip(")") for message in told
    ]
