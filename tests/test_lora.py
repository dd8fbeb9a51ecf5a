"""Is every adapter checked before native code sees it, and named as clients name it?"""

from dataclasses import replace

import pytest

from hybrid.config import LoraConfig
from hybrid.errors import ConfigError
from hybrid.gguf import read_header
from hybrid.lora import check_adapters, join_name, problem_of, split_name
from tests.tiny_gguf import ARRAY, UINT32, entry
from tests.tiny_lora import write_lora

ADAPTERS = ("support", "legal")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("model+support", ("model", 0), id="first"),
        pytest.param("model+legal", ("model", 1), id="second"),
        pytest.param("model", ("model", None), id="none"),
        pytest.param("model+other", ("model+other", None), id="unknown-adapter"),
        pytest.param("other+legal", ("other+legal", None), id="of-another-model"),
        pytest.param("", ("", None), id="nothing"),
    ],
)
def test_names_are_split(name, expected):
    """Only an adapter of the default model is taken off a name; anything else stays one name, and is found or not."""
    assert expected == split_name(name, "model", ADAPTERS)
    if expected[1] is not None:
        assert name == join_name(*expected, ADAPTERS)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({}, None, id="right"),
        pytest.param({"general__type": "model"}, "is no adapter: its general.type is 'model'", id="a-model"),
        pytest.param({"adapter__type": "ia3"}, "is an adapter of the type 'ia3'; only lora", id="another-kind"),
        pytest.param({"general__architecture": "gemma"}, "is for the architecture 'gemma'", id="another-architecture"),
    ],
)
def test_metadata_is_checked(starter_model, tmp_path, changed, expected):
    """What the header says it is must be a LoRA for the model's architecture."""
    path = write_lora(tmp_path / "a.gguf", starter_model, **changed)
    problem = problem_of(read_header(path), read_header(starter_model))
    assert expected is None if problem is None else problem.startswith(expected)


def test_an_activated_lora_is_refused(starter_model, tmp_path):
    """One that only works behind a phrase would be applied to everything, so it is not taken."""
    extra = [entry("adapter.alora.invocation_tokens", ARRAY, (UINT32, [1, 2]))]
    path = write_lora(tmp_path / "a.gguf", starter_model, extra=extra)
    assert problem_of(read_header(path), read_header(starter_model)).startswith("is an activated LoRA")


def test_tensors_must_fit_the_model(starter_model, tmp_path):
    """An adapter of a model with other tensors, or other widths, is told apart from one of this model."""
    base = read_header(starter_model)
    adapter = read_header(write_lora(tmp_path / "a.gguf", starter_model))

    def problem(**changes: object) -> str | None:
        kept = {name: changes.get(name, tensor) for name, tensor in ((t.name, t) for t in base.tensors)}
        return problem_of(adapter, replace(base, tensors=tuple(tensor for tensor in kept.values() if tensor)))

    name = "blk.0.attn_q.weight"
    tensor = next(tensor for tensor in base.tensors if tensor.name == name)
    assert problem(**{name: None}).startswith(f"changes {name!r}, which smollm2-135m.gguf does not have")
    assert "another size" in problem(**{name: replace(tensor, shape=(576, 64))})
    assert "no matrix" in problem(**{name: replace(tensor, shape=(576,))})


def test_half_a_pair_is_refused(starter_model, tmp_path):
    """Both matrices of a pair must be there."""
    adapter = read_header(write_lora(tmp_path / "a.gguf", starter_model))
    half = replace(adapter, tensors=adapter.tensors[:1])
    assert "only one of the two parts" in problem_of(half, read_header(starter_model))


def test_what_cannot_be_used_ends_the_start(starter_model, tmp_path):
    """The error names the adapter of the configuration, and what is wrong with its file."""
    good = write_lora(tmp_path / "good.gguf", starter_model)
    check_adapters([LoraConfig(name="good", path=str(good))], starter_model)
    with pytest.raises(ConfigError, match=r"lora 'gone': .*gone\.gguf cannot be read"):
        check_adapters([LoraConfig(name="gone", path=str(tmp_path / "gone.gguf"))], starter_model)
    with pytest.raises(ConfigError, match=r"lora 'whole': smollm2-135m\.gguf is no adapter"):
        check_adapters([LoraConfig(name="whole", path=str(starter_model))], starter_model)
