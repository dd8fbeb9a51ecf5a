"""Where do the configuration and the data lie, and on which line of the file does a key stand?"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from hybrid.errors import ConfigError

_MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A parsed hybrid.toml that can still say on which line a key stands."""

    path: Path | None = None
    tables: dict[str, Any] = field(default_factory=dict)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)

    def where(self, *keys: str) -> str:
        """Name the file and, where it can be told, the line of a key or of the table it is in."""
        for depth in range(len(keys), 0, -1):
            if keys[:depth] in self.lines:
                return f"{self.path}:{self.lines[keys[:depth]]}"
        return str(self.path)


def find_file(config_path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Choose the file: `config_path`, else ./hybrid.toml, else hybrid/hybrid.toml in the user's config folder.

    Returns: None where none of them exists, which means the embedded defaults.
    Raises: ConfigError if `config_path` was given and does not exist.
    """
    if config_path is not None:
        if not config_path.exists():
            raise ConfigError(f"no configuration file {config_path}")
        return config_path
    candidates = (Path("hybrid.toml"), _xdg(environ, "XDG_CONFIG_HOME", ".config") / "hybrid" / "hybrid.toml")
    return next((path for path in candidates if path.is_file()), None)


def at_home(path: Path | str) -> Path:
    """Give a path that a person wrote with its ~ replaced: a shell leaves it in `--data-dir=~/x`, and TOML anywhere.

    Raises: ConfigError if it names a user who has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        raise ConfigError(f"{path} begins with a user whose home folder is not known; write the path out") from exc


def data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of the ledger and the models, made with mode 0700 where it is missing.

    HYBRID_DATA_DIR, else hybrid/ in XDG_DATA_HOME, else ~/.local/share/hybrid.
    Raises: ConfigError if it cannot be made.
    """
    environ = os.environ if environ is None else environ
    given = environ.get("HYBRID_DATA_DIR")
    path = at_home(given).absolute() if given else _xdg(environ, "XDG_DATA_HOME", ".local/share") / "hybrid"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"cannot make the data folder {path}: {exc.strerror}; set HYBRID_DATA_DIR") from exc
    return path


def _xdg(environ: Mapping[str, str], name: str, fallback: str) -> Path:
    # A relative path is to be ignored, says the XDG base directory specification.
    given = environ.get(name, "")
    return Path(given) if given.startswith("/") else Path(environ.get("HOME") or Path.home()) / fallback


def read_file(path: Path | None) -> TomlFile:
    """Read and parse the file; None is an empty one. Raises: ConfigError if it cannot be read or is not TOML."""
    if path is None:
        return TomlFile()
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    if len(raw) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than 1 MiB; that is no hybrid.toml")
    try:
        text = raw.decode("utf-8-sig")
        # TOML allows CRLF; a universal-newline read would do this, but must not hide other bytes.
        tables = tomllib.loads(text.replace("\r\n", "\n"), parse_float=Decimal)
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8 text (byte {exc.start})") from exc
    except (ValueError, RecursionError, ArithmeticError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    return TomlFile(path, tables, _index_lines(text))


def _index_lines(text: str) -> dict[tuple[str, ...], int]:
    """Map each key and table to the line that sets or opens it; a layout too clever for a line scan is left out."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    counts: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("[["):
            name = _key_path(stripped)
            counts[name] = counts.get(name, -1) + 1
            here = table = (*name, str(counts[name]))
        elif stripped.startswith("["):
            here = table = _key_path(stripped)
        else:
            here = (*table, *_key_path(stripped.partition("=")[0] + "=0"))
        lines.setdefault(here, number)
    return lines


def _key_path(fragment: str) -> tuple[str, ...]:
    """Read the keys of one line, quotes and dots and all, by giving TOML the line alone."""
    try:
        node: Any = tomllib.loads(fragment)
    except (tomllib.TOMLDecodeError, RecursionError):
        return ()
    path: tuple[str, ...] = ()
    while isinstance(node, dict) and len(node) == 1:
        [(key, node)] = node.items()
        path = (*path, key)
    return path
