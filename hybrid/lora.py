"""Which LoRA adapters does the local model have, what are they called, and does each fit it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybrid.config import LoraConfig
from hybrid.errors import ConfigError, HybridError
from hybrid.gguf import GgufHeader, read_header

PARTS = (".lora_a", ".lora_b")


def split_name(name: str, default: str | None, adapters: Sequence[str]) -> tuple[str, int | None]:
    """Read the NAME+ADAPTER of `local/NAME+ADAPTER`: the model, and the adapter's place; None where it names none."""
    model, _, adapter = name.rpartition("+")
    return (model, adapters.index(adapter)) if model == default and adapter in adapters else (name, None)


def join_name(name: str, adapter: int | None, adapters: Sequence[str]) -> str:
    """Name a model with its adapter, as clients do."""
    return name if adapter is None else f"{name}+{adapters[adapter]}"


def check_adapters(adapters: Sequence[LoraConfig], model_path: Path) -> None:
    """See that each adapter is one, and for this model, before native code loads it.

    Raises: ConfigError naming the adapter and what is wrong with it.
    """
    base = read_header(model_path) if adapters else None
    for adapter in adapters:
        assert base is not None
        try:
            header = read_header(Path(adapter.path))
        except HybridError as unusable:
            raise ConfigError(f"lora {adapter.name!r}: {unusable}") from unusable
        if (problem := problem_of(header, base)) is not None:
            raise ConfigError(f"lora {adapter.name!r}: {header.path.name} {problem}")


def problem_of(adapter: GgufHeader, base: GgufHeader) -> str | None:
    """Say why an adapter cannot be applied to a model; None if it can, as far as the headers tell.

    Source: the checks of llama.cpp's llama_adapter_lora_init (src/llama-adapter.cpp), and the shapes it multiplies.
    """
    kind, form = adapter.metadata.get("general.type"), adapter.metadata.get("adapter.type")
    if kind != "adapter":
        return f"is no adapter: its general.type is {kind!r}; name the file that convert_lora_to_gguf wrote"
    if form != "lora":
        return f"is an adapter of the type {form!r}; only lora can be applied"
    if "adapter.alora.invocation_tokens" in adapter.metadata:
        return "is an activated LoRA, which works only behind a phrase of its own; only plain ones can be applied"
    if adapter.architecture != base.architecture:
        return f"is for the architecture {adapter.architecture!r}; {base.path.name} is {base.architecture!r}"
    return _problem_of_shapes(adapter, base)


def _problem_of_shapes(adapter: GgufHeader, base: GgufHeader) -> str | None:
    wanted = {tensor.name: tensor.shape for tensor in base.tensors}
    given = {tensor.name: tensor.shape for tensor in adapter.tensors}
    for name, shape in given.items():
        stem = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), None)
        if stem is None:
            return f"holds {name!r}, which is no part of a LoRA"
        if stem not in wanted:
            return f"changes {stem!r}, which {base.path.name} does not have: it is for another model"
        other = given.get(stem + PARTS[name.endswith(PARTS[0])])
        if other is None:
            return f"holds only one of the two parts of {stem!r}"
        if len(shape) != 2 or len(other) != 2 or len(wanted[stem]) != 2:
            return f"changes {stem!r}, which is no matrix"
        # A is wide x rank and B is rank x tall, in GGUF's order; the embedding's pair is written the other way round.
        a, b = (shape, other) if name.endswith(PARTS[0]) else (other, shape)
        straight = (a[0], b[1], a[1]) == (*wanted[stem], b[0])
        flipped = (b[1], a[1], a[0]) == (*wanted[stem], b[0])
        if not (flipped if stem == "token_embd.weight" else straight):
            return f"changes {stem!r} of {wanted[stem]} by {a} and {b}: it is for a model of another size"
    return None
