"""Does `read_header` tell what a GGUF says, and refuse every file that native code should not see?"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.errors import ModelFileError
from hybrid.gguf import GgufHeader, read_header
from hybrid.gguf_format import TENSOR_TYPES, ArrayValue, TensorInfo
from tests.tiny_gguf import (
    ARRAY,
    BOOL,
    ENTRIES,
    FLOAT32,
    INT32,
    Q4_0,
    STRING,
    TOKENS,
    UINT32,
    UINT64,
    Tensor,
    TinyGguf,
    entry,
)

RIGHT = TinyGguf()
RIGHT_BYTES = RIGHT.build()


def with_entry(key: str, kind: int, value: object) -> TinyGguf:
    """The right file with one metadata entry added or changed."""
    changed = {**ENTRIES, key: (kind, value)}
    return replace(RIGHT, entries=[entry(name, *what) for name, what in changed.items()])


def read(folder: Path, content: bytes) -> GgufHeader:
    """Write the bytes to a file and read its header."""
    path = folder / "tiny.gguf"
    path.write_bytes(content)
    return read_header(path)


def test_it_says_what_the_file_says(tmp_path):
    """Each property is what the writer put into the file."""
    header = read(tmp_path, RIGHT_BYTES)
    assert (3, "llama", "Tiny", "Q4_0") == (header.version, header.architecture, header.name, header.quantisation)
    assert (2048, 2, 64) == (header.context_tokens, header.block_count, header.embedding_length)
    assert (4, 2, 16, 16) == (header.head_count, header.head_count_kv, header.key_length, header.value_length)
    assert (600, 1, 2) == (header.n_vocab, header.bos_id, header.eos_id)
    assert (True, "{{ messages }}") == (header.has_chat_template, header.chat_template)
    assert 32 * 4 + 32 * 2 == header.parameters
    assert header.metadata["general.quantized_by_hand"] is True
    assert len(RIGHT_BYTES) == header.file_bytes


def test_tensors_are_placed_in_the_file(tmp_path):
    """Offsets count from the start of the file, and sizes follow from the type's blocks."""
    first, second = read(tmp_path, RIGHT_BYTES).tensors
    assert first.offset_bytes + 512 == second.offset_bytes
    assert TensorInfo("output.weight", "Q4_0", (32, 2), second.offset_bytes, 36) == second


def test_long_arrays_are_counted_and_kept_only_on_demand(tmp_path):
    """A vocabulary costs no Python list unless its key is asked for."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(RIGHT_BYTES)
    key = "tokenizer.ggml.tokens"
    assert ArrayValue("string", 600, None) == read_header(path).metadata[key]
    assert ArrayValue("string", 600, tuple(TOKENS)) == read_header(path, keep_arrays=[key]).metadata[key]


def test_what_a_file_does_not_say_is_none(tmp_path):
    """Missing metadata is None, and the chat template is absent."""
    header = read(tmp_path, replace(RIGHT, entries=[entry("general.architecture", STRING, "llama")]).build())
    said = (header.context_tokens, header.n_vocab, header.key_length, header.quantisation, header.eos_id, header.name)
    assert (None,) * 6 == said
    assert not header.has_chat_template


def test_heads_that_differ_by_block_give_the_largest(tmp_path):
    """head_count_kv as an array sizes the cache by its largest block."""
    content = with_entry("llama.attention.head_count_kv", ARRAY, (INT32, [2, 4, 0])).build()
    assert 4 == read(tmp_path, content).head_count_kv


def test_a_token_id_outside_the_vocabulary_is_unknown(tmp_path):
    """llama.cpp ignores such an id; so do we, rather than let someone index with it."""
    assert read(tmp_path, with_entry("tokenizer.ggml.eos_token_id", UINT32, 600).build()).eos_id is None


def test_a_larger_alignment_is_honoured(tmp_path):
    """general.alignment moves where tensor data begins."""
    alignment = with_entry("general.alignment", UINT32, 256).entries
    tensors = read(tmp_path, replace(RIGHT, entries=alignment, alignment_bytes=256).build()).tensors
    assert [0, 0] == [tensor.offset_bytes % 256 for tensor in tensors]


TWICE = [entry("general.architecture", STRING, "llama")] * 2
ODD_KEY = entry(b"bad\xff", UINT32, 1)
HUGE = 2**62


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b"", "is not a GGUF file", id="empty"),
        pytest.param(b"GG", "is not a GGUF file", id="too-short-for-a-magic"),
        pytest.param(b"PK\x03\x04" + bytes(100), "is not a GGUF file", id="a-zip"),
        pytest.param(replace(RIGHT, version=1).build(), "is GGUF version 1", id="old-version"),
        pytest.param(replace(RIGHT, version=4).build(), "is GGUF version 4", id="new-version"),
        pytest.param(replace(RIGHT, version=3 << 24).build(), "is a big-endian GGUF", id="big-endian"),
        pytest.param(RIGHT_BYTES[:20], "is truncated", id="counts-cut-off"),
        pytest.param(RIGHT_BYTES[:400], "is truncated: its header goes on", id="metadata-cut-off"),
        pytest.param(RIGHT_BYTES[:-40], "is truncated: tensor 'output.weight' ends at byte", id="data-cut-off"),
        pytest.param(replace(RIGHT, n_tensors=HUGE).build(), f"claims {HUGE} tensors", id="absurd-tensor-count"),
        pytest.param(replace(RIGHT, n_keys=HUGE).build(), f"and {HUGE} metadata keys", id="absurd-key-count"),
        pytest.param(replace(RIGHT, tensors=()).build(), "holds no tensors", id="no-tensors"),
        pytest.param(replace(RIGHT, entries=TWICE).build(), "twice", id="duplicate-key"),
        pytest.param(replace(RIGHT, entries=[ODD_KEY]).build(), "not UTF-8", id="key-not-utf8"),
        pytest.param(replace(RIGHT, entries=[entry("k" * 2000, UINT32, 1)]).build(), "2000 bytes", id="long-key"),
        pytest.param(replace(RIGHT, entries=[]).build(), "does not say its architecture", id="no-architecture"),
        pytest.param(with_entry("general.architecture", UINT32, 1).build(), "architecture", id="architecture-a-number"),
        pytest.param(with_entry("x", BOOL, 7).build(), "the truth value 7", id="third-truth-value"),
        pytest.param(with_entry("x", ARRAY, (ARRAY, [(UINT32, [1])])).build(), "an array of arrays", id="nested-array"),
        pytest.param(with_entry("general.alignment", UINT32, 24).build(), "alignment is 24", id="alignment-24"),
        pytest.param(with_entry("general.alignment", UINT32, 0).build(), "alignment is 0", id="alignment-0"),
        pytest.param(with_entry("general.alignment", UINT32, 2**31).build(), "alignment is", id="alignment-huge"),
        pytest.param(with_entry("llama.block_count", UINT64, 2**40).build(), "no possible count", id="blocks-absurd"),
        pytest.param(with_entry("llama.block_count", UINT32, 513).build(), "no possible count", id="blocks-too-many"),
        pytest.param(with_entry("llama.block_count", INT32, -1).build(), "no possible count", id="blocks-negative"),
        pytest.param(with_entry("llama.block_count", FLOAT32, 0.5).build(), "no possible count", id="blocks-half"),
        pytest.param(replace(RIGHT, tensors=[Tensor("a"), Tensor("a")]).build(), "a tensor twice", id="tensor-twice"),
        pytest.param(replace(RIGHT, tensors=[Tensor("")]).build(), "without a name", id="tensor-without-name"),
        pytest.param(replace(RIGHT, tensors=[Tensor("a" * 64)]).build(), "a tensor name of 64", id="tensor-name-long"),
        pytest.param(replace(RIGHT, tensors=[Tensor("a", kind=4)]).build(), "type 4", id="type-removed"),
        pytest.param(replace(RIGHT, tensors=[Tensor("a", kind=999)]).build(), "type 999", id="type-unknown"),
        pytest.param(replace(RIGHT, tensors=[Tensor("a", ())]).build(), "0 dimensions", id="no-dimensions"),
        pytest.param(replace(RIGHT, tensors=[Tensor("a", (1,) * 5)]).build(), "5 dimensions", id="five-dimensions"),
        pytest.param(replace(RIGHT, tensors=[Tensor("a", (0, 4))]).build(), "impossible shape", id="no-elements"),
        pytest.param(
            replace(RIGHT, tensors=[Tensor("a", (2**32, 2**32))]).build(), "impossible shape", id="elements-overflow"
        ),
        pytest.param(
            replace(RIGHT, tensors=[Tensor("a", (2**62,))]).build(), "is truncated: tensor 'a'", id="bytes-overflow"
        ),
        pytest.param(replace(RIGHT, tensors=[Tensor("a", (33,), Q4_0)]).build(), "not whole blocks", id="ragged-row"),
        pytest.param(
            replace(RIGHT, tensors=[Tensor("a", offset=16)]).build(), "at offset 16, where", id="misaligned-offset"
        ),
        pytest.param(
            replace(RIGHT, tensors=[Tensor("a"), Tensor("b", offset=0)]).build(), "at offset 0, where", id="overlap"
        ),
        pytest.param(
            replace(RIGHT, tensors=[Tensor("a", offset=2**63)]).build(), "where it must be at 0", id="offset-absurd"
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, content, complaint):
    """Each kind of damage or malice is named, with the file."""
    with pytest.raises(ModelFileError) as caught:
        read(tmp_path, content)
    assert complaint in str(caught.value)
    assert "tiny.gguf" in str(caught.value)


@pytest.mark.parametrize(("item_kind", "claimed"), [(STRING, 2**60), (UINT32, 2**62), (UINT64, 8 * 2**20)])
def test_an_array_that_claims_more_than_the_file_holds_is_refused_at_once(tmp_path, item_kind, claimed):
    """Absurd lengths cost neither time nor memory."""
    lie = bytearray(entry("x", ARRAY, (item_kind, [])))
    lie[-8:] = claimed.to_bytes(8, "little")
    started_s = time.perf_counter()
    with pytest.raises(ModelFileError):
        read(tmp_path, replace(RIGHT, entries=[bytes(lie), *RIGHT.entries]).build())
    # A second is a hundred times what it takes; the point is that it does not grow with the claim.
    assert time.perf_counter() - started_s < 1.0


def test_a_folder_or_a_pipe_is_no_model(tmp_path):
    """Neither a folder nor a FIFO (which would block for ever) is opened."""
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path, tmp_path / "pipe.gguf"):
        with pytest.raises(ModelFileError, match="is not a file"):
            read_header(path)


def test_a_missing_file_is_a_model_file_error(tmp_path):
    """The operating system's error comes translated."""
    with pytest.raises(ModelFileError, match="No such file"):
        read_header(tmp_path / "gone.gguf")


def read_or_refuse(folder: Path, content: bytes) -> None:
    """A header comes out, or a ModelFileError; anything else fails the test."""
    try:
        header = read(folder, content)
    except ModelFileError:
        return
    assert all(0 < tensor.offset_bytes + tensor.size_bytes <= len(content) for tensor in header.tensors)


FUZZ = settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(cut=st.integers(min_value=0, max_value=len(RIGHT_BYTES) - 1))
def test_a_truncated_file_is_always_refused(tmp_path, cut):
    """Wherever the file ends early, short of the padding behind the last tensor, it is refused."""
    if cut >= len(RIGHT_BYTES) - 28:
        read_or_refuse(tmp_path, RIGHT_BYTES[:cut])
        return
    with pytest.raises(ModelFileError):
        read(tmp_path, RIGHT_BYTES[:cut])


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, len(RIGHT_BYTES) - 1), st.binary(min_size=1, max_size=9)), max_size=6))
def test_a_mutated_file_is_read_or_refused(tmp_path, edits):
    """Whatever bytes change, the outcome is a header whose tensors lie inside the file, or a ModelFileError."""
    content = bytearray(RIGHT_BYTES)
    for at, new in edits:
        content[at : at + len(new)] = new
    read_or_refuse(tmp_path, bytes(content))


@FUZZ
@given(tail=st.binary(max_size=300), counts=st.tuples(st.integers(0, 70_000), st.integers(0, 20_000)))
def test_noise_behind_a_right_start_is_read_or_refused(tmp_path, tail, counts):
    """Random bytes behind a valid magic and version end in a header or a ModelFileError."""
    start = b"GGUF" + (3).to_bytes(4, "little") + counts[0].to_bytes(8, "little") + counts[1].to_bytes(8, "little")
    read_or_refuse(tmp_path, start + tail)


def test_tensor_types_are_those_of_the_installed_ggml():
    """Block sizes agree with the library that will read the file."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        pytest.skip("llama_cpp is not installed")
    found = sorted((Path(spec.origin).parent / "lib").glob("libggml-base.*"))
    if not found:
        pytest.skip("llama_cpp brings no libggml-base")
    ggml = ctypes.CDLL(str(found[0]))
    ggml.ggml_blck_size.restype, ggml.ggml_type_size.restype = ctypes.c_int64, ctypes.c_size_t
    theirs = {kind: (ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind)) for kind in TENSOR_TYPES}
    assert {kind: (block, size) for kind, (_, block, size) in TENSOR_TYPES.items()} == theirs
