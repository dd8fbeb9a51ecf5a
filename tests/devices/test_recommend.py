"""Are models sorted as a person with this machine would want them, and is it said where the speeds come from?"""

from __future__ import annotations

import pytest

from hybrid.devices.rates import Measured
from hybrid.devices.recommend import Candidate, MeasuredSpeed, recommend, tier_of
from hybrid.devices.shape import ModelShape
from tests.devices.hosts import B1_5, B8, B14, B70, B135, GB, VNNI, host, nvidia


def candidate(shape: ModelShape, *, is_for_code: bool = False, name: str | None = None) -> Candidate:
    """A model of the catalogue."""
    return Candidate(
        name=name or shape.name,
        parameters=shape.parameters,
        bytes=shape.file_bytes,
        is_for_code=is_for_code,
        is_installed=False,
        shape=shape,
    )


ALL = [candidate(shape) for shape in (B135, B1_5, B8, B14, B70)]


def test_a_small_machine_gets_what_it_can_run():
    """The largest that answers as fast as one reads is first; what would be slow follows, what is too large is last."""
    found = recommend(host(cores=4, memory=16 * GB, isa=VNNI), ALL)
    assert "1.5b" == found[0].name
    assert ["70b"] == [one.name for one in found if not one.fits]
    assert "70b" == found[-1].name
    assert "needs about" in found[-1].why
    assert {"predicted-assumed"} == {one.basis for one in found if one.fits}


def test_a_gpu_gets_the_largest():
    """With 80 GB the 70 B model is first, at a predicted speed from the data sheet."""
    machine = host(memory=128 * GB, gpus=(nvidia("H100 80GB HBM3", 80),), backends=("CUDA", "CPU"))
    best = recommend(machine, ALL)[0]
    assert ("70b", "cuda", "predicted-nominal", "strong") == (best.name, best.device, best.basis, best.tier)


def test_what_was_measured_goes_before_what_was_predicted():
    """A measured model that is too slow falls back; the basis says that it was measured."""
    machine = host(cores=4, memory=16 * GB, isa=VNNI)
    found = recommend(machine, ALL, {"1.5b": MeasuredSpeed(prefill_tok_s=20.0, decode_tok_s=3.0)})
    assert "smollm2-135m" == found[0].name
    slow = next(one for one in found if one.name == "1.5b")
    assert ("measured", "bench", 3.0, False) == (slow.basis, slow.measured_by, slow.decode_tok_s, slow.is_fluent)
    assert {None} == {one.measured_by for one in found if one is not slow}


def test_a_measured_machine_predicts_for_models_nobody_measured():
    """Bandwidth and arithmetic of the profile go before what is assumed of a processor, and it is said."""
    machine = host(cores=4, memory=16 * GB, isa=VNNI)
    [assumed] = recommend(machine, ALL[1:2])
    fast = Measured(cpu_read_bytes_s=200e9, cpu_int8_ops_s=20e12)
    [measured] = recommend(machine, ALL[1:2], measured=fast)
    assert ("predicted-assumed", "predicted-measured") == (assumed.basis, measured.basis)
    assert measured.decode_tok_s > 4 * assumed.decode_tok_s
    assert measured.prefill_tok_s > 4 * assumed.prefill_tok_s


def test_general_models_go_before_those_for_code():
    """Of two of the same tier the one for everything is recommended."""
    found = recommend(host(cores=16, isa=VNNI), [candidate(B1_5, is_for_code=True, name="coder"), candidate(B1_5)])
    assert ["1.5b", "coder"] == [one.name for one in found]


def test_a_model_of_unknown_sizes_comes_last():
    """Nothing is guessed of it."""
    unknown = Candidate(name="x", parameters=1, bytes=1, is_for_code=False, is_installed=False, shape=None)
    found = recommend(host(), [unknown, *ALL[:1]])
    assert ("x", False, None, None) == (found[-1].name, found[-1].fits, found[-1].decode_tok_s, found[-1].memory_bytes)


@pytest.mark.parametrize(
    ("parameters", "tier"),
    [(135e6, "toy"), (600e6, "basic"), (1.7e9, "fair"), (4e9, "good"), (8e9, "strong"), (70e9, "strong")],
)
def test_tiers_go_by_size(parameters, tier):
    """Five names, by parameters alone."""
    assert tier == tier_of(int(parameters))
