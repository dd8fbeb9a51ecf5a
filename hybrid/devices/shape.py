"""Which sizes of a model decide its memory and speed? Values, from a GGUF's header or, before a pull, from a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hybrid.gguf import GgufHeader
from hybrid.gguf_format import TensorInfo, is_mostly_k_quants

Format: TypeAlias = Literal["gguf", "huggingface"]

REPACK_ROWS = 8
"""ggml repacks a matrix only where its rows are a multiple of this."""
CARD_SHARES: Mapping[str, Mapping[str, float]] = {
    "Q4_K_M": {"Q4_K": 0.6, "Q6_K": 0.25},
    "Q4_K_S": {"Q4_K": 0.75, "Q6_K": 0.15},
    "Q5_K_M": {"Q5_K": 0.65, "Q6_K": 0.25},
    "Q6_K": {"Q6_K": 0.9},
    "Q4_0": {"Q4_0": 0.8},
    "Q8_0": {"Q8_0": 0.85},
    "IQ4_NL": {"IQ4_NL": 0.8},
}
"""File format -> share of the file in matrices of a type, the embedding left out; about right for 1 to 14 B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A model's sizes.

    value_length: of a value in the KV cache; 0 where that holds keys alone.
    matrix_bytes: type name -> bytes of the matrices that tokens are multiplied with and that may be repacked.
    output_bytes: 0 where the output layer is the embedding again (`is_tied`), and output_type is empty then.
    layer_bytes: all blocks together.
    expert_bytes: what of them are experts, of which each token uses `experts_used` of `experts`.
    is_estimated: from a card, not from the file.
    """

    name: str
    file_bytes: int
    parameters: int
    block_count: int
    embedding_length: int
    head_count_kv: int
    key_length: int
    value_length: int
    feed_forward_length: int
    vocab_tokens: int
    trained_context_tokens: int | None
    layer_bytes: int
    embedding_bytes: int
    embedding_type: str
    output_bytes: int
    output_type: str = ""
    matrix_bytes: Mapping[str, int] = field(default_factory=dict)
    expert_bytes: int = 0
    experts: int = 0
    experts_used: int = 0
    is_estimated: bool = False
    format: Format = "gguf"

    @property
    def is_tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return self.output_bytes == 0

    @property
    def kv_numbers_per_token(self) -> int:
        """Numbers in one cell of the KV cache, over all blocks."""
        return self.block_count * self.head_count_kv * (self.key_length + self.value_length)

    @property
    def read_bytes(self) -> int:
        """Weight bytes that one step of one sequence reads: all but the embedding's other rows and idle experts."""
        idle = self.expert_bytes * (1 - self.experts_used / self.experts) if self.experts else 0
        return int(self.layer_bytes + (self.embedding_bytes if self.is_tied else self.output_bytes) - idle)

    @property
    def is_mostly_k_quants(self) -> bool:
        """Whether most of what is multiplied is in K-quants of four bits and more."""
        return is_mostly_k_quants(self.matrix_bytes)

    @property
    def layer_parameters(self) -> int:
        """Parameters that every token of a prompt is multiplied with; the output layer sees only the last one."""
        total = self.parameters - self.embedding_length * self.vocab_tokens * (1 if self.is_tied else 2)
        share = self.expert_bytes / self.layer_bytes if self.layer_bytes else 0.0
        active = 1 - share * (1 - self.experts_used / self.experts) if self.experts else 1.0
        return int(max(total, 0) * active)


def shape_of_header(header: GgufHeader, name: str | None = None) -> ModelShape:
    """Read the sizes from a file's header. What a header does not say counts as 0, as for recurrent models' heads."""
    tensors = header.tensors
    architecture = header.architecture
    layers = [tensor for tensor in tensors if tensor.name.startswith("blk.")]
    embedding = [tensor for tensor in tensors if tensor.name == "token_embd.weight"]
    output = [tensor for tensor in tensors if tensor.name == "output.weight"]
    experts = [tensor for tensor in layers if "_exps." in tensor.name]
    numbers = {key: header.metadata.get(f"{architecture}.{key}") for key in ("expert_count", "expert_used_count")}
    width = header.metadata.get(f"{architecture}.feed_forward_length")
    return ModelShape(
        name=name or header.path.stem,
        file_bytes=header.file_bytes,
        parameters=sum(tensor.elements for tensor in tensors),
        block_count=header.block_count or 0,
        embedding_length=header.embedding_length or 0,
        head_count_kv=header.head_count_kv or 0,
        key_length=header.key_length or 0,
        value_length=cached_value_length(header) or 0,
        feed_forward_length=_whole(width) or _widest(layers),
        vocab_tokens=header.n_vocab or 0,
        trained_context_tokens=header.context_tokens,
        layer_bytes=_size(layers),
        embedding_bytes=_size(embedding),
        embedding_type=embedding[0].type_name if embedding else "F16",
        output_bytes=_size(output),
        output_type=output[0].type_name if output else "",
        matrix_bytes=_by_type(layers + output),
        expert_bytes=_size(experts),
        experts=_whole(numbers["expert_count"]),
        experts_used=_whole(numbers["expert_used_count"]),
    )


def cached_value_length(header: GgufHeader) -> int | None:
    """Width of one head's value in the KV cache: 0 where keys hold it already, as in multi-head latent attention.

    llama.cpp caches keys alone where the header gives both widths of the heads that are made from them.
    """
    widths = (header.metadata.get(f"{header.architecture}.attention.{what}_length_mla") for what in ("key", "value"))
    return 0 if all(_whole(width) for width in widths) else header.value_length


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _size(tensors: list[TensorInfo]) -> int:
    return sum(tensor.size_bytes for tensor in tensors)


def _widest(layers: list[TensorInfo]) -> int:
    """The feed-forward width where it differs between blocks and the header gives a list."""
    return max((tensor.shape[1] for tensor in layers if "ffn_up" in tensor.name and len(tensor.shape) > 1), default=0)


def _by_type(tensors: list[TensorInfo]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if len(tensor.shape) > 1 and tensor.name.endswith(".weight") and tensor.shape[1] % REPACK_ROWS == 0:
            sizes[tensor.type_name] = sizes.get(tensor.type_name, 0) + tensor.size_bytes
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a model card says of sizes: the file's, and those of its maker's configuration."""

    name: str
    bytes: int
    parameters: int
    quantisation: str
    context_tokens: int
    block_count: int
    embedding_length: int
    head_count_kv: int
    key_length: int
    feed_forward_length: int
    vocab_tokens: int
    is_tied: bool


def shape_of_card(card: CardFacts) -> ModelShape:
    """Estimate the sizes of a file that is not here yet: bytes shared out by parameters."""
    embedding = card.embedding_length * card.vocab_tokens
    both = embedding * (1 if card.is_tied else 2)
    # A card rounds its parameters; the blocks hold what the embedding, in every file of these formats, leaves.
    blocks = max(card.parameters - both, embedding // 4)
    table_bytes = card.bytes * embedding // (blocks + both)
    layer_bytes = card.bytes - table_bytes * (1 if card.is_tied else 2)
    shares = CARD_SHARES.get(card.quantisation, {})
    return ModelShape(
        name=card.name,
        file_bytes=card.bytes,
        parameters=card.parameters,
        block_count=card.block_count,
        embedding_length=card.embedding_length,
        head_count_kv=card.head_count_kv,
        key_length=card.key_length,
        value_length=card.key_length,
        feed_forward_length=card.feed_forward_length,
        vocab_tokens=card.vocab_tokens,
        trained_context_tokens=card.context_tokens,
        layer_bytes=layer_bytes,
        embedding_bytes=table_bytes,
        embedding_type="Q6_K" if "K" in card.quantisation else "Q8_0",
        output_bytes=0 if card.is_tied else table_bytes,
        output_type="" if card.is_tied else "Q6_K" if "K" in card.quantisation else "Q8_0",
        matrix_bytes={kind: int(share * layer_bytes) for kind, share in shares.items()},
        is_estimated=True,
    )
