"""Does a configuration make sense beyond the type of each value?

Pure: values in, a complaint or warnings out. `hybrid.config` adds where the value came from.
"""

from __future__ import annotations

import ipaddress
import math
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import fields

from hybrid.config_schema import BACKENDS, CLOUD_KINDS, LATER, CloudConfig, Config
from hybrid.types import MAX_TAG_CHARS

RESERVED_NAMES = ("hybrid", "local", "cloud")


def complaint(dotted: str, value: Any) -> str | None:
    """Say what is wrong with the value of a key such as `server.port`, beyond its type; None if nothing is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "expected a finite number"
    if isinstance(value, Decimal) and not _is_amount(value):
        return "expected an amount in USD from 0 to 1000000, to 12 decimal places"
    check = _CHECKS.get(dotted)
    return check(value) if check else None


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine: `localhost` or a loopback address."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_amount(value: Decimal) -> bool:
    # Bounded in size and in places, so that no sum of money can overflow or be rounded further on.
    return value.is_finite() and 0 <= value <= 1_000_000 and value == value.quantize(Decimal("1e-12"))


def _one_of(dotted: str, supported: tuple[str, ...]) -> Callable[[str], str | None]:
    def check(value: str) -> str | None:
        if value in supported:
            return None
        valid = ", ".join(supported)
        if value in LATER[dotted]:
            return f"{value!r} is not yet supported; this version has: {valid}"
        return f"expected one of: {valid}"

    return check


def _timezone(value: str) -> str | None:
    if value == "local":
        return None
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return 'expected "local" or an IANA time zone such as Europe/Berlin'
    return None


def _base_url(value: str) -> str | None:
    wanted = "expected http:// or https:// with a host, such as https://api.openai.com/v1"
    if not value.isprintable() or " " in value:
        return wanted
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        return wanted
    if url.scheme not in ("http", "https") or not url.hostname:
        return wanted
    if "@" in url.netloc:
        return "expected a URL without a user or password; name the key in api_key_env or api_key_file"
    if url.query or url.fragment:
        return "expected a URL without ? and #"
    return None


def _no_repeats(values: tuple[str, ...]) -> str | None:
    repeated = sorted({value for value in values if values.count(value) > 1})
    return f"named twice: {', '.join(repeated)}" if repeated else None


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "local.backend": _one_of("local.backend", BACKENDS),
    "cloud.kind": _one_of("cloud.kind", CLOUD_KINDS),
    "cloud.base_url": _base_url,
    "cloud.models": _no_repeats,
    "cloud.api_keys_env": _no_repeats,
    "budget.timezone": _timezone,
}


_KEYS_OF_KINDS: Mapping[str, tuple[str, ...]] = {
    "api": ("openai",),
    "api_version": ("openai",),
    "max_tokens_field": ("openai",),
    "reasoning": ("anthropic", "gemini"),
    "structured": ("anthropic",),
    "sampling": ("anthropic", "gemini"),
    "cache_prompts": ("anthropic",),
}
"""Keys of `[[cloud]]` that only some kinds read: set for another one they would be dropped without a word."""

_CLOUD_DEFAULTS = {field.name: field.default for field in fields(CloudConfig)}


def contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (key, complaint) for values that are right alone and wrong together."""
    first: dict[str, int] = {}
    for index, cloud in enumerate(config.cloud):
        if cloud.name in first:
            yield f"cloud[{index}].name", f"{cloud.name!r} is the name of an earlier [[cloud]]; names must differ"
        first.setdefault(cloud.name, index)
        for key, kinds in _KEYS_OF_KINDS.items():
            if cloud.kind not in kinds and getattr(cloud, key) != _CLOUD_DEFAULTS[key]:
                yield (
                    f"cloud[{index}].{key}",
                    f"has no meaning for kind {cloud.kind!r}; it is for {' and '.join(kinds)}",
                )
    yield from _lora_problems(config)
    yield from _tag_problems(config)
    for name in config.prices:
        if not all(name.partition("/")) or not _is_plain(name):
            yield f'prices."{name}"', 'expected "provider/model", such as [prices."openai/gpt-5-mini"]'
    for name, target in config.aliases.items():
        if problem := _alias_problem(name, target, config):
            yield f'aliases."{name}"', problem


def _tag_problems(config: Config) -> Iterator[tuple[str, str]]:
    folded: dict[str, str] = {}
    for name in config.tags:
        if not name or len(name) > MAX_TAG_CHARS or not name.isprintable():
            yield f'tags."{name}"', f"a tag is 1 to {MAX_TAG_CHARS} printable characters"
        if (other := folded.setdefault(name.casefold(), name)) != name:
            yield f'tags."{name}"', f"is the tag {other!r} in other letters; tags are told apart without their case"


def _lora_problems(config: Config) -> Iterator[tuple[str, str]]:
    names = [lora.name for lora in config.lora]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"lora[{index}].name", f"{name!r} is the name of an earlier [[lora]]; names must differ"
    if names and not config.local.model:
        yield "lora[0].name", "an adapter is for local.model, which is empty"


def _alias_problem(name: str, target: str, config: Config) -> str | None:
    if not name or name.partition("/")[0] in RESERVED_NAMES:
        return f"{name!r} already means something; an alias is any other model name"
    if not _is_plain(name):
        return "a model name is printable ASCII without spaces, quotes and backslashes"
    kind, slash, rest = target.partition("/")
    if target == "hybrid" or (kind in ("local", "cloud") and (not slash or rest)):
        return None if kind != "cloud" or not rest else _unknown_cloud(rest, config)
    return f"expected hybrid, local, local/NAME, cloud or cloud/NAME; got {target!r}"


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and not set(name) & set(' "\\')


def _unknown_cloud(rest: str, config: Config) -> str | None:
    valid = {name for cloud in config.cloud for name in _cloud_names(cloud)}
    if rest in valid:
        return None
    listed = ", ".join(sorted(f"cloud/{cloud.name}" for cloud in config.cloud)) or "none, no [[cloud]] is configured"
    return f"no [[cloud]] or model of one is called {rest!r}; configured: {listed}"


def _cloud_names(cloud: CloudConfig) -> Iterator[str]:
    yield cloud.name
    for model in cloud.models:
        yield model
        yield f"{cloud.name}/{model}"


_VERSIONS = {
    "api.openai.com": "v1",
    "api.anthropic.com": "v1",
    "generativelanguage.googleapis.com": "v1beta",
}
"""Hosts whose API lies in a folder, and that folder."""


def warnings(config: Config, origins: Mapping[str, str]) -> Iterator[str]:
    """Yield what is allowed but probably not what was meant, one sentence each."""
    yield from _budget_warnings(config, origins)
    if not config.cloud and not config.local.model:
        yield "nothing can answer: local.model is empty and there is no [[cloud]]"
    if config.policy.hedge and config.policy.ttft_ms is None and config.policy.total_ms is None:
        yield "policy.hedge: only requests with a deadline of their own are hedged; set policy.ttft_ms or total_ms"
    for cloud in config.cloud:
        url = urlsplit(cloud.base_url)
        has_key = cloud.api_key_env is not None or cloud.api_key_file is not None or bool(cloud.api_keys_env)
        if url.scheme == "http" and has_key and not is_loopback(url.hostname or ""):
            yield f"cloud {cloud.name!r}: the API key travels unencrypted to {url.hostname}; use https://"
        for model in sorted(set(cloud.quality) - set(cloud.models)):
            yield f"cloud {cloud.name!r}: quality names {model!r}, which is none of its models"
        version = _VERSIONS.get(url.hostname or "")
        if version is not None and not url.path.strip("/"):
            # The official clients are given the host alone and put the version behind it themselves.
            yield f"cloud {cloud.name!r}: base_url lacks the API's version; use https://{url.hostname}/{version}"
    names = {f"{cloud.name}/{model}" for cloud in config.cloud for model in cloud.models}
    for name in config.prices:
        if name not in names:
            yield f'[prices."{name}"] is for no configured model'


def _budget_warnings(config: Config, origins: Mapping[str, str]) -> Iterator[str]:
    caps_usd = config.budget.caps_usd
    if config.cloud and not caps_usd:
        yield "no cloud is called until [budget] has a cap, such as usd_per_day"
    elif config.cloud and not all(caps_usd):
        yield "no cloud is called: a cap of [budget] is 0"
    for section, table in (("budget", config.budget), *((f'tags."{tag}"', own) for tag, own in config.tags.items())):
        if table.usd_per_window is None and origins.get(f"{section}.window_hours", "default") != "default":
            yield f"{section}.window_hours has no effect without {section}.usd_per_window"
