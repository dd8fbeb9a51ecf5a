"""How is a value of the wrong type or size told to the person who wrote it? Pure: what a key takes, in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

_EXAMPLES: Mapping[str, str] = {
    "server.allowed_hosts": '["box.local"]',
    "local.max_output_tokens": "1024",
    "local.max_reasoning_tokens": "2048",
    "cloud.name": '"openai"',
    "cloud.base_url": '"https://api.openai.com/v1"',
    "cloud.models": '["gpt-5-mini"]',
    "cloud.api_key_env": '"OPENAI_API_KEY"',
    "cloud.api_keys_env": '["OPENAI_API_KEY_2"]',
    "cloud.api_key_file": '"openai.key"',
    "cloud.api_version": '"2024-10-21"',
    "cloud.key_rest_s": "600",
    "cloud.context_tokens": "128000",
    "cloud.quality": '{ "gpt-5-mini" = 0.9 }',
    "cloud.capabilities": '["tools", "images"]',
    "lora.name": '"legal"',
    "lora.path": '"legal.gguf"',
    "policy.ttft_ms": "1500",
    "policy.total_ms": "30000",
    "policy.value_usd": "0.01",
    "policy.private_tags": '["hr"]',
    "usd_per_day": "1.00",
    "usd_per_month": "20.00",
    "usd_per_window": "0.50",
    "input_usd_per_mtok": "0.25",
    "output_usd_per_mtok": "2.00",
    "cached_input_usd_per_mtok": "0.025",
    "cache_write_usd_per_mtok": "0.30",
    "since": "2026-11-01",
}
"""What may stand behind = of keys whose default shows nothing; by the key alone where several sections have it."""


def wrong(message: str, struct: type[msgspec.Struct], dotted: str, raw: object, origin: str) -> str:
    """Say what a key takes, with an example, after msgspec refused `raw` with `message`."""
    key = dotted.rpartition(".")[2]
    setting = f"{origin}=" if origin.startswith("HYBRID_") else f"--{key} " if origin == "flag" else f"{key} = "
    field = next(item for item in msgspec.structs.fields(struct) if item.name == key)
    wanted = inspect.type_info(field.type)
    item, inner = re.search(r"at `\$\[(\d+)\]`", message), _plain(wanted)
    told = f"expected {_words(wanted)}" + (f" (not so item {int(item[1]) + 1})" if item else "")
    if isinstance(raw, str) and not isinstance(inner, inspect.StrType) and _fits(raw, field.type):
        return f"{told}, without quotes: {setting}{raw.strip()}"
    example = _example(field, dotted)
    return f"{told}, such as {setting}{example}" if example else told


def choices(wanted: inspect.Type) -> list[str]:
    """List the words of a type that takes no others, however deep in it they stand."""
    wanted = _plain(wanted)
    if isinstance(wanted, inspect.EnumType):
        return [str(member.value) for member in wanted.cls]
    if isinstance(wanted, inspect.LiteralType):
        return [str(value) for value in wanted.values]
    return choices(wanted.item_type) if isinstance(wanted, inspect.VarTupleType) else []


def _plain(wanted: inspect.Type) -> inspect.Type:
    """The type itself: TOML has no null, and what is said about a type is no part of it."""
    if isinstance(wanted, inspect.Metadata):
        return _plain(wanted.type)
    if isinstance(wanted, inspect.UnionType):
        return _plain(next(one for one in wanted.types if not isinstance(_plain(one), inspect.NoneType)))
    return wanted


def _said(wanted: inspect.Type) -> str | None:
    """Words that the schema itself has for a type."""
    if isinstance(wanted, inspect.Metadata):
        words = (wanted.extra or {}).get("words")
        return str(words) if words else _said(wanted.type)
    if isinstance(wanted, inspect.UnionType):
        return next((words for one in wanted.types if (words := _said(one))), None)
    return None


def _words(wanted: inspect.Type) -> str:
    said, wanted = _said(wanted), _plain(wanted)
    if said:
        return said
    if isinstance(wanted, inspect.IntType):
        return f"a whole number{_range(wanted)}"
    if isinstance(wanted, inspect.FloatType):
        return f"a number{_range(wanted)}"
    if words := choices(wanted):
        return (
            f"{'a list in brackets of ' if isinstance(wanted, inspect.VarTupleType) else 'one of '}{', '.join(words)}"
        )
    if isinstance(wanted, inspect.VarTupleType):
        least = " of at least one item" if wanted.min_length else ""
        return f"a list in brackets{least}, each {_words(wanted.item_type)}"
    if isinstance(wanted, inspect.DictType):
        return f"a table in braces, each value {_words(wanted.value_type)}"
    if isinstance(wanted, inspect.StrType):
        return "text in quotes" + (" that is not empty" if wanted.min_length else "")
    kinds: Mapping[type[Any], str] = {
        inspect.BoolType: "true or false",
        inspect.DecimalType: "an amount in USD",
        inspect.DateType: "a day",
    }
    return kinds.get(type(wanted), "another kind of value")


def _range(wanted: inspect.IntType | inspect.FloatType) -> str:
    low = None if wanted.ge is None else f"{wanted.ge:.15g}"
    above = None if wanted.gt is None else f"{wanted.gt:.15g}"
    high = None if wanted.le is None else f"{wanted.le:.15g}"
    below = None if wanted.lt is None else f"{wanted.lt:.15g}"
    if low is not None and high is not None:
        return f" from {low} to {high}"
    bounds = [(above, "above"), (low, "at least"), (below, "below"), (high, "at most")]
    told = " and ".join(f"{word} {bound}" for bound, word in bounds if bound is not None)
    return f" {told}" if told else ""


def _fits(text: str, wanted: Any) -> bool:
    """Whether a value in quotes would do without them."""
    try:
        msgspec.convert(text, wanted, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _example(field: msgspec.structs.FieldInfo, dotted: str) -> str | None:
    key = dotted.rpartition(".")[2]
    shown = _EXAMPLES.get(dotted, _EXAMPLES.get(key))
    if shown is not None or isinstance(field.default, (tuple, type(None))) or field.default is msgspec.NODEFAULT:
        return shown
    return msgspec.json.encode(field.default).decode()
