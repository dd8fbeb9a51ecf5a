"""Is what a token touches read off a header rightly, and is the bound the lower of memory and arithmetic?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybrid.devices.roofline import ModelWork, decode_roof, model_work, prefill_roof
from hybrid.devices.shape import shape_of_header
from hybrid.gguf import read_header
from tests.tiny_gguf import ENTRIES, F32, Q4_0, UINT32, Tensor, TinyGguf, entry

EMBEDDING = Tensor("token_embd.weight", (32, 4), F32, 512)
OUTPUT = Tensor("output.weight", (32, 2), Q4_0, 36)
EXPERTS = Tensor("blk.0.ffn_up_exps.weight", (32, 4, 4), F32, 2048)
NORM = Tensor("output_norm.weight", (32,), F32, 128)


def work_of(tmp_path, *tensors: Tensor, **entries: int) -> ModelWork:
    """Write a file with these tensors and read its work."""
    path = tmp_path / "x.gguf"
    extra = [entry(f"llama.{key}", UINT32, value) for key, value in entries.items()]
    written = [entry(key, *value) for key, value in ENTRIES.items()]
    path.write_bytes(TinyGguf(entries=[*written, *extra], tensors=tensors).build())
    return model_work(read_header(path))


def test_the_embedding_table_is_not_read_by_a_step(tmp_path):
    """With an output matrix of its own only that is read and multiplied; two operations a weight."""
    work = work_of(tmp_path, EMBEDDING, OUTPUT)
    assert (36, 2 * 64, True) == (work.weight_bytes, work.ops, work.is_quantised)


def test_a_tied_table_is_read_whole(tmp_path):
    """Without one the table makes the logits; a vector (a norm) is read but its operations do not count."""
    work = work_of(tmp_path, EMBEDDING, NORM)
    assert (512 + 128, 2 * 128, False) == (work.weight_bytes, work.ops, work.is_quantised)


def test_only_the_chosen_experts_count(tmp_path):
    """Two of eight experts: a quarter of their bytes and operations."""
    work = work_of(tmp_path, EXPERTS, OUTPUT, expert_count=8, expert_used_count=2)
    assert (2048 // 4 + 36, 2 * (512 // 4 + 64)) == (work.weight_bytes, work.ops)


def test_a_cell_of_the_cache(tmp_path):
    """Two blocks, two key-value heads of width 16, keys and values of two bytes; less in a quantised cache."""
    assert 2 * 2 * (16 + 16) * 2 == work_of(tmp_path, EMBEDDING, OUTPUT).cell_bytes
    assert (
        2 * 2 * 16 * 2 * 34 // 32
        == model_work(read_header(tmp_path / "x.gguf"), key_cache="q8_0", value_cache="q8_0").cell_bytes
    )


def test_latent_attention_caches_keys_alone(tmp_path):
    """A file that gives the widths of heads made from a common latent (DeepSeek) has no values in its cache."""
    latent = {"attention.key_length_mla": 24, "attention.value_length_mla": 16}
    assert 2 * 2 * 16 * 2 == work_of(tmp_path, EMBEDDING, OUTPUT, **latent).cell_bytes
    shape = shape_of_header(read_header(tmp_path / "x.gguf"))
    assert (2 * 2 * 16, 0) == (shape.kv_numbers_per_token, shape.value_length)


WORK = ModelWork(weight_bytes=1000, cell_bytes=10, ops=2000, is_quantised=True)


@pytest.mark.parametrize(
    ("sequences", "ops_s", "expected_tok_s", "expected_limit"),
    [
        pytest.param(1, 1e9, 1e6 / 1100, "bandwidth", id="one"),
        pytest.param(10, 1e9, 1e6 / 2000 * 10, "bandwidth", id="ten-share-the-weights"),
        pytest.param(10, 4e6, 2000.0, "arithmetic", id="slow-arithmetic"),
        pytest.param(10, None, 1e6 / 2000 * 10, "bandwidth", id="unknown-arithmetic"),
    ],
)
def test_decode_is_bound_by_the_lower_roof(sequences, ops_s, expected_tok_s, expected_limit):
    """A megabyte a second, 1,000 bytes of weights and ten tokens of ten bytes in each cache."""
    roof = decode_roof(WORK, sequences=sequences, depth_tokens=10, bytes_s=1e6, ops_s=ops_s)
    assert (expected_tok_s, expected_limit) == (roof.tok_s, roof.limit)


def test_prefill_reads_the_weights_once_a_batch():
    """A longer prompt than a batch gains nothing more; intensity is operations for each byte."""
    short, full, long = (
        prefill_roof(WORK, prompt_tokens=count, batch_tokens=512, bytes_s=1e6, ops_s=None) for count in (1, 512, 2048)
    )
    assert (1e3, 512e3, 512e3) == (short.tok_s, full.tok_s, long.tok_s)
    assert (2.0, 1024.0) == (short.ops_per_byte, full.ops_per_byte)


def test_a_file_that_does_not_tell_its_heads_has_no_cell(tmp_path):
    """Unknown is None, and the bound then leaves the cache out."""
    path = tmp_path / "x.gguf"
    written = [entry(key, *value) for key, value in ENTRIES.items() if "head" not in key]
    path.write_bytes(TinyGguf(entries=written).build())
    work = model_work(read_header(path))
    assert work.cell_bytes is None
    assert (
        1e6 / 1000
        == decode_roof(replace(WORK, cell_bytes=None), sequences=1, depth_tokens=9, bytes_s=1e6, ops_s=None).tok_s
    )
