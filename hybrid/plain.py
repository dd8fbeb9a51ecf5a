"""How do values become JSON and come back the same? By their dataclass fields, whatever those are, no digit lost."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from hybrid.policy.promise import Look, Promise
from hybrid.types import Json

_T = TypeVar("_T")
_NOT_IMPORTED = {"Promise": Promise, "Look": Look}
"""Names that modules of values use in annotations and import for type checkers only."""
_ENCODER = msgspec.json.Encoder(order="deterministic")
_PACKER = msgspec.msgpack.Encoder()
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")
"""In MessagePack: a float whose exponent is all ones. No text has these bytes, for it is UTF-8."""


class Unreadable(ValueError):
    """What was written is no such value, or one of another version of this program."""


def to_plain(value: object) -> Json:
    """Turn a value into JSON types.

    Money becomes text, sets become sorted lists, and a number that is not finite, which JSON has no word for, becomes
    `"inf"`, `"-inf"` or `"nan"`.
    """
    return _finite(msgspec.to_builtins(value, builtin_types=(), order="deterministic"))


def to_json(value: object) -> bytes:
    """Write a value as JSON: what `to_plain` gives, encoded. No Python walks through it, for each request waits."""
    # msgspec would write what is not finite as null. Looking for it in the bytes of another format is the quickest way.
    is_finite = _NOT_FINITE.search(_PACKER.encode(value)) is None
    return _ENCODER.encode(value if is_finite else to_plain(value))


def from_plain(kind: type[_T], plain: Json) -> _T:
    """Make the value again. Floats and money are the same to the last bit; a field that is missing has its default.

    Raises: Unreadable, naming the place, if it is no such value: a wrong type, a name that `kind` does not know, or
        numbers that contradict each other.
    """
    return cast(_T, _made(kind, plain, kind.__name__))


def _finite(plain: Any) -> Json:
    """Spell out what is not finite; a tuple becomes a list, as JSON has it."""
    kind = type(plain)
    if kind is float:
        return plain if math.isfinite(plain) else repr(plain)
    if kind is dict:
        return {name: _finite(item) for name, item in plain.items()}
    if kind is list or kind is tuple:
        return [_finite(item) for item in plain]
    return plain


def _made(kind: Any, plain: Json, where: str) -> Any:
    if kind is Any:
        return plain
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), plain, where)
    if origin is not None:
        return _collection(origin, get_args(kind), plain, where)
    if is_dataclass(kind):
        return _dataclass(cast(type, kind), plain, where)
    return _scalar(kind, plain, where)


def _scalar(kind: Any, plain: Json, where: str) -> Any:
    try:
        if kind is float and type(plain) in (float, int):
            return float(plain)
        if kind is float and plain in ("inf", "-inf", "nan"):
            return float(plain)
        if kind in (int, bool, str, types.NoneType) and type(plain) is kind:
            return plain
        if kind is Decimal and type(plain) is str:
            return Decimal(plain)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(plain)
    except (ValueError, InvalidOperation):
        pass
    raise Unreadable(f"{where} is {_shown(plain)}, not {_named(kind)}")


def _one_of(kinds: tuple[Any, ...], plain: Json, where: str) -> Any:
    """The first that fits. Of several dataclasses that is the one with these fields."""
    if plain is None and types.NoneType in kinds:
        return None
    wanted = [kind for kind in kinds if kind is not types.NoneType]
    for kind in wanted[:-1]:
        try:
            return _made(kind, plain, where)
        except Unreadable:
            continue
    return _made(wanted[-1], plain, where)


def _collection(origin: Any, kinds: tuple[Any, ...], plain: Json, where: str) -> Any:
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(plain, dict):
        return {
            _made(kinds[0], key, f"a key of {where}"): _made(kinds[1], item, f"{where}.{key}")
            for key, item in plain.items()
        }
    if origin in (tuple, frozenset) and isinstance(plain, list):
        if origin is tuple and kinds[-1] is not Ellipsis and len(kinds) != len(plain):
            raise Unreadable(f"{where} has {len(plain)} items, not {len(kinds)}")
        of_each = kinds if origin is tuple and kinds[-1] is not Ellipsis else (kinds[0],) * len(plain)
        items = zip(of_each, plain, strict=True)
        return origin(_made(kind, item, f"{where}[{place}]") for place, (kind, item) in enumerate(items))
    raise Unreadable(f"{where} is {_shown(plain)}, not a {_named(origin)}")


def _dataclass(kind: type, plain: Json, where: str) -> Any:
    if not isinstance(plain, dict):
        raise Unreadable(f"{where} is {_shown(plain)}, not a {kind.__name__}")
    known = _fields(kind)
    unknown = sorted(set(plain) - set(known))
    if unknown:
        raise Unreadable(f"{where} has {unknown[0]!r}, which this version does not know")
    missing = [name for name, (field, _) in known.items() if name not in plain and _is_needed(field)]
    if missing:
        raise Unreadable(f"{where} lacks {missing[0]!r}")
    values = {name: _made(known[name][1], item, f"{where}.{name}") for name, item in plain.items()}
    try:
        return kind(**values)
    except ValueError as contradiction:
        raise Unreadable(f"{where}: {contradiction}") from contradiction


@lru_cache(maxsize=64)
def _fields(kind: Any) -> dict[str, tuple[Field[Any], Any]]:
    """Each field of a dataclass with its type; those by which two values are not told apart are left out."""
    hints = get_type_hints(kind, localns=_NOT_IMPORTED)
    return {field.name: (field, hints[field.name]) for field in fields(kind) if field.init and field.compare}


def _is_needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _shown(plain: Json) -> str:
    text = msgspec.json.encode(plain).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _named(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
