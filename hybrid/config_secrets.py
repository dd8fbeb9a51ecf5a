"""Where does a cloud's API key come from, and how does it stay out of every output?"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hybrid.config_schema import CloudConfig
from hybrid.errors import ConfigError

MASK = "********"
MAX_KEY_BYTES = 64 * 1024


class Secret:
    """A string that prints as a mask; `reveal()` is the only way to its value, so a log line cannot leak it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


def key_variables(cloud: CloudConfig) -> tuple[str, ...]:
    """The environment variables that may hold keys of `cloud`, the preferred first."""
    return (() if cloud.api_key_env is None else (cloud.api_key_env,)) + cloud.api_keys_env


def read_secrets(cloud: CloudConfig, environ: Mapping[str, str]) -> tuple[Secret, ...]:
    """Resolve the API keys of `cloud`: `api_key_env` if it is set, else `api_key_file`; then all of `api_keys_env`.

    Returns: nothing where none is configured, which is a cloud that asks for no key.
    Raises: ConfigError if one is configured but not there, unreadable, empty, not ASCII, there twice, or others may
        read the file.
    """
    first = _first_secret(cloud, environ)
    unset = [name for name in cloud.api_keys_env if not environ.get(name, "").strip()]
    if unset:
        are = "variable {} is" if len(unset) == 1 else "variables {} are"
        raise ConfigError(f"cloud {cloud.name!r}: of api_keys_env the {are.format(', '.join(unset))} not set")
    more = [_checked(environ[name], f"cloud {cloud.name!r}: {name}") for name in cloud.api_keys_env]
    secrets = (*(() if first is None else (first,)), *more)
    if len({secret.reveal() for secret in secrets}) < len(secrets):
        # It would be throttled and refused as the one that it is.
        raise ConfigError(f"cloud {cloud.name!r}: two of its keys are the same; name each once")
    return secrets


def _first_secret(cloud: CloudConfig, environ: Mapping[str, str]) -> Secret | None:
    if cloud.api_key_env is None and cloud.api_key_file is None:
        return None
    if cloud.api_key_env is not None and environ.get(cloud.api_key_env, "").strip():
        return _checked(environ[cloud.api_key_env], f"cloud {cloud.name!r}: {cloud.api_key_env}")
    if cloud.api_key_file is None:
        raise ConfigError(
            f"cloud {cloud.name!r}: the environment variable {cloud.api_key_env} is not set; "
            "export it, or put the key in a file of mode 0600 and name it in api_key_file"
        )
    path = Path(cloud.api_key_file)
    return _checked(_read_private(path, cloud.name), f"cloud {cloud.name!r}: {path}")


def secret_source(cloud: CloudConfig, environ: Mapping[str, str]) -> str:
    """Say where the keys of `cloud` come from and whether they are there, never what they are."""
    try:
        secrets = read_secrets(cloud, environ)
    except ConfigError as exc:
        return f"missing: {exc}"
    if not secrets:
        return "none configured"
    is_from_env = cloud.api_key_env is not None and bool(environ.get(cloud.api_key_env, "").strip())
    first = cloud.api_key_env if is_from_env else cloud.api_key_file
    return f"{secrets[0]} from {', '.join(filter(None, (first, *cloud.api_keys_env)))}"


def _read_private(path: Path, cloud: str) -> str:
    """Read a file that only its owner may read; checked on the open file, so that it cannot be swapped between."""
    try:
        # O_NONBLOCK: a FIFO must be refused below, not waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"cloud {cloud!r}: api_key_file {path} is not a regular file")
            if status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise ConfigError(
                    f"cloud {cloud!r}: api_key_file {path} has mode {mode:04o}, so others may read it; "
                    f"run: chmod 600 {path}"
                )
            return file.read(MAX_KEY_BYTES).decode()
    except OSError as exc:
        raise ConfigError(f"cloud {cloud!r}: cannot read api_key_file {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        # `from None`: the original error carries the bytes of the key.
        raise ConfigError(f"cloud {cloud!r}: api_key_file {path} is not text") from None


def _checked(raw: str, where: str) -> Secret:
    key = raw.strip()
    if not key:
        raise ConfigError(f"{where} is empty; it should hold the API key")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"{where} holds spaces, line breaks or non-ASCII characters; it should hold only the API key")
    return Secret(key)
