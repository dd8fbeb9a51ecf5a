"""Is this file a GGUF that native code may load, and what does its header say? Standard library only.

llama.cpp parses GGUF in C++, where a size that overflows or a tensor that lies behind the end of the file was memory
corruption more than once (CVE-2025-53630, its bypass CVE-2026-27940, and in Ollama CVE-2026-7482). So every file passes
here before native code sees it, and whatever is not exactly well formed is refused with what to do about it.

Source: the GGUF specification (ggml/docs/gguf.md) and what llama.cpp accepts (ggml/src/gguf.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from hybrid.errors import ModelFileError
from hybrid.gguf_format import (
    ARRAY,
    BOOL,
    FILE_TYPES,
    SCALARS,
    STRING,
    TENSOR_TYPES,
    ArrayValue,
    Scalar,
    TensorInfo,
    Value,
)

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT_BYTES = 32

# Bounds on what a header may claim. The largest real ones hold some 20 MB (a 262,000-token vocabulary), 60 keys and
# 2,000 tensors; some times that is room, and keeps a hostile header from costing more than 2 s or this much memory.
_MAX_HEADER_BYTES = 64 * 1024**2
_MAX_KEYS = 4096
_MAX_TENSORS = 65_536
_MAX_ARRAY_ITEMS = 2 * 1024**2
_MAX_KEY_BYTES = 1024
_MAX_STRING_BYTES = 4 * 1024**2
_MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME less its terminating zero
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_ALIGNMENT_BYTES = 1024**2
_MAX_COUNT = 2**31 - 1
_MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS; placement tries them one by one
_KEPT_ARRAY_ITEMS = 512
_READ_AHEAD_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """A checked header. Properties are None where the file does not say."""

    path: Path
    file_bytes: int
    version: int
    architecture: str
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]

    @property
    def name(self) -> str | None:
        """`general.name`, as its maker wrote it."""
        return self._text("general.name")

    @property
    def context_tokens(self) -> int | None:
        """The longest context the model was trained for."""
        return self._count("context_length")

    @property
    def block_count(self) -> int | None:
        """Transformer blocks, the unit in which layers are offloaded."""
        return self._count("block_count")

    @property
    def embedding_length(self) -> int | None:
        """Width of the residual stream."""
        return self._count("embedding_length")

    @property
    def head_count(self) -> int | None:
        """Attention heads; the largest where blocks differ."""
        return self._count("attention.head_count")

    @property
    def head_count_kv(self) -> int | None:
        """Heads whose keys and values are cached; the largest where blocks differ, all heads where not said."""
        return self._count("attention.head_count_kv") or self.head_count

    @property
    def key_length(self) -> int | None:
        """Width of one head's key, by default the embedding shared out over the heads."""
        return self._count("attention.key_length") or self._head_width()

    @property
    def value_length(self) -> int | None:
        """Width of one head's value, by default the embedding shared out over the heads."""
        return self._count("attention.value_length") or self._head_width()

    @property
    def n_vocab(self) -> int | None:
        """Tokens in the vocabulary."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.length if isinstance(tokens, ArrayValue) else self._count("vocab_size")

    @property
    def quantisation(self) -> str | None:
        """The format's usual name, such as `Q4_K_M`."""
        number = self.metadata.get("general.file_type")
        return FILE_TYPES.get(number) if isinstance(number, int) else None

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the default chat template: untrusted code, for a sandbox only."""
        return self._text("tokenizer.chat_template")

    @property
    def has_chat_template(self) -> bool:
        """Whether the file brings a chat template."""
        return self.chat_template is not None

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self._token_id("bos_token_id")

    @property
    def eos_id(self) -> int | None:
        """The token that ends an answer."""
        return self._token_id("eos_token_id")

    @property
    def split_count(self) -> int:
        """Files this model is spread over; this one is checked, the others are not."""
        count = self.metadata.get("split.count")
        return count if isinstance(count, int) and count > 0 else 1

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _count(self, suffix: str) -> int | None:
        value = self.metadata.get(f"{self.architecture}.{suffix}")
        if isinstance(value, ArrayValue):
            counts = [item for item in value.items or () if isinstance(item, int)]
            value = max(counts, default=0)
        return value if isinstance(value, int) and value > 0 else None

    def _head_width(self) -> int | None:
        width, heads = self.embedding_length, self.head_count
        return width // heads if width and heads else None

    def _token_id(self, suffix: str) -> int | None:
        value = self.metadata.get(f"tokenizer.ggml.{suffix}")
        is_token = isinstance(value, int) and 0 <= value < (self.n_vocab or _MAX_COUNT)
        return value if is_token and isinstance(value, int) else None


def read_header(path: Path, *, keep_arrays: Collection[str] = ()) -> GgufHeader:
    """Read and check the header of a GGUF file, and that all its tensors lie inside the file.

    Args:
        keep_arrays: metadata keys whose long arrays are wanted as Python values (`tokenizer.ggml.tokens`); others of
            more than 512 items are walked over and only counted, which keeps this under 100 ms for common models.
    Raises: ModelFileError, naming the file, what is wrong with it and what to do.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path} is not a file; name the .gguf file itself")
        with path.open("rb") as file:
            return _parse(_Reader(path, file), frozenset(keep_arrays))
    except OSError as exc:
        raise ModelFileError(f"{path} cannot be read: {exc.strerror or exc}") from exc


class _Reader:
    """Bounds-checked reading of the header, buffered. Not mapped: a file cut short meanwhile must not kill us."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file, self._buffer, self.at = path, file, b"", 0
        self.file_bytes = file.seek(0, 2)
        file.seek(0)

    def refuse(self, what: str, *, hint: str = "pull it again or get it from its maker") -> NoReturn:
        raise ModelFileError(f"{self.path} {what}; {hint}")

    def need(self, wanted_bytes: int) -> int:
        """Make the next bytes available and step over them; returns where they start."""
        start, end = self.at, self.at + wanted_bytes
        if end > len(self._buffer):
            self._fill(end)
        self.at = end
        return start

    def _fill(self, end: int) -> None:
        if end > self.file_bytes:
            self.refuse(f"is truncated: its header goes on to byte {end} or further, the file has {self.file_bytes}")
        if end > _MAX_HEADER_BYTES:
            self.refuse(f"has a header of more than {_MAX_HEADER_BYTES} bytes, which no real model has")
        # Doubling keeps this linear; the parts are joined, so the buffer is copied a few times at most.
        wanted = max(end, min(2 * len(self._buffer), _MAX_HEADER_BYTES), _READ_AHEAD_BYTES)
        self._buffer += self._file.read(wanted - len(self._buffer))
        if end > len(self._buffer):
            self.refuse(f"was cut short while it was read, at byte {len(self._buffer)}")

    def raw(self, count: int) -> bytes:
        start = self.need(count)
        return self._buffer[start : start + count]

    def number(self, kind: int) -> int | float:
        layout = SCALARS[kind][1]
        value: int | float = layout.unpack_from(self._buffer, self.need(layout.size))[0]
        return value

    def uint32(self) -> int:
        return int(self.number(4))

    def uint64(self) -> int:
        return int(self.number(10))

    def text(self, max_bytes: int, what: str, *, is_strict: bool) -> str:
        count = self.uint64()
        if count > max_bytes:
            self.refuse(f"has {what} of {count} bytes, where {max_bytes} is the most allowed")
        try:
            return self.raw(count).decode("utf-8", "strict" if is_strict else "replace")
        except UnicodeDecodeError:
            self.refuse(f"has {what} that is not UTF-8 text")

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings. The hot loop: a vocabulary and its merges are half a million of them."""
        from_bytes = int.from_bytes
        for _ in range(count):
            start = self.at
            if start + 8 > len(self._buffer):
                self._fill(start + 8)
            end = start + 8 + from_bytes(self._buffer[start : start + 8], "little")
            if end > len(self._buffer):
                self._fill(end)
            self.at = end


def _parse(reader: _Reader, keep_arrays: frozenset[str]) -> GgufHeader:
    version, n_tensors, n_keys = _read_counts(reader)
    metadata = _read_metadata(reader, n_keys, keep_arrays)
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        reader.refuse("does not say its architecture (general.architecture)")
    _check_counts(reader, architecture, metadata)
    alignment_bytes = _alignment_bytes(reader, metadata)
    return GgufHeader(
        path=reader.path,
        file_bytes=reader.file_bytes,
        version=version,
        architecture=architecture,
        metadata=metadata,
        tensors=tuple(_read_tensors(reader, n_tensors, alignment_bytes)),
    )


def _read_counts(reader: _Reader) -> tuple[int, int, int]:
    """Check the fixed 24 bytes at the start; returns version, tensor count and key count."""
    if reader.file_bytes < 4 or reader.raw(4) != _MAGIC:
        reader.refuse("is not a GGUF file", hint="name a .gguf file, or a model of `hybrid models list`")
    version = reader.uint32()
    if version not in _VERSIONS:
        kind = "is a big-endian GGUF" if version & 0xFFFF == 0 else f"is GGUF version {version}"
        reader.refuse(
            f"{kind}; versions 2 and 3, little-endian, can be loaded", hint="convert it or pull a current one"
        )
    n_tensors, n_keys = reader.uint64(), reader.uint64()
    if n_tensors > _MAX_TENSORS or n_keys > _MAX_KEYS:
        reader.refuse(f"claims {n_tensors} tensors and {n_keys} metadata keys, more than any real model has")
    if n_tensors == 0:
        reader.refuse("holds no tensors, only a vocabulary or nothing", hint="pull the model itself")
    return version, n_tensors, n_keys


def _read_metadata(reader: _Reader, n_keys: int, keep_arrays: frozenset[str]) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(n_keys):
        key = reader.text(_MAX_KEY_BYTES, "a metadata key", is_strict=True)
        if key in metadata or not key or "\0" in key:
            reader.refuse(f"has the metadata key {key!r} twice, or it is no key")
        kind = reader.uint32()
        metadata[key] = _read_array(reader, key, keep_arrays) if kind == ARRAY else _read_scalar(reader, key, kind)
    return metadata


def _read_scalar(reader: _Reader, key: str, kind: int) -> Scalar:
    if kind == STRING:
        # Maker's prose is often in odd encodings and harmless; only keys and names, which we compare, are strict.
        return reader.text(_MAX_STRING_BYTES, f"a value ({key})", is_strict=False)
    if kind not in SCALARS:
        reader.refuse(f"gives {key} the unknown type {kind}")
    value = reader.number(kind)
    if kind != BOOL:
        return value
    if value not in (0, 1):
        reader.refuse(f"gives {key} the truth value {value}")
    return bool(value)


def _read_array(reader: _Reader, key: str, keep_arrays: frozenset[str]) -> ArrayValue:
    kind, length = reader.uint32(), reader.uint64()
    if kind != STRING and kind not in SCALARS:
        # Arrays of arrays are in the specification, but no model uses them and llama.cpp refuses them.
        reader.refuse(
            f"gives {key} an array of arrays" if kind == ARRAY else f"gives {key} items of unknown type {kind}"
        )
    if length > _MAX_ARRAY_ITEMS:
        reader.refuse(f"gives {key} {length} items, where {_MAX_ARRAY_ITEMS} is the most allowed")
    item_type = "string" if kind == STRING else SCALARS[kind][0]
    if length <= _KEPT_ARRAY_ITEMS or key in keep_arrays:
        return ArrayValue(item_type, length, tuple(_read_scalar(reader, key, kind) for _ in range(length)))
    if kind == STRING:
        reader.skip_strings(length)
    else:
        reader.need(length * SCALARS[kind][1].size)
    return ArrayValue(item_type, length, None)


def _check_counts(reader: _Reader, architecture: str, metadata: Mapping[str, Value]) -> None:
    """Refuse dimensions that native code would multiply into nonsense."""
    names = (
        "context_length block_count embedding_length vocab_size attention.head_count attention.head_count_kv "
        "attention.key_length attention.value_length"
    )
    for suffix in names.split():
        most = _MAX_BLOCKS if suffix == "block_count" else _MAX_COUNT
        value = metadata.get(f"{architecture}.{suffix}", 0)
        numbers = (value.items or ()) if isinstance(value, ArrayValue) else (value,)
        for number in numbers:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
                reader.refuse(f"says {architecture}.{suffix} is {number!r}, which is no possible count")


def _alignment_bytes(reader: _Reader, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT_BYTES)
    is_power = isinstance(value, int) and not isinstance(value, bool) and value > 0 and value & (value - 1) == 0
    if not is_power or not isinstance(value, int) or value > _MAX_ALIGNMENT_BYTES:
        reader.refuse(f"says its alignment is {value!r}, which is not a power of two up to {_MAX_ALIGNMENT_BYTES}")
    return value


def _read_tensors(reader: _Reader, n_tensors: int, alignment_bytes: int) -> Iterator[TensorInfo]:
    """Read all tensor descriptions, then place them: each must start where the one before it ends, padded."""
    described = [_read_tensor(reader) for _ in range(n_tensors)]
    if len({name for name, *_ in described}) != n_tensors:
        reader.refuse("names a tensor twice")
    data_start = _padded(reader.at, alignment_bytes)
    expected = 0
    for name, type_name, shape, offset, size_bytes in described:
        if offset != expected:
            reader.refuse(f"puts tensor {name!r} at offset {offset}, where it must be at {expected}")
        end = data_start + offset + size_bytes
        if end > reader.file_bytes:
            reader.refuse(
                f"is truncated: tensor {name!r} ends at byte {end}, the file has {reader.file_bytes}",
                hint="pull it again",
            )
        expected = offset + _padded(size_bytes, alignment_bytes)
        yield TensorInfo(name, type_name, shape, data_start + offset, size_bytes)


def _read_tensor(reader: _Reader) -> tuple[str, str, tuple[int, ...], int, int]:
    name = reader.text(_MAX_TENSOR_NAME_BYTES, "a tensor name", is_strict=True)
    if not name or "\0" in name:
        reader.refuse("has a tensor without a name")
    n_dimensions = reader.uint32()
    if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
        reader.refuse(f"gives tensor {name!r} {n_dimensions} dimensions; 1 to {_MAX_DIMENSIONS} are possible")
    shape = tuple(reader.uint64() for _ in range(n_dimensions))
    kind, offset = reader.uint32(), reader.uint64()
    if kind not in TENSOR_TYPES:
        reader.refuse(f"gives tensor {name!r} type {kind}, which this version does not know or which was removed")
    type_name, block_elements, block_bytes = TENSOR_TYPES[kind]
    # Python's integers do not overflow, C's do: a product past 2**63 is what the CVEs named above are made of.
    if 0 in shape or math.prod(shape) >= 2**63:
        reader.refuse(f"gives tensor {name!r} the impossible shape {shape}")
    if shape[0] % block_elements:
        reader.refuse(
            f"gives tensor {name!r} rows of {shape[0]}, which is not whole blocks of {block_elements} ({type_name})"
        )
    return name, type_name, shape, offset, math.prod(shape) // block_elements * block_bytes


def _padded(count_bytes: int, alignment_bytes: int) -> int:
    return -(-count_bytes // alignment_bytes) * alignment_bytes
