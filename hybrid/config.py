"""What is configured, and where did each value come from?

Order: defaults < file < `HYBRID_<SECTION>_<KEY>` environment < flags. The environment is passed in from the edge.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hybrid.config_checks import complaint, contradictions, is_loopback, warnings
from hybrid.config_file import TomlFile, at_home, data_dir, find_file, read_file
from hybrid.config_schema import (
    BudgetConfig,
    CloudConfig,
    Config,
    LocalConfig,
    LoraConfig,
    PolicyConfig,
    PriceConfig,
    ServerConfig,
    TagConfig,
    own_prices,
)
from hybrid.config_secrets import Secret, key_variables, read_secrets, secret_source
from hybrid.config_words import wrong
from hybrid.errors import ConfigError

__all__ = [
    "OTHER_VARIABLES",
    "BudgetConfig",
    "CloudConfig",
    "Config",
    "Loaded",
    "LocalConfig",
    "LoraConfig",
    "PolicyConfig",
    "PriceConfig",
    "Secret",
    "ServerConfig",
    "TagConfig",
    "at_home",
    "data_dir",
    "find_file",
    "is_loopback",
    "json_schema",
    "load",
    "own_prices",
    "read_secrets",
    "secret_source",
]

T = TypeVar("T", bound=msgspec.Struct)

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerConfig,
    "local": LocalConfig,
    "policy": PolicyConfig,
    "budget": BudgetConfig,
}
"""The tables with fixed keys, which environment variables and flags may set too."""

OTHER_VARIABLES = {
    "HYBRID_DATA_DIR": "where the ledger and the models lie",
    "HYBRID_CMAKE_ARGS": "read by the scripts: added to the build of llama.cpp, such as -DGGML_CUDA=on",
    "HYBRID_PYTHON": "read by the scripts: the Python that makes .venv",
}
"""`HYBRID_*` variables that are no configuration key, and what they are for."""

_SECRET_BEARING = ("cloud.api_key_env", "cloud.api_keys_env", "cloud.base_url")
"""Keys where users paste the API key itself by mistake: their wrong values are not repeated in errors."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An effective configuration.

    origins: key (`server.port`, `cloud[0].name`, `prices."a/b".since`, `aliases."x"`) to "default", "FILE:LINE",
        the environment variable, or "flag".
    path: the file that was read; None without one.
    warnings: what is allowed but probably not meant, one sentence each.
    """

    config: Config
    origins: Mapping[str, str]
    path: Path | None
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Draft:
    """The values gathered so far, by section and key, and where each came from."""

    values: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in SECTIONS})
    origins: dict[str, str] = field(default_factory=dict)

    def put(self, section: str, key: str, raw: object, origin: str) -> None:
        self.values[section][key] = _convert(SECTIONS[section], f"{section}.{key}", raw, origin)
        self.origins[f"{section}.{key}"] = origin


def load(config_path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Loaded:
    """Read the configuration file, the environment and the flags into one checked `Config`.

    Args:
        config_path: the file of `--config`; None searches as `find_file` says.
        environ: the process environment.
        flags: key such as "server.port" to its value; None values were not given on the command line.
    Raises: ConfigError naming the key, where it stands, and what is valid.
    """
    file = read_file(find_file(config_path, environ))
    _reject_unknown(file.tables, [*SECTIONS, "cloud", "lora", "tags", "prices", "aliases"], "", file)
    draft = _Draft()
    for section, struct in SECTIONS.items():
        table = _table(file, section)
        _reject_unknown(table, _keys(struct), f"{section}.", file, section)
        for key, raw in table.items():
            draft.put(section, key, raw, file.where(section, key))
    clouds = _clouds(file, draft.origins)
    loras = _loras(file, draft.origins)
    prices = _prices(file, draft.origins)
    tags = _named(TagConfig, "tags", "NAME", file, draft.origins)
    aliases = _aliases(file, draft.origins)
    _apply_environment(draft, environ, {name for cloud in clouds for name in key_variables(cloud)})
    for dotted, raw in (flags or {}).items():
        section, _, key = dotted.partition(".")
        assert key in _keys(SECTIONS[section]), f"no such configuration key: {dotted}"
        if raw is not None:
            draft.put(section, key, raw, "flag")
    sections: dict[str, Any] = {name: struct(**draft.values[name]) for name, struct in SECTIONS.items()}
    config = Config(**sections, cloud=clouds, lora=loras, tags=tags, prices=prices, aliases=aliases)
    for key, problem in contradictions(config):
        raise ConfigError(f"{draft.origins.get(key, file.path)}: {key}: {problem}")
    origins = {key: draft.origins.get(key, "default") for key in _all_keys(config)}
    return Loaded(config, origins, file.path, tuple(warnings(config, origins)))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of hybrid.toml, for editors and other tools.

    Money is exact in TOML as a number, which msgspec's schema would call a string; and TOML has no null.
    """
    schema: dict[str, Any] = _for_toml(msgspec.json.schema(Config))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _for_toml(node: Any) -> Any:
    if isinstance(node, list):
        return [_for_toml(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "decimal":
        kept = {key: value for key, value in node.items() if key not in ("type", "format")}
        return {**kept, "type": ["number", "string"], "minimum": 0}
    node = {key: _for_toml(value) for key, value in node.items()}
    choices = [choice for choice in node.pop("anyOf", []) if choice != {"type": "null"}]
    if "default" in node and node["default"] is None:
        del node["default"]
    if len(choices) == 1:
        return {**node, **choices[0]}
    return {**node, "anyOf": choices} if choices else node


def _keys(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    return struct.__struct_fields__


def _reject_unknown(given: Iterable[str], known: Iterable[str], prefix: str, file: TomlFile, *table: str) -> None:
    valid = list(known)
    for key in given:
        if key not in valid:
            raise ConfigError(f"{file.where(*table, key)}: unknown key {prefix}{key}; {_nearest(key, valid, prefix)}")


def _nearest(key: str, valid: list[str], prefix: str) -> str:
    """Suggest the likeliest valid key: a near one in this table, the same one in another, or any that is near."""
    if near := difflib.get_close_matches(key, valid, n=1, cutoff=0.6):
        return f"did you mean {prefix}{near[0]}?"
    everywhere = [f"{section}.{name}" for section, struct in SECTIONS.items() for name in _keys(struct)]
    names = {dotted.partition(".")[2]: dotted for dotted in everywhere}
    if near := difflib.get_close_matches(key, names, n=1, cutoff=0.8):
        return f"did you mean {names[near[0]]}?"
    listed = [f"{prefix}{name}" for name in valid]
    likeliest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
    return f"the nearest is {prefix}{likeliest[0]}; valid: {', '.join(listed)}"


def _convert(struct: type[msgspec.Struct], dotted: str, raw: object, origin: str) -> Any:
    """Turn one raw value into the type its key has; text from the environment is parsed leniently."""
    key = dotted.rpartition(".")[2]
    wanted = next(item.type for item in msgspec.structs.fields(struct) if item.name == key)
    try:
        value = msgspec.convert(raw, wanted, strict=not isinstance(raw, str) or not origin.startswith("HYBRID_"))
        problem = complaint(dotted, value)
    except msgspec.ValidationError as exc:
        problem = wrong(str(exc), struct, dotted, raw, origin)
    if problem is None:
        return value
    got = "" if dotted in _SECRET_BEARING else f"; got {_shown(raw)}"
    raise ConfigError(f"{origin}: {dotted}: {problem}{got}")


def _shown(raw: object) -> str:
    text = str(raw).lower() if isinstance(raw, bool) else str(raw) if isinstance(raw, Decimal) else repr(raw)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _table(file: TomlFile, section: str) -> dict[str, Any]:
    table = file.tables.get(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{file.where(section)}: {section} is a table: write [{section}] and its keys below it")
    return table


def _clouds(file: TomlFile, origins: dict[str, str]) -> tuple[CloudConfig, ...]:
    return tuple(CloudConfig(**values) for values in _listed(CloudConfig, "cloud", "api_key_file", file, origins))


def _loras(file: TomlFile, origins: dict[str, str]) -> tuple[LoraConfig, ...]:
    return tuple(LoraConfig(**values) for values in _listed(LoraConfig, "lora", "path", file, origins))


def _listed(
    struct: type[msgspec.Struct], name: str, path_key: str, file: TomlFile, origins: dict[str, str]
) -> Iterable[dict[str, Any]]:
    """Convert a list of tables. `path_key` names a file; a relative path begins where the configuration lies."""
    tables = file.tables.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{file.where(name)}: {name} is a list of tables: write [[{name}]] with double brackets")
    for index, table in enumerate(tables):
        values = _struct_values(struct, f"{name}[{index}]", table, file, (name, str(index)), origins)
        if (named := values.get(path_key)) is not None:
            base = (file.path or Path()).absolute().parent
            values[path_key] = str(base / at_home(named))
        yield values


def _prices(file: TomlFile, origins: dict[str, str]) -> dict[str, PriceConfig | tuple[PriceConfig, ...]]:
    """Convert [prices."provider/model"], and [[prices."provider/model"]] where there are several of one."""
    prices: dict[str, PriceConfig | tuple[PriceConfig, ...]] = {}
    listed = {name: tables for name, tables in _table(file, "prices").items() if isinstance(tables, list)}
    for name, tables in listed.items():
        origins[f'prices."{name}"'] = file.where("prices", name, "0")
        if not all(isinstance(table, dict) for table in tables):
            raise ConfigError(f'{file.where("prices", name)}: prices."{name}" lists what is no table')
        prices[name] = tuple(
            PriceConfig(**_struct_values(PriceConfig, f'prices."{name}"[{index}]', table, file, path, origins))
            for index, table in enumerate(tables)
            for path in [("prices", name, str(index))]
        )
    return prices | _named(PriceConfig, "prices", "provider/model", file, origins, besides=listed)


def _named(
    struct: type[T],
    section: str,
    example: str,
    file: TomlFile,
    origins: dict[str, str],
    *,
    besides: Container[str] = (),
) -> dict[str, T]:
    """Convert the tables of [section."NAME"], by their names."""
    found = {}
    for name, table in _table(file, section).items():
        if name in besides:
            continue
        origins[f'{section}."{name}"'] = file.where(section, name)
        if not isinstance(table, dict):
            raise ConfigError(
                f'{file.where(section, name)}: {section}."{name}" is a table: write [{section}."{example}"]'
            )
        values = _struct_values(struct, f'{section}."{name}"', table, file, (section, name), origins)
        found[name] = struct(**values)
    return found


def _struct_values(
    struct: type[msgspec.Struct],
    label: str,
    table: dict[str, Any],
    file: TomlFile,
    path: tuple[str, ...],
    origins: dict[str, str],
) -> dict[str, Any]:
    """Convert one [[cloud]] or [prices."..."] table, and note where its keys stand."""
    _reject_unknown(table, _keys(struct), f"{path[0]}.", file, *path)
    required = [item.name for item in msgspec.structs.fields(struct) if item.required]
    if missing := [key for key in required if key not in table]:
        raise ConfigError(f"{file.where(*path)}: {label} lacks {', '.join(missing)}")
    values = {}
    for key, raw in table.items():
        origins[f"{label}.{key}"] = file.where(*path, key)
        values[key] = _convert(struct, f"{path[0]}.{key}", raw, origins[f"{label}.{key}"])
    return values


def _aliases(file: TomlFile, origins: dict[str, str]) -> dict[str, str]:
    aliases = {}
    for name, target in _table(file, "aliases").items():
        where = origins[f'aliases."{name}"'] = file.where("aliases", name)
        if not isinstance(target, str):
            hint = ' (quote a name that has dots: "gpt-4.1" = "hybrid")' if isinstance(target, dict) else ""
            wanted = 'expected a model name in quotes, such as "hybrid"'
            raise ConfigError(f'{where}: aliases."{name}": {wanted}; got {_shown(target)}{hint}')
        aliases[name] = target
    return aliases


def _apply_environment(draft: _Draft, environ: Mapping[str, str], key_names: set[str | None]) -> None:
    names = {f"HYBRID_{s}_{k}".upper(): (s, k) for s, struct in SECTIONS.items() for k in _keys(struct)}
    for name, text in sorted(environ.items()):
        if not name.startswith("HYBRID_") or name in OTHER_VARIABLES or name in key_names:
            continue
        if name not in names:
            near = difflib.get_close_matches(name, [*names, *OTHER_VARIABLES], n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"unknown environment variable {name}; did you mean {near}? HYBRID_<SECTION>_<KEY> sets a key; "
                "[[cloud]], [[lora]], tags, prices and aliases are set in the file only"
            )
        section, key = names[name]
        draft.put(section, key, _from_text(SECTIONS[section], key, text), name)


def _from_text(struct: type[msgspec.Struct], key: str, text: str) -> str | list[str] | None:
    """Give the text of a variable the shape of its key: a list by commas, and "" or "none" for unset."""
    default = next(item.default for item in msgspec.structs.fields(struct) if item.name == key)
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return None if default is None and text.strip().lower() in ("", "none") else text


def _all_keys(config: Config) -> Iterable[str]:
    for section, struct in SECTIONS.items():
        yield from (f"{section}.{key}" for key in _keys(struct))
    for index in range(len(config.cloud)):
        yield from (f"cloud[{index}].{key}" for key in _keys(CloudConfig))
    for index in range(len(config.lora)):
        yield from (f"lora[{index}].{key}" for key in _keys(LoraConfig))
    for name in config.tags:
        yield from (f'tags."{name}".{key}' for key in _keys(TagConfig))
    for name, price in config.prices.items():
        label = f'prices."{name}"'
        labels = [f"{label}[{index}]" for index in range(len(price))] if isinstance(price, tuple) else [label]
        yield from (f"{one}.{key}" for one in labels for key in _keys(PriceConfig))
    yield from (f'aliases."{name}"' for name in config.aliases)
