"""What does `hybrid config` print: the effective values with their origin, whether they are right, their schema?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from hybrid.cli.local_model import check_models_are_known
from hybrid.config import Config, Loaded, json_schema, load, own_prices, read_secrets, secret_source

app = typer.Typer(
    help="Show, check or describe the configuration.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="The file to read instead of ./hybrid.toml or the one in your config folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002 - typer reads the default
    """Print every effective value and where it came from; secrets are masked."""
    loaded = load(config, os.environ)
    print(_to_json(_facts(loaded)) if as_json else "\n".join(_toml_lines(loaded)))
    _warn(loaded)


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002 - typer reads the default
    """Say whether the configuration is right: keys, values, models, and that each cloud's API key can be read."""
    loaded = load(config, os.environ)
    check_models_are_known(loaded.config)
    for cloud in loaded.config.cloud:
        read_secrets(cloud, os.environ)
    if as_json:
        print(_to_json({"path": _path(loaded), "ok": True, "warnings": loaded.warnings}))
    else:
        print(f"{_path(loaded) or 'built-in defaults, no file'}: right")
    _warn(loaded)


@app.command()
def schema() -> None:
    """Print the JSON Schema of hybrid.toml, for editors."""
    print(_to_json(json_schema()))


def _to_json(value: object) -> str:
    # "number": money keeps its exact digits and is still a number to whoever reads it.
    encoded = msgspec.json.Encoder(decimal_format="number").encode(value)
    return msgspec.json.format(encoded, indent=2).decode()


def _path(loaded: Loaded) -> str | None:
    return None if loaded.path is None else str(loaded.path)


def _warn(loaded: Loaded) -> None:
    for warning in loaded.warnings:
        print(f"hybrid: warning: {warning}", file=sys.stderr)


def _facts(loaded: Loaded) -> dict[str, Any]:
    values = {key: {"value": _value(loaded.config, key), "origin": origin} for key, origin in loaded.origins.items()}
    secrets = {cloud.name: secret_source(cloud, os.environ) for cloud in loaded.config.cloud}
    return {"path": _path(loaded), "values": values, "api_keys": secrets, "warnings": loaded.warnings}


def _value(config: Config, key: str) -> Any:
    """Look up a key as `Loaded.origins` spells it."""
    table, _, last = key.rpartition(".")
    if key.startswith("aliases."):
        return config.aliases[key.removeprefix('aliases."').removesuffix('"')]
    if key.startswith("prices."):
        name, _, index = table.removeprefix('prices."').rpartition('"')
        return getattr(own_prices(config, name)[int(index.strip("[]") or 0)], last)
    if key.startswith("tags."):
        return getattr(config.tags[table.removeprefix('tags."').removesuffix('"')], last)
    if table.endswith("]"):
        listed, _, index = table.removesuffix("]").partition("[")
        return getattr(getattr(config, listed)[int(index)], last)
    return getattr(getattr(config, table), last)


def _toml_lines(loaded: Loaded) -> Iterator[str]:
    """Write the configuration as TOML that could be read again, each origin in a comment."""
    yield f"# {_path(loaded) or 'built-in defaults; no file was found'}"
    header = ""
    for key, origin in loaded.origins.items():
        table, name = _split(key)
        if table != header:
            header = table
            yield ""
            yield _header(table)
            if table.startswith("cloud["):
                cloud = loaded.config.cloud[int(table[len("cloud[") : -1])]
                yield f"# API key: {secret_source(cloud, os.environ)}"
        value = _value(loaded.config, key)
        line = f"# {name} is unset" if value is None else f"{name} = {_toml_value(value)}"
        yield f"{line:<44}  # {origin}"


def _header(table: str) -> str:
    """Open a table, or one of a list of tables."""
    if table.endswith("]"):
        return f"[[{table.rpartition('[')[0]}]]"
    if table.startswith("tags."):
        # The only names that may hold quotes and backslashes.
        name = table.removeprefix('tags."').removesuffix('"')
        return f"[tags.{_toml_value(name)}]"
    return f"[{table}]"


def _split(key: str) -> tuple[str, str]:
    """Split a key into its table and its last part, which for an alias is quoted and may hold dots."""
    if key.startswith("aliases."):
        return "aliases", key.removeprefix("aliases.")
    table, _, name = key.rpartition(".")
    return table, name


def _toml_value(value: Any) -> str:
    if isinstance(value, tuple | str | bool):
        # JSON's strings, booleans and arrays of strings are TOML's too.
        return msgspec.json.encode(value).decode()
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml_value(key)} = {_toml_value(one)}' for key, one in value.items())} }}"
    return str(value)
